"""The pictures come out for edge cases, and the report is one safe file that needs nothing beside it."""

import io
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch.nn.functional import one_hot

from mapsto.plots import embedding_map, gallery, learning_curve, regression_fits, score_by_steps
from mapsto.report import render

VOID = {"meta", "img", "link", "br", "hr", "input"}
ROW = {"step": 1, "loss": 1.6, "seconds": 0.1}
CHECKED = {"step": 2, "loss": 1.5, "seconds": 0.2, "score": 0.4, "interval": 0.05}


class Page(HTMLParser):
    """Collects what a page says and refers to, and complains where its tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.alts: list[str | None] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
        self.alts += [value for name, value in attrs if name == "alt"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def draw(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=40)
    return buffer.getvalue()


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def episode(way: int, channels: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Support images, a query of each class with the same labels, and those labels."""
    images = torch.rand(way, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    return images, images.flip(-1), torch.eye(way)


@pytest.mark.parametrize(
    ("metrics", "panels"),
    [
        ([], 1),
        ([ROW], 1),
        ([CHECKED], 2),
        ([ROW, CHECKED], 2),
        ([ROW, {**CHECKED, "interval": float("nan")}], 2),
        ([{**ROW, "step": step, "loss": 10.0 ** (-step / 50)} for step in range(200)], 1),
        ([{**ROW, "loss": float("nan")}], 1),
    ],
)
def test_learning_curve_copes_with_little(metrics: list[dict[str, float]], panels: int) -> None:
    figure = learning_curve(metrics, "accuracy")
    assert len(figure.axes) == panels
    assert draw(figure)


def test_learning_curve_skips_a_loss_that_is_not_finite() -> None:
    figure = learning_curve([ROW, {**ROW, "step": 2, "loss": float("inf")}, {**ROW, "step": 3}], "accuracy")
    smooth = figure.axes[0].lines[1]
    assert np.asarray(smooth.get_xdata()).tolist() == [1, 3]
    assert np.asarray(smooth.get_ydata()).tolist() == pytest.approx([1.6, 1.6])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["unit", "normalised", "bytes", "constant"])
def test_gallery_shows_any_image(channels: int, kind: str) -> None:
    support, query, classes = episode(5, channels)
    change = {
        "unit": lambda x: x,
        "normalised": lambda x: 4 * x - 2,
        "bytes": lambda x: (255 * x).to(torch.uint8),
        "constant": lambda x: torch.full_like(x, -1),
    }[kind]
    assert draw(gallery(change(support), classes, change(query), classes, classes))


def test_gallery_names_the_class_predicted_where_it_is_wrong() -> None:
    support, query, classes = episode(3, 1)
    right = texts(gallery(support, classes, query, classes, classes))
    wrong = texts(gallery(support, classes, query, classes, classes.roll(1, 1)))
    assert not any("✗" in text for text in right)
    assert [text for text in wrong if "✗" in text] == ["✗ 1", "✗ 2", "✗ 0"]


def test_gallery_is_limited_and_puts_queries_in_the_row_of_their_class() -> None:
    truth = torch.randint(2, (50,), generator=torch.Generator().manual_seed(0))
    query = truth[:, None, None, None].expand(-1, 1, 4, 4) * 0.5
    figure = gallery(torch.rand(2, 1, 4, 4), torch.eye(2), query, one_hot(truth, 2), one_hot(truth, 2), max_queries=8)
    shown = [image for image in figure.axes[0].images if float(image.get_extent()[0]) > 1]
    assert len(shown) == 8
    for image in shown:
        assert (float(image.get_extent()[3]) > 1) == bool(np.max(np.asarray(image.get_array())) > 0)
    images, queries, classes = episode(20, 1)
    assert draw(gallery(images, classes, queries, classes, classes))


def test_gallery_says_which_images_it_cannot_show() -> None:
    support, query, classes = episode(2, 4)
    with pytest.raises(ValueError, match="1 or 3 channels, not of 4"):
        gallery(support, classes, query, classes, classes)


