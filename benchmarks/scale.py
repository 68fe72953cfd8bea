"""How cost grows: with worker processes, a session's size, the sessions that live, and nodes.

The knee is the highest rate of arrivals that is still answered in time. The load generator and the
server share the machine's cores: with more workers than cores the knee is the machine's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, cast

from benchmarks import driver, nodes, shop
from benchmarks.arrivals import offer
from benchmarks.driver import Progress
from benchmarks.overhead import Size as Blocks
from benchmarks.overhead import cell, running
from benchmarks.peers import NEAR, OURS, PEERS, Peer, missing
from benchmarks.ratios import rounds_of
from benchmarks.redis_cost import copies
from benchmarks.servers import Server, serving
from benchmarks.workers import Site, site

__all__ = ["FULL", "QUICK", "Size", "measure"]

IN_TIME = 20.0  # milliseconds, the 99th percentile
ANSWERED = 0.97
LANES = 64


@dataclass(frozen=True)
class Size:
    """How much is measured. `seconds`: of one step of arrivals."""

    workers: Sequence[int] = (1, 2, 4)
    seconds: float = 0.6
    first: float = 1_500
    factor: float = 1.35
    steps: int = 10
    climbs: int = 3
    peers: Sequence[str] = ("none", "cookie", "starsessions", OURS, NEAR)
    bytes: Sequence[int] = (150, 1_000, 4_000, 16_000, 60_000)
    live: Sequence[int] = (1_000, 100_000, 1_000_000)
    blocks: Blocks = field(default=Blocks(rounds=8, seconds=0.08))
    nodes: nodes.Size = nodes.FULL


FULL = Size()
QUICK = Size(
    workers=(1,), seconds=0.05, steps=1, climbs=1, peers=("cookie", OURS, NEAR), bytes=(150,),
    live=(100,),
    blocks=Blocks(rounds=1, seconds=0.002, least=1), nodes=nodes.QUICK,
)  # fmt: skip


def chosen(size: Size) -> list[Peer]:
    return [PEERS[name] for name in size.peers if not missing(PEERS[name])]


# -- worker processes


async def climb(
    sites: Sequence[Site], workers: int, number: int, size: Size
) -> list[dict[str, Any]]:
    """Higher and higher rates, in turns; who didn't answer two of them in time is left out."""
    rows: list[dict[str, Any]] = []
    missed = {where.peer.name: 0 for where in sites}
    for where in sites:  # it warms up
        await offer(where.port, "/read", where.cookies, size.first / 2, size.seconds)
    rate = size.first
    for step in range(size.steps):
        for where in driver.turns([each for each in sites if missed[each.peer.name] < 2], step):
            found = await offer(where.port, "/read", where.cookies, rate, size.seconds)
            in_time = (
                found["p99_ms"] <= IN_TIME and found["answered"] >= ANSWERED * found["offered"]
            )
            row = {"peer": where.peer.name, "workers": workers, "round": number + 1}
            rows.append({**row, "in_time": in_time, **found})
            missed[where.peer.name] = 0 if in_time else missed[where.peer.name] + 1
        if min(missed.values()) == 2:
            break
        rate *= size.factor
    return rows


def arrivals(server: Server, size: Size, progress: Progress) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for workers in size.workers:
        with ExitStack() as stack:
            sites = [
                stack.enter_context(site(peer, server.url, browsers=128, workers=workers))
                for peer in chosen(size)
            ]
            for number in range(size.climbs):
                rows += driver.run(climb(sites, workers, number, size))
        found = ", ".join(
            f"{peer.name} {knee(rows, peer.name, workers)}/s" for peer in chosen(size)
        )
        progress(f"{workers} workers: {found}")
    return rows


def knee(rows: Sequence[Mapping[str, Any]], peer: str, workers: int) -> int:
    """The highest rate that was answered in time by any climb, or 0."""
    rates = [
        row["offered"]
        for row in rows
        if row["peer"] == peer and row["workers"] == workers and row["in_time"]
    ]
    return max(rates, default=0)


# -- a session's size, and how many there are


async def by_size(server: Server, size: Size, progress: Progress) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for extra in size.bytes:
        shop.grow(max(0, extra - 150))
        try:
            some = [peer for peer in chosen(size) if peer.baseline]
            async with running(some, {"redis": server.url}, LANES) as entrants:
                for operation in ("read", "change"):
                    found = await cell(entrants, operation, LANES, size.blocks)
                    rows += [{"size": extra, **row} for row in found]
                    progress(f"{extra:7} B {operation:7}" + _cpu(found))
        finally:
            shop.grow(0)
            server.client.flushall()
    return rows


async def by_number(server: Server, size: Size, progress: Progress) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    some = [peer for name in ("cookie", OURS, NEAR) if not missing(peer := PEERS[name])]
    async with running(some, {"redis": server.url}, LANES) as entrants:
        records = cast("Iterator[bytes]", server.client.scan_iter(_type="string"))
        one, made = [next(records)], 0
        for live in size.live:
            copies(server.client, one, made, live)
            made = live
            for operation in ("read", "change"):
                found = await cell(entrants, operation, LANES, size.blocks)
                rows += [{"live": live, **row} for row in found]
                progress(f"{live:8} sessions {operation:7}" + _cpu(found))
    return rows


def _cpu(rows: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f" {row['peer']} {rounds_of(row, 'cpu').best():.1f}" for row in rows)


def measure(size: Size = FULL, progress: Progress = print) -> dict[str, Any]:
    with driver.pinned(), serving("redis") as server:
        grown = {
            "nodes": driver.run(nodes.by_nodes(server, size.nodes, progress)),
            "size": driver.run(by_size(server, size, progress)),
            "live": driver.run(by_number(server, size, progress)),
        }
    with serving("redis") as server:
        arrived = arrivals(server, size, progress)
    return {
        "rounds": size.blocks.rounds,
        "in_time_ms": IN_TIME,
        **grown,
        "arrivals": arrived,
    }
