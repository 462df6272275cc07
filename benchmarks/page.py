"""The tables: printed after a run, and in docs/performance.md between its markers."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.contest import ROOT

FILE, PAGE = ROOT / "results" / "benchmarks.json", ROOT / "docs" / "performance.md"
NOT_TORCH = ("jax-meta",)
NO_PEERS = ("pure adaptation",)
Record = Mapping[str, Any]


def table(record: Record) -> str:
    """One contest as Markdown: a row for each who was timed or wrong, then who was not timed, and why."""
    ours = [name for name in record["ours"] if any(row["name"] == name and row["ms"] for row in record["rows"])]
    kinds = list(record["gflops"])
    head = ["contestant", f"ms / {record['unit']}", *(f"time / {name}'s" for name in ours)]
    head += [f"of {kind} rate" for kind in kinds] + ["MB", "first step"]
    lines = [head]
    rows = [row for row in record["rows"] if row["state"] in ("timed", "wrong")]
    for row in sorted(rows, key=lambda row: row["ms"] or float("inf")):
        if row["state"] == "wrong":
            lines.append([row["name"], "wrong", *[""] * (len(head) - 2)])
            continue
        lines.append([
            f"**{row['name']}**" if row["name"] in record["ours"] else row["name"],
            number(row["ms"]),
            *(number(row["ratios"][name]) for name in ours),
            *(f"{100 * row['fraction'][kind]:.0f} %" for kind in kinds),
            f"{row['work_mb']:.0f}",
            f"{row['first_ms'] / 1000:.1f} s",
        ])  # fmt: skip
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    bar = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    aligned = [[line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
               for line in lines]  # fmt: skip
    text = "\n".join(f"| {' | '.join(line)} |" for line in [aligned[0], bar, *aligned[1:]])
    out = [f"{row['name']} ({row['state']}: {row['note']})" for row in record["rows"] if row["state"] != "timed"]
    return text + (f"\n\nNot timed: {'; '.join(out)}." if out else "")


def number(x: float) -> str:
    """Three digits."""
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.3g}"


def headline(record: Record) -> str:
    """How far behind each of ours the fastest peer is."""
    parts = []
    peers = [row for row in record["rows"] if row["name"] not in (*record["ours"], *NO_PEERS) and row["ms"]]
    for name in record["ours"]:
        for label, group in (
            ("PyTorch peer", [row for row in peers if row["name"] not in NOT_TORCH]),
            ("JAX peer", [row for row in peers if row["name"] in NOT_TORCH]),
        ):
            best = min((row for row in group if name in row["ratios"]), key=lambda row: row["ms"], default=None)
            if best:
                parts.append(f"{label}, {best['name']}, takes {number(best['ratios'][name])} times as long as {name}")
    return "\n".join(f"The fastest {part}." for part in parts)


def tables(data: Record) -> str:
    """Everything in results/benchmarks.json."""
    machine = data["machine"]
    parts = [", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in machine.items()) + "."]
    for name, record in data["contests"].items():
        rates = "".join(f" {kind}: {rate:.0f} GFLOP/s." for kind, rate in record["gflops"].items())
        parts.append(f"**{name}. {record['about']}** ({record['rounds']} rounds, {record['date']}).{rates}")
        parts.append(table(record))
        if headline(record):
            parts.append(headline(record))
    return "\n\n".join(parts)


def updated(text: str, data: Record) -> str:
    """The page with the tables in their place."""
    begin, end = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
    return re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n{tables(data)}\n{end}", text, flags=re.DOTALL)


def write() -> None:
    """Bring docs/performance.md up to date with the file."""
    PAGE.write_text(updated(PAGE.read_text(), json.loads(FILE.read_text())))


def merged(data: Record, machine: Record, contests: Mapping[str, Record], growth: Sequence[Record]) -> dict[str, Any]:
    """The file's content with new measurements in it; what another machine measured is dropped."""
    same = data.get("machine") == machine
    old = data.get("contests", {}) if same else {}
    new = {point["growth"] for point in growth}
    kept = [point for point in data.get("growth", []) if same and point["growth"] not in new]
    return {
        "machine": dict(machine),
        "contests": dict(sorted({**old, **contests}.items())),
        "growth": [*kept, *growth],
    }
