"""All trials, one after the other, and their tables."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from redis_sessions.testing.topology import ClusterTopology, Topology
from tests.torture.soak import MEGABYTE
from tests.torture.sockets import churn, cut, ends, failover, idle, tabs
from tests.torture.sockets.figures import Fact, Times, tables
from tests.torture.sockets.fleet import fleet
from tests.torture.sockets.places import PLACES, Place, place

WORKERS: Final = 3
RECONNECT: Final = 1.0
"""Seconds that it may take to connect again, on a busy machine."""
MOST_GROWTH: Final = 6 * MEGABYTE


@dataclass(frozen=True, slots=True)
class Size:
    """How much is tried."""

    trials: int = 1000
    sockets: int = 1000
    minutes: float = 3.0


Rows = list[Times | Fact]


@asynccontextmanager
async def _running(name: str) -> AsyncGenerator[tuple[Place, Topology | ClusterTopology], None]:
    """Servers; they are started and ended beside the loop."""
    context = place(name)
    running = await asyncio.to_thread(context.__enter__)
    try:
        yield running
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)


async def _latencies(size: Size) -> Rows:
    rows: Rows = []
    for name in PLACES:
        async with AsyncExitStack() as stack:
            at, _ = await stack.enter_async_context(_running(name))
            workers = await stack.enter_async_context(fleet(*[at.store()] * WORKERS))
            for path in ("/socket", "/stream"):
                for load in (False, True):
                    rows.append(await ends.signed_out(at, workers, path, size.trials, load=load))
            rows += await tabs.changed(at, workers, size.trials)
            rows += await ends.all_revoked(at, workers, size.sockets)
    return rows


async def _cut(size: Size) -> Rows:
    async with _running("one server") as (at, running):
        port = running.nodes[0].port
        times = await cut.cut_off(at, port, 10, max(1, size.trials // 100))
    for each in times:
        assert max(each.seconds) <= cut.BOUND + RECONNECT, each
    return [*times]


async def _failover(size: Size) -> Rows:
    rows: Rows = []
    for name in PLACES[1:]:
        async with AsyncExitStack() as stack:
            at, running = await stack.enter_async_context(_running(name))
            workers = await stack.enter_async_context(fleet(*[at.store()] * WORKERS))
            watched: Any = running
            rows += await failover.killed(at, watched, workers, size.sockets, size.sockets // 5)
    return rows


async def _idle(size: Size) -> Rows:
    async with _running("one server") as (at, _):
        costs = await idle.costs(at.url, 10 * size.sockets)
    return [*idle.facts(costs, at.name)]


async def _churn(size: Size) -> Rows:
    async with _running("one server") as (at, _):
        result = await churn.run(at.url, size.minutes * 60)
    assert result.growth <= MOST_GROWTH, f"memory grows: {result}"
    assert not result.opened, f"something is left: {result.opened}, {result}"
    assert not result.left, f"something is left: {result}"
    return [Fact("sockets that open and close all the time", at.name, str(result))]


PARTS: Final[dict[str, Callable[[Size], Any]]] = {
    "latencies": _latencies,
    "cut": _cut,
    "failover": _failover,
    "idle": _idle,
    "churn": _churn,
}


def run(size: Size, parts: Sequence[str] | None = None) -> str:
    """The tables of all parts, or of these. If one fails, its error has the tables until then."""
    rows: Rows = []
    for name in parts or PARTS:
        try:
            rows += asyncio.run(PARTS[name](size))
        except (AssertionError, ExceptionGroup) as exc:
            exc.add_note(f"in {name}, after:\n\n{tables(rows)}")
            raise
    return tables(rows)
