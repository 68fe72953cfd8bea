"""All variants of the scenarios, and what their runs come to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Final

from tests.chaos.audit import Report
from tests.chaos.faults import LAG_MS, Case, run
from tests.chaos.site import Waits

_WAITS: Final = {
    "sentinel": [Waits(0), Waits(1), Waits(2), Waits(2, every=True)],
    "cluster": [Waits(0), Waits(1), Waits(1, every=True)],
}
_COLUMNS: Final = (
    *("failovers", "unavailable", "unavailable_lifecycle", "refused", "refused_elsewhere"),
    *("requests", "changes_lost", "sessions_lost", "ended", "revived", "survivors"),
    *(
        "rotated",
        "rotated_back",
        "ended_twice_revived",
        "old_reads",
        "old_for",
        "given_up",
        "unconfirmed",
    ),
)


def cases(scenario: str, seconds: float) -> Iterator[Case]:
    """The variants of a scenario, with so many seconds of load around each fault."""
    waits = _WAITS[scenario.partition("-")[0]]
    if scenario == "cluster-dead":
        waits = waits[:1]  # there is no replica to wait for
    for wait in waits:
        yield Case(scenario, wait, seconds=seconds)
    if scenario.endswith("-kill"):
        for wait in waits:
            yield Case(scenario, wait, lag_ms=LAG_MS, seconds=seconds)
    if scenario == "sentinel-partition":
        yield Case(scenario, waits[0], min_replicas=True, seconds=seconds)


def measure(case: Case, runs: int = 1) -> tuple[list[Report], list[str]]:
    """So many runs, and what happened in them that may never happen."""
    reports = [asyncio.run(run(case)) for _ in range(runs)]
    return reports, [found for report in reports for found in case.violations(report)]


def summary(reports: Sequence[Report]) -> str:
    """Each figure's median, and its range if it has one; those that are 0 in all are left out."""
    spreads = {name: _spread([getattr(report, name) for report in reports]) for name in _COLUMNS}
    return ", ".join(f"{name} {spread}" for name, spread in spreads.items() if spread != "0")


def _spread(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    middle = f"{median(values):.4g}"
    return middle if low == high else f"{middle} ({low:.4g}-{high:.4g})"
