"""Finished runs, judged on other data than they were trained on."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import PROTONET, SINUSOID, Tiny, use_tiny

from mapsto import build, run
from mapsto.data import Labelled
from mapsto.errors import MapstoError
from mapsto.finished import judge


class Colours(Tiny):
    """`Tiny` in three equal channels, whose luminance is the grey that they were."""

    def __init__(self, times: int = 1) -> None:
        super().__init__()
        self.test = self.test._replace(x=self.test.x.repeat(1, 3, 1, 1).repeat_interleave(times, 3))


class Noise(Tiny):
    """Pictures without classes."""

    def __init__(self) -> None:
        super().__init__()
        self.test = self.test._replace(x=torch.randint(0, 256, self.test.x.shape).to(torch.uint8))


class Numbers(Tiny):
    """No pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.test: Labelled = self.test._replace(x=self.test.x.flatten(1))


@pytest.fixture(autouse=True)
def _sets(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny(monkeypatch)
    for name, data in {"colours": Colours, "noise": Noise, "numbers": Numbers}.items():
        monkeypatch.setitem(build.IMAGES, name, data)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    with pytest.MonkeyPatch.context() as patch:
        use_tiny(patch)
        run.train("protonet", PROTONET, folder, command="mapsto train protonet")
    return folder


def test_its_own_data_by_name_is_its_own_data(trained: Path) -> None:
    own, named = judge(trained), judge(trained, data="tiny")
    assert "data" not in own and named == {**own, "data": "tiny"}


def test_colours_are_brought_to_grey(trained: Path) -> None:
    assert judge(trained, data="colours")["score"] == judge(trained)["score"]


def test_another_size_is_brought_to_that_of_the_training(trained: Path) -> None:
    same, wider = judge(trained), judge(trained, data="colours", data_options={"times": 2})
    assert abs(same["score"] - wider["score"]) < 0.05  # each pixel twice, shrunk again: nearly what it was


def test_it_is_the_other_data_that_is_judged(trained: Path) -> None:
    result = judge(trained, data="noise", tasks=200)
    assert abs(result["score"] - 1 / 3) < 0.05 and judge(trained)["score"] > 0.6
    assert judge(trained, data="noise", way=5, shot=2, query=4)["way"] == 5


def test_the_folder_is_left_as_it_is(trained: Path) -> None:
    before = {path: path.read_bytes() for path in trained.iterdir()}
    judge(trained, data="colours")
    assert {path: path.read_bytes() for path in trained.iterdir()} == before


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        ("nothing", {}, "no data set 'nothing'; there are .*colours"),
        ("colours", {"size": 3}, r"the data set colours can't be had with options \{'size': 3\}: .*size"),
        ("numbers", {}, r"inputs of shape \(256,\) can't be brought to \(1, 16, 16\)"),
    ],
)
def test_data_that_can_not_be_used(trained: Path, data: str, options: dict, said: str) -> None:
    with pytest.raises(MapstoError, match=said):
        judge(trained, data=data, data_options=options)


def test_a_regression_has_no_other_data(tmp_path: Path) -> None:
    run.train("maml/sinusoid", replace(SINUSOID, steps=1, tasks=2), tmp_path / "run", command="")
    with pytest.raises(MapstoError, match="was trained on sinusoid, so it can't be judged on images of tiny"):
        judge(tmp_path / "run", data="tiny")


def test_a_refined_score_is_marked(trained: Path) -> None:
    plain, refined = judge(trained, tasks=50), judge(trained, tasks=50, refine="soft-kmeans")
    assert refined["refine"] == "soft-kmeans" and refined["norm"] == "transductive" != plain["norm"]
    assert refined["score"] > 0.5
