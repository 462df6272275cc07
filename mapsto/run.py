"""Run folders: train a recipe into one, or go on with it."""

import json
import math
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

import mapsto
from mapsto import build
from mapsto.checkpoint import State, save_weights, write_json
from mapsto.episode import Reshapable
from mapsto.errors import MapstoError
from mapsto.evaluate import Scores, evaluate
from mapsto.finished import at_least, check_tasks, judge, metric_of, read_config, usable
from mapsto.learner import MetaLearner
from mapsto.recipes import Settings
from mapsto.train import Diverged, fit

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
        command: how the user started this, for the record and for the advice how to go on.
        device: where tensors live; a resumed run stays where it was.
        progress: called as things go on.

    Returns:
        The content of result.json.

    Raises:
        Interrupted: SIGINT or SIGTERM came; the run can be resumed.
        Diverged: NaN; the last checkpoint is kept.
        MapstoError: `out` holds another run, or the settings make no sense; nothing has been written then.
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
    config = _going_on(out, settings, resume) or config
    torch.set_num_threads(config["threads"])
    with _signals(_resuming(config["command"])) as stop:
        tasks, learner = _build(settings, config["device"])
        optimizer, schedule = _optimizer(settings, learner)
        config["inputs"] = list(build.sizes(tasks["test"])[0])
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "config.json", config)
        state = State(out, learner, optimizer, schedule)
        if resume:
            state.restore()
        if state.step == 0:
            state.save()
        with (out / "metrics.jsonl").open("a") as log:
            _fit(settings, tasks, state, log, stop, progress)
        save_weights(out / "weights.safetensors", learner)

        def on_judged(done: int, total: int, score: float) -> None:
            stop.here(f"at test task {done} of {total}")
            progress.judge(done, total, score)

        return judge(out, progress=on_judged, train_seconds=state.seconds)


def _fit(
    settings: Settings,
    tasks: Mapping[str, Reshapable],
    state: State,
    log: TextIO,
    stop: "_Stop",
    progress: Progress,
) -> None:
    """Train from the state on, with rows for the log and checkpoints as it goes."""
    learner, metric = state.learner, metric_of(settings, state.learner)
    latest: Scores | None = None
    begun, saved = time.monotonic() - state.seconds, time.monotonic()

    def on_step(step: int, loss: float) -> None:
        nonlocal latest, saved
        last = step == settings.steps
        state.step, state.seconds = step, time.monotonic() - begun
        state.losses.append(loss)
        row: dict[str, float] = {}
        if last or step % settings.validate == 0:
            latest = evaluate(learner, tasks["val"], metric, tasks=100, steps=settings.test_steps)
            learner.train()
            row = {"score": latest.mean, "interval": latest.interval}
        if row or step % ROW_EVERY == 0:
            mean = sum(state.losses) / len(state.losses)
            log.write(json.dumps({"step": step, "loss": mean, "seconds": round(state.seconds, 2), **row}) + "\n")
            log.flush()
            state.losses.clear()
        if last or stop.asked or time.monotonic() - saved > CHECKPOINT_SECONDS:
            state.save()
            saved = time.monotonic()
        stop.here(f"at step {step} of {settings.steps}")
        progress.step(step, loss, latest)

    try:
        fit(
            learner, tasks["train"], state.optimizer,
            steps=settings.steps, batch=settings.batch, start=state.step, schedule=state.schedule, clip=settings.clip,
            on_step=on_step,
        )  # fmt: skip
    except Diverged as error:
        raise Diverged(f"{error} (the last good checkpoint, of step {state.saved}, is {state.path})") from None


def _going_on(out: Path, settings: Settings, resume: bool) -> dict[str, Any] | None:
    """The configuration of the run in the folder, to go on with; None where there is none yet."""
    if not (out / "config.json").exists():
        return None
    config, old = read_config(out)
    changed = [field.name for field in fields(Settings) if getattr(old, field.name) != getattr(settings, field.name)]
    if changed:
        raise MapstoError(
            f"{out} holds a run with other settings ({', '.join(changed)}): choose another folder with --out, "
            f"or go on with that run by: {_resuming(config['command'])}"
        )
    if not resume:
        raise MapstoError(f"{out} already holds a run: go on with it by --resume, or choose another folder with --out")
    return config


def _resuming(command: str) -> str:
    return command if "--resume" in shlex.split(command) else f"{command} --resume"


def _build(settings: Settings, device: str) -> tuple[Mapping[str, Reshapable], MetaLearner]:
    """All three task sources, the test tasks too lest they fail only after the training, and the learner."""
    for name, least in (("steps", 1), ("batch", 1), ("tasks", 2), ("validate", 1), ("lr", 0.0), ("clip", 0.0)):
        at_least(name, getattr(settings, name), least)
    usable(device)
    tasks = build.sources(settings, device=device)
    learner = build.learner(settings, *build.sizes(tasks["test"])).to(device)
    check_tasks(settings, learner, settings.test.way, settings.test_steps)
    return tasks, learner


def _optimizer(settings: Settings, learner: MetaLearner) -> tuple[Optimizer, LambdaLR]:
    parameters = [p for p in learner.parameters() if p.requires_grad]
    make = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[settings.optimizer]
    optimizer = make(parameters, lr=settings.lr, fused=True)  # a third of the time, which small networks notice
    total = settings.steps
    factor: dict[str, Callable[[int], float]] = {
        "constant": lambda step: 1.0,
        "late": lambda step: min(1.0, 4 * (1 - step / total)),
        "linear": lambda step: max(0.0, 1 - step / total),
        "cosine": lambda step: 0.5 * (1 + math.cos(math.pi * min(step / total, 1.0))),
    }
    return optimizer, LambdaLR(optimizer, factor[settings.schedule])


@dataclass
class _Stop:
    """Whether a signal has asked the run to stop."""

    go_on: str
    asked: bool = False

    def here(self, where: str) -> None:
        if self.asked:
            raise Interrupted(f"stopped {where}; go on with: {self.go_on}")


@contextmanager
def _signals(go_on: str) -> Iterator[_Stop]:
    """Notes SIGINT and SIGTERM instead of dying of them; a second SIGINT is the usual one."""
    stop = _Stop(go_on)
    if threading.current_thread() is not threading.main_thread():
        yield stop  # Python lets only the main thread handle signals
        return

    def note(number: int, frame: FrameType | None) -> None:
        stop.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
