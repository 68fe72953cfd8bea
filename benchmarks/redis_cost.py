"""What sessions cost the server: commands, bytes and CPU for a request, memory for a session.

Commands are what clients send, as `MONITOR` shows it; what a script calls isn't counted. For memory
a session is made by the library itself, and all of its keys are copied under other names.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any, cast
from urllib.parse import urlsplit

from redis import Redis

from benchmarks import driver
from benchmarks.driver import Client, Progress, block
from benchmarks.peers import OURS, Peer, present
from benchmarks.servers import Server, available, serving

__all__ = ["FULL", "QUICK", "Size", "copies", "measure"]

OPERATIONS = ("read", "change", "sign-in")


@dataclass(frozen=True)
class Size:
    """How much is measured. `requests`: in each block."""

    rounds: int = 3
    requests: int = 1_200
    lanes: Sequence[int] = (1, 64)
    sessions: Sequence[int] = (10_000, 1_000_000)
    operations: Sequence[str] = OPERATIONS
    only_ours: bool = False


FULL = Size()
QUICK = Size(rounds=1, requests=20, lanes=(1, 8), sessions=(200,))


class Monitor:
    """The commands that clients send to a server, counted by the server's own account."""

    def __init__(self, server: Server) -> None:
        self._server = server
        parts = urlsplit(server.url)
        self._socket = socket.create_connection((parts.hostname, parts.port), timeout=30)
        self._socket.sendall(b"MONITOR\r\n")
        self._file = self._socket.makefile("rb")
        self._file.readline()

    def count(self) -> int:
        """Those since the last call."""
        self._server.client.echo("counted")
        found = 0
        for line in self._file:
            if b'"ECHO" "counted"' in line:
                return found
            found += b" lua] " not in line
        raise RuntimeError("the server ended the MONITOR")

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@dataclass(frozen=True)
class Account:
    """The server's own totals at one moment."""

    sent: int
    received: int
    cpu: float

    @classmethod
    def of(cls, server: Server) -> Account:
        stats, cpu = server.info("stats"), server.info("cpu")
        return cls(
            sent=stats["total_net_output_bytes"],
            received=stats["total_net_input_bytes"],
            cpu=cpu["used_cpu_user"] + cpu["used_cpu_sys"],
        )

    def __sub__(self, other: Account) -> Account:
        return Account(self.sent - other.sent, self.received - other.received, self.cpu - other.cpu)


async def requests(clients: Sequence[Client], path: str, size: Size) -> int:
    each = max(2, size.requests // len(clients))
    await block(clients, path, each)
    return each * len(clients)


async def commands(server: Server, clients: Sequence[Client], path: str, size: Size) -> float:
    monitor = await asyncio.to_thread(Monitor, server)
    try:
        made = await requests(clients, path, size)
        return await asyncio.to_thread(monitor.count) / made
    finally:
        monitor.close()


async def cell(
    peer: Peer, server: Server, operation: str, lanes: int, size: Size
) -> dict[str, Any]:
    """One operation of one peer, with so many requests in flight."""
    server.client.flushall()
    path = f"/{operation}"
    async with driver.running(peer.app(server.url)) as app:
        clients = await driver.sign_in_all(app, lanes)
        await requests(clients, path, size)
        sent = await commands(server, clients, path, size)
        rounds: list[tuple[float, float, float]] = []
        for _ in range(size.rounds):
            start = Account.of(server)
            own = Account.of(server) - start  # what asking costs
            made = await requests(clients, path, size)
            spent = Account.of(server) - start
            rounds.append(
                (
                    (spent.received - 2 * own.received) / made,
                    (spent.sent - 2 * own.sent) / made,
                    spent.cpu / made * 1e6,
                )
            )
    received, answered, cpu = (median(values) for values in zip(*rounds, strict=True))
    return {
        "operation": operation,
        "lanes": lanes,
        "peer": peer.name,
        "commands": round(sent, 4),
        "bytes_in": round(received, 1),
        "bytes_out": round(answered, 1),
        "server_cpu_us": round(cpu, 2),
        "errors": sum(client.errors for client in clients),
    }


# -- memory

_COPY = """
for i = ARGV[1], ARGV[2] do
    local name = string.format('%09d', i)
    for k = 1, #KEYS do
        redis.call('COPY', KEYS[k], ARGV[k + 2] .. name)
    end
end
"""
BATCH = 10_000


def copies(client: Redis, keys: Sequence[bytes], start: int, stop: int) -> None:
    """Copy these keys with their values and lifetimes; the last 9 characters of a name differ."""
    heads = [key[:-9] for key in keys]
    for first in range(start, stop, BATCH):
        last = min(first + BATCH, stop) - 1
        client.eval(_COPY, len(keys), *keys, first, last, *heads)


def lengths(client: Redis, keys: Sequence[bytes]) -> list[dict[str, int]]:
    """The bytes of each key's name and value."""
    found: list[dict[str, int]] = []
    for key in sorted(keys):
        if client.type(key) == b"hash":
            fields = cast("dict[bytes, bytes]", client.hgetall(key))
            value = sum(len(name) + len(text) for name, text in fields.items())
        else:
            value = client.strlen(key)
        found.append({"name": len(key), "value": value})
    return found


async def memory(peer: Peer, size: Size) -> list[dict[str, Any]]:
    """Bytes of the server's memory for each session of a signed-in user, its index included."""
    rows: list[dict[str, Any]] = []
    with serving(peer.server) as server:  # a fresh one: what was freed before would count, too
        client = server.client
        async with driver.running(peer.app(server.url)) as app:
            client.flushall()
            browser = Client(app)
            await browser.request("/sign-in", anonymous=True)
            keys = list(cast("Iterable[bytes]", client.scan_iter()))
            before, made = int(server.info("memory")["used_memory"]), 0
            for count in sorted(size.sessions):
                copies(client, keys, made, count)
                made = count
                used = int(server.info("memory")["used_memory"]) - before
                rows.append(
                    {
                        "sessions": count,
                        "peer": peer.name,
                        "bytes_each": round(used / count, 1),
                        "keys": lengths(client, keys),
                    }
                )
    return rows


async def _measure(size: Size, progress: Progress) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    stored: list[dict[str, Any]] = []
    kinds = available()
    with ExitStack() as stack:
        servers = {kind: stack.enter_context(serving(kind)) for kind in kinds}
        # What a process remembers is nothing to the server.
        peers = [p for p in present(kinds) if p.server_side and p.name != "ours-first"]
        if size.only_ours:
            peers = [peer for peer in peers if peer.name == OURS]
        for operation in size.operations:
            for lanes in size.lanes:
                some = [
                    await cell(peer, servers[peer.server], operation, lanes, size) for peer in peers
                ]
                rows += some
                parts = [f"{r['peer']} {r['commands']} ({r['server_cpu_us']} µs)" for r in some]
                progress(f"{operation:8}{lanes:5}: " + ", ".join(parts))
        for peer in peers if size.sessions else ():
            stored += await memory(peer, size)
            progress(f"memory  {peer.name}: {stored[-1]['bytes_each']} B")
    return {"rounds": size.rounds, "redis": rows, "memory": stored}


def measure(size: Size = FULL, progress: Progress = print) -> dict[str, Any]:
    return driver.run(_measure(size, progress))
