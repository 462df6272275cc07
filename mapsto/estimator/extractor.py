"""An embedding as a transformer of scikit-learn's."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils._pytree import tree_map

from mapsto.data.folder import read_image
from mapsto.estimator.encoder import Encoder, Source, encoder
from mapsto.models.pretrained import Backbone, Sentences


class FeatureExtractor(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """What a trained network sees in each example, as rows of numbers: any estimator of scikit-learn's can go on.

    Args:
        source: None for the small weights shipped with mapsto; the folder of a finished run or of a saved classifier; a
            name such as "timm:resnet18" (see `mapsto.models.pretrained`); a meta-learner whose model embeds; any
            module; or "identity", where the data are features already.
        normalise: scale each row to length 1, which suits few examples (Y. Tian et al. Rethinking Few-Shot Image
            Classification: a Good Embedding Is All You Need? 2020, https://arxiv.org/abs/2003.11539). "identity" leaves
            its rows as they are.
        batch: examples at a time.

    Attributes:
        encoder_: the embedding, after `fit`.
    """

    def __init__(self, source: Source = None, normalise: bool = True, batch: int = 64) -> None:
        self.source = source
        self.normalise = normalise
        self.batch = batch

    def fit(self, X: Any, y: Any = None) -> Self:
        """Find the embedding; nothing is learned from the data.

        Raises:
            MapstoError: `source` is nothing to be found.
            ValueError: the data don't suit it.
        """
        self.encoder_: Encoder = encoder(self.source)
        if isinstance(self.encoder_.model, nn.Identity):
            X = validate_data(self, X, dtype=[np.float64, np.float32])
        self._n_features_out = self._embed(X[:1]).shape[1]
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Embed examples.

        Args:
            X: pictures, as an array or tensor `[n, channels, h, w]`, `[n, h, w, channels]` or `[n, h, w]` (uint8, or
                floats in [0, 1]; any size, grey or coloured), or a list of files or of Pillow's images; for a network
                of sentences a list of them; for other modules an array that they take.

        Returns:
            float32 `[n, d]`.

        Raises:
            ValueError: the examples don't suit the network.
            DataError: a file can't be read as a picture.
        """
        check_is_fitted(self)
        if isinstance(self.encoder_.model, nn.Identity):
            X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        if len(X) == 0:
            raise ValueError("there are no examples to transform")
        parts = [self._embed(X[start : start + self.batch]) for start in range(0, len(X), self.batch)]
        return np.concatenate(parts)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        assert tags.transformer_tags is not None
        tags.transformer_tags.preserves_dtype = []  # it is always float32
        return tags

    def _embed(self, X: Any) -> np.ndarray:
        model = self.encoder_.model
        if isinstance(model, nn.Identity):
            return np.asarray(X, np.float32)
        x = model.prepare(X) if isinstance(model, Sentences) else _tensor(X, model)
        tensors = (*model.parameters(), *model.buffers())
        with _judging(model), torch.inference_mode():
            z = model(tree_map(lambda leaf: leaf.to(tensors[0].device), x) if tensors else x)
            if z.ndim != 2:
                raise ValueError(f"the network's outputs have shape {tuple(z.shape)}, not [n, d]: give one that embeds")
            return (normalize(z.float()) if self.normalise else z.float()).cpu().numpy()


@contextmanager
def _judging(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and then whatever mode each part was in."""
    modes = {part: part.training for part in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def _tensor(X: Any, model: nn.Module) -> Tensor:
    """One batch as a tensor, `[n, channels, h, w]` for a `Backbone`."""
    array = isinstance(X, Tensor) or (isinstance(X, np.ndarray) and X.dtype.kind in "biuf")
    if isinstance(model, Backbone):
        if array:
            return _channels_first(X if isinstance(X, Tensor) else torch.tensor(X))
        return torch.from_numpy(np.stack([_picture(x, model) for x in X]))
    if not array and any(isinstance(x, (str, Path, Image.Image)) for x in X):
        raise ValueError(
            "files can't be read for a network whose size of pictures is not known: wrap it, as in "
            "mapsto.models.pretrained.Backbone(network, size=84)"
        )
    x = torch.as_tensor(X if array else np.asarray(X))
    return x.float() / 255 if x.dtype == torch.uint8 else x.float()


def _picture(x: Any, model: Backbone) -> np.ndarray:
    if not isinstance(x, (str, Path, Image.Image)):
        raise ValueError(f"a list of pictures should hold files or Pillow's images, not {type(x).__name__}")
    return read_image(x, model.size, model.channels)


def _channels_first(x: Tensor) -> Tensor:
    """Pictures `[n, h, w]`, `[n, h, w, channels]` or `[n, channels, h, w]` as the last of these."""
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        x = x.movedim(3, 1)
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(f"pictures should have shape [n, 1 or 3, h, w] or [n, h, w, 1 or 3], not {tuple(x.shape)}")
    if x.dtype == torch.uint8:
        return x
    x = x.float()
    if not (x >= -1e-3).all() or not (x <= 1.001).all():  # NaN too
        raise ValueError("pictures as floats should lie in [0, 1]: divide by 255, and don't normalise them")
    return x
