"""What this library promises to cost, and what of it a run's figures say.

Each budget reads one number from the figures of the benchmarks, by name: ratios wherever the
machine would otherwise decide. `tolerance` is how much worse than the recorded number `check` lets
it get before it calls that a regression.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.codec import COOKIE
from benchmarks.codec import OURS as OUR_CODEC
from benchmarks.driver import ratio
from benchmarks.peers import OURS, OURS_CLUSTER, PEERS

__all__ = ["BUDGETS", "Budget", "Figures", "rows_of", "verdict"]

Figures = Mapping[str, Mapping[str, Any]]
"""The figures of the benchmarks that have been run, by name."""

Rows = list[Mapping[str, Any]]


@dataclass(frozen=True)
class Budget:
    """One promise. `value` answers None if the figures that it needs aren't there."""

    name: str
    text: str
    limit: float
    value: Callable[[Figures], float | None]
    at_least: bool = False
    checked: bool = False
    """Whether `check` compares it with the recorded number."""
    tolerance: float = 0.15
    stretch: bool = False

    def met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit

    def worse(self, value: float, recorded: float) -> bool:
        """Whether it is worse than recorded, by more than the tolerance."""
        if self.at_least:
            return value < recorded * (1 - self.tolerance)
        return value > recorded * (1 + self.tolerance)


def rows_of(figures: Figures, benchmark: str, table: str, **wanted: object) -> Rows:
    rows = figures.get(benchmark, {}).get(table, [])
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


# -- overhead

Pick = Callable[[str], bool]


def _overhead(figures: Figures, operation: str, lanes: int, measure: str) -> dict[str, list[float]]:
    rows = rows_of(figures, "overhead", "overhead", operation=operation, lanes=lanes)
    return {row["peer"]: row[measure] for row in rows}


def _server_side(name: str) -> bool:
    return PEERS[name].server_side and PEERS[name].package != "redis-sessions"


def _nested(name: str) -> bool:
    return _server_side(name) and PEERS[name].nested


def _cookie(name: str) -> bool:
    return name == "cookie"


def cost(
    operation: str, lanes: int, against: Pick, measure: str = "cpu"
) -> Callable[[Figures], float | None]:
    """Ours as a share of the cheapest of those peers."""

    def value(figures: Figures) -> float | None:
        found = _overhead(figures, operation, lanes, measure)
        others = [values for name, values in found.items() if against(name)]
        if OURS not in found or not others:
            return None
        return ratio(found[OURS], min(others, key=median))

    return value


def of_cluster(operation: str) -> Callable[[Figures], float | None]:
    """A Cluster's as a multiple of the single server's, 64 in flight."""

    def value(figures: Figures) -> float | None:
        found = _overhead(figures, operation, 64, "cpu")
        if not {OURS, OURS_CLUSTER} <= found.keys():
            return None
        return ratio(found[OURS_CLUSTER], found[OURS])

    return value


# -- the others


def codec(operation: str, against: str | None) -> Callable[[Figures], float | None]:
    """Microseconds at the smallest size, or the share of another codec's."""

    def value(figures: Figures) -> float | None:
        us = {row["codec"]: row["us"] for row in _smallest(figures, operation)}
        if OUR_CODEC not in us:
            return None
        return ratio(us[OUR_CODEC], us[against]) if against else median(us[OUR_CODEC])

    return value


def _smallest(figures: Figures, operation: str) -> Rows:
    rows = rows_of(figures, "codec", "codec", operation=operation)
    return [row for row in rows if row["size"] == min(row["size"] for row in rows)]


def _added_bytes(figures: Figures) -> float | None:
    rows = [row for row in _smallest(figures, "open") if row["codec"] == OUR_CODEC]
    return rows[0]["stored"] - rows[0]["size"] if rows else None


def commands(operation: str, lanes: int) -> Callable[[Figures], float | None]:
    def value(figures: Figures) -> float | None:
        rows = rows_of(figures, "redis", "redis", operation=operation, lanes=lanes, peer=OURS)
        return rows[0]["commands"] if rows else None

    return value


def rate(peer: str) -> Callable[[Figures], float | None]:
    """Requests a second that read, 64 connections, as a multiple of a peer's."""

    def value(figures: Figures) -> float | None:
        rows = rows_of(figures, "http", "http", operation="read", connections=64)
        found = {row["peer"]: row["rate"] for row in rows}
        return ratio(found[OURS], found[peer]) if {OURS, peer} <= found.keys() else None

    return value


