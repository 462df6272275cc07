"""FEAT: few-shot embedding adaptation with a transformer.

H.-J. Ye, H. Hu, D.-C. Zhan, F. Sha. Few-Shot Learning via Embedding Adaptation with Set-to-Set Functions. CVPR 2020.
https://arxiv.org/abs/1812.03664. Reference implementation: https://github.com/Sha-Lab/FEAT.

What differs. The reference normalises the adapted prototypes by layer norm, whose place an RMS norm takes here, and
drops attention weights too (a tenth of them). Its embedding is first trained to classify all training classes, and its
attention then learns at ten times the rate; here all begins at random and learns at one rate.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mapsto.algorithms.metric.distances import squared_euclidean
from mapsto.algorithms.metric.embedded import Embedded, class_means
from mapsto.attention import MultiHead
from mapsto.episode import Episode, Tree
from mapsto.losses import cross_entropy


class FEAT(Embedded):
    """Prototypes that attend to each other before distances are measured, so that they suit the task at hand.

    Args:
        model: the embedding, `x -> [n, features]`.
        features: its size.
        heads: of the attention.
        temperature: divides the logits.
        dropout: of what attention adds to a prototype.
        contrast: weight of the paper's auxiliary loss, by which examples are classified by the means
            of their classes' adapted examples; 0 for none.
        contrast_temperature: divides the logits of that loss.
        criterion: `(logits, y) -> scalar`, of both losses.
    """

    def __init__(
        self,
        model: nn.Module,
        features: int,
        heads: int = 1,
        temperature: float = 64.0,
        dropout: float = 0.5,
        contrast: float = 1.0,
        contrast_temperature: float = 16.0,
        *,
        criterion: Callable[[Tensor, Tree], Tensor] = cross_entropy,
    ) -> None:
        super().__init__()
        self.model, self.temperature, self.criterion = model, temperature, criterion
        self.contrast, self.contrast_temperature = contrast, contrast_temperature
        self.attention, self.dropout = MultiHead(features, heads), nn.Dropout(dropout)
        for weight in self.attention.parameters():
            if weight.ndim == 2:
                nn.init.xavier_normal_(weight)  # as the reference
        self.norm = nn.RMSNorm(features)

    def transformed(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Each of a set of features `[n, features]` in the light of the others, or of those it may see."""
        return self.norm(z + self.dropout(self.attention(z, z, z, mask)))

    def learn(self, z: Tensor, y: Tensor) -> Tensor:
        """The adapted prototypes `[way, features]`."""
        return self.transformed(class_means(z, y))

    def score(self, what: Tensor, z: Tensor) -> Tensor:
        return -squared_euclidean(z, what) / self.temperature

    def loss(self, episode: Episode) -> Tensor:
        z, q = self.both(episode)
        loss = self.criterion(self.score(self.learn(z, episode.support.y), q), episode.query.y)
        if not self.contrast:
            return loss
        z, y = torch.cat([z, q]), torch.cat([episode.support.y, episode.query.y])
        centres = class_means(self.transformed(z, y @ y.T > 0.5), y)  # each example sees its own class
        return loss + self.contrast * self.criterion(-squared_euclidean(z, centres) / self.contrast_temperature, y)
