"""Bandits played by what was learned and by rules: `python examples/bandits.py PULLS ARMS [lstm]`.

Trains a SNAIL policy (or an LSTM) by proximal policy optimization on Bernoulli bandits, judges it on bandits never
seen, adds the numbers to results/studies/bandits.json and writes docs/bandits.md. Checkpoints and rewards go to
runs/bandits-PULLS-ARMS-POLICY: what was interrupted goes on from there, what is finished is only judged.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from mapsto.checkpoint import load_checkpoint, save_checkpoint, write_json
from mapsto.errors import MapstoError
from mapsto.evaluate import interval
from mapsto.rl import (
    BernoulliBandits,
    Gittins,
    LSTMPolicy,
    Policy,
    SNAILPolicy,
    improve,
    optimum,
    play,
    random,
    roll,
    thompson,
    ucb1,
)

ROOT = Path(__file__).parent.parent
RUNS, RESULT, PAGE = ROOT / "runs", ROOT / "results" / "studies" / "bandits.json", ROOT / "docs" / "bandits.md"
TRAIN, TEST = 0, 2  # seeds; what is set below was chosen on bandits of seed 1
LR, SLICE = 3e-3, 10  # of the first update; updates between two checkpoints


class Setting(NamedTuple):
    """How long to train, and on how many bandits to judge."""

    updates: int
    tasks: int
    judged: int
    smoothing: float = 0.3


SETTINGS = {
    (10, 5): Setting(300, 1000, 10_000),
    (10, 10): Setting(300, 1000, 10_000),
    (10, 50): Setting(300, 1000, 10_000),
    (100, 5): Setting(300, 250, 1000, smoothing=0.95),
}
PAPERS = {
    (10, 5): ("6.6 ± 0.1", "6.7", "6.6"),
    (10, 10): ("6.7 ± 0.1", "6.7", "6.6"),
    (10, 50): ("6.7 ± 0.1", "6.8", "6.5"),
    (100, 5): ("79.1 ± 1.0", "78.7", "78.3"),
}
"""SNAIL, RL^2 and the Gittins index in table 3 of Mishra et al. 2018."""

TEXT = """<!-- Written by examples/bandits.py: change that file. -->
# Bandits

