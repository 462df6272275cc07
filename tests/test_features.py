"""Features of a trained network as a transformer of scikit-learn's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from samples import RECIPE, clone, network, pictures
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from torch import nn

from mapsto.algorithms import MAML, ProtoNet
from mapsto.errors import DataError, MapstoError
from mapsto.estimator import FeatureExtractor, FewShotClassifier, encoder
from mapsto.models import MLP, Conv4


def test_features_are_the_networks() -> None:
    x, _ = pictures()
    body = network().model.train()
    found = FeatureExtractor(body, normalise=False, batch=4).fit(x).transform(x)
    assert body.training and found.dtype == np.float32
    with torch.no_grad():
        wanted = body.eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    unit = FeatureExtractor(body).fit_transform(x)
    np.testing.assert_allclose(unit, wanted / np.linalg.norm(wanted, axis=1, keepdims=True), rtol=1e-4, atol=1e-5)
    extractor = FeatureExtractor(body).fit(x)
    assert extractor.get_feature_names_out().tolist() == [f"featureextractor{i}" for i in range(wanted.shape[1])]


def test_pictures_in_every_form(tmp_path: Path) -> None:
    x, _ = pictures(each=1)
    images = [Image.fromarray(picture.transpose(1, 2, 0)) for picture in x]
    for i, image in enumerate(images):
        image.save(tmp_path / f"{i}.png")
    extractor = FeatureExtractor(network()).fit(x)
    wanted = extractor.transform(x)
    forms = [
        torch.from_numpy(x), x / 255, x.transpose(0, 2, 3, 1), images, [str(tmp_path / f"{i}.png") for i in range(3)],
        np.array([str(tmp_path / f"{i}.png") for i in range(3)]),
    ]  # fmt: skip
    for form in forms:
        np.testing.assert_allclose(extractor.transform(form), wanted, rtol=1e-4, atol=1e-5)
    grey = x[:, :1]
    np.testing.assert_allclose(extractor.transform(grey[:, 0]), extractor.transform(grey.repeat(3, 1)), rtol=1e-4)
    assert images[0].getpixel((0, 0)) is not None, "the user's image is still open"


@pytest.mark.parametrize(
    ("x", "complaint"),
    [
        (np.zeros((2, 5, 16, 16), np.uint8), "shape"),
        (np.zeros((2, 768)), "shape"),
        (np.full((2, 3, 16, 16), 2.0), "divide by 255"),
        (np.full((2, 3, 16, 16), np.nan), "lie in"),
        ([np.zeros((3, 16, 16))], "not ndarray"),
        (np.zeros((0, 3, 16, 16), np.uint8), "no examples"),
    ],
)
def test_bad_pictures_are_named(x: Any, complaint: str) -> None:
    extractor = FeatureExtractor(network()).fit(pictures()[0])
    with pytest.raises(ValueError, match=complaint):
        extractor.transform(x)
    with pytest.raises(DataError, match="nowhere"):
        extractor.transform(["nowhere.png"])


def test_clone_and_pipeline() -> None:
    x, y = pictures()
    learner = ProtoNet(Conv4(channels=3, filters=4, stats="running", size=16))
    extractor = FeatureExtractor(learner, batch=3)
    assert clone(extractor).get_params()["batch"] == 3
    for base in (LogisticRegression(C=1e4), SVC(C=1e4), DecisionTreeClassifier(), KNeighborsClassifier(1)):
        assert make_pipeline(extractor, base).fit(x, y).score(x, y) == 1
    scores = cross_val_score(FewShotClassifier(extractor), x, np.array(["a", "b", "c"])[y], cv=5)
    assert scores.shape == (5,) and scores.mean() > 0.6


def test_networks_without_features_are_refused() -> None:
    with pytest.raises(MapstoError, match="MAML has no embedding"):
        encoder.encoder(MAML(MLP(4, 3)))
    with pytest.raises(MapstoError, match="transductive statistics"):
        encoder.encoder(ProtoNet(Conv4()))
    with pytest.raises(MapstoError, match="'nowhere'"):
        encoder.encoder("nowhere")
    with pytest.raises(ValueError, match=r"Backbone\(network, size=84\)"):
        FeatureExtractor(Conv4(stats="running")).fit(["a.png"])
    with pytest.raises(ValueError, match=r"not \[n, d\]"):
        FeatureExtractor(nn.Unflatten(1, (2, 3))).fit(np.zeros((2, 6)))


def test_encoder_is_kept_whole_or_by_halves(tmp_path: Path) -> None:
    x = torch.rand(2, 3, 16, 16)
    made = network({5: 0.5})
    encoder.write(made, tmp_path, "whole", about={"trained": {"command": "mapsto train x"}})
    encoder.write(made, tmp_path, "half", half=True)
    whole, half = (encoder.read(tmp_path, stem) for stem in ("whole", "half"))
    assert whole.temperatures == {5: 0.5} and whole.name == "tiny" and whole.recipe == RECIPE
    torch.testing.assert_close(whole.model(x), made.model(x), rtol=0, atol=0)
    torch.testing.assert_close(half.model(x), made.model(x), rtol=5e-3, atol=5e-3)
    sizes = [(tmp_path / f"{stem}.safetensors").stat().st_size for stem in ("whole", "half")]
    assert sizes[1] < 0.75 * sizes[0]
    assert json.loads((tmp_path / "whole.json").read_text())["trained"]["command"] == "mapsto train x"
    (tmp_path / "half.safetensors").write_bytes(b"x")
    with pytest.raises(MapstoError, match="damaged"):
        encoder.read(tmp_path, "half")


def test_shipped_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "ASSETS", tmp_path)
    with pytest.raises(MapstoError, match=r"features-v1\.json is missing"):
        FewShotClassifier().fit(*pictures())
    encoder.write(network({1: 0.1, 5: 0.4, 20: 0.9}), tmp_path, encoder.SHIPPED, half=True)
    for each, wanted in ((1, 0.1), (5, 0.4), (10, 0.6), (40, 0.9)):
        found = FewShotClassifier().fit(*pictures(each=each))
        assert found.temperature_ == pytest.approx(wanted, abs=1e-6), each  # 10 is half way between 5 and 20
    assert FewShotClassifier(base="centroid").fit(*pictures()).temperature_ == 1
    assert FewShotClassifier(temperature=0.7).fit(*pictures()).temperature_ == 0.7
