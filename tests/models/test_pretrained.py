"""Others' networks behind one name, with stand-ins for the libraries, and the preprocessing around them."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mapsto.errors import MapstoError
from mapsto.models.pretrained import Backbone, Sentences, pretrained

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)


def library(monkeypatch: pytest.MonkeyPatch, name: str, **things: Any) -> None:
    """A module of that name which holds `things`."""
    module = ModuleType(name)
    vars(module).update(things)
    monkeypatch.setitem(sys.modules, name, module)


def test_normalises_after_scaling() -> None:
    x = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    wanted = (x.double() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    for given in (x, x.float() / 255):
        torch.testing.assert_close(Backbone(nn.Flatten(), 8, MEAN, STD)(given), wanted.flatten(1).float())


def test_resizes_as_pillow_does() -> None:
    """Pillow's bicubic reduction is antialiased too; it rounds to whole levels."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    wanted = np.asarray(Image.fromarray(pixels).resize((16, 16), Image.Resampling.BICUBIC))
    found = Backbone(nn.Identity(), 16)(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0] * 255
    assert (found.permute(1, 2, 0) - torch.from_numpy(wanted.copy())).abs().max() < 1.1


def test_grey_and_colour() -> None:
    grey = torch.rand(1, 1, 4, 4)
    torch.testing.assert_close(Backbone(nn.Identity(), 4)(grey), grey.expand(1, 3, 4, 4))
    colours = torch.rand(1, 3, 4, 4)
    found = Backbone(nn.Identity(), 4, (0.0,), (1.0,), channels=1)(colours)
    torch.testing.assert_close(found[0, 0], 0.299 * colours[0, 0] + 0.587 * colours[0, 1] + 0.114 * colours[0, 2])
    with pytest.raises(ValueError, match="1 channels"):
        Backbone(nn.Identity(), 4, channels=1)


def test_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def create_model(name: str, pretrained: bool, num_classes: int) -> nn.Module:
        asked.append((name, pretrained, num_classes))
        return nn.Flatten()

    library(monkeypatch, "timm", create_model=create_model)
    config = {"input_size": (3, 6, 6), "mean": MEAN, "std": STD}
    library(monkeypatch, "timm.data", resolve_model_data_config=lambda model: config)
    model = pretrained("timm:resnet18")
    assert isinstance(model, Backbone) and asked == [("resnet18", True, 0)] and not model.training
    assert model.size == 6 and model(torch.rand(2, 3, 9, 9)).shape == (2, 108)
    assert model.mean.flatten().tolist() == pytest.approx(MEAN) and model.std.flatten().tolist() == pytest.approx(STD)


def test_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    visual: Any = nn.Flatten()
    visual.preprocess_cfg = {"size": (6, 6), "mean": MEAN, "std": STD}

    def create_model(name: str, pretrained: str) -> Any:
        assert (name, pretrained) == ("ViT-B-32", "openai")
        return SimpleNamespace(visual=visual)

    library(monkeypatch, "open_clip", create_model=create_model)
    model = pretrained("clip:ViT-B-32/openai")
    assert isinstance(model, Backbone) and model.body is visual and model.size == 6
    with pytest.raises(MapstoError, match="name the weights too"):
        pretrained("clip:ViT-B-32")


@pytest.mark.parametrize(
    ("wanted", "side"),
    [
        ({"do_center_crop": True, "crop_size": {"height": 6, "width": 6}, "size": {"shortest_edge": 7}}, 6),
        ({"size": {"height": 5, "width": 5}}, 5),
        ({"size": {"shortest_edge": 7}}, 7),
        ({"size": 4}, 4),
    ],
)
@pytest.mark.parametrize("pooled", [True, False])
def test_transformers(monkeypatch: pytest.MonkeyPatch, wanted: dict, side: int, pooled: bool) -> None:
    class Model(nn.Module):
        def forward(self, pixel_values: Tensor) -> dict:
            tokens = pixel_values.flatten(2).mT  # [n, positions, 3]
            return {"last_hidden_state": tokens} | ({"pooler_output": tokens.mean(1)[..., None]} if pooled else {})

    read = {**wanted, "image_mean": MEAN, "image_std": STD}
    library(monkeypatch, "transformers", AutoModel=SimpleNamespace(from_pretrained=lambda name: Model()))
    mixin = SimpleNamespace(get_image_processor_dict=lambda name: (read, {}))
    library(monkeypatch, "transformers.image_processing_base", ImageProcessingMixin=mixin)
    model = pretrained("hf:facebook/dinov2-small")
    assert isinstance(model, Backbone) and model.size == side
    x = torch.rand(2, 3, side, side)
    normal = (x - model.mean) / model.std
    torch.testing.assert_close(model(x), normal.mean((2, 3)) if pooled else normal[:, :, 0, 0])


def test_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    class SentenceTransformer(nn.Module):
        def __init__(self, name: str, device: str) -> None:
            super().__init__()

        def preprocess(self, texts: list[str]) -> dict[str, Any]:
            return {"input_ids": torch.tensor([[len(text)] for text in texts]), "modality": "text"}

        def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
            x["sentence_embedding"] = x["input_ids"].float()
            return x

    library(monkeypatch, "sentence_transformers", SentenceTransformer=SentenceTransformer)
    model = pretrained("sentence:all-MiniLM-L6-v2")
    assert isinstance(model, Sentences)
    tokens = model.prepare(["one", "three"])
    assert set(tokens) == {"input_ids"} and model(tokens).tolist() == [[3.0], [5.0]]
    assert set(tokens) == {"input_ids"}, "what was passed is left as it was"


@pytest.mark.parametrize("name", ["timm:a", "clip:a/b", "hf:a", "sentence:a"])
def test_missing_library(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for module in ("timm", "open_clip", "transformers", "sentence_transformers"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MapstoError, match=rf"{name} wants .*: pip install \S+$") as said:
        pretrained(name)
    assert "\n" not in str(said.value)


def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(name: str, pretrained: bool, num_classes: int) -> None:
        raise OSError("can't reach\n the host")

    library(monkeypatch, "timm", create_model=create_model)
    library(monkeypatch, "timm.data", resolve_model_data_config=None)
    with pytest.raises(MapstoError, match=r"timm:x can't be loaded \(can't reach the host\).*network"):
        pretrained("timm:x")


@pytest.mark.parametrize("name", ["resnet18", "torchvision:resnet18", "timm:"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(MapstoError, match="timm:NAME"):
        pretrained(name)


def test_timm_itself() -> None:
    timm = pytest.importorskip("timm")
    config = timm.data.resolve_model_data_config(timm.create_model("resnet18", pretrained=False, num_classes=0))
    assert {"input_size", "mean", "std"} <= set(config)
