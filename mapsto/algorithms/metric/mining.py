"""Which triplets to learn from, functions of tensors alone.

Semi-hard: F. Schroff, D. Kalenichenko, J. Philbin. FaceNet: A Unified Embedding for Face Recognition and Clustering.
CVPR 2015. https://arxiv.org/abs/1503.03832. Hard: A. Hermans, L. Beyer, B. Leibe. In Defense of the Triplet Loss for
Person Re-Identification. 2017. https://arxiv.org/abs/1703.07737.

Each takes distances and `pairs.same_class`, both `[n, n]`, and draws no random numbers. Shapes are static, so all of it
vmaps: of the triplets returned, those count that are `valid`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

INF = float("inf")


class Triplets(NamedTuple):
    """Rows of examples.

    Attributes:
        anchor: any example.
        positive: another one of its class.
        negative: one of another class.
        valid: false where there is none, and the row means nothing.
    """

    anchor: Int64[Tensor, " t"]
    positive: Int64[Tensor, " t"]
    negative: Int64[Tensor, " t"]
    valid: Bool[Tensor, " t"]


def random(distance: Float[Tensor, "n n"], same: Bool[Tensor, "n n"]) -> Triplets:
    """Any negative for each pair of one class, whatever the distances.

    It is the one at a fixed place among the anchor's negatives, spread over all places: a random one, since classes and
    examples of a task (or batch) come in random order. Give them so.
    """
    index = torch.arange(len(same), device=same.device)
    place = index[:, None] * 7919 + index * 104729  # primes, so that neighbours' places scatter
    first = same.long().argsort(dim=1, stable=True)  # the negatives, in order, then the others
    many = (~same).sum(1, keepdim=True).clamp_min(1)
    return _of_pairs(first.gather(1, place % many), same)


def semihard(distance: Float[Tensor, "n n"], same: Bool[Tensor, "n n"]) -> Triplets:
    """For each pair of one class the nearest negative that is further from the anchor than the positive.

    Where all are nearer, the furthest one. (FaceNet draws one of those within the margin.)
    """
    apart = distance.masked_fill(same, INF)
    further = apart[:, None] > distance[..., None]  # [anchor, positive, negative]
    nearest = torch.where(further, apart[:, None], INF).min(2)
    furthest = distance.masked_fill(same, -INF).argmax(1, keepdim=True)
    return _of_pairs(torch.where(nearest.values < INF, nearest.indices, furthest), same)


def hard(distance: Float[Tensor, "n n"], same: Bool[Tensor, "n n"]) -> Triplets:
    """For each example as anchor the furthest of its class and the nearest of the others ("batch hard", equation 5)."""
    others = _others(same)
    positive = distance.masked_fill(~others, -INF).argmax(1)
    negative = distance.masked_fill(same, INF).argmin(1)
    anchor = torch.arange(len(same), device=same.device)
    return Triplets(anchor, positive, negative, others.any(1) & (~same).any(1))


MINERS: dict[str, Callable[[Tensor, Tensor], Triplets]] = {"random": random, "semihard": semihard, "hard": hard}


def _of_pairs(negative: Tensor, same: Tensor) -> Triplets:
    """The triplets of a negative `[n, n]` for each anchor and positive."""
    n = len(same)
    index = torch.arange(n, device=same.device)
    anchor, positive = index.repeat_interleave(n), index.repeat(n)
    valid = _others(same) & (~same).any(1, keepdim=True)
    return Triplets(anchor, positive, negative.flatten(), valid.flatten())


def _others(same: Tensor) -> Tensor:
    """Pairs of one class, without those of an example and itself."""
    return same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
