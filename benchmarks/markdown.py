"""What all tables of the README share: Markdown, names, and how a ratio is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.peers import PEERS
from benchmarks.ratios import ratio_of, rounds_of

__all__ = ["NOT_RUN", "beside", "markdown", "number", "rounds", "title", "unique"]

NOT_RUN = "*Not run yet.*"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """The first row is the head."""
    head, *body = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body))


def unique(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def title(name: str) -> str:
    text = PEERS[name].title
    return f"**{text}**" if PEERS[name].package == "redis-sessions" else text


def number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def beside(row: Mapping[str, Any], yardstick: Mapping[str, Any], measure: str) -> str:
    """The ratio of the best rounds, and in parentheses the best of the first."""
    return f"{ratio_of(row, yardstick, measure)} ({number(rounds_of(row, measure).best())})"


def rounds(rows: Iterable[Mapping[str, Any]], measure: str) -> str:
    """Of how many rounds the figures are the best: `best of 12`."""
    counts = {len(row[measure]) for row in rows} or {0}
    least, most = min(counts), max(counts)
    return f"best of {least}" if least == most else f"best of {least} to {most}"
