"""The contract of every meta-learner."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn

from mapsto.axis import How, over_tasks
from mapsto.episode import Episode, Episodes, Examples, Tree
from mapsto.losses import cross_entropy


class MetaLearner(nn.Module, ABC):
    """A mapping from a task's support set to a model; `parameters()` is what is learned from many tasks.

    Subclasses write two methods for ONE task; `forward` batches them. Nothing about a task is stored on the module.

    Attributes:
        criterion: `(prediction, y) -> scalar`, default the mean cross-entropy.
        steps: inner steps of `adapt`, which `evaluate` may override; None for learners that take none.
        exact: the gradient of `loss` is the gradient of the whole meta-objective (not so for first-order methods).
        headless: its model is an embedding, without a head of `way` outputs.
        way: the number of classes it was built for; None where its model alone decides (any, if headless).
        ordered: what it makes of a support set depends on the order, by intent; recipes then give it in random order.
        supervised: it trains on minibatches of all training classes at once (`mapsto.data.Batches`), not on tasks.
        transductive: its predictions for queries depend on each other, by intent; every score says so.
        sequential: tasks change the learner's buffers one after the other, so they cannot go side by side.
    """

    criterion: Callable[[Tensor, Tree], Tensor] = staticmethod(cross_entropy)
    steps: int | None = None
    exact: bool = True
    headless: bool = False
    way: int | None = None
    ordered: bool = False
    supervised: bool = False
    transductive: bool = False
    sequential: bool = False

    @abstractmethod
    def adapt(self, support: Examples) -> Tree:
        """All that was learned from the task: adapted parameters, prototypes, a memory, a context."""

    @abstractmethod
    def predict(self, fast: Tree, x: Tree) -> Tensor:
        """The adapted model's outputs `[n, ...]` for inputs `x` `[n, ...]`."""

    def loss(self, episode: Episode) -> Tensor:
        """The criterion of the query set after adaptation to the support set: one task, a scalar."""
        prediction = self.predict(self.adapt(episode.support), episode.query.x)
        return self.criterion(prediction, episode.query.y)

    def at_step(self, step: int) -> None:
        """Told by `fit` the number of the meta-step about to be taken (from 0), for schedules within the learner."""

    def forward(self, episodes: Episodes, how: How = "auto", chunk: int | None = None) -> Tensor:
        """The mean loss over tasks, a scalar; `how` and `chunk` as in `over_tasks`."""
        return over_tasks(self.loss, episodes, how=how, chunk=chunk).mean()
