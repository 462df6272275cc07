"""Meta-gradients to compute: the same model, weights, tasks and meta-objective for every contestant."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.utils._pytree import tree_map

from mapsto.data import Sinusoid
from mapsto.episode import Episode, Examples
from mapsto.losses import cross_entropy, mse
from mapsto.models import MLP, Conv4


@dataclass(frozen=True)
class Work:
    """One meta-gradient.

    Attributes:
        about: what it is.
        ours: the model as a user of mapsto writes it.
        plain: the same with torch's own layers, its parameters in the same order.
        tasks: the episodes.
        lr, steps, first_order: of MAML's inner loop; no steps means a prototypical network.
        criterion: one task's loss; cross-entropy or mean squared error.
        flops: floating-point operations of one meta-step that any method must do; 0 where calls cost, not arithmetic.
        tolerance: how far a loss or gradient may be from the plain loop's, relative to its norm.
    """

    about: str
    ours: Callable[[], nn.Module]
    plain: Callable[[], nn.Module]
    tasks: Callable[[], Episode]
    lr: float = 0.0
    steps: int = 0
    first_order: bool = False
    criterion: Callable[[Tensor, Tensor], Tensor] = cross_entropy
    flops: float = 0.0
    tolerance: float = 1e-3


class PlainConv4(nn.Module):
    """Conv4 as everybody writes it, less the convolutions' biases, which batch norm subtracts again.

    The norms keep running statistics where asked to.
    """

    def __init__(self, outputs: int, channels: int, filters: int, down: str, size: int, running: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for block in range(4):
            stride, before = 2 if down == "stride" else 1, filters if block else channels
            layers += [nn.Conv2d(before, filters, 3, stride, 1, bias=False)]
            layers += [nn.BatchNorm2d(filters, track_running_stats=running), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if down == "pool" else []
        self.body, self.down = nn.Sequential(*layers), down
        features = filters * (size // 16) ** 2 if down == "pool" else filters
        self.head = nn.Linear(features, outputs) if outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        z = self.body(x)
        return self.head(z.flatten(1) if self.down == "pool" else z.mean((2, 3)))


def plain_mlp(hidden: int = 40) -> nn.Module:
    """The sinusoid's network as everybody writes it."""
    return nn.Sequential(nn.Linear(1, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))


def weights(work: Work) -> list[Tensor]:
    """The weights from which everybody begins, in the order of the plain model's parameters."""
    torch.manual_seed(0)
    model = work.plain()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:  # so that no scale is 1 and no shift is 0
                p += 0.1 * torch.randn(p.shape)
    return [p.detach() for p in model.parameters()]


def begin(work: Work, model: nn.Module, device: str) -> nn.Module:
    """The model with the common weights, in training mode, on the device."""
    own = list(model.parameters())
    with torch.no_grad():
        for p, start in zip(own, weights(work), strict=True):
            p.copy_(start)
    return model.train().to(device)


def tasks_on(work: Work, device: str) -> Episode:
    """The common tasks."""
    return tree_map(lambda leaf: leaf.to(device), work.tasks())


