"""Runs: what they write, and that nothing that happens to them is lost."""

import json
import random
import shlex
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import PROTONET, SINUSOID, SINUSOID_FLAGS, SLOW, complaint, rows, start, use_tiny

from mapsto import cli, run
from mapsto.checkpoint import load_checkpoint
from mapsto.errors import MapstoError
from mapsto.evaluate import Scores
from mapsto.finished import load
from mapsto.recipes import RECIPES, Settings
from mapsto.summary import write_report
from mapsto.train import Diverged

KEYS = {"recipe", "score", "interval", "tasks", "seed", "way", "shot", "query", "steps", "norm", "command"}
SETTINGS = {"sinusoid": SINUSOID, "protonet": PROTONET}


class Crash(Exception):
    """The power went."""


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny(monkeypatch)
    monkeypatch.setattr(cli, "_write_report", lambda folder: None)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Uninterrupted runs."""
    folders = {name: tmp_path_factory.mktemp("runs") / name for name in SETTINGS}
    with pytest.MonkeyPatch.context() as patch:
        use_tiny(patch)
        for name, folder in folders.items():
            run.train(name, SETTINGS[name], folder, command=f"mapsto train {name} --out {folder}")
    return folders


def same(one: Path, other: Path) -> bool:
    """The same weights, to the bit, and the same rows."""
    weights = [(folder / "weights.safetensors").read_bytes() for folder in (one, other)]
    return weights[0] == weights[1] and rows(one) == rows(other)


def crash_at(*steps: int) -> run.Progress:
    """A progress bar during which the power goes."""

    def step(step: int, loss: float, score: Scores | None) -> None:
        if step in steps:
            raise Crash

    return run.Progress(step=step)


@pytest.mark.parametrize("name", SETTINGS)
def test_what_a_run_writes(whole: dict[str, Path], name: str) -> None:
    folder, settings = whole[name], SETTINGS[name]
    files = {"checkpoint.pt", "config.json", "metrics.jsonl", "result.json", "weights.safetensors"}
    assert {path.name for path in folder.iterdir()} == files
    result = json.loads((folder / "result.json").read_text())
    assert result.keys() >= KEYS | {"mapsto", "torch", "device"}
    assert (result["tasks"], result["shot"], result["seed"]) == (20, settings.test.shot, 0)
    assert result["norm"] == ("running" if name == "protonet" else "none")
    assert result["steps"] == settings.test_steps and result["interval"] > 0
    assert result["device"] == "cpu" and result["torch"] == torch.__version__
    config = json.loads((folder / "config.json").read_text())
    assert config["settings"]["steps"] == settings.steps and config["recipe"] == name


def test_rows(whole: dict[str, Path]) -> None:
    found = rows(whole["protonet"])
    assert [row["step"] for row in found] == [20, 25, 40, 50]
    assert [row["step"] for row in found if "score" in row] == [25, 50]  # the validations, whatever the row's distance


def test_load_gives_the_trained_learner(whole: dict[str, Path]) -> None:
    loaded = load(whole["protonet"])
    state = load_checkpoint(whole["protonet"] / "checkpoint.pt")["learner"]
    assert loaded.settings == PROTONET and not loaded.learner.training
    assert all(torch.equal(value, state[key]) for key, value in loaded.learner.state_dict().items())


@pytest.mark.parametrize("name", SETTINGS)
def test_crashes_change_nothing(
    whole: dict[str, Path], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, out = SETTINGS[name], tmp_path / "run"
    monkeypatch.setattr(run, "CHECKPOINT_SECONDS", 0.0)
    for at in (1, 24, 41, settings.steps):
        with pytest.raises(Crash):
            run.train(name, settings, out, resume=True, command="", progress=crash_at(at))
        with (out / "metrics.jsonl").open("a") as log:
            log.write('{"step": 4')  # a row half written
    assert not (out / "weights.safetensors").exists()
    torch.manual_seed(99)
    run.train(name, settings, out, resume=True, command="")
    assert same(out, whole[name])


def test_crash_without_a_later_checkpoint(whole: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(Crash):
        run.train("protonet", PROTONET, tmp_path, command="", progress=crash_at(45))
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == 0
    run.train("protonet", PROTONET, tmp_path, resume=True, command="")
    assert same(tmp_path, whole["protonet"])


def test_crash_before_the_first_checkpoint(
    whole: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(state: run.State) -> None:
        raise Crash

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(run.State, "save", crash)
        run.train("protonet", PROTONET, tmp_path, command="")
    run.train("protonet", PROTONET, tmp_path, resume=True, command="")
    assert same(tmp_path, whole["protonet"])


def test_failed_checkpoint_leaves_the_last_one(
    whole: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up while the second checkpoint is written."""
    real, calls = torch.save, []

    def save(state: dict, path: Path) -> None:
        calls.append(1)
        if len(calls) > 5:
            path.write_bytes(b"PK half")
            raise OSError("No space left on device")
        real(state, path)

    monkeypatch.setattr(run, "CHECKPOINT_SECONDS", 0.0)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(torch, "save", save)
        run.train("protonet", PROTONET, tmp_path, command="")
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == 4
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    run.train("protonet", PROTONET, tmp_path, resume=True, command="")
    assert same(tmp_path, whole["protonet"])


