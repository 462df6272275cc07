"""A run's report: one HTML file that needs nothing beside it."""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_BYTES = 2_000_000
_STYLE = """
:root { color-scheme: light dark; --ink: #26323d; --soft: #5d6873; --page: #f6f7f9; --card: #fff; --line: #e3e7eb;
  --accent: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6eaee; --soft: #a3adb8; --page: #14181d; --card: #1d232a; --line: #333c46; --accent: #6cb8ea; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); overflow-wrap: anywhere;
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 46rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: clamp(1.4rem, 5vw, 1.9rem); line-height: 1.25; margin: 0 0 1.25rem; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 2.75rem 0 .4rem; }
p { margin: .4rem 0 1rem; }
.headline, .facts, .picture { background: var(--card); border: 1px solid var(--line); border-radius: .75rem; }
.headline { padding: 1.1rem 1.25rem; margin: 0 0 1rem; }
.headline span { display: block; color: var(--soft); }
.headline strong { font-size: clamp(1.6rem, 8vw, 2.9rem); line-height: 1.15; color: var(--accent);
  font-variant-numeric: tabular-nums; }
.facts { padding: .35rem 1.25rem; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .5rem 0; text-align: left; vertical-align: top; border-top: 1px solid var(--line); }
tr:first-child > * { border-top: 0; }
th { width: 32%; padding-right: 1rem; font-weight: normal; color: var(--soft); overflow-wrap: break-word; }
.picture { background: #fff; padding: .75rem; margin: 0; text-align: center; }
img { max-width: 100%; height: auto; vertical-align: middle; }
@media (max-width: 30rem) { main { padding: 1.5rem .9rem 3rem; } .picture { padding: .4rem; } }
@media print { body { background: none; } .picture, .headline, .facts { break-inside: avoid; } }
"""


def render(
    path: Path,
    title: str,
    facts: Mapping[str, str],
    sections: "Sequence[tuple[str, str, Figure | None]]",
) -> None:
    """Write a report of one HTML file, whole or not at all; pictures are inside it, and all text is escaped.

    Args:
        path: the file to write or replace.
        title: the name of the run.
        facts: what to tell, by name; the first is the headline, the others make a table.
        sections: heading, text (a blank line parts paragraphs) and picture, in order.
    """
    names = list(facts)
    parts = [f"<h1>{escape(title)}</h1>"]
    if names:
        parts.append(
            f'<p class="headline"><span>{escape(names[0])}</span><strong>{escape(facts[names[0]])}</strong></p>'
        )
    if names[1:]:
        rows = (f'<tr><th scope="row">{escape(name)}</th><td>{escape(facts[name])}</td></tr>' for name in names[1:])
        parts.append(f'<div class="facts"><table>{"".join(rows)}</table></div>')
    pictures = iter(_images([figure for _, _, figure in sections if figure is not None]))
    for heading, text, figure in sections:
        paragraphs = "".join(f"<p>{escape(part.strip())}</p>" for part in text.split("\n\n") if part.strip())
        parts.append(f"<section><h2>{escape(heading)}</h2>{paragraphs}")
        if figure is not None:
            width, height = (round(96 * inches) for inches in figure.get_size_inches())
            image = f'<img src="{next(pictures)}" alt="{escape(heading)}" width="{width}" height="{height}">'
            parts.append(f'<div class="picture">{image}</div>')
        parts.append("</section>")
    body = "\n".join(parts)
    # The policy makes the browser itself refuse whatever is not in the file
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(page, encoding="utf-8")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _images(figures: "Sequence[Figure]") -> list[str]:
    """The figures as PNG data addresses, at the best resolution that keeps the report small."""
    images: list[str] = []
    for dpi in (176, 132, 96, 72):
        images = [_image(figure, dpi) for figure in figures]
        if sum(map(len, images)) < _MAX_BYTES - 50_000:
            break
    return images


def _image(figure: "Figure", dpi: int) -> str:
    """A figure as a PNG data address; the bytes depend on the picture alone."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
