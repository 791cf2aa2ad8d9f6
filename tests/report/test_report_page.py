"""The page: self-contained, complete, escaped, and plain about what it does not know."""

from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from grokscope.report.drawn import Drawn
from grokscope.report.html import keep, render
from grokscope.report.style import new_figure, styled
from grokscope.report.tables import CURVES, EMERGENCE, EVENTS, StudyView, table
from tests.report.factory import study

HOSTILE = '"><script>alert(1)</script><img src="https://example.org/x">'
REGIMES = ("natural", "both_hops_half")


class Page(HTMLParser):
    """Tags with their attributes, and the text outside style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text, self.inside = "", ""
        self.open: list[str] = []
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside != "style":
            self.text += f" {data}"


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyView, Path, Page]:
    """Two regimes of one seed; natural never saturates; the study has a hostile name."""
    view = study(REGIMES, (0,), unsaturated=("natural",), name=HOSTILE, missing=("natural-s1",))
    path = render(view, tmp_path_factory.mktemp("report"))
    return view, path, Page(path.read_text())


def test_it_loads_nothing(rendered: tuple[StudyView, Path, Page]) -> None:
    _, path, page = rendered
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base")
        if "src" in attributes:
            assert attributes["src"].startswith("data:image/svg+xml;base64,")
        if tag == "a":
            target = attributes["href"]
            assert target.startswith("#") or (path.parent / target).is_file()
        assert "url(" not in attributes.get("style", "")
    assert "url(" not in path.read_text().split("</style>")[0]
    assert "@import" not in path.read_text()


def test_tags_are_closed_and_links_inside_lead_somewhere(rendered: tuple[StudyView, Path, Page]) -> None:
    page = rendered[2]
    assert page.open == []
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {a["href"][1:] for tag, a in page.tags if tag == "a" and a["href"][0] == "#"} <= ids


def test_names_are_escaped(rendered: tuple[StudyView, Path, Page]) -> None:
    _, path, page = rendered
    assert HOSTILE not in path.read_text()
    assert HOSTILE in page.text


def test_every_regime_has_its_figures_as_pdf_and_png(rendered: tuple[StudyView, Path, Page]) -> None:
    _, path, page = rendered
    folder = path.parent / "figures"
    kinds = ("course", "paper", "bridge_map", "answer_map", "split", "learning")
    for name in ["overview", *(f"{regime}_{kind}" for regime in REGIMES for kind in kinds)]:
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert sum(tag == "img" for tag, _ in page.tags) == 1 + len(REGIMES) * len(kinds)
    assert all(regime in page.text for regime in REGIMES)


def test_tables_hold_what_was_drawn(rendered: tuple[StudyView, Path, Page]) -> None:
    view, path, _ = rendered
    for name, schema in (("curves", CURVES), ("emergence", EMERGENCE), ("events", EVENTS)):
        read = pl.read_csv(path.parent / "tables" / f"{name}.csv", schema_overrides=schema)
        assert read.columns == list(schema)
        assert read.height == getattr(view, name).height


def test_what_is_missing_is_said(rendered: tuple[StudyView, Path, Page]) -> None:
    text = rendered[2].text
    assert "Not saturated within 8,000 steps" in text
    assert "> 8,000" in text
    assert "One seed: no spread over seeds is known." in text
    assert "Not reached: saturation." in text
    assert "No run of ours kept its trained compositions at the threshold" in text
    assert "The paper published no pretraining curve for both_hops_half." in text
    assert "Not started yet: natural-s1." in text


def test_every_rate_says_on_how_many(rendered: tuple[StudyView, Path, Page]) -> None:
    text = rendered[2].text
    assert text.count("n = 412 queries resting on 98 facts, 1 seed") >= 2 * len(REGIMES)
    assert "injected: none 0.10 [0.05, 0.20], n = 200" in text


def test_the_command_and_settings_are_there(rendered: tuple[StudyView, Path, Page]) -> None:
    text = rendered[2].text
    assert "grokscope run pocket" in text
    assert "regime.hop1_ratio 0.5" in text
    assert "torch 2.13.0" in text


def test_a_study_without_runs_is_a_page_that_says_so(tmp_path: Path) -> None:
    empty = {"curves": table((), CURVES), "emergence": table((), EMERGENCE), "events": table((), EVENTS)}
    page = Page(render(study((), (), runs=(), **empty), tmp_path).read_text())
    assert "No run of this study has been started." in page.text


def test_the_same_figure_gives_the_same_bytes(tmp_path: Path) -> None:
    def once(folder: Path) -> tuple[str, list[bytes]]:
        with styled():
            figure = new_figure(2, 2)
            figure.add_subplot(title="a").fill_between([0, 1], [0, 1])
            uri = keep(Drawn("a", "a", "a", figure), folder).uri
        return uri, [(folder / name).read_bytes() for name in ("a.pdf", "a.png")]

    assert once(tmp_path / "1") == once(tmp_path / "2")
