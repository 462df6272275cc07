"""The command line: what it prints, where, and its exit status."""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny import SINUSOID_FLAGS, complaint, start, use_tiny

from mapsto import build, cli
from mapsto.data import Folder
from mapsto.recipes import RECIPES

PROTONET_FLAGS = [
    *("--data", "tiny", "--model-options.filters", "4", "--steps", "5", "--tasks", "20", "--threads", "1"),
    *("--train.way", "4", "--train.query", "3", "--test.way", "3", "--test.query", "3"),
]


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny(monkeypatch)
    monkeypatch.setattr(cli, "_write_report", lambda folder: None)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small finished runs."""
    root = tmp_path_factory.mktemp("cli")
    with pytest.MonkeyPatch.context() as patch:
        use_tiny(patch)
        patch.setattr(cli, "_write_report", lambda folder: None)
        flags = {
            "protonet": ["protonet/glyphs-5way-1shot", *PROTONET_FLAGS],
            "maml": ["maml/glyphs-5way-1shot", *PROTONET_FLAGS, "--test.way", "4"],
            "sinusoid": ["maml/sinusoid", *SINUSOID_FLAGS],
        }
        for name, words in flags.items():
            assert cli.main(["train", *words, "--out", str(root / name), "--json"]) == 0
    return {name: root / name for name in flags}


def judged(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict:
    """The one JSON object that `evaluate --json` prints."""
    capsys.readouterr()
    assert cli.main(["evaluate", *words, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.count("\n") == 1
    return json.loads(out)


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    names = [line.split()[0] for line in lines if re.match(r"  [a-z0-9+-]+/[a-z0-9-]+( |$)", line)]
    assert sorted(names) == sorted(RECIPES) and len(names) == len(RECIPES) and err == ""
    assert max(map(len, lines)) <= 100
    for name, entry in RECIPES.items():
        assert f"\n{name.split('/')[0]} (" in out and f"{entry.origin.link}\n" in out
    row = next(line for line in lines if line.startswith("  protonet/omniglot-5way-1shot"))
    assert row.split("  ")[-1] == "98.70 ± 0.15 %" and " 98.8 % " in row


def test_list_some(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "maml"]) == 0
    out = capsys.readouterr().out
    assert "maml/sinusoid" in out and "600 test tasks" in out and "8,000 meta-steps" in out
    assert "fomaml" not in out and "protonet" not in out and max(map(len, out.splitlines())) <= 100
    assert cli.main(["list", "glyphs"]) == 0
    out = capsys.readouterr().out
    assert "maml/glyphs-5way-1shot" in out and "protonet/glyphs-5way-1shot" in out and "omniglot" not in out
    assert "nearest are maml" in complaint(["list", "mmal"], capsys)


def test_list_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "protonet", "--json"]) == 0
    out = capsys.readouterr().out
    entries = {entry["recipe"]: entry for entry in json.loads(out)}
    assert out.count("\n") == 1 and set(entries) == {name for name in RECIPES if name.startswith("protonet/")}
    entry = entries["protonet/omniglot-5way-1shot"]
    assert entry["family"] == "metric-based" and entry["paper"] == "98.8 %"
    assert entry["origin"]["link"] == "https://arxiv.org/abs/1703.05175" and entry["settings"]["train"]["way"] == 60
    assert [(r["way"], r["shot"]) for r in entry["measured"]] == [(5, 1), (5, 5), (20, 1), (20, 5)]


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "usage: mapsto" in capsys.readouterr().err
    assert cli.main(["fly"]) == 2
    assert "usage: mapsto" in capsys.readouterr().err
    assert cli.main(["--help"]) == 0
    assert "usage: mapsto" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command", [["train"], ["train", "maml/sinusoid"], ["evaluate"], ["report"], ["data"], ["list"]]
)
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([*command, "--help"])
    assert stop.value.code == 0 and f"usage: mapsto {command[0]}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [["train", "maml/sinusoid", "--fly", "3"], ["train", "--steps", "many"], ["evaluate"], ["evaluate", "x", "--fly"]],
)
def test_unknown_option(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2 and capsys.readouterr().out == ""


def test_unknown_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    said = complaint(["train", "mmal/sinusiod"], capsys)
    assert "'mmal/sinusiod'" in said and "maml/sinusoid" in said


def test_overrides(tmp_path: Path) -> None:
    words = [
        "protonet/glyphs-5way-1shot",
        *PROTONET_FLAGS,
        "--options.distance",
        "cosine",
        "--options.temperature",
        "0.1",
    ]
    words += ["--train.shot", "1", "3", "--seed", "7", "--schedule", "linear", "--clip", "1.0", "--lr", "0.5"]
    out = tmp_path / "run"
    assert cli.main(["train", *words, "--out", str(out), "--json"]) == 0
    config = json.loads((out / "config.json").read_text())
    settings = config["settings"]
    assert settings["options"] == {"distance": "cosine", "temperature": 0.1}
    assert settings["train"] == {"way": 4, "shot": [1, 3], "query": 3}
    assert (settings["seed"], settings["schedule"], settings["clip"], settings["lr"]) == (7, "linear", 1.0, 0.5)
    assert config["threads"] == 1
    assert cli.main(["train", *words, "--out", str(out), "--resume"]) == 0  # ranges come back from the file as ranges


def test_train_says_what_to_do_next(
    finished: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for recipe, flags, advice in (
        ("protonet/glyphs-5way-1shot", PROTONET_FLAGS, "--way 10 --shot 5"),
        ("maml/sinusoid", SINUSOID_FLAGS, "--shot 5"),  # a head of one size
    ):
        out = tmp_path / recipe.split("/")[0]
        assert cli.main(["train", recipe, *flags, "--steps", "2", "--out", str(out)]) == 0
        stdout, stderr = capsys.readouterr()
        assert stderr == "" and f"Next: mapsto evaluate {out} {advice}, " in stdout
        assert "95 % interval; 20 test tasks" in stdout


def test_evaluate(finished: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for folder in finished.values():
        before = {path: path.read_bytes() for path in folder.iterdir()}
        result = judged([str(folder)], capsys)
        stored = json.loads((folder / "result.json").read_text())
        same = ("score", "interval", "tasks", "way", "shot", "query", "steps", "norm", "seed", "recipe")
        assert {key: result[key] for key in same} == {key: stored[key] for key in same}
        assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_evaluate_other_tasks(finished: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--way", "8", "--shot", "2", "--query", "1", "--tasks", "40"]
    result = judged([str(finished["protonet"]), *words], capsys)
    assert (result["way"], result["shot"], result["query"], result["tasks"]) == (8, 2, 1, 40)
    assert math.isclose(result["score"] * 8 * 40 % 1, 0, abs_tol=1e-6) or math.isclose(result["score"] * 320 % 1, 1)
    assert result["command"].startswith("mapsto evaluate ")
    several = [judged([str(finished["sinusoid"]), "--steps", str(steps)], capsys) for steps in (0, 1, 5)]
    assert [result["steps"] for result in several] == [0, 1, 5] and len({result["score"] for result in several}) == 3
    result = judged([str(finished["maml"]), "--way", "4", "--steps", "2", "--shot", "3"], capsys)
    assert (result["way"], result["shot"], result["steps"]) == (4, 3, 2)


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("protonet", ["--way", "9"], "9-way tasks want 9 classes, but there are 8"),
        ("protonet", ["--shot", "8"], "class 'c2' has 9 examples, but shot + query = 11"),
        ("protonet", ["--steps", "3"], "protonet takes no inner steps"),
        ("protonet", ["--way", "1"], "way must be at least 2"),
        ("protonet", ["--way", "0"], "way must be at least"),
        ("protonet", ["--query", "0"], "query must be at least 1"),
        ("protonet", ["--shot", "-1"], "shot must be at least 1"),
        ("protonet", ["--tasks", "1"], "tasks must be at least 2"),
        ("protonet", ["--device", "nowhere"], "device 'nowhere' can't be used here"),
        ("maml", ["--way", "3"], "trained on 4-way tasks, it can't do 3-way ones"),
        ("maml", ["--steps", "-1"], "inner steps must be at least 0"),
        ("sinusoid", ["--way", "2"], "it can't do 2-way ones"),
    ],
)
def test_evaluate_impossible_tasks(
    finished: dict[str, Path], name: str, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in complaint(["evaluate", str(finished[name]), *words], capsys)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda run: (run / "weights.safetensors").unlink(), "holds no finished run"),
        (lambda run: _truncate(run / "weights.safetensors"), "weights.safetensors is truncated or damaged"),
        (lambda run: (run / "config.json").unlink(), "is not a run folder"),
        (lambda run: _truncate(run / "config.json"), "config.json is damaged"),
        (lambda run: (run / "config.json").write_bytes(b"\xff\x00"), "config.json is damaged"),
        (lambda run: (run / "config.json").write_text("[]"), "config.json is damaged"),
        (
            lambda run: (run / "config.json").write_text('{"settings": {"train": 1, "test": 2}}'),
            "config.json is damaged",
        ),
        (lambda run: shutil.rmtree(run), "is not a run folder"),
        (lambda run: (shutil.rmtree(run), run.write_text("a file")), "is not a run folder"),
    ],
)
def test_damaged_run(
    finished: dict[str, Path],
    harm: Callable[[Path], object],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = shutil.copytree(finished["protonet"], tmp_path / "run")
    harm(folder)
    assert said in complaint(["evaluate", str(folder)], capsys)


def test_impossible_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "protonet/glyphs-5way-1shot", *PROTONET_FLAGS, "--out", str(tmp_path / "run")]
    assert "9-way tasks want 9 classes" in complaint([*words, "--test.way", "9"], capsys)
    assert cli.main(words) == 0  # the mistake left no folder behind
    assert "already holds a run" in complaint(words, capsys)
    assert "other settings (seed)" in complaint([*words, "--seed", "1", "--resume"], capsys)


def test_out_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    words = ["train", "protonet/glyphs-5way-1shot", *PROTONET_FLAGS, "--out"]
    assert "file" in complaint([*words, str(tmp_path / "file")], capsys)
    assert "file" in complaint([*words, str(tmp_path / "file" / "run")], capsys)


def test_as_a_program(tmp_path: Path) -> None:
    """The whole of it, with the report, in a process of its own without a terminal."""
    process = start("train", "maml/sinusoid", *SINUSOID_FLAGS, "--out", str(tmp_path / "run"), "--json")
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert json.loads(out)["recipe"] == "maml/sinusoid" and out.count("\n") == 1
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    process = start("evaluate", str(tmp_path / "nothing"))
    out, err = process.communicate()
    assert (process.returncode, out) == (2, "") and err.count("\n") == 1 and "Traceback" not in err


def test_own_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "IMAGES", {"folder": Folder})
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for name in range(12):
        (tmp_path / "pictures" / f"class{name}").mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(0, 256, (20, 24, 3)).astype(np.uint8)
            image.fromarray(pixels).save(tmp_path / "pictures" / f"class{name}" / f"{i}.png")
    out = tmp_path / "run"
    flags = "--data folder --train.way 3 --train.query 2 --test.way 2 --test.query 2 --steps 2 --tasks 4"
    options = ["--data-options", "path", str(tmp_path / "pictures"), "channels", "3"]
    assert cli.main(["train", "protonet/glyphs-5way-1shot", *flags.split(), *options, "--out", str(out)]) == 0
    assert judged([str(out), "--shot", "2"], capsys)["shot"] == 2
