"""Neural processes: conditional, latent and attentive.

M. Garnelo et al. Conditional Neural Processes. ICML 2018. https://arxiv.org/abs/1807.01613.
M. Garnelo et al. Neural Processes. ICML 2018 workshop. https://arxiv.org/abs/1807.01622.
H. Kim et al. Attentive Neural Processes. ICLR 2019. https://arxiv.org/abs/1901.05761.
Reference implementation: https://github.com/deepmind/neural-processes (TensorFlow 1), whose sizes these are.

What follows the code where the papers are silent: standard deviations of y are 0.1 + 0.9 softplus, so that no point's
log-likelihood exceeds 1.38 nats; those of the latents are 0.1 + 0.9 sigmoid; the KL divergence is shared out over the
query points.

What differs. The criterion is that of the query points, as in equation 9 of the second paper; the code adds the context
points. The latent process has no deterministic path, as in its paper; the code's has one. The attentive process attends
from query to context; the paper's self-attention among the context points, which the code leaves out too, is not there.
The prediction of a latent process is the mean and standard deviation of a fixed set of samples' mixture.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.nn.modules.dropout import _DropoutNd

from mapsto.attention import MultiHead
from mapsto.episode import Episode, Examples, Tree
from mapsto.learner import MetaLearner
from mapsto.losses import gaussian_nll


class Gaussian(NamedTuple):
    """Mean and standard deviation of each latent, `[latents]`."""

    mean: Tensor
    deviation: Tensor


class Attended(NamedTuple):
    """What an attentive process learns from a task.

    Attributes:
        latent: the distribution of the whole function's code.
        keys, values: of the context points, `[n, width]`.
        mask: `[n]`, true where a point is given.
    """

    latent: Gaussian
    keys: Tensor
    values: Tensor
    mask: Tensor


class CNP(MetaLearner):
    """A function's code is the mean of its context points' codes, read with a query point's place (equations 1 to 3).

    Context points may be padded: `support.x` is then a dict of the inputs `x` `[n, inputs]` and a `mask` `[n]`, true
    where a point is given. Predictions are means and standard deviations side by side, `[n, 2 outputs]`.

    Args:
        inputs: numbers of one point's x.
        outputs: numbers of one point's y.
        width: of all hidden layers and of the code.
        least: the least standard deviation predicted.
    """

    criterion = staticmethod(gaussian_nll)

    def __init__(self, inputs: int, outputs: int, width: int = 128, least: float = 0.1) -> None:
        super().__init__()
        self.encoder = perceptron(inputs + outputs, [width] * 4)
        self.decoder = Decoder(width + inputs, outputs, width, least)

    def adapt(self, support: Examples) -> Tensor:
        """The code `[width]`."""
        x, y, mask = points(support)
        return mean(self.encoder(torch.cat([x, y], 1)), mask)

    def predict(self, fast: Tensor, x: Tree) -> Tensor:
        return self.decoder(torch.cat([fast.expand(len(x), -1), x], 1))


class Latent(MetaLearner, ABC):
    """What latent processes share: a code with a distribution, the bound that it is trained by, predictions.

    Args:
        inputs, outputs, width, least: as for `CNP`.
        read: size of what else the decoder reads.
        samples: latent samples whose mixture is the prediction.
    """

    criterion = staticmethod(gaussian_nll)
    samples: Tensor

    def __init__(self, inputs: int, outputs: int, width: int, least: float, read: int, samples: int) -> None:
        super().__init__()
        self.latent = LatentEncoder(inputs + outputs, width)
        self.decoder = Decoder(width + read + inputs, outputs, width, least)
        self.noise = Noise()
        fixed = torch.randn(samples, width, generator=torch.Generator().manual_seed(0))
        self.register_buffer("samples", fixed, persistent=False)

    @abstractmethod
    def prior(self, fast: Tree) -> Gaussian:
        """The latents' distribution given the context."""

    @abstractmethod
    def reads(self, fast: Tree, x: Tensor) -> Tensor:
        """What the decoder reads for each query point, `[n, read + inputs]`."""

    def draws(self, fast: Tree, x: Tensor) -> Tensor:
        """Predictions of one function each, `[samples, n, 2 outputs]`, for latents that are always the same ones."""
        latents, read = self.prior(fast), self.reads(fast, x)
        codes = latents.mean + latents.deviation * self.samples
        count, n = len(codes), len(read)
        return self.decoder(torch.cat([codes[:, None].expand(-1, n, -1), read.expand(count, -1, -1)], 2))

    def predict(self, fast: Tree, x: Tree) -> Tensor:
        means, deviations = self.draws(fast, x).chunk(2, 2)
        center = means.mean(0)
        spread = (deviations.square() + (means - center).square()).mean(0)
        return torch.cat([center, spread.sqrt()], 1)

    def loss(self, episode: Episode) -> Tensor:
        """The negative of the evidence lower bound a query point (Garnelo et al. 2018b, equation 9), one sample."""
        support, query = episode
        fast = self.adapt(support)
        prior, read = self.prior(fast), self.reads(fast, query.x)
        x, y, mask = points(support)
        given = torch.cat([mask, mask.new_ones(len(query.y))])
        posterior = self.latent(torch.cat([x, query.x]), torch.cat([y, query.y]), given)
        code = self.noise(posterior.mean, posterior.deviation)
        prediction = self.decoder(torch.cat([code.expand(len(read), -1), read], 1))
        return self.criterion(prediction, query.y) + divergence(posterior, prior) / len(query.y)