def crowd(measure: Callable[[Mapping[str, Any]], float]) -> Callable[[Figures], float | None]:
    """Of 1,024 reads in flight."""

    def value(figures: Figures) -> float | None:
        rows = rows_of(figures, "overhead", "latency", lanes=1024, peer=OURS)
        return measure(rows[0]) if rows else None

    return value


NINTH, FIFTH = round(1 / 9, 3), round(1 / 5, 3)
POOL = 8  # more connections than one event loop of ours needs, however many requests it serves

BUDGETS: Sequence[Budget] = (
    Budget("read-64-cookie", "read, 64 in flight, CPU ÷ signed cookie", 0.60,
           cost("read", 64, _cookie), checked=True),
    Budget("read-64-peers", "read, 64 in flight, CPU ÷ best server-side peer", NINTH,
           cost("read", 64, _server_side), checked=True),
    Budget("read-256-cookie", "read, 256 in flight, CPU ÷ signed cookie", 0.55,
           cost("read", 256, _cookie), checked=True),
    Budget("change-64-cookie", "change, 64 in flight, CPU ÷ signed cookie", 0.90,
           cost("change", 64, _cookie), checked=True),
    Budget("change-64-peers", "change, 64 in flight, CPU ÷ best peer that sees nested changes",
           FIFTH, cost("change", 64, _nested), checked=True),
    Budget("read-1-cpu", "read, one in flight, CPU ÷ best server-side peer", 0.4,
           cost("read", 1, _server_side), checked=True, tolerance=0.2),
    Budget("read-1-wall", "read, one in flight, time ÷ best server-side peer", 0.4,
           cost("read", 1, _server_side, "wall"), checked=True, tolerance=0.25),
    Budget("read-64-cluster", "read, 64 in flight, CPU with a Cluster of 3 ÷ single server",
           2, of_cluster("read"), checked=True),
    Budget("change-64-cluster", "change, 64 in flight, CPU with a Cluster of 3 ÷ single server",
           2, of_cluster("change"), checked=True),
    Budget("open", "open 150 B ÷ itsdangerous + json (or ≤ 4 µs)", 0.5,
           codec("open", COOKIE), checked=True),
    Budget("seal", "seal 150 B ÷ itsdangerous + json (or ≤ 4 µs)", 0.5,
           codec("seal", COOKIE), checked=True),
    Budget("stored", "stored bytes beyond the packed data", 110, _added_bytes,
           checked=True, tolerance=0),
    Budget("commands-read", "Redis commands for a read, one in flight", 1,
           commands("read", 1), checked=True, tolerance=0.01),
    Budget("commands-change", "Redis commands for a change, one in flight", 2,
           commands("change", 1), checked=True, tolerance=0.01),
    Budget("commands-read-64", "Redis commands for a read, 64 in flight", 0.1,
           commands("read", 64), checked=True, tolerance=0.5),
    Budget("commands-change-64", "Redis commands for a change, 64 in flight", 0.2,
           commands("change", 64), checked=True, tolerance=0.5),
    Budget("http-cookie", "HTTP, 64 connections, reads a second ÷ signed cookie", 1.3,
           rate("cookie"), at_least=True),
    Budget("http-starsessions", "… ÷ starsessions", 3.7, rate("starsessions"), at_least=True),
    Budget("http-alcazaba", "… ÷ fastapi-alcazaba, encrypted", 3.3, rate("alcazaba"),
           at_least=True),
    Budget("http-none", "… ÷ no sessions", 0.65, rate("none"), at_least=True, stretch=True),
    Budget("crowd-errors", "1,024 reads in flight: errors", 0, crowd(lambda row: row["errors"])),
    Budget("crowd-connections", "1,024 reads in flight: connections to Redis", POOL,
           crowd(lambda row: row["connections"])),
    Budget("crowd-tail", "1,024 reads in flight: p99 ÷ p50", 3,
           crowd(lambda row: row["p99_ms"] / row["p50_ms"])),
)  # fmt: skip

MICROSECONDS = {"open": codec("open", None), "seal": codec("seal", None)}
"""These two are met as well if they take no more than 4 µs."""


def verdict(budget: Budget, figures: Figures) -> tuple[float | None, str]:
    """The number, and whether it is within the budget, in a word or two."""
    value = budget.value(figures)
    if value is None:
        return None, "not run"
    if budget.name in MICROSECONDS and not budget.met(value):
        us = MICROSECONDS[budget.name](figures)
        assert us is not None
        return value, f"met ({us:.1f} µs)" if us <= 4 else "not met"
    return value, "met" if budget.met(value) else "not met"
