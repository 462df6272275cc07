"""Any classifier of scikit-learn's inside an episode."""

from typing import Any

import numpy as np
import pytest
import torch
from samples import clone, tasks
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from torch import nn
from torch.nn.functional import one_hot

from mapsto import Episode, evaluate
from mapsto.episode import stack, unstack
from mapsto.estimator import BaseLearner


@pytest.mark.parametrize("base", ["logistic", SVC(), DecisionTreeClassifier(random_state=0), KNeighborsClassifier(1)])
def test_inside_episodes(base: Any) -> None:
    learner = BaseLearner(nn.Linear(6, 6), base)
    scores = evaluate(learner, tasks(), tasks=20)
    wanted = []
    for support, query in unstack(tasks().batch(0, 20)):
        z = [nn.functional.normalize(learner.model(x)).detach().double().numpy() for x in (support.x, query.x)]
        own: Any = LogisticRegression(max_iter=1000) if base == "logistic" else clone(base)
        wanted.append(own.fit(z[0], support.y.argmax(1)).score(z[1], query.y.argmax(1)))
    np.testing.assert_allclose(scores.values, wanted, atol=0.04)  # ties, in one query of 32
    assert abs(scores.mean - np.mean(wanted)) < 2e-3


def test_predictions_are_log_probabilities_and_ragged_tasks_do() -> None:
    learner = BaseLearner(nn.Linear(6, 6), KNeighborsClassifier(1))
    support, query = tasks()[0]
    out = learner.predict(learner.adapt(support), query.x)
    torch.testing.assert_close(out.exp().sum(1), torch.ones(len(out)))
    ragged = stack([tasks(way=3)[0], tasks(way=4)[1]])
    assert len(evaluate(learner, [ragged]).values) == 2
    lacking = Episode(support._replace(y=one_hot(support.y.argmax(1), 5).float()), query)
    assert learner.predict(learner.adapt(lacking.support), query.x)[:, 4].max() < -20
    with pytest.raises(ValueError, match="5 classes want an example each, but only 4"):
        BaseLearner(nn.Linear(6, 6)).adapt(lacking.support)


def test_it_is_not_trained() -> None:
    with pytest.raises(ValueError, match="no gradient"):
        BaseLearner(nn.Linear(6, 6))(tasks().batch(0, 2))
