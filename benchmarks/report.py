"""The README's tables, and what other pages quote, written from the figures under `results/`.

A marker is a comment, `<!-- NAME -->`, and ends at `<!-- /NAME -->`; what is between is replaced.
`quotes` says how other pages name what they quote.
"""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks import charts, figures, quotes, tables
from benchmarks.budgets import Figures
from benchmarks.markdown import NOT_RUN

__all__ = ["BENCHMARKS", "collect", "filled", "main"]

README = Path(__file__).with_name("README.md")
BENCHMARKS = ("codec", "overhead", "http", "redis", "scale", "near", "staleness")


def collect(directory: Path = figures.RESULTS) -> Figures:
    """The figures of the benchmarks that have been run."""
    found = {name: figures.load(name, directory) for name in BENCHMARKS}
    return {name: value for name, value in found.items() if value is not None}


def filled(text: str, found: Figures) -> str:
    """The text with each section between its markers; ValueError for a marker that has no end."""
    for name, (needs, section) in tables.SECTIONS.items():
        content = section(found) if found and (not needs or needs in found) else NOT_RUN
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
        if len(pattern.findall(text)) != text.count(start):
            raise ValueError(f"{start} has no end")
        text = pattern.sub(f"{start}\n{content}\n{end}".replace("\\", r"\\"), text)
    return text


def main(directory: Path = figures.RESULTS, readme: Path = README) -> int:
    """The exit status."""
    found = collect(directory)
    if not found:
        print("Nothing has been run yet: python -m benchmarks")
        return 1
    readme.write_text(filled(readme.read_text(), found))
    quoting = quotes.pages() if len(found) == len(BENCHMARKS) else []  # they quote several
    for page in quoting:
        page.write_text(quotes.filled(page.read_text(), found))
    drawn = charts.draw(found, directory)
    print(tables.budgets(found))
    print("\n" + "\n".join(map(str, [readme, *quoting, *drawn])))
    return 0