class NP(Latent):
    """A function's code is drawn from a Gaussian whose parameters are made of the mean of its points' codes.

    Args:
        inputs, outputs, width, least: as for `CNP`; there are `width` latents.
        samples: latent samples whose mixture is the prediction.
    """

    def __init__(self, inputs: int, outputs: int, width: int = 128, least: float = 0.1, samples: int = 32) -> None:
        super().__init__(inputs, outputs, width, least, 0, samples)

    def adapt(self, support: Examples) -> Gaussian:
        """The latents' distribution."""
        return self.latent(*points(support))

    def prior(self, fast: Gaussian) -> Gaussian:
        return fast

    def reads(self, fast: Gaussian, x: Tensor) -> Tensor:
        return x


class ANP(Latent):
    """A latent process that also reads, by attention, the codes of those context points that matter for a query point.

    Args:
        inputs, outputs, width, least: as for `CNP`; there are `width` latents.
        heads: of the attention.
        samples: latent samples whose mixture is the prediction.
    """

    def __init__(
        self, inputs: int, outputs: int, width: int = 128, least: float = 0.1, heads: int = 8, samples: int = 32
    ) -> None:
        super().__init__(inputs, outputs, width, least, width, samples)
        self.encoder = perceptron(inputs + outputs, [width] * 4)
        self.place = perceptron(inputs, [width] * 2)
        self.attention = MultiHead(width, heads)

    def adapt(self, support: Examples) -> Attended:
        x, y, mask = points(support)
        return Attended(self.latent(x, y, mask), self.place(x), self.encoder(torch.cat([x, y], 1)), mask)

    def prior(self, fast: Attended) -> Gaussian:
        return fast.latent

    def reads(self, fast: Attended, x: Tensor) -> Tensor:
        mask = fast.mask.expand(len(x), -1)
        return torch.cat([self.attention(self.place(x), fast.keys, fast.values, mask), x], 1)


class LatentEncoder(nn.Module):
    """From points to the Gaussian of their function's code."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.points = perceptron(inputs, [width] * 4)
        self.whole = perceptron(width, [width, 2 * width])

    def forward(self, x: Tensor, y: Tensor, mask: Tensor) -> Gaussian:
        """Of points x `[n, inputs]` and y `[n, outputs]`, where the mask `[n]` is true."""
        center, raw = self.whole(mean(self.points(torch.cat([x, y], 1)), mask)).chunk(2)
        return Gaussian(center, 0.1 + 0.9 * raw.sigmoid())


class Decoder(nn.Module):
    """From `[..., inputs]` to means and standard deviations side by side, `[..., 2 outputs]`."""

    def __init__(self, inputs: int, outputs: int, width: int, least: float) -> None:
        super().__init__()
        if not 0 < least < 1:
            raise ValueError(f"the least standard deviation lies between 0 and 1, so least={least} can't be")
        self.layers, self.least = perceptron(inputs, [width, width, 2 * outputs]), least

    def forward(self, read: Tensor) -> Tensor:
        center, raw = self.layers(read).chunk(2, -1)
        return torch.cat([center, self.least + (1 - self.least) * softplus(raw)], -1)


class Noise(_DropoutNd):
    """Gaussian samples in training, their means in evaluation; like dropout it is off where `check` compares."""

    def forward(self, center: Tensor, deviation: Tensor) -> Tensor:
        """A sample of the shape of both."""
        return center + deviation * torch.randn_like(center) if self.training else center


def perceptron(inputs: int, widths: list[int]) -> nn.Sequential:
    """Linear layers of those widths with ReLUs between; weights begin as the reference's, Glorot's."""
    layers: list[nn.Module] = []
    for width in widths:
        layer = nn.Linear(inputs, width)
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
        layers += [nn.ReLU(), layer] if layers else [layer]
        inputs = width
    return nn.Sequential(*layers)


def points(support: Examples) -> tuple[Tensor, Tensor, Tensor]:
    """Context points: x, y, and the mask that is true where they are given."""
    if isinstance(support.x, dict):
        return support.x["x"], support.y, support.x["mask"]
    return support.x, support.y, torch.ones(len(support.x), dtype=torch.bool, device=support.x.device)


def mean(codes: Tensor, mask: Tensor) -> Tensor:
    """The mean `[d]` of `[n, d]` over those rows that are given."""
    weights = mask.to(codes.dtype)
    return weights @ codes / weights.sum()


def divergence(a: Gaussian, b: Gaussian) -> Tensor:
    """KL(a || b), the sum over latents."""
    ratio, shift = a.deviation / b.deviation, (a.mean - b.mean) / b.deviation
    return ((ratio.square() + shift.square() - 1) / 2 - ratio.log()).sum()
