"""What this library promises to cost, and what of it a run's figures say.

Each budget reads one number from the figures of the benchmarks, by name: ratios wherever the
machine would otherwise decide. `tolerance` is how much worse than the recorded number `check` lets
it get before it calls that a regression.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.codec import COOKIE
from benchmarks.codec import OURS as OUR_CODEC
from benchmarks.peers import NEAR, OURS, OURS_CLUSTER, PEERS
from benchmarks.ratios import Ratio, ratio_of, rounds_of

__all__ = ["BUDGETS", "Budget", "Figures", "Rows", "rows_of", "verdict"]

Figures = Mapping[str, Mapping[str, Any]]
"""The figures of the benchmarks that have been run, by name."""

Row = Mapping[str, Any]
Rows = list[Row]
Value = Callable[[Figures], Ratio | None]


@dataclass(frozen=True)
class Budget:
    """One promise. `value` answers None if the figures that it needs aren't there."""

    name: str
    text: str
    limit: float
    value: Value
    at_least: bool = False
    checked: bool = False
    """Whether `check` measures it, and compares it with the limit and the recorded number."""
    tolerance: float = 0.1

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


def by_peer(figures: Figures, benchmark: str, table: str, **wanted: object) -> dict[str, Row]:
    return {row["peer"]: row for row in rows_of(figures, benchmark, table, **wanted)}


# -- a request's session

MEASURES: Final = {"cpu": "CPU", "wall": "time"}
SUBJECTS: Final = {OURS: "", NEAR: ", near copies"}
COSTS: Final[Mapping[int, Mapping[tuple[str, str], tuple[float, float]]]] = {
    1: {
        ("read", OURS): (1.9, 2.7), ("read", NEAR): (0.5, 0.5),
        ("change", OURS): (3.2, 3.2), ("change", NEAR): (2.2, 2.2),
    },
    64: {
        ("read", OURS): (0.78, 0.78), ("read", NEAR): (0.5, 0.5),
        ("change", OURS): (1.3, 1.3), ("change", NEAR): (1.05, 1.05),
    },
    256: {
        ("read", OURS): (0.85, 0.85), ("read", NEAR): (0.5, 0.5),
        ("change", OURS): (1.7, 1.7), ("change", NEAR): (1.15, 1.15),
    },
    1024: {
        ("read", OURS): (1.1, 1.1), ("read", NEAR): (0.55, 0.55),
        ("change", OURS): (2.2, 2.2), ("change", NEAR): (1.3, 1.3),
    },
}  # fmt: skip
"""By requests in flight: the limits of CPU and time, as ratios to the signed cookie."""


def to_cookie(operation: str, lanes: int, subject: str, measure: str) -> Value:
    """What its session costs a request, as a ratio to the signed cookie."""

    def value(figures: Figures) -> Ratio | None:
        found = by_peer(figures, "overhead", "overhead", operation=operation, lanes=lanes)
        if not {subject, "cookie"} <= found.keys():
            return None
        return ratio_of(found[subject], found["cookie"], measure)

    return value


def costs() -> Iterator[Budget]:
    for lanes, cells in COSTS.items():
        for (operation, subject), limits in cells.items():
            for (measure, word), limit in zip(MEASURES.items(), limits, strict=True):
                where = f"{operation}, {lanes:,} in flight{SUBJECTS[subject]}"
                yield Budget(
                    f"{operation}-{lanes}-{subject}-{measure}",
                    f"{where}, {word} ÷ signed cookie",
                    limit,
                    to_cookie(operation, lanes, subject, measure),
                    checked=True,
                    # Alone, a request's time is mostly the kernel's, between two processes.
                    tolerance=0.2 if lanes == 1 else 0.1,
                )


def _server_side(name: str) -> bool:
    return PEERS[name].server_side and PEERS[name].package != "redis-sessions"


def lone_read(subject: str) -> Value:
    """The time of a read alone, as a share of the best server-side peer's."""

    def value(figures: Figures) -> Ratio | None:
        found = by_peer(figures, "overhead", "overhead", operation="read", lanes=1)
        peers = [row for name, row in found.items() if _server_side(name)]
        if subject not in found or not peers:
            return None
        best = min(peers, key=lambda row: rounds_of(row, "wall").best())
        return ratio_of(found[subject], best, "wall")

    return value


def of_cluster(operation: str) -> Value:
    """A Cluster's CPU as a multiple of the single server's, 64 in flight."""

    def value(figures: Figures) -> Ratio | None:
        found = by_peer(figures, "overhead", "overhead", operation=operation, lanes=64)
        if not {OURS, OURS_CLUSTER} <= found.keys():
            return None
        return ratio_of(found[OURS_CLUSTER], found[OURS], "cpu")

    return value


# -- the others


def codec(operation: str) -> Value:
    """Ours at the smallest size, as a share of the signed cookie's."""

    def value(figures: Figures) -> Ratio | None:
        found = {row["codec"]: row for row in _smallest(figures, operation)}
        return ratio_of(found[OUR_CODEC], found[COOKIE], "us") if OUR_CODEC in found else None

    return value


