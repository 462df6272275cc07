"""How long the evaluation of 1,000 tasks takes: against adaptation and prediction alone, and against plain loops."""

# pyright: reportMissingImports=false

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.contest import Contest, Entry, NotOffered
from benchmarks.gradients import mapsto_learner
from benchmarks.sampling import images, labels
from benchmarks.works import Work, begin, omniglot, prototypes, sine
from mapsto import evaluate
from mapsto.axis import over_tasks
from mapsto.data import Sinusoid, Tasks
from mapsto.episode import Episode, Source, unstack

BATCH = 16


@dataclass(frozen=True)
class Exam:
    """Tasks to be judged on: so many of a source, with a work's model and inner loop."""

    work: Work
    source: Callable[[str], Source]
    tasks: int

    def metric(self, prediction: Tensor, y: Tensor) -> Tensor:
        """The criterion: unlike accuracy it tells small differences from none."""
        return self.work.criterion(prediction, y)


def mapsto(exam: Exam, device: str) -> Entry:
    """`evaluate`, which draws the tasks, adapts, predicts and scores."""
    learner, source, last = mapsto_learner(exam.work, device), exam.source(device), []

    def step() -> None:
        last[:] = [evaluate(learner, source, exam.metric, tasks=exam.tasks, batch=BATCH)]

    return Entry(step, lambda: {"scores": last[0].values.numpy()})


def pure(exam: Exam, device: str) -> Entry:
    """mapsto's adaptation and prediction on tasks that are ready: no drawing, no scoring, nothing put back."""
    learner, source = mapsto_learner(exam.work, device).eval(), exam.source(device)
    ready = [source.batch(first, min(BATCH, exam.tasks - first)) for first in range(0, exam.tasks, BATCH)]
    last: list[Tensor] = []

    def one(task: Episode) -> Tensor:
        return learner.predict(learner.adapt(task.support), task.query.x)

    def step() -> None:
        with torch.no_grad():
            last[:] = [over_tasks(one, tasks, module=learner) for tasks in ready]

    def scores() -> Iterator[Tensor]:
        for predictions, tasks in zip(last, ready, strict=True):
            yield from map(exam.metric, predictions, [task.query.y for task in unstack(tasks)])

    return Entry(step, lambda: {"scores": torch.stack(list(scores())).double().cpu().numpy()})


def plain(exam: Exam, device: str, adapted: Callable[[Work, nn.Module, Episode], Tensor]) -> Entry:
    """A loop over tasks that are ready, as the peers' examples write it; `adapted` gives a task's predictions."""
    model, source = begin(exam.work, exam.work.plain(), device), exam.source(device)
    tasks = [task for first in range(exam.tasks) for task in unstack(source.batch(first, 1))]
    model.train(bool(exam.work.steps))
    last: list[Tensor] = []

    def step() -> None:
        last[:] = [exam.metric(adapted(exam.work, model, task), task.query.y).detach() for task in tasks]

    return Entry(step, lambda: {"scores": torch.stack(last).double().cpu().numpy()})


def _by_hand(work: Work, model: nn.Module, task: Episode) -> Tensor:
    """Clone, adapt without a meta-gradient, predict; or prototypes."""
    support, query = task
    if not work.steps:
        with torch.no_grad():
            way, z = support.y.shape[1], model(support.x)
            means = z.reshape(way, -1, z.shape[1]).mean(1)
            return -(model(query.x)[:, None] - means).square().sum(2)
    fast = {name: p.clone() for name, p in model.named_parameters()}
    for _ in range(work.steps):
        loss = work.criterion(functional_call(model, fast, (support.x,)), support.y)
        grads = torch.autograd.grad(loss, list(fast.values()))
        fast = {name: p - work.lr * grad for (name, p), grad in zip(fast.items(), grads, strict=True)}
    with torch.no_grad():
        return functional_call(model, fast, (query.x,))


def higher(exam: Exam, device: str) -> Entry:
    """`innerloop_ctx` without higher gradients, as in its MAML example's test."""
    import higher as package

    if not exam.work.steps:
        raise NotOffered("no prototypical networks")

    def adapted(work: Work, model: nn.Module, task: Episode) -> Tensor:
        inner = torch.optim.SGD(model.parameters(), lr=work.lr)
        with package.innerloop_ctx(model, inner, track_higher_grads=False) as (fast, optimizer):
            for _ in range(work.steps):
                optimizer.step(work.criterion(fast(task.support.x), task.support.y))
            return fast(task.query.x).detach()

    return plain(exam, device, adapted)


def iteryne(exam: Exam, device: str) -> Entry:
    """Clone, adapt, predict, with its `MAML` of first order."""
    import iteryne as package

    if not exam.work.steps:
        raise NotOffered("no prototypical networks")

    def adapted(work: Work, model: nn.Module, task: Episode) -> Tensor:
        learner = package.MAML(model, inner_lr=work.lr, inner_steps=work.steps, first_order=True).clone()
        for _ in range(work.steps):
            learner.adapt(work.criterion(learner(task.support.x), task.support.y))
        with torch.no_grad():
            return learner(task.query.x)

    return plain(exam, device, adapted)


MAKERS: dict[str, Callable[[Exam, str], Entry]] = {
    "mapsto": mapsto,
    "pure adaptation": pure,
    "loop": partial(plain, adapted=_by_hand),
    "higher": higher,
    "iteryne": iteryne,
}


def _glyphs(device: str) -> Tasks:
    return Tasks((images().to(device), labels()), 5, 1, 15, device=device)


EXAMS = {
    "f-sine": Exam(sine(1, 5), lambda device: Sinusoid(10, 10, device=device), 1000),
    "f-conv": Exam(omniglot(5, 1, 3), _glyphs, 100),
    "f-proto": Exam(prototypes(), _glyphs, 100),
}
ABOUT = {
    "f-sine": "evaluation of 1,000 tasks: sinusoid MLP, MAML, 5 inner steps",
    "f-conv": "evaluation of 1,000 tasks (100 timed): Omniglot strided Conv4-64, MAML, 5-way 1-shot, 3 inner steps",
    "f-proto": "evaluation of 1,000 tasks (100 timed): Omniglot Prototypical Network, Conv4-64, 5-way 1-shot",
}


def contest(name: str, exam: Exam) -> Contest:
    """An exam as a contest."""
    makers = {n: partial(make, exam) for n, make in MAKERS.items()}
    return Contest(ABOUT[name], makers, unit="1,000 tasks", per_step=exam.tasks / 1000)


EVALUATION = {name: contest(name, exam) for name, exam in EXAMS.items()}
