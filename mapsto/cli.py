"""The command line: `mapsto list | train | evaluate | report | data | fit | predict`."""

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from tqdm import tqdm

from mapsto import build, heap, run
from mapsto.errors import MapstoError
from mapsto.evaluate import Scores
from mapsto.finished import judge
from mapsto.recipes import DEFAULT, Settings, recipe
from mapsto.recipes.settings import Value
from mapsto.train import Diverged

USAGE = """usage: mapsto COMMAND ...

  list [WORD]              the learners, their papers and recipes, the papers' numbers and ours
  train [RECIPE] [...]     train, judge on test tasks, write a run folder
  evaluate RUN [...]       judge a run again, on other tasks or shapes
  report RUN               write the run's report.html anew
  data list | check        the data sets, and whether they are all right
  fit FOLDER --out MODEL   a classifier of your own pictures, one sub-folder a class
  predict MODEL PICTURES   which class pictures belong to

`mapsto COMMAND --help` shows what a command takes.
"""


@dataclass
class List:
    """The learners: their papers and recipes, the papers' numbers and those measured here."""

    word: tyro.conf.Positional[str | None] = None
    """A learner, or part of recipes' names: only those, with their protocols."""
    json: bool = False
    """Print one JSON array, an object a recipe."""


@dataclass
class Train:
    """Train a recipe and judge it on test tasks."""

    settings: Annotated[Settings, tyro.conf.arg(name="")]
    out: Path | None = None
    """The run folder; by default runs/RECIPE."""
    resume: bool = False
    """Go on with the run in that folder."""
    device: str = "cpu"
    """Where to compute: cpu, cuda."""
    threads: int | None = None
    """Torch's threads, where not all cores."""
    json: bool = False
    """Print the result as one JSON object."""


@dataclass
class Evaluate:
    """Judge a finished run on test tasks; the run folder is left as it is."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    tasks: int | None = None
    """How many; by default the recipe's number."""
    way: int | None = None
    """Classes a task."""
    shot: int | None = None
    """Support examples a class."""
    query: int | None = None
    """Query examples a class."""
    steps: int | None = None
    """Inner steps."""
    data: str | None = None
    """Another data set of images, whose test classes to judge on; they are brought to the trained size and colours."""
    data_options: Mapping[str, Value] = field(default_factory=dict)
    """That data set's own settings."""
    refine: Literal["soft-kmeans", "laplacian", "pt-map"] | None = None
    """Classify queries together, by prototypes that they refine: a transductive score."""
    device: str | None = None
    """Where to compute, where not as in training."""
    json: bool = False
    """Print one JSON object."""


@dataclass
class Report:
    """Write report.html of a finished run anew."""

    run: tyro.conf.Positional[Path]
    """The run folder."""


