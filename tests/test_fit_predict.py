"""Folders of pictures in, classes out: the functions of `mapsto fit` and `mapsto predict`."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from samples import network, pictures

from mapsto import cli_fit, photographs, run
from mapsto.errors import DataError, MapstoError
from mapsto.estimator import FeatureExtractor, FewShotClassifier, encoder
from mapsto.finished import load


@pytest.fixture(autouse=True)
def _shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "ASSETS", tmp_path / "assets")
    encoder.write(network({5: 0.2}), tmp_path / "assets", encoder.SHIPPED)


def write(folder: Path, each: int = 4, seed: int = 0) -> Path:
    """Pictures of three classes, of unequal sizes and kinds."""
    x, y = pictures(each, seed=seed)
    for i, (picture, label) in enumerate(zip(x, y, strict=True)):
        place = folder / ("red", "green", "blue")[label]
        place.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(picture.transpose(1, 2, 0)).resize((16 + i, 20))
        kind = ("RGB", "RGBA", "P")[i % 3]
        image.convert(kind).save(place / f"{i}.png")
    return folder


def test_learn_and_recognise(tmp_path: Path) -> None:
    folder = write(tmp_path / "train")
    learned = photographs.learn(folder, tmp_path / "model")
    assert learned.counts == {"blue": 4, "green": 4, "red": 4} and learned.notes == learned.skipped == []
    assert learned.classifier.temperature_ == pytest.approx(0.2)
    new = write(tmp_path / "new", seed=1)
    found = photographs.recognise(tmp_path / "model", [new])
    assert found.files == sorted(new.rglob("*.png"))
    truth = [file.parent.name for file in found.files]
    assert np.mean([a == b for a, b in zip(found.labels, truth, strict=True)]) > 0.6
    np.testing.assert_allclose(found.probabilities, learned.classifier.predict_proba(found.files), atol=1e-5)
    assert found.calibrated and found.classes == ["blue", "green", "red"]
    assert set(photographs.recognise(tmp_path / "model", [new], reject=1.0).labels) == {None}
    assert photographs.recognise(tmp_path / "model", [found.files[0]]).labels == found.labels[:1]


def test_left_out_is_counted_right(tmp_path: Path) -> None:
    learned = photographs.learn(write(tmp_path / "train", 3), tmp_path / "model")
    z, labels = learned.classifier.features_, learned.classifier.labels_
    right = 0
    for i in range(len(z)):
        others = np.arange(len(z)) != i
        fitted = FewShotClassifier("identity").fit(z[others], labels[others])
        right += int(fitted.predict(z[[i]])[0] == labels[i])
    assert learned.left_out == right


def test_what_is_said(tmp_path: Path) -> None:
    folder = write(tmp_path / "train")
    for file in sorted((folder / "red").iterdir())[1:]:
        file.unlink()
    (folder / "blue" / "notes.heic").touch()
    (folder / "beside.png").touch()
    broken = folder / "green" / "broken.jpg"
    broken.write_bytes(b"no picture")
    learned = photographs.learn(folder, tmp_path / "model")
    assert learned.left_out is None and learned.counts == {"blue": 4, "green": 4, "red": 1}
    single, unused = learned.notes
    assert "'red' has a single picture" in single and "beside.png, blue/notes.heic" in unused
    assert len(learned.skipped) == 1 and str(broken) in learned.skipped[0]
    found = photographs.recognise(tmp_path / "model", [folder / "green"])
    assert len(found.files) == 4 and str(broken) in found.skipped[0]
    for refused in (
        lambda: photographs.learn(folder, tmp_path / "other", strict=True),
        lambda: photographs.recognise(tmp_path / "model", [folder / "green"], strict=True),
        lambda: photographs.recognise(tmp_path / "model", [broken]),
    ):
        with pytest.raises(DataError, match=r"broken\.jpg cannot be read"):
            refused()
    assert not (tmp_path / "other").exists()


def test_uncalibrated_features_say_so(tmp_path: Path) -> None:
    encoder.write(network(), tmp_path / "assets", encoder.SHIPPED)
    learned = photographs.learn(write(tmp_path / "train"), tmp_path / "model")
    assert ["not calibrated for tiny" in note for note in learned.notes] == [True]
    assert not photographs.recognise(tmp_path / "model", [tmp_path / "train"]).calibrated


def test_mistakes_are_named(tmp_path: Path) -> None:
    folder, model = write(tmp_path / "train"), tmp_path / "model"
    with pytest.raises(DataError, match="nowhere is not a folder"):
        photographs.learn(tmp_path / "nowhere", model)
    with pytest.raises(DataError, match="one class only, 'red'"):
        photographs.learn(_only(tmp_path / "one", folder / "red"), model)
    with pytest.raises(MapstoError, match="holds other things"):
        photographs.learn(folder, folder)
    with pytest.raises(MapstoError, match="identity does not take pictures"):
        photographs.learn(folder, model, "identity")
    with pytest.raises(MapstoError, match="'nonsense'"):
        photographs.learn(folder, model, "nonsense")
    with pytest.raises(MapstoError, match="holds no classifier"):
        photographs.recognise(model, [folder])
    for file in (folder / "red").iterdir():
        file.write_bytes(b"x")
    with pytest.raises(DataError, match="no picture of class 'red' can be read"):
        photographs.learn(folder, model)
    photographs.learn(write(tmp_path / "again"), model)
    photographs.learn(tmp_path / "again", model)  # in its place
    with pytest.raises(DataError, match=r"no file or folder .*gone\.png"):
        photographs.recognise(model, [tmp_path / "gone.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no pictures in"):
        photographs.recognise(model, [tmp_path / "empty"])
    with pytest.raises(MapstoError, match="no pictures are named"):
        photographs.recognise(model, [])
    with pytest.raises(MapstoError, match="between 0 and 1"):
        photographs.recognise(model, [folder], reject=50)


def _only(root: Path, folder: Path) -> Path:
    shutil.copytree(folder, root / folder.name)
    return root


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, model = str(write(tmp_path / "train")), str(tmp_path / "model")
    (tmp_path / "train" / "red" / "x.png").touch()
    cli_fit.fit([folder, "--out", model])
    out, err = capsys.readouterr()
    assert "3 classes, 12 pictures: blue 4, green 4, red 4" in out and "of 12 are recognised" in out
    assert err.startswith("mapsto: skipped: ") and err.count("\n") == 1
    cli_fit.predict([model, f"{folder}/blue", "--json"])
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert out.count("\n") == 1 and err == "" and answer["skipped"] == [] and len(answer["predictions"]) == 4
    first = answer["predictions"][0]
    assert first["image"].startswith(f"{folder}/blue/") and first["class"] == max(
        first["probabilities"], key=lambda name: first["probabilities"][name]
    )
    assert sum(first["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    cli_fit.predict([model, folder, "--reject", "1"])
    out, err = capsys.readouterr()
    assert out.count("\n") == 12 and out.startswith("(none of these)") and err.count("skipped") == 1


def test_features_of_a_finished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.use_tiny(monkeypatch)
    settings = replace(tiny.PROTONET, steps=2, tasks=2, validate=10)
    run.train("tiny", settings, tmp_path / "run", command="mapsto train tiny")
    found = encoder.encoder(tmp_path / "run")
    x = torch.rand(3, 1, 16, 16)
    wanted = load(tmp_path / "run").learner.get_submodule("model")(x)
    torch.testing.assert_close(found.model(x), wanted)
    made = FewShotClassifier(str(tmp_path / "run")).fit(x, ["a", "b", "a"])
    made.save(tmp_path / "model")  # which no longer needs the run, nor its data
    monkeypatch.undo()
    again = FewShotClassifier.load(tmp_path / "model")
    assert np.array_equal(made.predict_proba(x), again.predict_proba(x))
    assert FeatureExtractor(tmp_path / "model").fit_transform(x).shape == (3, 4)
