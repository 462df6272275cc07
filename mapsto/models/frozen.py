"""A trained model as a fixed first stage."""

from typing import Self

from torch import Tensor, nn

from mapsto.episode import Tree


class Frozen(nn.Module):
    """A model that no longer learns: its parameters are frozen and it stays in evaluation mode, whatever is around it.

    Args:
        model: what was trained; it is frozen itself, not a copy of it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Evaluation mode, always."""
        return super().train(False)

    def forward(self, x: Tree) -> Tensor:
        """What the model makes of `x`."""
        return self.model(x)
