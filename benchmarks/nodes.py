"""Clusters of more and more nodes beside a single server: what the client pays for them, and how
the servers' work is divided.

All run at the same time and take turns. A row's `nodes` is 0 for the single server; `batches` is
how often a server read from a socket for a request, of all nodes together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.driver import Progress
from benchmarks.overhead import Entrant, cell, running
from benchmarks.overhead import Size as Blocks
from benchmarks.peers import NEAR, OURS, PEERS, missing
from benchmarks.ratios import rounds_of
from benchmarks.redis_cost import spent
from benchmarks.servers import Server, clustered

__all__ = ["FULL", "QUICK", "Size", "by_nodes"]


@dataclass(frozen=True)
class Size:
    """How much is measured. `requests`: in each block that the servers' accounts are taken of."""

    nodes: Sequence[int] = (1, 2, 3, 6)
    cells: Sequence[tuple[str, int]] = (
        ("read", 64), ("read", 256), ("change", 64), ("change", 256),
    )  # fmt: skip
    blocks: Blocks = field(default=Blocks(rounds=8, seconds=0.08, warm=1_024))
    rounds: int = 3
    requests: int = 2_000


FULL = Size()
QUICK = Size(
    nodes=(1, 2), cells=(("read", 4), ("change", 4)), rounds=1, requests=40,
    blocks=Blocks(rounds=1, seconds=0.002, least=1, warm=8),
)  # fmt: skip


async def servers_work(
    entrant: Entrant, server: Server, operation: str, lanes: int, size: Size
) -> dict[str, Any]:
    """The CPU of each node, and the batches of all, for a request."""
    clients = entrant.clients[:lanes]
    rounds = [
        await spent(server.nodes, clients, f"/{operation}", size.requests)
        for _ in range(size.rounds)
    ]
    each = list(zip(*rounds, strict=True))  # by node
    return {
        "server_cpu_us": [round(max(0.0, min(one.cpu for one in node)), 3) for node in each],
        "batches": round(sum(max(0.0, min(one.reads for one in node)) for node in each), 4),
    }


async def by_nodes(single: Server, size: Size, progress: Progress) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        servers = {"0": single}
        servers |= {str(count): stack.enter_context(clustered(count)) for count in size.nodes}
        kinds = [PEERS[name] for name in (OURS, NEAR) if not missing(PEERS[name])]
        peers = [
            replace(kind, name=f"{kind.name} {count}", server=count)
            for kind in kinds
            for count in servers
        ]
        urls = {count: server.url for count, server in servers.items()}
        async with running(peers, urls, max(lanes for _, lanes in size.cells)) as entrants:
            measured = [entrant for entrant in entrants if entrant.peer.baseline]
            for operation, lanes in size.cells:
                found = await cell(entrants, operation, lanes, size.blocks)
                for entrant, row in zip(measured, found, strict=True):
                    peer = entrant.peer
                    work = await servers_work(entrant, servers[peer.server], operation, lanes, size)
                    del row["peer"]
                    rows.append({"nodes": int(peer.server), "near": peer.near, **row, **work})
                progress(line(rows[-len(found) :]))
    return rows


def line(rows: Sequence[Mapping[str, Any]]) -> str:
    parts = [
        f"{row['nodes']} nodes{', near' * row['near']} {rounds_of(row, 'cpu').best():.1f}"
        f" (servers {sum(row['server_cpu_us']):.1f})"
        for row in rows
    ]
    return f"{rows[0]['operation']:8}{rows[0]['lanes']:5}: " + ", ".join(parts)
