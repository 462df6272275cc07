"""Latent embedding optimization.

A. Rusu, D. Rao, J. Sygnowski, O. Vinyals, R. Pascanu, S. Osindero, R. Hadsell. Meta-Learning with Latent Embedding
Optimization. ICLR 2019. https://arxiv.org/abs/1807.05960. Reference implementation: https://github.com/deepmind/leo
(TensorFlow 1).

What follows the code where the paper is silent: standard deviations are exp(u) - 1 + offset; features have unit length;
the inner loss is `way` times the mean cross-entropy; KL divergence, encoder penalty and orthogonality penalty are means
over their entries.

What differs. A class has one code, as in the paper; the code draws one for each support example (the same at one shot).
The KL divergence is exact; there it is estimated by one sample. u is at most 1, lest a deviation run away in the inner
loop; there a meta-step whose gradient is NaN only shrinks the weights. Meta-gradients there are clipped by entry and by
tensor.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.modules.dropout import _DropoutNd

from mapsto.algorithms.optimization.inner import unroll
from mapsto.algorithms.optimization.optimizers import CoordinateRates
from mapsto.applied import call
from mapsto.episode import Episode, Examples, Tree
from mapsto.learner import MetaLearner


class Head(NamedTuple):
    """What LEO learns from a task.

    Attributes:
        weight: of the softmax classifier, `[way, features]`.
        support_x: the inputs, for norms that take their statistics from the support set.
        kl: divergence of the codes' distribution from a standard Gaussian, the mean over their entries.
        drift: mean squared distance of the first codes to the adapted ones, which are held constant.
    """

    weight: Tensor
    support_x: Tree
    kl: Tensor
    drift: Tensor


class LEO(MetaLearner):
    """Adapt a class's low-dimensional code, from which its classifier weights are decoded (Algorithm 1 of the paper).

    Any number of classes, also another one at test than in training. Codes and weights are drawn from Gaussians in
    training, and are their means in evaluation.

    Args:
        model: the trained embedding, `x -> [n, features]`; it is frozen and stays in evaluation mode.
            `torch.nn.Identity()` where the inputs are embeddings.
        features: the embedding's size.
        latents: a code's size.
        steps: inner steps in the space of codes.
        finetune: steps of the decoded weights thereafter.
        lr: initial rate of the first, learned for each entry of a code.
        finetune_lr: initial rate of the second, learned for each feature.
        dropout: of the features, wherever they enter.
        kl: weight of the codes' KL divergence (beta in the paper).
        encoder_penalty: weight of the distance of first to adapted codes (gamma).
        l2: weight of half the squared weights of encoder, relation network and decoder (lambda 1).
        orthogonality: weight of the correlation between what the decoder makes of different code entries (lambda 2).
    """

    headless = True

    def __init__(
        self,
        model: nn.Module,
        features: int,
        latents: int = 64,
        steps: int = 5,
        finetune: int = 5,
        *,
        lr: float = 1.0,
        finetune_lr: float = 0.001,
        dropout: float = 0.5,
        kl: float = 1e-3,
        encoder_penalty: float = 1e-9,
        l2: float = 1e-8,
        orthogonality: float = 1e-3,
    ) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.features, self.steps, self.finetune = features, steps, finetune
        self.encoder = _linear(features, latents)
        layers = [_linear(2 * latents, 2 * latents) for _ in range(3)]
        self.relation = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
        self.decoder = _linear(latents, 2 * features)
        self.alpha = CoordinateRates({"codes": torch.empty(latents)}, lr)
        self.finetune_alpha = CoordinateRates({"weight": torch.empty(features)}, finetune_lr)
        self.dropout, self.noise = nn.Dropout(dropout), Noise()
        self.kl, self.encoder_penalty, self.l2, self.orthogonality = kl, encoder_penalty, l2, orthogonality
        self.exact = encoder_penalty == 0

    def train(self, mode: bool = True) -> "LEO":
        """As any module's, but the embedding stays in evaluation mode."""
        super().train(mode)
        self.model.eval()
        return self

    def embed(self, x: Tree, support_x: Tree = None) -> Tensor:
        """Embeddings of unit length, `[n, features]`.

        Raises:
            ValueError: the model's outputs have another size.
        """
        with torch.no_grad():
            z = call(self.model, {}, x, support_x)
        if z.shape[1:] != (self.features,):
            raise ValueError(f"the model embeds in {tuple(z.shape[1:])}, not in ({self.features},): give its features")
        return normalize(z, dim=1)

    def encode(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each class's code, `[way, latents]`, from embeddings `[n, features]`."""
        codes = self.encoder(self.dropout(z))
        n = len(codes)
        pairs = torch.cat([codes[:, None].expand(n, n, -1), codes[None].expand(n, n, -1)], 2)
        related = self.relation(pairs).mean(1)
        mean, raw = ((y.T @ related) / y.sum(0)[:, None]).chunk(2, 1)
        return mean, _deviation(raw, 0.0)

    def decode(self, codes: Tensor) -> Tensor:
        """Classifier weights `[way, features]` of codes `[way, latents]`."""
        mean, raw = self.decoder(codes).chunk(2, 1)
        # At first the weights' deviation is that of Glorot's initialisation.
        return self.noise(mean, _deviation(raw, (2 / (len(codes) + self.features)) ** 0.5))

    def adapt(self, support: Examples) -> Head:
        z = self.embed(support.x)
        mean, deviation = self.encode(z, support.y)
        first = self.noise(mean, deviation)

        def loss(weight: Tensor) -> Tensor:
            return support.y.shape[1] * self.criterion(self.dropout(z) @ weight.T, support.y)

        steps = self.steps or 0
        codes = unroll(lambda at: loss(self.decode(at["codes"])), {"codes": first}, self.alpha, steps)["codes"]
        decoded = {"weight": self.decode(codes)}
        weight = unroll(lambda at: loss(at["weight"]), decoded, self.finetune_alpha, self.finetune)["weight"]
        kl = ((mean.square() + deviation.square() - 1) / 2 - deviation.log()).mean()
        return Head(weight, support.x, kl, (first - codes.detach()).square().mean())

    def predict(self, fast: Head, x: Tree) -> Tensor:
        return self.dropout(self.embed(x, fast.support_x)) @ fast.weight.T

    def loss(self, episode: Episode) -> Tensor:
        fast = self.adapt(episode.support)
        query = self.criterion(self.predict(fast, episode.query.x), episode.query.y)
        return query + self.kl * fast.kl + self.encoder_penalty * fast.drift + self.regularizer()

    def regularizer(self) -> Tensor:
        """The weights' L2 penalty and the decoder's orthogonality penalty, both weighed."""
        layers = [self.encoder, *self.relation, self.decoder]
        squares = sum(layer.weight.square().sum() for layer in layers if isinstance(layer, nn.Linear)) / 2
        rows = normalize(self.decoder.weight, dim=0)
        off = rows.T @ rows - torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
        return self.l2 * squares + self.orthogonality * off.square().mean()


class Noise(_DropoutNd):
    """Gaussian samples in training, their means in evaluation; like dropout it is off where `check` compares."""

    def forward(self, mean: Tensor, deviation: Tensor) -> Tensor:
        """A sample of the shape of both."""
        return mean + deviation * torch.randn_like(mean) if self.training else mean


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.xavier_uniform_(layer.weight)
    return layer


def _deviation(raw: Tensor, offset: float) -> Tensor:
    return (raw.clamp(max=1).exp() - 1 + offset).clamp(min=1e-10)
