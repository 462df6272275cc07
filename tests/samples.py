"""A small network with its preprocessing, pictures for it, and clouds of points."""

from typing import Any

import numpy as np
import sklearn.base
import torch

from mapsto.data import Tasks
from mapsto.estimator.encoder import Encoder
from mapsto.models import BatchNorm, Conv4
from mapsto.models.pretrained import Backbone

RECIPE = {"model": "conv4", "options": {"channels": 3, "filters": 4, "stats": "running", "size": 16}}
RECIPE |= {"size": 16, "channels": 3, "mean": [0.5] * 3, "std": [0.2] * 3}


def network(temperatures: dict[int, float] | None = None) -> Encoder:
    """A small random network that mapsto can make, with running statistics other than those of the start."""
    body = Conv4(**RECIPE["options"])
    for part in body.modules():
        if isinstance(part, BatchNorm):
            part.mean.normal_()
            part.var.uniform_(0.5, 2)
    backbone = Backbone(body, 16, RECIPE["mean"], RECIPE["std"]).eval()
    return Encoder(backbone, "tiny", RECIPE, temperatures or {})


def pictures(each: int = 5, way: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """uint8 `[n, 3, 16, 16]`, every class in a colour of its own."""
    rng = np.random.default_rng(seed)
    labels = np.arange(way).repeat(each)
    colours = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200], [200, 200, 40]])[labels]
    return (colours[:, :, None, None] + rng.integers(0, 50, (len(labels), 3, 16, 16))).astype(np.uint8), labels


def blobs(n: int, way: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(way).repeat(n)
    return 4 * np.eye(way, 6)[labels] + rng.normal(size=(way * n, 6)), labels


def tasks(way: int = 4, shot: int = 2) -> Tasks:
    """Overlapping clouds."""
    x, y = blobs(40, way=5, seed=2)
    noise = np.random.default_rng(3).normal(size=x.shape)
    return Tasks((torch.from_numpy(x + 2 * noise).float(), y), way, shot, 8)


def clone(estimator: Any) -> Any:
    """scikit-learn's `clone`, whose types are too wide."""
    return sklearn.base.clone(estimator)
