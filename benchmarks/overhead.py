"""What sessions cost a request: CPU and time over the same application without sessions.

One process on uvloop, ASGI calls without an HTTP server, real servers on loopback TCP. All peers
and their applications without sessions take turns, and the differences are compared. The rounds
are those of several processes: of two that do the same, one may be a tenth slower for as long as it
lives.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from benchmarks import driver
from benchmarks.driver import Client, Progress, Sample, block
from benchmarks.peers import Peer, baseline_of, present
from benchmarks.ratios import joined, ratio_of, rounds_of
from benchmarks.servers import Server, deployments, serving
from benchmarks.shop import SECRET

__all__ = ["FULL", "LANES", "OPERATIONS", "QUICK", "Size", "cell", "measure", "running"]

OPERATIONS = ("read", "change", "sign-in")  # in this order: the last one floods the servers
LANES = (1, 8, 64, 256, 1024)
BUDGETED = ("read", "change")


@dataclass(frozen=True)
class Size:
    """How much is measured.

    `rounds` is of each process, or `fewer` where no budget looks; `seconds` is of one block.
    `peers` are those that take part, by default all.
    """

    processes: int = 4
    rounds: int = 3
    fewer: int = 2
    seconds: float = 0.1
    cells: Sequence[tuple[str, int]] = tuple((name, n) for name in OPERATIONS for n in LANES)
    least: int = 2
    warm: int = 64
    peers: Sequence[str] = ()
    latency_rounds: int = 3
    latency_lanes: Sequence[int] = (1, 64, 1024)
    latency_requests: int = 2_000

    def rounds_of(self, operation: str) -> int:
        return self.rounds if operation in BUDGETED else min(self.rounds, self.fewer)


FULL = Size()
QUICK = Size(
    processes=1, rounds=1, seconds=0.004, cells=tuple((name, 4) for name in OPERATIONS), least=1,
    warm=8, latency_rounds=1, latency_lanes=(4,), latency_requests=16,
)  # fmt: skip


@dataclass(frozen=True)
class Entrant:
    """A peer that is running, with its browsers. Applications without sessions are entrants too."""

    peer: Peer
    clients: list[Client]


@asynccontextmanager
async def running(
    peers: Sequence[Peer], urls: Mapping[str, str], lanes: int
) -> AsyncGenerator[list[Entrant]]:
    """The peers, and before them the applications without sessions that they are compared with."""
    async with AsyncExitStack() as stack:
        entrants: list[Entrant] = []
        bare: dict[str, Entrant] = {}
        for peer in peers:
            app = await stack.enter_async_context(driver.running(peer.app(urls[peer.server])))
            entrants.append(Entrant(peer, await driver.sign_in_all(app, lanes)))
            without = baseline_of(peer)
            if without.name not in bare:
                app = await stack.enter_async_context(driver.running(without.app("")))
                bare[without.name] = Entrant(without, [Client(app) for _ in range(lanes)])
                for client, other in zip(
                    entrants[-1].clients, bare[without.name].clients, strict=True
                ):
                    other.cookie = client.cookie  # the same headers, read or not
        with driver.frozen():
            yield [*bare.values(), *entrants]


def enters(peer: Peer, operation: str) -> bool:
    """First reads are of interest as reads alone."""
    return operation == "read" or peer.name != "ours-first"


async def cell(entrants: Sequence[Entrant], operation: str, lanes: int, size: Size) -> list[Any]:
    """One operation with so many requests in flight: a row for each peer, with all its rounds."""
    path, counts = f"/{operation}", dict[str, int]()
    for entrant in entrants:  # it warms up, and shows how long a block has to be
        least = max(size.least, size.warm // lanes)
        first = await block(entrant.clients[:lanes], path, least)
        seconds = size.seconds if entrant.peer.baseline else size.seconds / 2
        counts[entrant.peer.name] = driver.sized(first.wall, seconds, lanes, size.least)
    taken: dict[str, list[Sample]] = {entrant.peer.name: [] for entrant in entrants}
    driver.settle()
    for number in range(size.rounds_of(operation)):
        for entrant in driver.turns(entrants, number):
            name = entrant.peer.name
            taken[name].append(await block(entrant.clients[:lanes], path, counts[name]))
    return [
        {
            "operation": operation,
            "lanes": lanes,
            "peer": entrant.peer.name,
            "requests": counts[entrant.peer.name] * lanes,
            **in_rounds("", taken[entrant.peer.name]),
            **in_rounds("bare_", taken[entrant.peer.baseline]),
            "errors": sum(client.errors for client in entrant.clients),
        }
        for entrant in entrants
        if entrant.peer.baseline
    ]


def in_rounds(prefix: str, samples: Sequence[Sample]) -> dict[str, list[float]]:
    return {
        f"{prefix}cpu": [round(sample.cpu, 3) for sample in samples],
        f"{prefix}wall": [round(sample.wall, 3) for sample in samples],
    }


async def latency(peer: Peer, server: Server, lanes: int, requests: int) -> dict[str, Any]:
    """A peer that has just started: what requests take, what fails, and the connections it has."""
    before = server.connections()
    async with driver.running(peer.app(server.url)) as app:
        clients = await driver.sign_in_all(app, lanes)
        with driver.frozen():
            await block(clients, "/read", 2)
            taken = await driver.timed(clients, "/read", max(2, requests // lanes))
        connections = server.connections() - before
    p50, p99 = (driver.percentile(taken, share) for share in (0.5, 0.99))
    return {
        "p50_ms": round(p50, 4),
        "p99_ms": round(p99, 4),
        "errors": sum(client.errors for client in clients),
        "connections": connections,
    }


async def latencies(
    peers: Sequence[Peer], servers: Mapping[str, Server], lanes: int, size: Size
) -> list[dict[str, Any]]:
    """The best round of each peer's, and the most errors and connections."""
    taken: dict[str, list[dict[str, Any]]] = {peer.name: [] for peer in peers}
    for number in range(size.latency_rounds):
        for peer in driver.turns(peers, number):
            found = await latency(peer, servers[peer.server], lanes, size.latency_requests)
            taken[peer.name].append(found)
    return [
        {
            "peer": name,
            "lanes": lanes,
            "rounds": len(rounds),
            **{key: min(one[key] for one in rounds) for key in ("p50_ms", "p99_ms")},
            **{key: max(one[key] for one in rounds) for key in ("errors", "connections")},
        }
        for name, rounds in taken.items()
    ]


