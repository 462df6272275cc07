"""Run folders: train a recipe into one, go on with it, judge it."""

import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

import mapsto
from mapsto import build
from mapsto.checkpoint import (
    load_checkpoint,
    load_weights,
    random_state,
    read_json,
    save_checkpoint,
    save_weights,
    set_random_state,
    write_atomically,
    write_json,
)
from mapsto.episode import Range, Reshapable, Shape
from mapsto.errors import MapstoError
from mapsto.evaluate import Scores, evaluate
from mapsto.learner import MetaLearner
from mapsto.metrics import accuracy, mse
from mapsto.recipes import Settings
from mapsto.train import Diverged, fit

METRICS = {"accuracy": accuracy, "mse": mse}
ROW_EVERY = 20
"""Meta-steps between two rows of metrics.jsonl."""
CHECKPOINT_SECONDS = 20.0


class Interrupted(MapstoError):
    """A signal stopped the run; the message says how to go on."""


@dataclass
class Progress:
    """What a progress bar wants to know; each is called with the step or task count and the latest score."""

    step: Callable[[int, float, Scores | None], None] = lambda step, loss, score: None
    judge: Callable[[int, int, float], None] = lambda done, total, score: None


def train(
    name: str,
    settings: Settings,
    out: Path,
    *,
    resume: bool = False,
    command: str,
    device: str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a recipe into the folder `out`, then judge it on test tasks.

    The folder gets config.json, metrics.jsonl, a checkpoint every 20 seconds, weights.safetensors and result.json.

    Args:
        name: the recipe's name, for the record.
        settings: what to run.
        out: the run folder; it must not hold a run already, unless `resume`.
        resume: go on from the folder's checkpoint. The final weights are bit-identical to those of an uninterrupted
            run on the same machine.
        command: how the user started this, for the record.
        device: where tensors live.
        progress: called as things go on.

    Returns:
        The content of result.json.

    Raises:
        Interrupted: SIGINT or SIGTERM came; the run can be resumed.
        Diverged: NaN; the last checkpoint is kept.
        MapstoError: `out` holds another run.
    """
    progress = progress or Progress()
    config = {
        "recipe": name,
        "settings": asdict(settings),
        "command": command,
        "device": device,
        "threads": torch.get_num_threads(),
        "mapsto": mapsto.__version__,
        "torch": torch.__version__,
    }
    config = _open(out, config, resume)
    torch.set_num_threads(config["threads"])
    tasks = build.sources(settings, ("train", "val"), device)
    learner = build.learner(settings, build.channels(tasks["train"])).to(device)
    optimizer, schedule = _optimizer(settings, learner)
    state = _State(out, learner, optimizer, schedule)
    if resume:
        state.restore()
    if state.step == 0:
        state.save()
    metric = METRICS[settings.metric]
    latest: list[Scores | None] = [None]
    with _signals() as received, (out / "metrics.jsonl").open("a") as log:
        begun, saved = time.monotonic() - state.seconds, time.monotonic()

        def on_step(step: int, loss: float) -> None:
            nonlocal saved
            state.step, state.seconds = step, time.monotonic() - begun
            state.losses.append(loss)
            if step % settings.validate == 0 or step == settings.steps:
                latest[0] = evaluate(learner, tasks["val"], metric, tasks=100, steps=settings.test_steps)
                learner.train()
            if step % ROW_EVERY == 0 or step == settings.steps:
                row = {"step": step, "loss": sum(state.losses) / len(state.losses), "seconds": round(state.seconds, 2)}
                if latest[0] is not None and (step % settings.validate == 0 or step == settings.steps):
                    row |= {"score": latest[0].mean, "interval": latest[0].interval}
                state.losses.clear()
                log.write(json.dumps(row) + "\n")
                log.flush()
            if received or step == settings.steps or time.monotonic() - saved > CHECKPOINT_SECONDS:
                state.save()
                saved = time.monotonic()
            if received:
                raise Interrupted(
                    f"stopped at step {step} of {settings.steps}; go on with: mapsto train {name} --out {out} --resume"
                )
            progress.step(step, loss, latest[0])

        try:
            fit(
                learner, tasks["train"], optimizer,
                steps=settings.steps, batch=settings.batch, start=state.step, schedule=schedule, clip=settings.clip,
                on_step=on_step,
            )  # fmt: skip
        except Diverged as error:
            raise Diverged(f"{error}. The last good checkpoint is {state.path}") from None
    save_weights(out / "weights.safetensors", learner)
    return judge(out, progress=progress, train_seconds=state.seconds)


class _State:
    """All that a run goes on from, and the file that it is kept in."""

    def __init__(self, out: Path, learner: MetaLearner, optimizer: Optimizer, schedule: LambdaLR) -> None:
        self.path, self.metrics = out / "checkpoint.pt", out / "metrics.jsonl"
        self.learner, self.optimizer, self.schedule = learner, optimizer, schedule
        self.step, self.seconds, self.losses = 0, 0.0, []

    def save(self) -> None:
        save_checkpoint(
            self.path,
            {
                "learner": self.learner.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "random": random_state(),
                "step": self.step,
                "seconds": self.seconds,
                "losses": self.losses,
            },
        )

    def restore(self) -> None:
        if not self.path.exists():
            self.metrics.unlink(missing_ok=True)
            return
        state = load_checkpoint(self.path)
        self.learner.load_state_dict(state["learner"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        set_random_state(state["random"])
        self.step, self.seconds, self.losses = state["step"], state["seconds"], state["losses"]
        # Rows after the checkpoint, the last perhaps half written, will be made again.
        lines = self.metrics.read_text().splitlines() if self.metrics.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= self.step]
        write_atomically(self.metrics, lambda draft: draft.write_text("".join(line + "\n" for line in kept)))


@dataclass
class Run:
    """A finished run, read back from its folder."""

    folder: Path
    config: dict[str, Any]
    settings: Settings
    learner: MetaLearner
    test: Reshapable


def load(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        MapstoError: it is none, or one of its files is damaged.
    """
    config = read_json(folder / "config.json")
    settings = _settings(config["settings"])
    test = build.sources(settings, ("test",), config["device"])["test"]
    learner = build.learner(settings, build.channels(test)).to(config["device"])
    load_weights(folder / "weights.safetensors", learner)
    return Run(folder, config, settings, learner.eval(), test)


def judge(
    folder: Path,
    *,
    tasks: int | None = None,
    way: Range | None = None,
    shot: Range | None = None,
    query: int | None = None,
    steps: int | None = None,
    command: str | None = None,
    progress: Progress | None = None,
    train_seconds: float | None = None,
) -> dict[str, Any]:
    """Score a run on its test tasks, by default those of its settings; result.json is written by `train` alone.

    Returns:
        The result: `score` (0 to 1 for accuracy), `interval` (half-width, 95 %), `tasks`, and the protocol.
    """
    run = load(folder)
    settings, progress = run.settings, progress or Progress()
    total = tasks or settings.tasks
    inner = steps if steps is not None else settings.test_steps

    def judged(chosen: int | None, number: int) -> Scores:
        return evaluate(
            run.learner, run.test, METRICS[settings.metric],
            tasks=number, steps=chosen, way=way, shot=shot, query=query,
            on_batch=lambda values: progress.judge(len(values), number, values.mean().item()),
        )  # fmt: skip

    scores = judged(inner, total)
    shape = run.test.shape.changed(way, shot, query)
    result = {
        "recipe": run.config["recipe"],
        "metric": settings.metric,
        "score": scores.mean,
        "interval": scores.interval,
        "tasks": len(scores.values),
        "seed": settings.seed,
        "way": shape.way,
        "shot": shape.shot,
        "query": shape.query,
        "steps": scores.steps,
        "norm": scores.norm,
        "command": command or run.config["command"],
        "train_steps": settings.steps,
        "mapsto": mapsto.__version__,
        "torch": torch.__version__,
        "device": run.config["device"],
    }
    if train_seconds is not None:
        if scores.steps is not None:
            by_steps = sorted({0, 1, 3, 5, 10, scores.steps} - ({5, 10} if scores.steps < 5 else set()))
            few = total if settings.metric == "mse" else min(total, 200)
            result["by_steps"] = {str(k): [s.mean, s.interval] for k in by_steps for s in [judged(k, few)]}
        result["train_seconds"] = round(train_seconds, 1)
        result["cpus"] = os.cpu_count()
        write_json(folder / "result.json", result)
    return result


def _open(out: Path, config: dict[str, Any], resume: bool) -> dict[str, Any]:
    """Make the run folder, or find in it the run to go on with; returns the configuration that counts."""
    path = out / "config.json"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, config)
        return config
    if not resume:
        raise MapstoError(f"{out} already holds a run: go on with it by --resume, or choose another folder with --out")
    old = read_json(path)
    if _settings(old["settings"]) != _settings(json.loads(json.dumps(config["settings"]))):
        changed = [k for k, v in json.loads(json.dumps(config["settings"])).items() if old["settings"].get(k) != v]
        raise MapstoError(f"{out} holds a run with other settings ({', '.join(changed)}): resume it with its own")
    return old


def _settings(raw: dict[str, Any]) -> Settings:
    def shape(way: Any, shot: Any, query: int) -> Shape:
        way, shot = (tuple(bounds) if isinstance(bounds, list) else bounds for bounds in (way, shot))
        return Shape(way, shot, query)

    return Settings(**{**raw, "train": shape(**raw["train"]), "test": shape(**raw["test"])})


def _optimizer(settings: Settings, learner: MetaLearner) -> tuple[Optimizer, LambdaLR]:
    parameters = [p for p in learner.parameters() if p.requires_grad]
    make = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[settings.optimizer]
    optimizer = make(parameters, lr=settings.lr)
    total = settings.steps
    factor: dict[str, Callable[[int], float]] = {
        "constant": lambda step: 1.0,
        "linear": lambda step: max(0.0, 1 - step / total),
        "cosine": lambda step: 0.5 * (1 + math.cos(math.pi * min(step / total, 1.0))),
    }
    return optimizer, LambdaLR(optimizer, factor[settings.schedule])


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying of them; a second SIGINT is the usual one."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
