"""What several tests share: one thread, and small random tasks."""

from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import one_hot

from mapsto import Episode, Examples, stack

Maker = Callable[..., Episode]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def make_episodes() -> Maker:
    """Random classification tasks; float64 by default, so that comparisons can be tight."""

    def make(
        shape: tuple[int, ...] = (6,),
        tasks: int = 3,
        way: int = 3,
        shot: int = 2,
        query: int = 4,
        dtype: torch.dtype = torch.float64,
        seed: int = 0,
    ) -> Episode:
        generator = torch.Generator().manual_seed(seed)

        def examples(each: int, centres: torch.Tensor) -> Examples:
            x = centres.repeat_interleave(each, 0)
            x = x + 0.5 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
            return Examples(x.to(dtype), one_hot(torch.arange(way).repeat_interleave(each), way).to(dtype))

        made = []
        for _ in range(tasks):
            centres = torch.randn(way, *shape, generator=generator, dtype=torch.float64)
            made.append(Episode(examples(shot, centres), examples(query, centres)))
        episodes = stack(made)
        assert isinstance(episodes, Episode)
        return episodes

    return make
