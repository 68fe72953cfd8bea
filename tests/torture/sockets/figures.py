"""What was measured, as rows of Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

HEAD: Final = "| what | where | trials | p50 ms | p99 ms | worst ms |\n|---|---|---|---|---|---|"
FACTS: Final = "| what | where | result |\n|---|---|---|"


class Times(NamedTuple):
    """How long something took, in seconds, in each trial."""

    what: str
    where: str
    seconds: Sequence[float]

    def __str__(self) -> str:
        ordered = sorted(self.seconds)
        last = len(ordered) - 1
        shown = [ordered[int(last * share)] * 1000 for share in (0.5, 0.99, 1)]
        return (
            f"| {self.what} | {self.where} | {len(ordered)} | "
            + " | ".join(f"{each:.1f}" for each in shown)
            + " |"
        )


class Fact(NamedTuple):
    """Anything else."""

    what: str
    where: str
    result: str

    def __str__(self) -> str:
        return f"| {self.what} | {self.where} | {self.result} |"


def tables(rows: Iterable[Times | Fact]) -> str:
    """Both tables, as far as they have rows."""
    rows = list(rows)
    times = [str(row) for row in rows if isinstance(row, Times)]
    facts = [str(row) for row in rows if isinstance(row, Fact)]
    parts = [[HEAD, *times]] if times else []
    parts += [[FACTS, *facts]] if facts else []
    return "\n\n".join("\n".join(part) for part in parts)
