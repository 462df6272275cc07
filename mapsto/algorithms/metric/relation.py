"""Relation networks.

F. Sung, Y. Yang, L. Zhang, T. Xiang, P. Torr, T. Hospedales. Learning to Compare: Relation Network for Few-Shot
Learning. CVPR 2018. https://arxiv.org/abs/1711.06025. Reference implementation:
https://github.com/floodsung/LearningToCompare_FSL.

What differs. The paper adds the maps of a class's examples, so that a network trained with one is lost with five; here
they are averaged, which is the same for one. The relation module has group norm where the paper has batch norm over all
pairs of a task, which lets queries see each other. What its two poolings leave of the maps is averaged, not flattened
(the same for 5x5 maps, of which one pixel is left). The module's first convolution sees classes and queries apart and
adds, which is the convolution of the maps side by side for a fraction of the work.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d

from mapsto.algorithms.metric.embedded import Embedded, class_means
from mapsto.episode import Tree
from mapsto.losses import mse


class Relation(Embedded):
    """Compare queries with classes by a learned metric, a small network (equations 1 and 2 of the paper).

    Any number of classes and examples, also others at test than in training. `predict` gives scores from 0 to 1.

    Args:
        model: the embedding, `x -> [n, features, h, w]`, such as `mapsto.models.relation.ConvMaps`; maps of at least
            4x4.
        features: the channels of its maps.
        filters: of the relation module's two convolutions; a multiple of 8.
        hidden: units of its fully connected layer.
        criterion: `(scores, y) -> scalar`; the paper's is the squared error.
    """

    def __init__(
        self,
        model: nn.Module,
        features: int,
        filters: int = 64,
        hidden: int = 8,
        *,
        criterion: Callable[[Tensor, Tree], Tensor] = mse,
    ) -> None:
        super().__init__()
        self.model, self.criterion = model, criterion
        self.relation = RelationModule(features, filters, hidden)

    def learn(self, z: Tensor, y: Tensor) -> Tensor:
        """Each class's mean maps `[way, features, h, w]`."""
        if z.ndim != 4 or min(z.shape[2:]) < 4:
            raise ValueError(
                f"Relation compares maps [n, channels, h, w] of at least 4x4, but the model gives {tuple(z.shape)}: "
                "take an embedding without a flat end, such as mapsto.models.relation.ConvMaps"
            )
        return class_means(z.flatten(1), y).view(-1, *z.shape[1:])

    def score(self, what: Tensor, z: Tensor) -> Tensor:
        return self.relation(what, z)


class RelationModule(nn.Module):
    """Two blocks of convolution, norm, ReLU and pooling and two fully connected layers, for every pair (figure 2).

    Args:
        channels: of the maps to be compared.
        filters: of the two convolutions.
        hidden: units of the fully connected layer.
    """

    def __init__(self, channels: int, filters: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(2 * channels, filters, 3, padding=1)
        self.second = nn.Conv2d(filters, filters, 3, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(8, filters) for _ in range(2))
        self.head = nn.Sequential(nn.Linear(filters, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, classes: Tensor, queries: Tensor) -> Tensor:
        """How far each query `[q, channels, h, w]` belongs to each class `[way, channels, h, w]`: `[q, way]`."""
        of_class, of_query = self.first.weight.chunk(2, 1)
        a = conv2d(classes, of_class, self.first.bias, padding=1)
        b = conv2d(queries, of_query, padding=1)
        pairs = (a + b[:, None]).flatten(0, 1)
        pairs = max_pool2d(self.norms[0](pairs).relu(), 2)
        pairs = max_pool2d(self.norms[1](self.second(pairs)).relu(), 2)
        return torch.sigmoid(self.head(pairs.mean((2, 3)))).view(len(queries), len(classes))
