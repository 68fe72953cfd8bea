"""How cost grows: with worker processes, a session's size, the sessions that live, and nodes.

The knee is the highest rate of arrivals that is still answered in time. The load generator and the
server share the machine's cores: with more workers than cores the knee is the machine's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, cast

from benchmarks import driver, nodes, shop
from benchmarks.arrivals import offer
from benchmarks.driver import Progress
from benchmarks.overhead import Size as Blocks
from benchmarks.overhead import cell, running
from benchmarks.peers import OURS, PEERS, Peer, missing
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
    peers: Sequence[str] = ("none", "cookie", "starsessions", OURS)
    bytes: Sequence[int] = (150, 1_000, 4_000, 16_000, 60_000)
    live: Sequence[int] = (1_000, 100_000, 1_000_000)
    blocks: Blocks = field(default=Blocks(rounds=3, seconds=0.08))
    nodes: nodes.Size = nodes.FULL


FULL = Size()
QUICK = Size(
    workers=(1,), seconds=0.05, steps=1, peers=("cookie", OURS), bytes=(150,), live=(100,),
    blocks=Blocks(rounds=1, seconds=0.002, least=1), nodes=nodes.QUICK,
)  # fmt: skip


def chosen(size: Size) -> list[Peer]:
    return [PEERS[name] for name in size.peers if not missing(PEERS[name])]


# -- worker processes


async def climb(where: Site, workers: int, size: Size) -> list[dict[str, Any]]:
    """Higher and higher rates, until one isn't answered in time; twice, against a passing noise."""
    await offer(where.port, "/read", where.cookies, size.first / 2, size.seconds)
    rows: list[dict[str, Any]] = []
    rate, missed = size.first, 0
    for _ in range(size.steps):
        step = await offer(where.port, "/read", where.cookies, rate, size.seconds)
        in_time = step["p99_ms"] <= IN_TIME and step["answered"] >= ANSWERED * step["offered"]
        rows.append({"peer": where.peer.name, "workers": workers, "in_time": in_time, **step})
        missed = 0 if in_time else missed + 1
        if missed == 2:
            break
        rate *= size.factor
    return rows


def arrivals(server: Server, size: Size, progress: Progress) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for workers in size.workers:
        for peer in chosen(size):
            with site(peer, server.url, browsers=128, workers=workers) as where:
                rows += driver.run(climb(where, workers, size))
            progress(f"{workers} workers, {peer.name}: {knee(rows, peer.name, workers)}/s")
    return rows


def knee(rows: Sequence[Mapping[str, Any]], peer: str, workers: int) -> int:
    """The highest rate that was answered in time, or 0."""
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
            async with running(some, {"redis": server}, LANES) as entrants:
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
    async with running([PEERS["cookie"], PEERS[OURS]], {"redis": server}, LANES) as entrants:
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
    return ", ".join(f" {row['peer']} {median(row['cpu']):.1f}" for row in rows)


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