def test_score_by_steps_marks_the_number_trained_with() -> None:
    figure = score_by_steps({5: (0.9, 0.01), 0: (0.2, float("nan")), 1: (0.8, 0.02)}, "accuracy", trained_steps=7)
    assert texts(figure) == ["trained with 7"]
    assert figure.axes[0].get_xlim()[1] > 7
    assert draw(figure)
    assert draw(score_by_steps({1: (3.2, 0.1)}, "mean squared error", trained_steps=1))


@pytest.mark.parametrize(("count", "size"), [(1, 4), (2, 1), (40, 64)])
def test_embedding_map_takes_any_shape(count: int, size: int) -> None:
    points = torch.randn(count, size, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.arange(count) % 20
    assert draw(embedding_map(points, labels, torch.arange(count) < 20, points[:20]))
    assert draw(embedding_map(points.bfloat16(), labels, torch.zeros(count).bool(), None))


@pytest.mark.parametrize("tasks", [1, 4, 5, 9])
def test_regression_fits_shows_up_to_six_tasks(tasks: int) -> None:
    grid = torch.linspace(-5, 5, 30).expand(tasks, 30)[..., None]
    points = grid[:, ::6]
    fits = {10: grid.sin(), 0: grid * 0, 1: grid * float("nan")}
    figure = regression_fits(points, points.sin(), grid, grid.sin(), fits)
    assert sum(axis.axison for axis in figure.axes) == min(tasks, 6)
    assert [text.get_text() for text in figure.legends[0].texts] == [
        "truth",
        "0 steps",
        "1 step",
        "10 steps",
        "support",
    ]
    assert draw(figure)


def test_figures_leave_no_global_state_and_matplotlib_is_loaded_late() -> None:
    lines = (
        "import sys, mapsto.plots, mapsto.report",
        "assert 'matplotlib' not in sys.modules",
        "mapsto.plots.learning_curve([], 'accuracy')",
        "assert 'matplotlib.pyplot' not in sys.modules",
    )
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


def test_report_is_one_file_with_everything_in_it(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("an older report")
    figure = learning_curve([ROW, CHECKED], "accuracy")
    sections = [("Learning", "First.\n\nSecond.", figure), ("What next", "Nothing.", None)]
    render(path, "a run", {"score": "92.1 % ± 0.4", "seed": "0"}, sections)
    page = Page(path.read_text(encoding="utf-8"))
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert page.addresses and all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert page.alts == ["Learning"]
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "http://" not in path.read_text() and "https://" not in path.read_text()
    assert all(text in page.text for text in ("a run", "92.1 % ± 0.4", "seed", "First.", "Second.", "Nothing."))
    first = path.read_bytes()
    render(path, "a run", {"score": "92.1 % ± 0.4", "seed": "0"}, sections)
    assert path.read_bytes() == first


def test_report_escapes_all_text(tmp_path: Path) -> None:
    path, evil = tmp_path / "report.html", '<script>alert("x" + \'y\')</script> & "><b'
    render(path, evil, {evil: evil, evil + "2": evil}, [(evil, evil, learning_curve([], evil))])
    page = Page(path.read_text(encoding="utf-8"))
    assert "script" not in page.tags and "b" not in page.tags
    assert page.text.count(evil) == 8
    assert page.alts == [evil]


def test_report_needs_neither_facts_nor_sections(tmp_path: Path) -> None:
    render(tmp_path / "report.html", "nothing yet", {}, [])
    assert "nothing yet" in Page((tmp_path / "report.html").read_text()).text


def test_report_stays_small(tmp_path: Path) -> None:
    noise = torch.rand(30, 3, 84, 84, generator=torch.Generator().manual_seed(0))
    classes = torch.eye(5).repeat(6, 1)
    figure = gallery(noise, classes, noise, classes, classes, max_queries=30)
    render(tmp_path / "report.html", "noise", {}, [(str(i), "", figure) for i in range(3)])
    assert (tmp_path / "report.html").stat().st_size < 2_000_000


def test_failure_keeps_the_older_report(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("an older report")
    with pytest.raises(UnicodeEncodeError):
        render(path, "\ud800", {}, [])
    assert path.read_text() == "an older report"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
