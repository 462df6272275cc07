"""Lake's runs, against the evaluation set that they were taken from."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mapsto import evaluate
from mapsto.algorithms import ProtoNet
from mapsto.data import Labelled, Omniglot
from mapsto.data.files import data_root
from mapsto.data.lake import LakeRuns
from mapsto.episode import unstack
from mapsto.errors import DataError, MapstoError

FILES = ("images_background.zip", "images_evaluation.zip", "one-shot-classification/all_runs.zip")
pytestmark = pytest.mark.skipif(
    not all((data_root() / "omniglot" / file).exists() for file in FILES),
    reason="the Omniglot archives and the runs are not in the data root (set MAPSTO_DATA)",
)


@pytest.fixture(scope="module")
def evaluation() -> Labelled:
    return Omniglot("background", rotations=False).test


def test_each_run_has_two_drawings_of_twenty_characters_of_one_alphabet(evaluation: Labelled) -> None:
    # The pictures tell where they come from: their pixels are, to the bit, those of the evaluation set.
    known = {image.numpy().tobytes(): i for i, image in enumerate(evaluation.x)}
    assert len(known) == 659 * 20
    alphabets = []
    for support, query in unstack(LakeRuns().batch(0, 20)):
        rows = [[known[(255 * x).round().byte().numpy().tobytes()] for x in part.x] for part in (support, query)]
        drawn, asked = evaluation.y[rows[0]], evaluation.y[rows[1]]
        np.testing.assert_array_equal(drawn, asked)  # drawing c of both is of class c
        assert len(set(drawn)) == 20 and not set(rows[0]) & set(rows[1])
        assert support.y.equal(torch.eye(20)) and query.y.equal(torch.eye(20))
        # one person drew the support set, another the query set
        assert len({row % 20 for row in rows[0]}) == len({row % 20 for row in rows[1]}) == 1
        names = {evaluation.names[c].partition("/")[0] for c in drawn}
        assert len(names) == 1
        alphabets += names
    assert len(set(alphabets)) == 10


def test_runs_are_a_source_to_judge_on() -> None:
    learner = ProtoNet(torch.nn.Flatten())
    scores = evaluate(learner, LakeRuns(), tasks=20)
    whole, part = LakeRuns().batch(0, 20), LakeRuns().batch(7, 2)
    assert whole.support.x[7:9].equal(part.support.x) and whole.query.x[7:9].equal(part.query.x)
    for (support, query), score in zip(unstack(whole), scores.values.tolist(), strict=True):
        nearest = torch.cdist(query.x.flatten(1).double(), support.x.flatten(1).double()).argmin(1)
        assert score == pytest.approx((nearest == torch.arange(20)).double().mean().item())


def test_there_are_twenty_runs() -> None:
    assert len(LakeRuns()) == 20
    for start, size in ((0, 21), (20, 1), (-1, 2), (3, 0)):
        with pytest.raises(MapstoError, match=r"there are 20 runs.*tasks=20"):
            LakeRuns().batch(start, size)


def test_damaged_archive_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "omniglot" / FILES[2]
    target.parent.mkdir(parents=True)
    shutil.copy(data_root() / "omniglot" / FILES[2], target)
    with target.open("r+b") as file:
        file.seek(1000)
        file.write(b"x")
    monkeypatch.setenv("MAPSTO_DATA", str(tmp_path))
    monkeypatch.setenv("MAPSTO_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"delete .*all_runs\.zip and download it again from https"):
        LakeRuns()
