"""What `near` and `staleness` have found, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.budgets import Figures, rows_of
from benchmarks.markdown import NOT_RUN, markdown, title, unique

__all__ = ["hits", "staleness", "tracked"]

WORDS: Mapping[str, str] = {
    "first": "first page",
    "again": "again, unchanged",
    "changing": "a page of which one call changes the session",
    "after": "the page after that, at once",
}


def hits(figures: Figures) -> str:
    """The share of a page's calls for which Redis wasn't asked."""
    rows = rows_of(figures, "near", "hits")
    if not rows:
        return NOT_RUN
    workers = unique(row["workers"] for row in rows)
    table = [["calls, page; workers:", *map(str, workers)]]
    for calls, page in unique((row["calls"], row["page"]) for row in rows):
        same = [row for row in rows if (row["calls"], row["page"]) == (calls, page)]
        table.append([f"{calls}, {WORDS[page]}", *(f"{row['hits']:.1%}" for row in same)])
    return markdown(table)


def tracked(figures: Figures) -> str:
    rows = rows_of(figures, "near", "tracked")
    if not rows:
        return NOT_RUN
    heads = [f"in {row['clients']}" for row in rows]
    body = [f"{row['bytes_each']:.0f}" for row in rows]
    return markdown([["near copies in so many processes", *heads], ["bytes in Redis", *body]])


def staleness(figures: Figures) -> str:
    """Percentiles, and the histogram of the times since the request."""
    rows = rows_of(figures, "staleness", "staleness")
    if not rows:
        return NOT_RUN
    heads = ["since the request, p50 / p99 / worst", "since the answer"]
    table = [["ms until another process serves it", "", "", "writes", *heads]]
    for where in unique(map(_where, rows)):
        same = [row for row in rows if _where(row) == where]
        cells = [_percentiles(row) for row in same]
        table.append([where[0], title(where[1]), where[2], str(same[0]["writes"]), *cells])
    return f"{markdown(table)}\n\n{_histograms(figures)}"


def _histograms(figures: Figures) -> str:
    buckets = figures["staleness"]["buckets_ms"]
    heads = [*(f"≤ {bucket:g}" for bucket in buckets), "more"]
    table = [["% of writes, by ms since the request", "", "", *heads]]
    for row in rows_of(figures, "staleness", "staleness", since="request"):
        deployment, peer, state = _where(row)
        shares = [f"{count / row['writes']:.1%}" if count else "" for count in row["histogram"]]
        table.append([deployment, title(peer), state, *shares])
    return markdown(table)


def _where(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["deployment"], row["peer"], row["state"]


def _percentiles(row: Mapping[str, Any]) -> str:
    return " / ".join(f"{row[f'{name}_ms']:.2f}" for name in ("p50", "p99", "worst"))