def chosen(size: Size, kinds: Sequence[str]) -> list[Peer]:
    return [
        peer for peer in present(kinds, "overhead") if not size.peers or peer.name in size.peers
    ]


def turn(size: Size, urls: Mapping[str, str]) -> list[dict[str, Any]]:
    """The rounds of one process."""
    return driver.run(_turn(size, urls))


async def _turn(size: Size, urls: Mapping[str, str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    most = max(lanes for _, lanes in size.cells)
    async with running(chosen(size, list(urls)), urls, most) as entrants:
        for operation, lanes in size.cells:
            some = [each for each in entrants if enters(each.peer, operation)]
            rows += await cell(some, operation, lanes, size)
    return rows


def costs(size: Size, servers: Mapping[str, Server], progress: Progress) -> list[dict[str, Any]]:
    """The rounds of several processes, one after the other."""
    os.environ["BENCH_SECRET"] = SECRET  # the processes of one application share it
    urls = {kind: server.url for kind, server in servers.items()}
    rows: list[dict[str, Any]] = []
    for number in range(size.processes):
        for server in servers.values():
            server.empty()
        spawn = get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawn) as process:
            found = process.submit(turn, size, urls).result()
        rows = joined(rows, found) if rows else found
        progress(f"process {number + 1} of {size.processes}")
    for operation, lanes in size.cells:
        same = [row for row in rows if (row["operation"], row["lanes"]) == (operation, lanes)]
        progress(line(same))
    return rows


async def waits(size: Size, servers: Mapping[str, Server]) -> list[dict[str, Any]]:
    peers = chosen(size, list(servers))
    return [
        row for lanes in size.latency_lanes for row in await latencies(peers, servers, lanes, size)
    ]


def measure(size: Size = FULL, progress: Progress = print) -> dict[str, Any]:
    with ExitStack() as stack:
        stack.enter_context(driver.pinned())
        servers = {kind: stack.enter_context(serving(kind)) for kind in deployments()}
        rows = costs(size, servers, progress)
        found = driver.run(waits(size, servers))
    return {"processes": size.processes, "overhead": rows, "latency": found}


def line(rows: Sequence[Mapping[str, Any]]) -> str:
    """One cell for whoever waits: each peer's CPU in microseconds, and as a ratio."""
    found = {row["peer"]: row for row in rows}
    parts = [
        f"{name} {rounds_of(row, 'cpu').best():.1f} ({ratio_of(row, found['cookie'], 'cpu')})"
        for name, row in found.items()
    ]
    return f"{rows[0]['operation']:8}{rows[0]['lanes']:5}: " + ", ".join(parts)
