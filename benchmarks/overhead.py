"""What sessions cost a request: CPU and time over the same application without sessions.

One process on uvloop, ASGI calls without an HTTP server, real servers on loopback TCP. Each peer's
block follows one of its own application without sessions, and the difference is what is compared.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks import driver
from benchmarks.driver import Client, Sample, block
from benchmarks.peers import Peer, baseline_of, present
from benchmarks.servers import Server, deployments, serving

__all__ = ["FULL", "LANES", "OPERATIONS", "QUICK", "Size", "cell", "measure", "running"]

OPERATIONS = ("read", "change", "sign-in")  # in this order: the last one floods the servers
LANES = (1, 8, 64, 256, 1024)
BUDGETED = (1, 64, 256)


@dataclass(frozen=True)
class Size:
    """How much is measured. `seconds`: of one block; `fewer`: rounds where no budget looks."""

    rounds: int = 5
    fewer: int = 3
    seconds: float = 0.1
    cells: Sequence[tuple[str, int]] = tuple((name, n) for name in OPERATIONS for n in LANES)
    least: int = 2
    warm: int = 64
    latency_lanes: Sequence[int] = (1, 64, 1024)
    latency_requests: int = 2_000

    def rounds_at(self, lanes: int) -> int:
        return self.rounds if lanes in BUDGETED else min(self.rounds, self.fewer)


FULL = Size()
QUICK = Size(
    rounds=1, seconds=0.004, cells=tuple((name, 4) for name in OPERATIONS), least=1, warm=8,
    latency_lanes=(4,), latency_requests=16,
)  # fmt: skip


@dataclass(frozen=True)
class Entrant:
    """A peer that is running, with its browsers; and its application without sessions."""

    peer: Peer
    clients: list[Client]
    bare: list[Client]


@asynccontextmanager
async def running(
    peers: Sequence[Peer], servers: Mapping[str, Server], lanes: int
) -> AsyncGenerator[list[Entrant]]:
    async with AsyncExitStack() as stack:
        entrants: list[Entrant] = []
        for peer in peers:
            app = await stack.enter_async_context(
                driver.running(peer.app(servers[peer.server].url))
            )
            bare = await stack.enter_async_context(driver.running(baseline_of(peer).app("")))
            clients = await driver.sign_in_all(app, lanes)
            entrants.append(Entrant(peer, clients, [Client(bare) for _ in clients]))
            for client, other in zip(clients, entrants[-1].bare, strict=True):
                other.cookie = client.cookie  # the same headers, read or not
        with driver.frozen():
            yield entrants


def enters(peer: Peer, operation: str) -> bool:
    """First reads are of interest as reads alone."""
    return operation == "read" or peer.name != "ours-first"


async def pair(entrant: Entrant, path: str, lanes: int, each: int, bare: int) -> list[Sample]:
    """First without sessions, then with."""
    return [
        await block(entrant.bare[:lanes], path, bare),
        await block(entrant.clients[:lanes], path, each),
    ]


async def cell(entrants: Sequence[Entrant], operation: str, lanes: int, size: Size) -> list[Any]:
    """One operation with so many requests in flight: a row for each peer, with all its rounds."""
    path, counts = f"/{operation}", dict[str, tuple[int, int]]()
    for entrant in entrants:  # it warms up, and shows how long a block has to be
        least = max(size.least, size.warm // lanes)
        bare, full = await pair(entrant, path, lanes, least, least)
        counts[entrant.peer.name] = (
            driver.sized(full.wall, size.seconds, lanes, size.least),
            driver.sized(bare.wall, size.seconds / 2, lanes, size.least),
        )
    taken: dict[str, list[list[Sample]]] = {entrant.peer.name: [] for entrant in entrants}
    driver.settle()
    for number in range(size.rounds_at(lanes)):
        for entrant in driver.turns(entrants, number):
            name = entrant.peer.name
            taken[name].append(await pair(entrant, path, lanes, *counts[name]))
    return [
        {
            "operation": operation,
            "lanes": lanes,
            "peer": entrant.peer.name,
            "requests": counts[entrant.peer.name][0] * lanes,
            "cpu": [round(full.cpu - bare.cpu, 3) for bare, full in taken[entrant.peer.name]],
            "wall": [round(full.wall - bare.wall, 3) for bare, full in taken[entrant.peer.name]],
            "bare_cpu": [round(bare.cpu, 3) for bare, _ in taken[entrant.peer.name]],
            "errors": sum(client.errors for client in entrant.clients),
        }
        for entrant in entrants
    ]


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
        "peer": peer.name,
        "lanes": lanes,
        "p50_ms": round(p50, 4),
        "p99_ms": round(p99, 4),
        "errors": sum(client.errors for client in clients),
        "connections": connections,
    }


async def measure(size: Size = FULL, progress: driver.Progress = print) -> dict[str, Any]:
    rows: list[Any] = []
    latencies: list[Any] = []
    kinds = deployments()
    with ExitStack() as stack:
        stack.enter_context(driver.pinned())
        servers = {kind: stack.enter_context(serving(kind)) for kind in kinds}
        peers = present(kinds, "overhead")
        async with running(peers, servers, max(lanes for _, lanes in size.cells)) as entrants:
            for operation, lanes in size.cells:
                chosen = [each for each in entrants if enters(each.peer, operation)]
                some = await cell(chosen, operation, lanes, size)
                progress(line(some))
                rows += some
                if operation == "sign-in":  # nobody's session is needed any more
                    for server in servers.values():
                        server.empty()
        for lanes in size.latency_lanes:
            for peer in peers:
                server = servers[peer.server]
                latencies.append(await latency(peer, server, lanes, size.latency_requests))
    return {"rounds": size.rounds, "overhead": rows, "latency": latencies}


def line(rows: Sequence[Mapping[str, Any]]) -> str:
    """One cell for whoever waits: each peer's CPU in microseconds, and as a ratio."""
    cpu = {row["peer"]: row["cpu"] for row in rows}
    parts = [
        f"{name} {median(values):.1f} ({driver.ratio(values, cpu['cookie']):.2f})"
        for name, values in cpu.items()
    ]
    return f"{rows[0]['operation']:8}{rows[0]['lanes']:5}: " + ", ".join(parts)
