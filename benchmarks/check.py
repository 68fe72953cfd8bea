"""The few decisive ratios of the tree as it is, against those that are recorded.

    python -m benchmarks check             # 1 if one is worse by more than its tolerance
    python -m benchmarks check --record    # what is measured now becomes what is recorded

A ratio that seems worse is measured once more before it counts: the better of the two does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import codec, driver, figures, overhead, redis_cost
from benchmarks.budgets import BUDGETS, Budget, Figures
from benchmarks.driver import Progress

__all__ = ["CELLS", "Finding", "compare", "main", "measure"]

CELLS = (("read", 1), ("read", 64), ("read", 256), ("change", 64))


class Finding(NamedTuple):
    """One recorded ratio beside the one of this tree."""

    budget: Budget
    recorded: float
    value: float | None

    @property
    def regressed(self) -> bool:
        """Whether it is worse beyond the tolerance; what couldn't be measured isn't."""
        return self.value is not None and self.budget.worse(self.value, self.recorded)

    def line(self) -> str:
        value = "missing" if self.value is None else f"{self.value:.3f}"
        word = "WORSE" if self.regressed else "ok" if self.value is not None else "not measured"
        allowed = f"{self.budget.tolerance:.0%}"
        return f"{self.recorded:9.3f} {value:>9} {allowed:>5}  {word:13}{self.budget.text}"


def measure(*, quick: bool = False, progress: Progress = print) -> Figures:
    """The figures that the decisive ratios are made of."""
    blocks = overhead.QUICK if quick else replace(overhead.FULL, latency_lanes=())
    cells = tuple((name, min(lanes, 8)) for name, lanes in CELLS) if quick else CELLS
    cost = redis_cost.QUICK if quick else redis_cost.FULL
    return {
        "overhead": driver.run(overhead.measure(replace(blocks, cells=cells), progress)),
        "codec": codec.measure(
            replace(codec.QUICK if quick else codec.FULL, sizes=(150,)), progress
        ),
        "redis": redis_cost.measure(
            replace(cost, rounds=1, sessions=(), operations=("read", "change"), only_ours=True),
            progress,
        ),
    }


def values(measured: Figures) -> dict[str, float]:
    found = {budget.name: budget.value(measured) for budget in BUDGETS if budget.checked}
    return {name: round(value, 4) for name, value in found.items() if value is not None}


def compare(recorded: Mapping[str, float], now: Mapping[str, float]) -> list[Finding]:
    """Each ratio that is recorded, with what it is now."""
    return [
        Finding(budget, recorded[budget.name], now.get(budget.name))
        for budget in BUDGETS
        if budget.checked and budget.name in recorded
    ]


def better(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    chosen = {budget.name: max if budget.at_least else min for budget in BUDGETS}
    return {name: chosen[name](value, second.get(name, value)) for name, value in first.items()}


def main(*, record: bool = False, quick: bool = False, directory: Path = figures.RESULTS) -> int:
    """The exit status."""
    now = values(measure(quick=quick))
    if record:
        print(figures.save("recorded", {"values": now}, directory))
        return 0
    kept: dict[str, Any] | None = figures.load("recorded", directory)
    if kept is None:
        print("Nothing is recorded yet: python -m benchmarks check --record")
        return 1
    if any(finding.regressed for finding in compare(kept["values"], now)):
        print("Something seems worse. Once more:")
        now = better(now, values(measure(quick=quick)))
    findings = compare(kept["values"], now)
    print(f"\n{'recorded':>9} {'now':>9} {'±':>5}")
    print("\n".join(finding.line() for finding in findings))
    return int(any(finding.regressed for finding in findings))