def _smallest(figures: Figures, operation: str) -> Rows:
    rows = rows_of(figures, "codec", "codec", operation=operation)
    return [row for row in rows if row["size"] == min(row["size"] for row in rows)]


def _microseconds(operation: str) -> Callable[[Figures], float]:
    def value(figures: Figures) -> float:
        (row,) = (row for row in _smallest(figures, operation) if row["codec"] == OUR_CODEC)
        return rounds_of(row, "us").best()

    return value


def _added_bytes(figures: Figures) -> Ratio | None:
    rows = [row for row in _smallest(figures, "open") if row["codec"] == OUR_CODEC]
    return Ratio(rows[0]["stored"] - rows[0]["size"]) if rows else None


def commands(operation: str, subject: str) -> Value:
    """Redis commands for a request, 64 in flight."""

    def value(figures: Figures) -> Ratio | None:
        found = by_peer(figures, "redis", "redis", operation=operation, lanes=64)
        return Ratio(min(found[subject]["commands"])) if subject in found else None

    return value


def rate(subject: str, against: Callable[[str], bool]) -> Value:
    """Requests a second that read, 64 connections, as a multiple of the best of those peers."""

    def value(figures: Figures) -> Ratio | None:
        found = by_peer(figures, "http", "http", operation="read", connections=64)
        peers = [row for name, row in found.items() if against(name)]
        if subject not in found or not peers:
            return None
        best = max(peers, key=lambda row: rounds_of(row, "rate").best())
        return ratio_of(found[subject], best, "rate")

    return value


def _cookie(name: str) -> bool:
    return name == "cookie"


def crowd(measure: Callable[[Row], float]) -> Value:
    """Of 1,024 reads in flight, by an application that has just started."""

    def value(figures: Figures) -> Ratio | None:
        rows = rows_of(figures, "overhead", "latency", lanes=1024, peer=OURS)
        return Ratio(measure(rows[0])) if rows else None

    return value


POOL = 8  # connections to Redis that a thousand requests at a time leave open

BUDGETS: tuple[Budget, ...] = (
    *costs(),
    Budget("read-1-peers", "read, 1 in flight, time ÷ best server-side peer", 0.3,
           lone_read(OURS), checked=True, tolerance=0.2),
    Budget("read-1-peers-near", "read, 1 in flight, near copies, time ÷ best server-side peer",
           0.08, lone_read(NEAR), checked=True, tolerance=0.2),
    Budget("read-64-cluster", "read, 64 in flight, CPU with a Cluster of 3 ÷ single server",
           2, of_cluster("read"), checked=True),
    Budget("change-64-cluster", "change, 64 in flight, CPU with a Cluster of 3 ÷ single server",
           2, of_cluster("change"), checked=True),
    Budget("open", "open 150 B ÷ itsdangerous + json (or ≤ 4 µs)", 0.5, codec("open"),
           checked=True),
    Budget("seal", "seal 150 B ÷ itsdangerous + json (or ≤ 4 µs)", 0.5, codec("seal"),
           checked=True),
    Budget("stored", "stored bytes beyond the packed data", 110, _added_bytes,
           checked=True, tolerance=0),
    Budget("commands-read", "Redis commands for a read, 64 in flight", 0.03,
           commands("read", OURS), checked=True, tolerance=0.5),
    Budget("commands-change", "Redis commands for a change, 64 in flight", 0.06,
           commands("change", OURS), checked=True, tolerance=0.5),
    Budget("http-cookie", "HTTP, 64 connections, reads a second ÷ signed cookie", 1.0,
           rate(OURS, _cookie), at_least=True),
    Budget("http-cookie-near", "… with near copies", 1.25, rate(NEAR, _cookie), at_least=True),
    Budget("http-peers", "HTTP, 64 connections, reads a second ÷ best server-side peer", 2.8,
           rate(OURS, _server_side), at_least=True),
    Budget("http-peers-near", "… with near copies", 3.5, rate(NEAR, _server_side), at_least=True),
    Budget("crowd-errors", "1,024 reads in flight: errors", 0, crowd(lambda row: row["errors"])),
    Budget("crowd-connections", "1,024 reads in flight: connections to Redis", POOL,
           crowd(lambda row: row["connections"])),
    Budget("crowd-tail", "1,024 reads in flight: p99 ÷ p50", 3,
           crowd(lambda row: row["p99_ms"] / row["p50_ms"])),
)  # fmt: skip

MICROSECONDS = {"open": _microseconds("open"), "seal": _microseconds("seal")}
"""These two are met as well if they take no more than 4 µs."""


def verdict(budget: Budget, figures: Figures) -> tuple[Ratio | None, str]:
    """The number, and whether it is within the budget, in a word or two."""
    found = budget.value(figures)
    if found is None:
        return None, "not run"
    word = "met" if budget.met(found.value) else "not met"
    if budget.name in MICROSECONDS and word == "not met":
        us = MICROSECONDS[budget.name](figures)
        return found, f"met ({us:.1f} µs)" if us <= 4 else "not met"
    return found, word if found.steady else f"{word}, unsteady"
