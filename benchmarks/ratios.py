"""What rounds come to: a ratio of the best of each side, and whether it stands still.

All contenders take turns in each round. The best round of each is the one that the rest of the
machine disturbed least, so ratios are of these. To see whether there were enough rounds, a ratio
is formed of the first half of the rounds as well, and of the second: if the two differ by more
than `STEADY`, the ratio says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Final, NamedTuple

__all__ = ["STEADY", "Ratio", "Rounds", "joined", "ratio", "ratio_of", "rounds_of"]

STEADY: Final = 0.05
ALL: Final = slice(None)
Row = Mapping[str, Any]
RATES: Final = ("rate",)
"""The measures of which more is better."""


@dataclass(frozen=True)
class Rounds:
    """One contender's figure in each round. `bare`: its application's without sessions."""

    values: Sequence[float]
    bare: Sequence[float] = ()
    more: bool = False
    """Whether more is better."""

    def best(self, part: slice = ALL) -> float:
        """The best of these rounds, less the best without sessions."""
        found = max(self.values[part]) if self.more else min(self.values[part])
        return found - min(self.bare[part]) if self.bare else found


class Ratio(NamedTuple):
    """A ratio, or a number of another kind. `spread`: by which share its two halves differ."""

    value: float
    spread: float = 0.0

    @property
    def steady(self) -> bool:
        return self.spread <= STEADY

    @property
    def doubt(self) -> str:
        """What is written behind the ratio: by how much its halves differ, or nothing."""
        if self.steady:
            return ""
        return f" ±{self.spread:.0%}" if self.spread < inf else " ±?"

    def __str__(self) -> str:
        return f"{self.value:.2f}{self.doubt}"


def ratio(ours: Rounds, theirs: Rounds) -> Ratio:
    """Of the best of each; infinite where the yardstick is nothing."""
    value = _quotient(ours, theirs, ALL)
    middle = min(len(ours.values), len(theirs.values)) // 2
    if not middle:
        return Ratio(value, inf)
    halves = slice(None, middle), slice(middle, None)
    one, other = (_quotient(ours, theirs, half) for half in halves)
    return Ratio(value, abs(one - other) / value if 0 < value < inf else inf)


def _quotient(ours: Rounds, theirs: Rounds, part: slice) -> float:
    yardstick = theirs.best(part)
    return ours.best(part) / yardstick if yardstick > 0 else inf


def rounds_of(row: Row, measure: str) -> Rounds:
    """Of a row of the figures, as the benchmarks keep them."""
    return Rounds(row[measure], row.get(f"bare_{measure}", ()), more=measure in RATES)


def ratio_of(row: Row, yardstick: Row, measure: str) -> Ratio:
    return ratio(rounds_of(row, measure), rounds_of(yardstick, measure))


def joined(first: Sequence[Row], second: Sequence[Row]) -> list[dict[str, Any]]:
    """The same rows, with the rounds of both."""
    return [
        {
            key: [*value, *other[key]] if isinstance(value, list) else value
            for key, value in row.items()
        }
        for row, other in zip(first, second, strict=True)
    ]
