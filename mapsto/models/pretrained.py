"""Networks trained by others, through timm, OpenCLIP, transformers and sentence-transformers.

https://github.com/huggingface/pytorch-image-models, https://github.com/mlfoundations/open_clip,
https://github.com/huggingface/transformers, https://github.com/huggingface/sentence-transformers. None of them is
needed until one of their networks is asked for.

What differs from these libraries' own preprocessing: a picture is resized to the network's size as a whole, where they
cut out its middle.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from mapsto.errors import MapstoError

GREY = 0.299, 0.587, 0.114
"""Shares of red, green and blue in a grey (ITU-R 601)."""


class Backbone(nn.Module):
    """An embedding of pictures together with its preprocessing: size, channels and normalisation.

    Args:
        body: `[n, channels, size, size] -> [n, d]`, normalised pictures in, features out.
        size: height and width of the pictures that it wants.
        mean, std: what is subtracted from each channel of a picture in [0, 1], and what then divides it.
        channels: 1 for greys, 3 for colours.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        body: nn.Module,
        size: int,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        channels: int = 3,
    ) -> None:
        super().__init__()
        if not len(mean) == len(std) == channels:
            raise ValueError(
                f"{channels} channels want as many numbers in mean and std, not {len(mean)} and {len(std)}"
            )
        self.body, self.size, self.channels = body, size, channels
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features `[n, d]` of pictures `[n, 1 or 3, h, w]`, floats in [0, 1] or uint8, of any size."""
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        if x.shape[1] != self.channels:
            grey = x if x.shape[1] == 1 else (x * x.new_tensor(GREY).view(-1, 1, 1)).sum(1, keepdim=True)
            x = grey.expand(-1, self.channels, -1, -1)
        if x.shape[2:] != (self.size, self.size):
            x = interpolate(x, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 1)
        return self.body((x - self.mean) / self.std)


class Sentences(nn.Module):
    """An embedding of sentences together with its tokenizer.

    Args:
        model: a `SentenceTransformer`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def prepare(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Tokens and mask, each `[n, length]`: what `forward` takes, and what episodes may hold as `x`."""
        prepared = self.model.preprocess(list(texts))
        return {name: value for name, value in prepared.items() if isinstance(value, Tensor)}

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        """Features `[n, d]`."""
        return self.model(dict(x))["sentence_embedding"]


class _Pooled(nn.Module):
    """A model of transformers as a plain function from pictures to its pooled output, or else to its class token."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        out = self.model(pixel_values=x)
        pooled = out.get("pooler_output")
        return out["last_hidden_state"][:, 0] if pooled is None else pooled.flatten(1)


def pretrained(name: str) -> Backbone | Sentences:
    """A network with the weights that others trained, found on this machine or downloaded by their library.

    `"timm:resnet18"`, `"clip:ViT-B-32/openai"`, `"hf:facebook/dinov2-small"`, `"sentence:all-MiniLM-L6-v2"`.

    Args:
        name: a library, a colon, and the library's own name of the network (for CLIP, also of the weights).

    Returns:
        A module in evaluation mode: a `Backbone` takes pictures, `Sentences` takes tokens.

    Raises:
        MapstoError: there is no such library or network, the library is not installed, or the weights are not here and
            can't be downloaded.
    """
    kind, _, rest = name.partition(":")
    if kind not in FAMILIES or not rest:
        known = ", ".join(f"{family}:NAME" for family in FAMILIES)
        raise MapstoError(f"there is no pretrained network {name!r}: its name should be one of {known}")
    package, make = FAMILIES[kind]
    try:
        return make(rest).eval()
    except ImportError as error:
        raise MapstoError(f"{name} wants {package}, which can't be imported ({error}): pip install {package}") from None
    except Exception as error:  # each library has its own ways to say that there is no network
        reason = " ".join(str(error).split())[:200]
        raise MapstoError(
            f"{name} can't be loaded ({reason}): mind the name, or download the weights on a machine with network "
            "access and copy that machine's cache folder (HF_HOME)"
        ) from error


def _timm(name: str) -> Backbone:
    import timm  # type: ignore[import-not-found]
    from timm.data import resolve_model_data_config  # type: ignore[import-not-found]

    body = timm.create_model(name, pretrained=True, num_classes=0)
    wanted = resolve_model_data_config(body)
    return Backbone(body, wanted["input_size"][-1], wanted["mean"], wanted["std"], wanted["input_size"][0])


def _clip(name: str) -> Backbone:
    import open_clip  # type: ignore[import-not-found]

    network, _, weights = name.partition("/")
    if not weights:
        raise ValueError("name the weights too, as in clip:ViT-B-32/openai")
    body = open_clip.create_model(network, pretrained=weights).visual  # the other half reads text
    wanted = body.preprocess_cfg
    return Backbone(body, wanted["size"][0], wanted["mean"], wanted["std"])


def _transformers(name: str) -> Backbone:
    from transformers import AutoModel  # type: ignore[import-not-found]
    from transformers.image_processing_base import ImageProcessingMixin  # type: ignore[import-not-found]

    wanted, _ = ImageProcessingMixin.get_image_processor_dict(name)
    size = wanted.get("crop_size") if wanted.get("do_center_crop") else wanted["size"]
    side = size if isinstance(size, int) else size.get("height") or size["shortest_edge"]
    return Backbone(_Pooled(AutoModel.from_pretrained(name)), side, wanted["image_mean"], wanted["image_std"])


def _sentences(name: str) -> Sentences:
    from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found]

    return Sentences(SentenceTransformer(name, device="cpu"))


FAMILIES: dict[str, tuple[str, Callable[[str], Backbone | Sentences]]] = {
    "timm": ("timm", _timm),
    "clip": ("open-clip-torch", _clip),
    "hf": ("transformers", _transformers),
    "sentence": ("sentence-transformers", _sentences),
}
"""What may stand before the colon: the library's name on PyPI, and how a network of it is made."""
