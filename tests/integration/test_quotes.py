"""What pages quote of the benchmarks is what the files under benchmarks/results/ say."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from benchmarks import figures, quotes, report
from tests.support import ROOT

FOUND = report.collect()
PAGES = quotes.pages()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_has_the_figures_of_the_files(page: Path) -> None:
    """Each figure that a comment names is the one that the file has."""
    text = page.read_text()
    assert quotes.filled(text, FOUND) == text


def test_the_tables_are_those_of_the_files() -> None:
    """The README of the benchmarks is what `report` writes."""
    text = report.README.read_text()
    assert report.filled(text, FOUND) == text


def test_the_chart_is_of_the_files() -> None:
    """The chart in README has the same figures, and their date."""
    chart = (ROOT / "docs" / "images" / "benchmarks.svg").read_text()
    names = [
        f"cpu.{operation}.{peer}"
        for operation in ("read", "change", "sign-in")
        for peer in ("ours", "cookie", *quotes.OTHERS)
    ]
    assert re.findall(r">(\d+) µs<", chart) == [quotes.value(name, FOUND) for name in names]
    assert FOUND["overhead"]["environment"]["date"] in chart


def test_the_files_are_of_one_day() -> None:
    """A page that names a date names that of each of its figures."""
    assert len({found["environment"]["date"] for found in FOUND.values()}) == 1


def test_numbers_are_replaced_in_their_order() -> None:
    """A number that `-` stands for stays, as do links, and paragraphs without a comment."""
    text = (
        "- 1 µs of 2020\n\n"
        "- another item, 7\n"
        "- ![On 1 May 2020 a read took 9,999.5 µs,](a2.svg) 64 in flight,\n"
        "  [0.1](0006-x.md#2) times the cookie.\n"
        "  <!-- figures: date, cpu.read.ours,\n  -, cpu.read.ours/cookie -->\n"
    )
    day, ours = quotes.value("date", FOUND), quotes.value("cpu.read.ours", FOUND)
    ratio = quotes.value("cpu.read.ours/cookie", FOUND)
    assert quotes.filled(text, FOUND) == (
        text.replace("1 May 2020", day).replace("9,999.5", ours).replace("0.1", ratio)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 and 2 <!-- figures: date -->", "1 names for the numbers"),
        ("1 <!-- figures: date, - -->", "2 names for the numbers"),
        ("1 <!-- figures: cpu.read -->", "no such figure: cpu.read"),
        ("1 <!-- figures: cpu.read.nobody -->", "no figure of nobody"),
        ("1 <!-- figures: size.read.1000.ours -->", "no such figure"),
    ],
)
def test_a_mistake_is_an_error(text: str, message: str) -> None:
    """No figure is guessed."""
    with pytest.raises(ValueError, match=message):
        quotes.filled(text, FOUND)


def test_report_writes_the_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves them alone if a benchmark hasn't been run."""
    results, page = tmp_path / "results", tmp_path / "README.md"
    page.write_text("A read takes 1 µs.\n<!-- figures: cpu.read.ours -->\n")
    monkeypatch.setattr(quotes, "ROOT", tmp_path)
    shutil.copytree(figures.RESULTS, results)
    readme = tmp_path / "tables.md"
    shutil.copy(report.README, readme)

    (results / "near.json").rename(tmp_path / "near.json")
    assert report.main(results, readme) == 0
    assert "takes 1 µs" in page.read_text()
    (tmp_path / "near.json").rename(results / "near.json")
    assert report.main(results, readme) == 0
    assert f"takes {quotes.value('cpu.read.ours', FOUND)} µs" in page.read_text()
