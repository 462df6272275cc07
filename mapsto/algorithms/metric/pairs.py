"""Losses of pairs and of triplets, functions of tensors alone.

Contrastive: R. Hadsell, S. Chopra, Y. LeCun. Dimensionality Reduction by Learning an Invariant Mapping. CVPR 2006.
https://doi.org/10.1109/CVPR.2006.100. Triplets: F. Schroff, D. Kalenichenko, J. Philbin.
FaceNet: A Unified Embedding for Face Recognition and Clustering. CVPR 2015. https://arxiv.org/abs/1503.03832.

Each loss returns one number a pair or triplet; `balanced` or `mean` averages them. Shapes are static, so all of it
vmaps.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, relu


def distance(a: Float[Tensor, "*n d"], b: Float[Tensor, "*n d"], squared: bool = False) -> Float[Tensor, "*n"]:
    """Euclidean distance along the last axis; the others broadcast, so `distance(z[:, None], z)` is `[n, n]`.

    From differences, so that nearby points lose no digits, and with gradient 0 where two points coincide.
    """
    squares = (a - b).square().sum(-1)
    if squared:
        return squares
    apart = squares > 0
    return torch.where(apart, squares, 1.0).sqrt() * apart  # the gradient of sqrt at 0 is infinite


def same_class(y: Float[Tensor, "n way"]) -> Bool[Tensor, "n n"]:
    """Whether two examples are of one class, from one-hot targets; an example and itself are."""
    return y @ y.T > 0.5


def verification(logits: Float[Tensor, "*n"], same: Bool[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Binary cross-entropy of the log-odds that two examples are of one class (Koch et al. 2015, section 3.2)."""
    return binary_cross_entropy_with_logits(logits, same.to(logits.dtype), reduction="none")


def contrastive(
    distance: Float[Tensor, "*n"], same: Bool[Tensor, "*n"], margin: float = 1.0, squared: bool = True
) -> Float[Tensor, "*n"]:
    """D^2 / 2 of pairs of one class, max(0, margin - D)^2 / 2 of others (Hadsell et al. 2006, equation 4).

    Args:
        distance: Euclidean, not squared.
        same: true for pairs of ONE class. (The paper's Y is 1 for pairs that differ.)
        margin: the distance from which pairs of different classes cost nothing.
        squared: False drops the square and the half: D, and max(0, margin - D).
    """
    losses = torch.where(same, distance, relu(margin - distance))
    return losses.square() / 2 if squared else losses


def triplet(positive: Float[Tensor, "*n"], negative: Float[Tensor, "*n"], margin: float = 1.0) -> Float[Tensor, "*n"]:
    """max(0, margin + D(anchor, positive) - D(anchor, negative)) (Schroff et al. 2015, equation 3, whose D is squared).

    Args:
        positive: distances of anchors to an example of their class, squared or not.
        negative: distances of the same anchors to an example of another class.
        margin: by how much the second should exceed the first.
    """
    return relu(margin + positive - negative)


def mean(losses: Float[Tensor, "*n"], where: Bool[Tensor, "*n"]) -> Float[Tensor, ""]:
    """The mean where `where` is true; 0 if it is nowhere."""
    return (losses * where).sum() / where.sum().clamp_min(1)


def balanced(losses: Float[Tensor, "*n"], same: Bool[Tensor, "*n"]) -> Float[Tensor, ""]:
    """Pairs of one class and others, weighing a half each: what drawing both kinds equally often gives on average."""
    return (mean(losses, same) + mean(losses, ~same)) / 2