def images(tasks: int, way: int, shot: int, query: int, channels: int, size: int) -> Episode:
    """Images of noise, half of each a smooth picture that its class shares."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(tasks * way, channels, 7, 7, generator=generator)
    shared = interpolate(coarse, size=size, mode="bilinear").view(tasks, way, 1, channels, size, size)

    def examples(each: int) -> Examples:
        x = (shared + torch.rand(tasks, way, each, channels, size, size, generator=generator)) / 2
        return Examples(x.flatten(1, 2), torch.eye(way).repeat_interleave(each, 0).repeat(tasks, 1, 1))

    return Episode(examples(shot), examples(query))


def conv4_flops(channels: int, filters: int, down: str, size: int) -> tuple[float, float]:
    """One image's forward pass, convolutions only: of the first layer, and of the others."""
    each, side = [], size
    for block in range(4):
        out = -(-side // 2) if down == "stride" else side
        each.append(2.0 * 9 * (filters if block else channels) * filters * out**2)
        side = out if down == "stride" else side // 2
    return each[0], sum(each[1:])


def meta_flops(layers: tuple[float, float], support: int, query: int, steps: int, second: bool) -> float:
    """One task. A layer's forward and backward pass are three products; differentiated once more, they are nine.

    The first layer needs no gradient of its input, so for it they are two, and four.
    """
    first, rest = layers
    plain, inner = 2 * first + 3 * rest, 4 * first + 9 * rest
    return query * plain + steps * support * (inner if second else plain)


def sine(tasks: int, steps: int, hidden: int = 40) -> Work:
    """Finn et al.'s regression."""
    return Work(
        f"sinusoid MLP, MAML second order, {tasks} tasks, {steps} inner step{'s' * (steps > 1)}",
        ours=lambda: MLP(1, 1, (hidden, hidden)),
        plain=lambda: plain_mlp(hidden),
        tasks=lambda: Sinusoid(10, 10).batch(0, tasks),
        lr=0.01, steps=steps, criterion=mse,
    )  # fmt: skip


def omniglot(way: int, tasks: int, steps: int, filters: int = 64) -> Work:
    """Finn et al.'s Omniglot network.

    With 32 tasks the plain loop in float32 is 0.12 % from the same in float64, and mapsto 0.06 % (in float64 4e-15).
    """
    return Work(
        f"Omniglot strided Conv4-{filters}, MAML second order, {way}-way 1-shot 15 query, {tasks} tasks, "
        f"{steps} inner step{'s' * (steps > 1)}",
        ours=lambda: Conv4(way, 1, filters, "stride"),
        plain=lambda: PlainConv4(way, 1, filters, "stride", 28),
        tasks=lambda: images(tasks, way, 1, 15, 1, 28),
        lr=0.1, steps=steps,
        flops=tasks * meta_flops(conv4_flops(1, filters, "stride", 28), way, 15 * way, steps, True),
        tolerance=0.005,
    )  # fmt: skip


def mini(tasks: int = 4, steps: int = 5, first_order: bool = False, shot: int = 5) -> Work:
    """Finn et al.'s mini-ImageNet network.

    Five steps through max-pooling magnify float32's rounding: the plain loop is itself up to 3 % from the same in
    float64. (Leaving out the second order changes the gradient by 60 %.)
    """
    return Work(
        f"84x84 max-pool Conv4-32, MAML {'first' if first_order else 'second'} order, 5-way {shot}-shot 15 query, "
        f"{tasks} task{'s' * (tasks > 1)}, {steps} inner steps",
        ours=lambda: Conv4(5, 3, 32, size=84),
        plain=lambda: PlainConv4(5, 3, 32, "pool", 84),
        tasks=lambda: images(tasks, 5, shot, 15, 3, 84),
        lr=0.01, steps=steps, first_order=first_order,
        flops=tasks * meta_flops(conv4_flops(3, 32, "pool", 84), 5 * shot, 75, steps, not first_order),
        tolerance=0.03,
    )  # fmt: skip


def prototypes() -> Work:
    """Snell et al.'s Omniglot training; support and query go through batch norm together, as there."""
    first, rest = conv4_flops(1, 64, "pool", 28)
    return Work(
        "Omniglot Prototypical Network, max-pool Conv4-64, 60-way 1-shot 5 query, 1 task",
        ours=lambda: Conv4(stats="running"),
        plain=lambda: PlainConv4(0, 1, 64, "pool", 28, running=True),
        tasks=lambda: images(1, 60, 1, 5, 1, 28),
        flops=360 * (2 * first + 3 * rest),
    )


WORKS: dict[str, Work] = {
    "a1": sine(25, 1),
    "a5": sine(25, 5),
    "b": omniglot(5, 32, 1),
    "b20": omniglot(20, 4, 5),
    "c": mini(),
    "c-first": mini(first_order=True),
    "d": prototypes(),
}
