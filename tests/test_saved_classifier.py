"""Classifiers kept as safetensors and JSON."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import blobs, clone, network, pictures
from sklearn.svm import SVC

from mapsto.errors import MapstoError
from mapsto.estimator import FewShotClassifier


def test_saved_and_loaded(tmp_path: Path) -> None:
    x, y = pictures()
    names = np.array(["ä", "b", "c"])[y]
    made = FewShotClassifier(network({5: 0.4}), reject=0.3).fit(x, names)
    made.save(tmp_path / "model")
    again = FewShotClassifier.load(tmp_path / "model")
    new, more = pictures(seed=1, way=4)
    assert np.array_equal(made.predict_proba(new), again.predict_proba(new)) and again.reject == 0.3
    assert (made.predict(new) == again.predict(new)).all() and again.temperature_ == pytest.approx(0.4)
    again.partial_fit(new[more == 3], ["d"] * 5)
    assert again.classes_.tolist() == ["b", "c", "d", "ä"]
    assert clone(again).fit(x, names).score(x, names) == made.score(x, names) > 0.5
    assert not [file for file in (tmp_path / "model").iterdir() if file.suffix not in (".json", ".safetensors")]
    assert pickle.loads(pickle.dumps(made)).score(x, names) == made.score(x, names)


@pytest.mark.parametrize("labels", [[3, 1, 2], [0.0, 2.0, 1.0], ["x", "yy", "z"], np.array(["a", "b", "c"], object)])
def test_labels_come_back_as_they_were(tmp_path: Path, labels: Any) -> None:
    x, y = blobs(3)
    made = FewShotClassifier("identity").fit(x, np.array(labels)[y])
    made.save(tmp_path)
    again = FewShotClassifier.load(tmp_path)
    assert again.classes_.dtype == made.classes_.dtype and again.classes_.tolist() == made.classes_.tolist()


def test_what_can_not_be_kept_must_be_given(tmp_path: Path) -> None:
    x, y = pictures()
    module = network().model
    made = FewShotClassifier(module, SVC(C=2)).fit(x, y)
    made.save(tmp_path)
    with pytest.raises(MapstoError, match="base=SVC"):
        FewShotClassifier.load(tmp_path)
    with pytest.raises(MapstoError, match="extractor=that module"):
        FewShotClassifier.load(tmp_path, base=SVC(C=2))
    again = FewShotClassifier.load(tmp_path, module, SVC(C=2))
    np.testing.assert_array_equal(made.predict_proba(x), again.predict_proba(x))
    (tmp_path / "classifier.safetensors").write_bytes(b"x")
    with pytest.raises(MapstoError, match="damaged"):
        FewShotClassifier.load(tmp_path, module, SVC())
    with pytest.raises(MapstoError, match="mapsto fit"):
        FewShotClassifier.load(tmp_path / "nowhere")
