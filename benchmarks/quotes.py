"""The figures that pages quote, each from the files under `results/`.

A paragraph, or an item of a list, that quotes figures ends with a comment that names them:

    A read takes 15 µs, and 0.87 times the CPU of the signed cookie, with 64 requests in flight.
    <!-- figures: cpu.read.ours, cpu.read.ours/cookie, - -->

The names stand for the paragraph's numbers, in their order. `-` is a number of another source,
which stays. In place of `PEER` there may be a ratio, `PEER/PEER`. These are the names:

- `date`: of the run, as `28 November 2026`
- `cpu.OPERATION.PEER`: µs of CPU for a request's session, 64 in flight
- `size.OPERATION.BYTES.PEER/PEER`: the same for a session of that size, as a ratio
- `rate.OPERATION.CONNECTIONS.PEER`: requests a second behind uvicorn, in hundreds
- `more.OPERATION.CONNECTIONS.PEER/PEER`: by how many percent the first one's rate is higher
- `hits.PAGE.WORKERS.CALLS`: the percentage of a page's calls that near copies answer

`least` and `most` are PEERs, too: those of the other server-side libraries in README's chart.
"""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Final

from benchmarks.budgets import Figures, Rows, rows_of
from benchmarks.ratios import rounds_of

__all__ = ["OTHERS", "filled", "pages", "value"]

ROOT: Final = Path(__file__).parents[1]
OTHERS: Final = ("alcazaba", "fastapi-redis-sdk", "starsessions")

_MARK: Final = re.compile(r"<!-- figures: (.*?) -->", re.DOTALL)
_START: Final = re.compile(r"\n\s*\n|^ *- ", re.MULTILINE)
# The target of a link, which is left alone, or a number or a date.
_NUMBER: Final = re.compile(
    r"\]\([^)\s]*\)|(?<![\w.])(\d{1,2} [A-Z][a-z]+ \d{4}|\d(?:[\d,]*\d)?(?:\.\d+)?)"
)


def pages() -> list[Path]:
    """Those that quote figures. Decision records have the figures of their day, and stay."""
    docs = (path for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "decisions")
    return [path for path in (ROOT / "README.md", *sorted(docs)) if _MARK.search(path.read_text())]


def filled(text: str, figures: Figures) -> str:
    """The text with the figures that its comments name.

    ValueError for an unknown name, and where a paragraph has more or fewer numbers than names.
    """
    parts = list[str]()
    end = 0
    for mark in _MARK.finditer(text):
        before = text[end : mark.start()]
        start = max((found.end() for found in _START.finditer(before)), default=0)
        quoting = _quoting(before[start:], mark[1].replace(",", " ").split(), figures)
        parts += [before[:start], quoting, mark[0]]
        end = mark.end()
    return "".join([*parts, text[end:]])


def _quoting(paragraph: str, names: list[str], figures: Figures) -> str:
    numbers = [found[1] for found in _NUMBER.finditer(paragraph) if found[1]]
    if len(names) != len(numbers):
        raise ValueError(f"{len(names)} names for the numbers {numbers}: {paragraph}")
    new = iter(names)

    def replaced(found: re.Match[str]) -> str:
        if not found[1]:
            return found[0]
        name = next(new)
        return found[1] if name == "-" else value(name, figures)

    return _NUMBER.sub(replaced, paragraph)


def value(name: str, figures: Figures) -> str:
    """What a name stands for, as a page has it."""
    kind, *rest = name.split(".")
    match kind, rest:
        case "date", []:
            day = date.fromisoformat(figures["overhead"]["environment"]["date"])
            return f"{day.day} {day:%B %Y}"
        case "cpu", [operation, peers]:
            of = {"operation": operation, "lanes": 64}
            return _shown(rows_of(figures, "overhead", "overhead", **of), "cpu", peers, "{:.0f}")
        case "size", [operation, size, peers] if "/" in peers:
            of = {"operation": operation, "size": int(size)}
            return _shown(rows_of(figures, "scale", "size", **of), "cpu", peers, "")
        case (("rate" | "more"), [operation, connections, peers]):
            of = {"operation": operation, "connections": int(connections)}
            rows = rows_of(figures, "http", "http", **of)
            if kind == "more":
                return f"{100 * (_quotient(rows, 'rate', peers) - 1):.0f}"
            return f"{round(_best(rows, 'rate', peers), -2):,.0f}"
        case "hits", [page, workers, calls]:
            of = {"page": page, "workers": int(workers), "calls": int(calls)}
            (row,) = rows_of(figures, "near", "hits", **of)
            return f"{100 * row['hits']:.0f}"
        case _:
            raise ValueError(f"no such figure: {name}")


def _shown(rows: Rows, measure: str, peers: str, form: str) -> str:
    if "/" in peers:
        return f"{_quotient(rows, measure, peers):.2f}"
    return form.format(_best(rows, measure, peers))


def _quotient(rows: Rows, measure: str, peers: str) -> float:
    one, other = (_best(rows, measure, peer) for peer in peers.split("/"))
    return one / other


def _best(rows: Rows, measure: str, peer: str) -> float:
    found = {row["peer"]: rounds_of(row, measure).best() for row in rows}
    others = [found[name] for name in OTHERS if name in found]
    if peer in ("least", "most"):
        return min(others) if peer == "least" else max(others)
    if peer not in found:
        raise ValueError(f"no figure of {peer}")
    return found[peer]
