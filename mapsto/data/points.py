"""Points of a function as episodes, with room for a number of context points that varies from task to task."""

import numpy as np
import torch
from torch import Tensor

from mapsto.episode import Episode, Examples, Range
from mapsto.errors import MapstoError


def check_points(what: str, way: Range | None, shot: Range, query: int) -> None:
    """Complain of numbers of points that can't be.

    Raises:
        MapstoError: a way other than 1, no points, or a range whose high end comes first.
    """
    low, high = bounds(shot)
    if way not in (None, 1):
        raise MapstoError(f"{what} tasks are regression: they have no way to change")
    if not 1 <= low <= high or query < 1:
        raise MapstoError(
            f"{what} tasks want at least one shot and query, and a range's low end first; got {shot} and {query}"
        )


def bounds(shot: Range) -> tuple[int, int]:
    """The least and the greatest number."""
    return (shot, shot) if isinstance(shot, int) else (int(shot[0]), int(shot[1]))


def draw_count(rng: np.random.Generator, shot: Range) -> int:
    """A task's own number of context points."""
    low, high = bounds(shot)
    return int(rng.integers(low, high + 1))


def split(x: Tensor, y: Tensor, counts: np.ndarray, shot: Range) -> Episode:
    """Points as a many-task episode: the first are the context, what stands behind the greatest shot is the query.

    Args:
        x: `[tasks, points, d]`.
        y: `[tasks, points, c]`.
        counts: each task's number of context points.
        shot: a number, or the bounds of those counts. With bounds `support.x` is a dict: the inputs `x`
            `[tasks, high, d]` and a `mask` `[tasks, high]`, true where a point is given; all others are zeros.
    """
    _, high = bounds(shot)
    query = Examples(x[:, high:].contiguous(), y[:, high:].contiguous())
    x, y = x[:, :high].contiguous(), y[:, :high].contiguous()
    if isinstance(shot, int):
        return Episode(Examples(x, y), query)
    mask = torch.arange(high, device=x.device) < torch.from_numpy(counts).to(x.device)[:, None]
    return Episode(Examples({"x": x * mask[..., None], "mask": mask}, y * mask[..., None]), query)


def given(support: Examples) -> Examples:
    """One task's context points, without padding: x `[n, d]` and y `[n, c]`."""
    if not isinstance(support.x, dict):
        return support
    mask = support.x["mask"]
    return Examples(support.x["x"][mask], support.y[mask])
