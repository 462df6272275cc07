"""Files that are either whole or not there, and the state that a run goes on from."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mapsto.errors import MapstoError
from mapsto.learner import MetaLearner


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """`write` a draft beside `path`, flush it to disk, and swap it in: a reader or a crash never meets half a file."""
    draft = path.with_name(f".{path.name}.draft")  # one name, so that what a killed process left is overwritten
    try:
        write(draft)
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Indented JSON, atomically."""
    write_atomically(path, lambda draft: draft.write_text(json.dumps(value, indent=2) + "\n"))


def read_json(path: Path) -> Any:
    """What `write_json` wrote.

    Raises:
        MapstoError: there is no such file, or it is damaged.
    """
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise MapstoError(f"{path.parent} is not a run folder: it has no {path.name}") from None
    except ValueError as error:
        raise MapstoError(f"{path} is damaged ({error}): train again, or restore it") from None


def save_weights(path: Path, module: nn.Module) -> None:
    """Parameters and buffers as safetensors, atomically; shared parameters are stored once."""
    from safetensors.torch import save_file

    tensors, seen = {}, set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor.detach().cpu().contiguous().clone()
    write_atomically(path, lambda draft: save_file(tensors, draft))


def load_weights(path: Path, module: nn.Module) -> None:
    """Read what `save_weights` wrote into a module.

    Raises:
        MapstoError: the file is missing, damaged, or of another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise MapstoError(
            f"{path.parent} holds no finished run (no {path.name}): train it, or go on with --resume"
        ) from None
    except (SafetensorError, OSError, ValueError) as error:
        raise MapstoError(f"{path} is truncated or damaged ({error}): train again, or restore it") from None
    own = module.state_dict(keep_vars=True)
    first = {id(tensor): name for name, tensor in reversed(own.items())}
    wanted = {name: tensor for name, tensor in own.items() if first[id(tensor)] == name}
    if wanted.keys() != tensors.keys() or any(tensors[n].shape != t.shape for n, t in wanted.items()):
        raise MapstoError(f"{path} holds the weights of another model: its names or shapes differ")
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(tensors[name])


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Tensors and plain values, atomically."""
    write_atomically(path, lambda draft: torch.save(state, draft))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` wrote; nothing but tensors and plain values is ever read.

    Raises:
        MapstoError: the file is truncated or damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        first = str(error).partition("\n")[0]
        raise MapstoError(
            f"{path} is truncated or damaged ({first}): delete the run folder's checkpoint to train from the start, "
            "or restore it"
        ) from None


def random_state() -> dict[str, Tensor]:
    """Torch's random state: tasks need none, dropout does."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Tensor]) -> None:
    """Put back what `random_state` took."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


class State:
    """All that a run goes on from: the file that it is kept in, and the rows of metrics.jsonl that belong to it."""

    def __init__(self, out: Path, learner: MetaLearner, optimizer: Optimizer, schedule: LambdaLR) -> None:
        self.path, self.metrics = out / "checkpoint.pt", out / "metrics.jsonl"
        self.learner, self.optimizer, self.schedule = learner, optimizer, schedule
        self.step, self.saved, self.seconds = 0, 0, 0.0
        self.losses: list[float] = []
        """Those since the last row of metrics.jsonl."""

    def save(self) -> None:
        """Write the checkpoint."""
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
        self.saved = self.step

    def restore(self) -> None:
        """Go back to the checkpoint, or to the very start where there is none.

        Raises:
            MapstoError: the file is truncated or damaged, or of another model.
        """
        if not self.path.exists():
            self.metrics.unlink(missing_ok=True)
            return
        state = load_checkpoint(self.path)
        try:
            self.learner.load_state_dict(state["learner"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            set_random_state(state["random"])
            self.step, self.seconds, self.losses = state["step"], state["seconds"], state["losses"]
        except (KeyError, TypeError, ValueError, RuntimeError):
            raise MapstoError(
                f"{self.path} is of another model or version of mapsto: train anew in another folder"
            ) from None
        self.saved = self.step
        # Rows after the checkpoint, the last perhaps half written, will be made again.
        lines = self.metrics.read_text().splitlines() if self.metrics.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= self.step]
        write_atomically(self.metrics, lambda draft: draft.write_text("".join(line + "\n" for line in kept)))