def test_sigkill_changes_nothing(whole: dict[str, Path], tmp_path: Path) -> None:
    out, chance = tmp_path / "run", random.Random()

    def written() -> int | None:
        path = out / "checkpoint.pt"
        return path.stat().st_mtime_ns if path.exists() else None

    words = ["train", "maml/sinusoid", *SINUSOID_FLAGS, "--out", str(out), "--resume"]
    for early in (True, False, False):  # in the imports; after the first, and after a later new checkpoint
        before = written()
        process = start(*words, code=SLOW)
        limit = time.monotonic() + 60
        while not early and written() == before and time.monotonic() < limit:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.5))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert cli.main(words) == 0
    assert same(out, whole["sinusoid"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_a_run_to_go_on_with(
    whole: dict[str, Path], tmp_path: Path, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a run"
    process = start("train", "maml/sinusoid", *SINUSOID_FLAGS, "--out", str(out), code=SLOW)
    while not (out / "metrics.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    stdout, stderr = process.communicate()
    assert (process.returncode, stdout) == (130, "")
    assert stderr.startswith("mapsto: stopped at step ") and stderr.count("\n") == 1
    go_on = shlex.split(stderr.partition("go on with: ")[2])
    assert go_on[0] == "mapsto" and go_on[-1] == "--resume"
    assert cli.main(go_on[1:]) == 0
    assert same(out, whole["sinusoid"])


def test_signal_saves_the_step_it_stops_at(whole: dict[str, Path], tmp_path: Path) -> None:
    progress = run.Progress(step=lambda step, *_: signal.raise_signal(signal.SIGINT) if step == 7 else None)
    with pytest.raises(run.Interrupted, match=r"stopped at step 8 of 50; go on with: mapsto train x --resume$"):
        run.train("protonet", PROTONET, tmp_path, command="mapsto train x", progress=progress)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == 8
    run.train("protonet", PROTONET, tmp_path, resume=True, command="")
    assert same(tmp_path, whole["protonet"])


def test_signal_while_judging(tmp_path: Path) -> None:
    progress = run.Progress(judge=lambda *_: signal.raise_signal(signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(run.Interrupted, match=r"stopped at test task 20 of 20; go on with: mapsto train x --resume$"):
        run.train("protonet", PROTONET, tmp_path, command="mapsto train x", progress=progress)
    assert signal.getsignal(signal.SIGTERM) is before
    assert not (tmp_path / "result.json").exists()
    run.train(
        "protonet", PROTONET, tmp_path, resume=True, command="mapsto train x --resume", progress=crash_at(*range(60))
    )
    assert (tmp_path / "result.json").exists()


def test_runs_outside_the_main_thread(tmp_path: Path) -> None:
    settings = replace(PROTONET, steps=2)
    thread = threading.Thread(target=lambda: run.train("x", settings, tmp_path, command="x"))
    thread.start()
    thread.join()
    assert (tmp_path / "result.json").exists()


def test_divergence_keeps_the_last_good_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "maml/sinusoid", *SINUSOID_FLAGS, "--out", str(tmp_path / "run"), "--optimizer", "sgd"]
    said = complaint([*words, "--lr", "1e15"], capsys, status=1)
    assert "step 2" in said and "learning rate" in said and "of step 0, is" in said and "checkpoint.pt" in said
    state = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert all(value.isfinite().all() for value in state["learner"].values())
    assert not (tmp_path / "run" / "weights.safetensors").exists()


def test_resuming_a_finished_run_only_judges(whole: dict[str, Path], tmp_path: Path) -> None:
    run.train("protonet", PROTONET, tmp_path, command="mapsto train x")
    (tmp_path / "result.json").unlink()
    judged: list[int] = []
    progress = crash_at(*range(100))
    progress.judge = lambda done, total, score: judged.append(done)
    run.train("protonet", PROTONET, tmp_path, resume=True, command="mapsto train x --resume", progress=progress)
    assert judged[-1] == 20 and same(tmp_path, whole["protonet"])
    results = [json.loads((folder / "result.json").read_text()) for folder in (tmp_path, whole["protonet"])]
    assert results[0]["score"] == results[1]["score"] and results[0]["command"] == "mapsto train x"


def test_another_run_in_the_folder(whole: dict[str, Path]) -> None:
    folder = whole["protonet"]
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(MapstoError, match="already holds a run: go on with it by --resume"):
        run.train("protonet", PROTONET, folder, command="")
    other = replace(PROTONET, lr=1.0, train=replace(PROTONET.train, way=5))
    with pytest.raises(MapstoError, match=r"other settings \(train, lr\).*mapsto train protonet --out .* --resume$"):
        run.train("protonet", other, folder, resume=True, command="")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (replace(PROTONET, train=replace(PROTONET.train, way=9)), "9-way tasks want 9 classes"),
        (replace(PROTONET, test=replace(PROTONET.test, query=9)), "class 'c2' has 9 examples, but shot"),
        (replace(PROTONET, test=replace(PROTONET.test, way=1)), "way must be at least 2"),
        (replace(PROTONET, test_steps=3), "protonet takes no inner steps"),
        (replace(PROTONET, validate=0), "validate must be at least 1"),
        (replace(PROTONET, steps=0), "steps must be at least 1"),
        (replace(PROTONET, batch=0), "batch must be at least 1"),
        (replace(PROTONET, tasks=1), "tasks must be at least 2"),
        (replace(PROTONET, lr=float("nan")), "lr must be at least 0"),
        (replace(PROTONET, data="none"), "no data set 'none'"),
        (replace(PROTONET, algorithm="none"), "no algorithm 'none'"),
        (replace(PROTONET, options={"none": 1}), "protonet with conv4: .*none"),
        (replace(PROTONET, model_options={"stats": "none"}), "protonet with conv4: .*none"),
        (replace(PROTONET, algorithm="maml"), "trained on 4-way tasks, it can't do 3-way ones"),
    ],
)
def test_settings_that_make_no_sense_write_nothing(tmp_path: Path, settings: Settings, said: str) -> None:
    out = tmp_path / "run"
    with pytest.raises(MapstoError, match=said) as caught:
        run.train("x", settings, out, command="")
    assert not out.exists() and "\n" not in str(caught.value) and not isinstance(caught.value, Diverged)


def test_device_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MapstoError, match="device 'nowhere' can't be used here"):
        run.train("x", PROTONET, tmp_path / "run", command="", device="nowhere")
    assert not (tmp_path / "run").exists()


def test_damaged_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Crash):
        run.train("protonet", PROTONET, tmp_path, command="", progress=crash_at(2))
    path = tmp_path / "checkpoint.pt"
    torch.save({"learner": {}}, path)
    with pytest.raises(MapstoError, match=r"checkpoint\.pt is of another model"):
        run.train("protonet", PROTONET, tmp_path, resume=True, command="")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(MapstoError, match=r"checkpoint\.pt is truncated or damaged"):
        run.train("protonet", PROTONET, tmp_path, resume=True, command="")


@pytest.mark.parametrize("name", ["pfn/tables", "bar-pfn/gp-rbf"])
def test_runs_without_pictures_have_a_report(name: str, tmp_path: Path) -> None:
    settings = RECIPES[name].settings
    options = {**settings.options, "width": 8, "depth": 1, "heads": 1}
    run.train(name, replace(settings, options=options, steps=2, batch=2, tasks=4, validate=2), tmp_path, command="")
    write_report(tmp_path)
    assert "Learning curve" in (tmp_path / "report.html").read_text()