@dataclass
class Data:
    """The data sets."""

    action: tyro.conf.Positional[Literal["list", "check"]] = "list"
    """`list` says what there is, `check` reads everything through."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0, 1 where training diverged, 2 for a mistake in the input, 130 after a signal.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    commands: dict[str, Callable[[list[str]], None]] = {
        "list": _list, "train": _train, "evaluate": _evaluate, "report": _report, "data": _data,
        "fit": _fit, "predict": _predict,
    }  # fmt: skip
    if not words or words[0] not in commands:
        asked = words and words[0] in ("-h", "--help")
        print(USAGE, file=sys.stdout if asked else sys.stderr, end="")
        return 0 if asked else 2
    heap.keep()
    try:
        commands[words[0]](words[1:])
    except run.Interrupted as stop:
        print(f"mapsto: {stop}", file=sys.stderr)
        return 130
    except MapstoError as error:
        print(f"mapsto: {error}", file=sys.stderr)
        return 1 if isinstance(error, Diverged) else 2
    except OSError as error:
        print(f"mapsto: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mapsto: interrupted", file=sys.stderr)
        return 130
    return 0


def _list(words: list[str]) -> None:
    from mapsto.listing import lines, objects

    asked = tyro.cli(List, args=words, prog="mapsto list")
    print(json.dumps(objects(asked.word)) if asked.json else "\n".join(lines(asked.word)))


def _train(words: list[str]) -> None:
    named = bool(words) and not words[0].startswith("-")
    name = words[0] if named else DEFAULT
    entry = recipe(name)
    arguments = tyro.cli(
        Train, args=words[1:] if named else words, default=Train(entry.settings), prog=f"mapsto train {name}"
    )
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    out = arguments.out or Path("runs") / name.replace("/", "-")
    with closing(_Bars(arguments.settings.steps, arguments.settings.metric)) as bars:
        result = run.train(
            name, arguments.settings, out,
            resume=arguments.resume, command=shlex.join(["mapsto", "train", *words]), device=arguments.device,
            progress=run.Progress(bars.step, bars.judge),
        )  # fmt: skip
    _write_report(out)
    _print(result, arguments.json)
    if not arguments.json:
        print(f"Run folder: {out} (open {out / 'report.html'})")
        way = "--way 10 " if build.ALGORITHMS[arguments.settings.algorithm].headless else ""
        print(f"Next: mapsto evaluate {out} {way}--shot 5, or another recipe of `mapsto list`.")


def _evaluate(words: list[str]) -> None:
    a = tyro.cli(Evaluate, args=words, prog="mapsto evaluate")
    with closing(_Bars(0, "")) as bars:
        result = judge(
            a.run, tasks=a.tasks, way=a.way, shot=a.shot, query=a.query, steps=a.steps,
            data=a.data, data_options=a.data_options, refine=a.refine,
            device=a.device,
            command=shlex.join(["mapsto", "evaluate", *words]), progress=bars.judge,
        )  # fmt: skip
    _print(result, a.json)


def _report(words: list[str]) -> None:
    folder = tyro.cli(Report, args=words, prog="mapsto report").run
    _write_report(folder)
    print(folder / "report.html")


def _write_report(folder: Path) -> None:
    from mapsto.summary import write_report  # draws, so it wants matplotlib

    write_report(folder)


def _data(words: list[str]) -> None:
    from mapsto.data.catalogue import check, describe

    action = tyro.cli(Data, args=words, prog="mapsto data").action
    lines = describe() if action == "list" else check()
    for line in lines:
        print(line)


def _fit(words: list[str]) -> None:
    from mapsto.cli_fit import fit  # which needs scikit-learn

    fit(words)


def _predict(words: list[str]) -> None:
    from mapsto.cli_fit import predict

    predict(words)


def _print(result: dict, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result))
        return
    from mapsto.listing import tasks_of

    scale, unit = (100, " %") if result["metric"] == "accuracy" else (1, "")
    score, interval = result["score"] * scale, result["interval"] * scale
    steps = "" if result["steps"] is None else f", {result['steps']} inner steps"
    metric = result["metric"].replace("_", "-") + (f" on {result['data']}" if "data" in result else "")
    print(
        f"{metric} {score:.2f}{unit} ± {interval:.2f} (95 % interval; {result['tasks']} test tasks, {tasks_of(result)}"
        f"{steps}, norm: {result['norm']}, seed {result['seed']})"
    )


class _Bars:
    """Progress bars on standard error; silent where that is not a terminal."""

    def __init__(self, steps: int, metric: str) -> None:
        self._steps, self._metric = steps, metric
        self._bar: tqdm | None = None
        self._what = ""

    def _show(self, total: int, what: str, done: int, text: str) -> None:
        if self._bar is None or self._what != what or done < self._bar.n:
            self.close()
            self._what = what
            self._bar = tqdm(total=total, desc=what, disable=None, initial=done - 1 if what == "train" else 0)
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(done - self._bar.n)

    def step(self, step: int, loss: float, score: Scores | None) -> None:
        validation = "" if score is None else f", validation {self._metric} {score.mean:.4f}"
        self._show(self._steps, "train", step, f"loss {loss:.4f}{validation}")

    def judge(self, done: int, total: int, score: float) -> None:
        self._show(total, "test", done, f"score {score:.4f}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


if __name__ == "__main__":
    sys.exit(main())
