"""The decisive ratios of the tree as it is, against the budgets and against those recorded.

    python -m benchmarks check             # 1 if one is worse than it may be
    python -m benchmarks check --record    # what is measured now becomes what is recorded

There are two cases in which a ratio is worse than it may be:

1. It is worse than the recorded one by more than its tolerance.
2. It is over its budget by more than 5 %, and the recorded one was within it.

If anything seems worse, as many rounds again are measured, and join the first ones. A ratio whose
halves differ by more than 5 % then counts as its better half. If only the other one is worse, the
ratio is called unsteady: the machine is too busy to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import codec, figures, overhead, redis_cost
from benchmarks.budgets import BUDGETS, Budget, Figures
from benchmarks.driver import Progress
from benchmarks.peers import NEAR, OURS, OURS_CLUSTER
from benchmarks.ratios import STEADY, Ratio, joined

__all__ = ["CELLS", "Finding", "compare", "extended", "main", "measure"]

CELLS = tuple((name, lanes) for name in ("read", "change") for lanes in (1, 64, 256, 1024))
PEERS = ("cookie", OURS, NEAR, OURS_CLUSTER)
ATTEMPTS = 2
FAILED = ("WORSE", "OVER BUDGET")


class Finding(NamedTuple):
    """One recorded ratio beside the one of this tree."""

    budget: Budget
    recorded: float | None
    found: Ratio | None

    @property
    def word(self) -> str:
        """`ok`, or why not. What couldn't be measured, or never was, isn't worse."""
        if self.found is None:
            return "not measured"
        if self.recorded is None:
            return "not recorded"
        found = self._judged(self.found.value, self.recorded)
        half = self._judged(self._better_half(self.found), self.recorded)
        return "unsteady" if found in FAILED and half not in FAILED else found

    @property
    def regressed(self) -> bool:
        return self.word in FAILED

    def line(self) -> str:
        value = "-" if self.found is None else f"{self.found.value:.3f}"
        recorded = "-" if self.recorded is None else f"{self.recorded:.3f}"
        sign = "≥" if self.budget.at_least else "≤"
        doubt = "" if self.found is None else self.found.doubt
        return (
            f"{sign} {self.budget.limit:<6g} {recorded:>9} {value:>9} "
            f"{self.budget.tolerance:>5.0%}  {self.word:15} {self.budget.text}{doubt}"
        )

    def _judged(self, value: float, recorded: float) -> str:
        budget = self.budget
        if budget.worse(value, recorded):
            return "WORSE"
        spare = value / (1 - STEADY) if budget.at_least else value / (1 + STEADY)
        if not budget.met(spare) and budget.met(recorded):
            return "OVER BUDGET"
        return "ok" if budget.met(value) else "ok, still over"

    def _better_half(self, found: Ratio) -> float:
        if found.steady or found.spread >= 1:  # that is no half, but a single round
            return found.value
        return found.value * (1 + found.spread if self.budget.at_least else 1 - found.spread)


def measure(*, quick: bool = False, progress: Progress = print) -> Figures:
    """The figures that the decisive ratios are made of."""
    full = replace(overhead.FULL, processes=2, seconds=0.06, latency_lanes=())
    blocks = replace(overhead.QUICK, latency_lanes=()) if quick else full
    cells = (("read", 64),) if quick else CELLS
    cost = redis_cost.QUICK if quick else redis_cost.FULL
    few = replace(blocks, cells=cells, peers=PEERS)
    lone = replace(blocks, cells=(("read", 1),))
    of_few = overhead.measure(few, progress)
    of_all = overhead.measure(lone, progress)
    # A lone read's rows of all peers stand for those of the few.
    rows = [row for row in of_few["overhead"] if (row["operation"], row["lanes"]) != ("read", 1)]
    return {
        "overhead": {**of_few, "overhead": rows + of_all["overhead"]},
        "codec": codec.measure(
            replace(codec.QUICK if quick else codec.FULL, sizes=(150,)), progress
        ),
        "redis": redis_cost.measure(
            replace(cost, rounds=1, sessions=(), operations=("read", "change"), peers=(OURS, NEAR)),
            progress,
        ),
    }


def extended(first: Figures, second: Figures) -> Figures:
    """With the rounds of both. The table of each benchmark has its name."""
    return {
        name: {**tables, name: joined(tables[name], second[name][name])}
        for name, tables in first.items()
    }


def values(measured: Figures) -> dict[str, Ratio]:
    found = {budget.name: budget.value(measured) for budget in BUDGETS if budget.checked}
    return {name: value for name, value in found.items() if value is not None}


def compare(recorded: Mapping[str, float], now: Mapping[str, Ratio]) -> list[Finding]:
    """What is recorded of each budget, with what is measured now."""
    return [
        Finding(budget, recorded.get(budget.name), now.get(budget.name))
        for budget in BUDGETS
        if budget.checked
    ]


def main(*, record: bool = False, quick: bool = False, directory: Path = figures.RESULTS) -> int:
    """The exit status."""
    kept: dict[str, Any] | None = figures.load("recorded", directory)
    if kept is None and not record:
        print("Nothing is recorded yet: python -m benchmarks check --record")
        return 1
    measured = measure(quick=quick)
    if record:
        if not quick:
            measured = extended(measured, measure())
        now = {name: round(found.value, 4) for name, found in values(measured).items()}
        print(figures.save("recorded", {"values": now}, directory))
        return 0
    assert kept is not None
    findings = compare(kept["values"], values(measured))
    for _ in range(ATTEMPTS - 1):
        if any(finding.regressed for finding in findings):
            print("Something seems worse. More rounds:")
            measured = extended(measured, measure(quick=quick))
            findings = compare(kept["values"], values(measured))
    print(f"\n{'budget':8} {'recorded':>9} {'now':>9} {'±':>5}")
    print("\n".join(finding.line() for finding in findings))
    return int(any(finding.regressed for finding in findings))
