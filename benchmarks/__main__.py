"""The command line: `python -m benchmarks [NAME ...] [--json]`, from a checkout."""

import argparse
import datetime
import json
import os
import sys
from typing import Any

from benchmarks import growth, page
from benchmarks.contest import ROOT, Contest
from benchmarks.evaluation import EVALUATION
from benchmarks.gradients import GRADIENTS
from benchmarks.machine import cores, describe
from benchmarks.race import as_json, race
from benchmarks.sampling import SAMPLING
from benchmarks.sequences import SEQUENCES

CONTESTS: dict[str, Contest] = {**GRADIENTS, **SAMPLING, **EVALUATION, **SEQUENCES}
WHERE = {
    **dict.fromkeys(GRADIENTS, "benchmarks.gradients:GRADIENTS"),
    **dict.fromkeys(SAMPLING, "benchmarks.sampling:SAMPLING"),
    **dict.fromkeys(EVALUATION, "benchmarks.evaluation:EVALUATION"),
    **dict.fromkeys(SEQUENCES, "benchmarks.sequences:SEQUENCES"),
}


def main() -> None:
    args = _arguments()
    names = _expanded(args.names)
    if names == ["table"]:
        return page.write()
    job = {"threads": args.threads, "device": args.device}
    load = os.getloadavg()[0]
    if load > 0.5:
        _say(f"other programs keep the machine busy (load {load:.1f}): the figures will be poor")
    machine, contests, points = describe(args.threads, args.device), {}, []
    for name in names:
        if name == "g" or name.startswith("g-"):
            new = growth.measure(job, name.removeprefix("g").removeprefix("-"), _say)
            growth.draw(new, ROOT / "docs", args.device)
            points += new
            continue
        contest = CONTESTS[name]
        _say(f"\n{name}. {contest.about}")
        where = {"contests": WHERE[name], "contest": name}
        rows, rates = race(contest, {**job, **where}, args.contestants, args.rounds, args.seconds, _say)
        contests[name] = _record(contest, as_json(rows), rates)
        print(
            f"\n{name}. {contest.about}\n\n{page.table(contests[name])}\n\n{page.headline(contests[name])}", flush=True
        )
        if args.json:
            _write(args.device, machine, contests, points)
    if args.json and points:
        _write(args.device, machine, contests, points)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="The same work done by mapsto and by its peers, each in a process of its own, taking turns. "
        "`benchmarks/peers.sh` installs the peers. The name `table` writes docs/performance.md's tables anew.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CONTESTS)}, g, table; default: all")
    parser.add_argument("--json", action="store_true", help="write results/benchmarks.json too, beside earlier works")
    parser.add_argument("--threads", type=int, default=cores(), help="of each contestant; default: all cores")
    parser.add_argument("--rounds", type=int, help="turns of each; default: 7, fewer where they are long")
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a turn, at least one step")
    parser.add_argument("--contestants", nargs="+", metavar="NAME", help="only these, mapsto and the reference")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser.parse_args()


def _expanded(names: list[str]) -> list[str]:
    """The contests named; `f` is all whose name begins with `f-`, nothing is all, `g-steps` a part of `g`."""
    if not names:
        return [*CONTESTS, "g"]
    chosen: list[str] = []
    for name in names:
        growths = [f"g-{n}" for n in growth.GROWTHS]
        exact = (*CONTESTS, *growths, "g", "table")
        known = [name] if name in exact else [n for n in CONTESTS if n.startswith(f"{name}-")]
        if not known:
            sys.exit(f"there is no benchmark {name!r}: choose from {', '.join(CONTESTS)}, g and table")
        chosen += known
    return chosen


def _record(contest: Contest, rows: list[dict[str, Any]], rates: dict[str, float]) -> dict[str, Any]:
    return {
        "about": contest.about,
        "date": datetime.date.today().isoformat(),
        "unit": contest.unit,
        "ours": list(contest.ours),
        "flops": contest.flops,
        "gflops": {kind: round(rate, 1) for kind, rate in rates.items()},
        "rounds": max((len(row["rounds"]) for row in rows), default=0),
        "rows": rows,
    }


def _write(device: str, machine: dict, contests: dict, points: list) -> None:
    file = page.FILE if device == "cpu" else page.FILE.with_name(f"benchmarks-{device}.json")
    old = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(page.merged(old, machine, contests, points), indent=1) + "\n")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
