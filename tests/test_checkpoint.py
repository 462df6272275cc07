"""Files that are whole or not there."""

import os
import stat
from pathlib import Path

import pytest
import torch
from torch import nn

from mapsto.checkpoint import (
    load_checkpoint,
    load_weights,
    read_json,
    save_checkpoint,
    save_weights,
    write_atomically,
    write_json,
)
from mapsto.errors import MapstoError


class Tied(nn.Module):
    """Two layers of one weight, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(3)


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"old": 1})

    def write(draft: Path) -> None:
        draft.write_text("half a fi")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, write)
    assert read_json(path) == {"old": 1}
    assert os.listdir(tmp_path) == ["value.json"]


def test_failed_replacement_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"step": 1})

    def fail(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(os, "replace", fail)
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no"):
        save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path) == {"step": 1}
    assert os.listdir(tmp_path) == ["checkpoint.pt"]


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "value.json"

    def die(draft: Path) -> None:
        draft.write_text("half a fi")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # a killed process tidies nothing
        write_atomically(path, die)
    assert not path.exists() and len(os.listdir(tmp_path)) == 1
    write_json(path, 1)
    assert os.listdir(tmp_path) == ["value.json"]


def test_permissions_are_the_usual_ones(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    write_json(tmp_path / "value.json", 1)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


@pytest.mark.parametrize("keep", [0, 0.3, 0.99])
def test_truncated_checkpoint(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"x": torch.arange(1000.0)})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(MapstoError, match=r"checkpoint\.pt is truncated or damaged") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 0.3, 0.99])
def test_truncated_weights(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(path, nn.Linear(30, 30))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(MapstoError, match=r"weights\.safetensors is truncated or damaged") as caught:
        load_weights(path, nn.Linear(30, 30))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("other", [nn.Linear(3, 4), nn.Linear(3, 2, bias=False), nn.Sequential(nn.Linear(3, 2))])
def test_weights_of_another_model(tmp_path: Path, other: nn.Module) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(path, nn.Linear(3, 2))
    before = [p.clone() for p in other.parameters()]
    with pytest.raises(MapstoError, match=r"weights\.safetensors holds the weights of another model"):
        load_weights(path, other)
    assert all(torch.equal(p, b) for p, b in zip(other.parameters(), before, strict=True))


def test_missing_weights_and_json(tmp_path: Path) -> None:
    with pytest.raises(MapstoError, match="no finished run"):
        load_weights(tmp_path / "weights.safetensors", nn.Linear(1, 1))
    with pytest.raises(MapstoError, match="not a run folder"):
        read_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text('{"a": ')
    with pytest.raises(MapstoError, match=r"config\.json is damaged"):
        read_json(tmp_path / "config.json")


def test_tied_weights_and_buffers_round_trip(tmp_path: Path) -> None:
    one, other = Tied(), Tied()
    one.norm(torch.randn(5, 3))
    save_weights(tmp_path / "w", one)
    load_weights(tmp_path / "w", other)
    assert other.second.weight is other.first.weight
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_channels_last_weights_round_trip(tmp_path: Path) -> None:
    one, other = (nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last) for _ in range(2))  # type: ignore[call-overload]
    save_weights(tmp_path / "w", one)
    load_weights(tmp_path / "w", other)
    assert torch.equal(one.weight, other.weight)
    assert other.weight.is_contiguous(memory_format=torch.channels_last)


def test_checkpoints_run_no_code(tmp_path: Path) -> None:
    torch.save({"learner": os.system}, tmp_path / "checkpoint.pt")
    with pytest.raises(MapstoError, match="damaged"):
        load_checkpoint(tmp_path / "checkpoint.pt")
