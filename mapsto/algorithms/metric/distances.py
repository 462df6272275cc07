"""Distances and similarities between rows, all twice differentiable (`torch.cdist` is not)."""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize


def squared_euclidean(a: Float[Tensor, "*batch d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "*batch m"]:
    """||a - b||^2 of every row of `a` to every row of `b`, by a matrix product."""
    return a.square().sum(-1, keepdim=True) - 2 * a @ b.T + b.square().sum(-1)


def cosine(a: Float[Tensor, "*batch d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "*batch m"]:
    """The cosine similarity of every row of `a` to every row of `b`; 0 for a zero row."""
    return normalize(a, dim=-1, eps=1e-8) @ normalize(b, dim=-1, eps=1e-8).T