A bandit has K arms; each pays 1 with a chance of its own, drawn uniformly. A policy pulls N times and is told after
each pull what came of it: to earn much it must explore, but not for long. Trained on many bandits, a network that
remembers learns how ([Mishra et al. 2018](https://arxiv.org/abs/1707.03141), section 5.2;
[Duan et al. 2016](https://arxiv.org/abs/1611.02779)). Total reward of the N pulls, mean over bandits never seen
(seed {seed}; {judged}), ± half the 95 % interval. All rules and policies meet the same
bandits and the same luck.

{rules}

The Gittins index is that for a finite number of pulls, found by dynamic programming. The best possible is the exact
expected reward of who plays best, known where N is small; for N = 10 that of the Gittins rule is the same, and where
its mean lies above, the bandits drawn were kind. The papers' numbers are those of table 3 of Mishra et al.

{learned}

{verdicts}

The papers' SNAIL is level with the index or above it in all these rows: what is behind it here was trained for minutes.

Policies are trained by proximal policy optimization (the papers' by trust-region policy optimization): discount 0.99,
lambda of the advantages {smoothing};
Adam, learning rate falling from {lr}. They pull the arm that they find likeliest. They are told their last arm, its
reward, and the share of pulls left (RL²'s: that an episode ended). Settings were chosen on bandits of another seed, for
5 arms. Minutes are wall time of one thread, with other work on the same two cores.

{commands}
"""


def policy(kind: str, pulls: int, arms: int) -> Policy:
    """An untrained one."""
    torch.manual_seed(TRAIN)
    inputs = BernoulliBandits(arms, pulls).inputs
    if kind == "lstm":
        return LSTMPolicy(inputs, arms)
    return SNAILPolicy(inputs, arms, pulls)


def trained(kind: str, pulls: int, arms: int, setting: Setting) -> tuple[Policy, float]:
    """A trained policy, and the minutes that it took."""
    actor, folder = policy(kind, pulls, arms), RUNS / f"bandits-{pulls}-{arms}-{kind}"
    optimizer = torch.optim.Adam(actor.parameters(), LR)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, setting.updates)
    parts = {"policy": actor, "optimizer": optimizer, "schedule": schedule}
    folder.mkdir(parents=True, exist_ok=True)
    kept, rewards, seconds = folder / "checkpoint.pt", [], 0.0
    if kept.exists():
        state = load_checkpoint(kept)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        rewards, seconds = state["rewards"], state["seconds"]
    source = BernoulliBandits(arms, pulls, seed=TRAIN)
    with tqdm(total=setting.updates, initial=len(rewards), desc=f"{kind}, {pulls} pulls of {arms} arms") as bar:

        def on_update(update: int, reward: float) -> None:
            bar.update()
            bar.set_postfix(reward=f"{reward:.2f}")

        while len(rewards) < setting.updates:
            begun, stop = time.monotonic(), min(len(rewards) + SLICE, setting.updates)
            rewards += improve(
                actor, source, optimizer, updates=stop, start=len(rewards), tasks=setting.tasks,
                smoothing=setting.smoothing, schedule=schedule, seed=TRAIN, on_update=on_update,
            )  # fmt: skip
            seconds += time.monotonic() - begun
            state = {name: part.state_dict() for name, part in parts.items()}
            save_checkpoint(kept, {**state, "rewards": rewards, "seconds": seconds})
            write_json(folder / "rewards.json", rewards)
    return actor, seconds / 60


def mean(totals: Tensor) -> list[float]:
    """And half its 95 % interval."""
    return [round(x.item(), 4) for x in (totals.mean(), interval(totals))]


def judged(kind: str, pulls: int, arms: int) -> dict[str, Any]:
    """What a policy and the rules earn from the same bandits."""
    setting = SETTINGS[pulls, arms]
    actor, minutes = trained(kind, pulls, arms, setting)
    bandits = BernoulliBandits(arms, pulls, seed=TEST).batch(0, setting.judged)
    rules = {"random": random, "UCB1": ucb1, "Thompson": thompson, "Gittins": Gittins(pulls)}
    totals = {name: play(bandits, rule, seed=TEST) for name, rule in rules.items()}
    own = roll(actor, bandits, greedy=True).rewards.sum(1).double()
    return {
        "pulls": pulls, "arms": arms, "policy": kind, "tasks": setting.judged, "seed": TEST,
        "updates": setting.updates, "tasks_each_update": setting.tasks, "minutes": round(minutes, 1),
        "reward": mean(own), "less_gittins": mean(own - totals["Gittins"]),
        "rules": {name: mean(total) for name, total in totals.items()},
        "optimum": round(optimum(arms, pulls), 4) if pulls <= 10 else None,
    }  # fmt: skip


def shown(pair: list[float]) -> str:
    return f"{pair[0]:.2f} ± {pair[1]:.2f}"


def page(rows: list[dict[str, Any]]) -> str:
    """docs/bandits.md."""
    rules = ["| N, K | random | UCB1 | Thompson | Gittins | best possible | Gittins, paper |", "| --- |" + " --- |" * 6]
    learned = ["| N, K | policy | here | less Gittins | paper | training |", "| --- |" + " --- |" * 5]
    verdicts, commands, known = [], [], []
    for row in rows:
        place = row["pulls"], row["arms"]
        name, papers = f"{place[0]}, {place[1]}", PAPERS[place]
        if place not in known:
            known.append(place)
            best = "–" if row["optimum"] is None else f"{row['optimum']:.2f}"
            cells = " | ".join(shown(pair) for pair in row["rules"].values())
            rules.append(f"| {name} | {cells} | {best} | {papers[2]} |")
        title, paper = ("SNAIL", papers[0]) if row["policy"] == "snail" else ("LSTM", f"{papers[1]} (RL², GRU)")
        learned.append(
            f"| {name} | {title} | {shown(row['reward'])} | {shown(row['less_gittins'])} | {paper} | "
            f"{row['updates']:,} updates of {row['tasks_each_update']:,} bandits, {row['minutes']:.0f} min |"
        )
        less, half = row["less_gittins"]
        so = "earns less than" if less < -half else "earns more than" if less > half else "can't be told from"
        verdicts.append(f"- {name}: {title} {so} the Gittins index ({less:+.3f} ± {half:.3f}, on the same bandits).")
        kind = "" if row["policy"] == "snail" else " lstm"
        commands.append(f"- `python examples/bandits.py {place[0]} {place[1]}{kind}`")
    joined = {"rules": rules, "learned": learned, "verdicts": verdicts, "commands": commands}
    smoothing = ", ".join(dict.fromkeys(f"{SETTINGS[n, k].smoothing} where N = {n}" for n, k in known))
    number = ", ".join(dict.fromkeys(f"{SETTINGS[n, k].judged:,} where N = {n}" for n, k in known))
    return TEXT.format(
        seed=TEST, lr=LR, smoothing=smoothing, judged=number,
        **{name: "\n".join(lines) for name, lines in joined.items()},
    )  # fmt: skip


def main(words: list[str]) -> None:
    usage = f"usage: python examples/bandits.py PULLS ARMS [lstm], of {', '.join(f'{n} {k}' for n, k in SETTINGS)}"
    kind = words[2] if len(words) == 3 else "snail"
    numbers = [int(word) for word in words[:2] if word.isdecimal()]
    if len(words) not in (2, 3) or tuple(numbers) not in SETTINGS or kind not in ("snail", "lstm"):
        raise SystemExit(usage)
    torch.set_num_threads(1)
    try:
        row = judged(kind, *numbers)
    except MapstoError as error:
        raise SystemExit(f"bandits: {error}") from None
    rows = json.loads(RESULT.read_text()) if RESULT.exists() else []
    key = ("pulls", "arms", "policy")
    rows = [old for old in rows if any(old[part] != row[part] for part in key)] + [row]
    rows.sort(key=lambda one: (one["pulls"], one["arms"], one["policy"] != "snail"))
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    write_json(RESULT, rows)
    PAGE.write_text(page(rows))
    print(page(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
