"""How fast tasks are made: Omniglot 5-way 1-shot 15 query, as float tensors ready on the device."""

# pyright: reportMissingImports=false

import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from benchmarks.contest import Contest, Entry, Outcome
from mapsto.data import Tasks

CLASSES, EACH, WAY, SHOT, QUERY, BATCH = 1100, 20, 5, 1, 15, 32


class Made(NamedTuple):
    """Many tasks as a sampler made them: images `[tasks, n, ...]` in [0, 1], and labels `[tasks, n]` 0 to way - 1."""

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor


def images() -> Tensor:
    """A data set of noise, uint8 `[n, 1, 28, 28]`; an image's first three pixels tell which class and example it is."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (CLASSES * EACH, 1, 28, 28), dtype=torch.uint8, generator=generator)
    number = torch.arange(len(x))
    for pixel, value in enumerate((number // EACH // 256, number // EACH % 256, number % EACH)):
        x[:, 0, 0, pixel] = value.to(torch.uint8)
    return x


def labels() -> list[int]:
    """Each image's class."""
    return [c for c in range(CLASSES) for _ in range(EACH)]


def found(made: Made) -> Outcome:
    """What every right sampler's tasks have in common."""
    support, query = (
        (x.cpu().reshape(*x.shape[:2], -1)[..., :3] * 255).round() for x in (made.support_x, made.query_x)
    )
    numbers = torch.cat([support, query], 1) @ torch.tensor([256.0 * EACH, float(EACH), 1.0])
    distinct = [len(set(task.tolist())) for task in numbers]
    classes = (numbers // EACH).long()
    given = torch.cat([made.support_y, made.query_y], 1).cpu()
    pairs = [len(set(zip(c.tolist(), y.tolist(), strict=True))) for c, y in zip(classes, given, strict=True)]
    drawn = [len(set(c.tolist())) for c in classes]
    per_class = [torch.bincount(y.cpu().flatten(), minlength=WAY) / BATCH for y in (made.support_y, made.query_y)]
    return {
        "images a task": np.array(distinct, float),
        "classes a task": np.array(drawn, float),
        "classes and labels paired one to one": np.array(pairs, float),
        "support and query a label": torch.cat(per_class).numpy(),
        "float": np.array(float(made.support_x.dtype == made.query_x.dtype == torch.float32)),
    }


def _entry(make: Callable[[], object], read: Callable[[object], Made]) -> Entry:
    last: list[object] = []

    def step() -> None:
        last[:] = [make()]

    return Entry(step, lambda: found(read(last[0])))


def mapsto(device: str) -> Entry:
    """`Tasks.batch`: an index and one gather."""
    tasks, start = Tasks((images().to(device), labels()), WAY, SHOT, QUERY, device=device), itertools.count(0, BATCH)

    def read(made: object) -> Made:
        (support_x, support_y), (query_x, query_y) = made  # type: ignore[misc]
        return Made(support_x, support_y.argmax(2), query_x, query_y.argmax(2))

    return _entry(lambda: tasks.batch(next(start), BATCH), read)


class Recipe(Dataset):
    """learn2learn's usual recipe, NWays, KShots, LoadData, RemapLabels, ConsecutiveLabels, over a plain data set."""

    def __init__(self, data: list[tuple[Tensor, int]]) -> None:
        self.data = data
        self.members = defaultdict(list)
        for i, (_, y) in enumerate(data):
            self.members[y].append(i)

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, _: int) -> tuple[Tensor, Tensor]:
        classes = random.sample(list(self.members), WAY)  # NWays keeps all of these classes' examples ...
        kept = [(i, c) for c in classes for i in self.members[c]]
        by_class = defaultdict(list)
        for i, c in kept:
            by_class[c].append(i)
        chosen = [i for c in by_class for i in random.sample(by_class[c], SHOT + QUERY)]  # ... of which KShots draws
        loaded = [self.data[i] for i in chosen]
        order = random.sample(range(WAY), WAY)
        remap = {c: order[k] for k, c in enumerate(by_class)}
        loaded = sorted(((x, remap[y]) for x, y in loaded), key=lambda pair: pair[1])
        return default_collate(loaded)


def loop(device: str) -> Entry:
    """The recipe in a `DataLoader`, and the examples' division into support and query as learn2learn's examples do."""
    data = list(zip((images().float() / 255), labels(), strict=True))
    loader = iter(DataLoader(Recipe(data), batch_size=BATCH))
    support = torch.arange(WAY * (SHOT + QUERY)) % (SHOT + QUERY) < SHOT

    def make() -> Made:
        x, y = next(loader)
        return Made(*(part.to(device) for part in (x[:, support], y[:, support], x[:, ~support], y[:, ~support])))

    return _entry(make, lambda made: made)  # type: ignore[arg-type,return-value]


def metalearn(device: str) -> Entry:
    """Its sampler and task data set in a `DataLoader`; its labels are the data set's (its learner renumbers them)."""
    from metalearn.dataset.classification_task import FewShotSampler, MetaTaskDataset

    names = {c: str(c) for c in range(CLASSES)}
    sampler = FewShotSampler((images().float() / 255).numpy(), np.array([str(y) for y in labels()]), names)
    tasks = MetaTaskDataset(sampler, WAY, SHOT, QUERY, max_classes=CLASSES)
    loader: Iterator = iter(DataLoader(tasks, batch_size=BATCH))

    def read(made: object) -> Made:
        support_x, support_y, query_x, query_y = made  # type: ignore[misc]
        known = [sorted(set(task.tolist())) for task in support_y["labels"]]

        def renumbered(y: Tensor) -> Tensor:
            return torch.tensor([[known[t].index(label) for label in task] for t, task in enumerate(y.tolist())])

        return Made(support_x, renumbered(support_y["labels"]), query_x, renumbered(query_y["labels"]))

    return _entry(lambda: [_to(part, device) for part in next(loader)], read)


def _to(part: Tensor | dict[str, Tensor], device: str) -> Tensor | dict[str, Tensor]:
    return part.to(device) if isinstance(part, Tensor) else {key: value.to(device) for key, value in part.items()}


def jax_meta(device: str) -> Entry:
    """Its `MetaDataset` over an array in memory, and the transfer to the device that its jitted step does."""
    import jax
    from jax_meta.datasets.base import MetaDataset

    class Omniglot(MetaDataset):
        name = "omniglot"

        def __init__(self) -> None:
            super().__init__("unused", BATCH, SHOT, WAY, QUERY)
            self._data = np.moveaxis((images().float() / 255).numpy(), 1, -1)
            self._labels2indices = {c: np.arange(c * EACH, (c + 1) * EACH) for c in range(CLASSES)}

    data = iter(Omniglot())

    def read(made: object) -> Made:
        parts = [made[part] for part in ("train", "test")]  # type: ignore[index]
        return Made(*(torch.from_numpy(np.array(a)) for part in parts for a in (part.inputs, part.targets)))

    def make() -> object:
        made = next(data)
        return jax.block_until_ready(jax.device_put({key: made[key] for key in ("train", "test")}))

    return _entry(make, read)


SAMPLING = {
    "e": Contest(
        "sampling: Omniglot-like 5-way 1-shot 15 query tasks, from 1,100 classes of 20 images in memory",
        {"mapsto": mapsto, "loop": loop, "metalearn": metalearn, "jax-meta": jax_meta},
        unit="task",
        per_step=BATCH,
    )
}
