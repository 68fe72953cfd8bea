"""What sessions cost the server: commands, bytes and CPU for a request, memory for a session.

Commands are what clients send, as `MONITOR` shows it; what a script calls isn't counted. For memory
a session is made by the library itself, and all of its keys are copied under other names.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from redis import Redis

from benchmarks import driver
from benchmarks.driver import Client, Progress, block
from benchmarks.peers import Peer, present
from benchmarks.servers import Server, available, serving

__all__ = ["FULL", "QUICK", "Account", "Monitor", "Size", "copies", "measure", "spent"]

OPERATIONS = ("read", "change", "sign-in")
READS = (b"get", b"mget")
MEASURES = ("commands", "bytes_in", "bytes_out", "server_cpu_us")


@dataclass(frozen=True)
class Size:
    """How much is measured. `requests`: in each block."""

    rounds: int = 5
    requests: int = 1_000
    lanes: Sequence[int] = (1, 64)
    sessions: Sequence[int] = (10_000, 1_000_000)
    operations: Sequence[str] = OPERATIONS
    peers: Sequence[str] = ()
    """Those that take part, by default all that ask a server."""


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
        return sum(1 for _ in self._lines())

    def loads(self) -> int:
        """How many records they asked for, since the last call."""
        found = 0
        for line in self._lines():
            verb, *keys = line.partition(b'] "')[2].split(b'" "')
            found += len(keys) if verb.lower() in READS else 0
        return found

    def _lines(self) -> Iterator[bytes]:
        self._server.client.echo("counted")
        for line in self._file:
            if b'"ECHO" "counted"' in line:
                return
            if b" lua] " not in line:
                yield line
        raise RuntimeError("the server ended the MONITOR")

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@dataclass(frozen=True)
class Account:
    """A node's own totals at one moment. `cpu`: in µs; `reads`: how often it read a socket."""

    sent: float
    received: float
    reads: float
    cpu: float

    @classmethod
    def of(cls, node: Redis) -> Account:
        stats, cpu = node.info("stats"), node.info("cpu")
        return cls(
            sent=stats["total_net_output_bytes"],
            received=stats["total_net_input_bytes"],
            reads=stats["total_reads_processed"],
            cpu=(cpu["used_cpu_user"] + cpu["used_cpu_sys"]) * 1e6,
        )

    def __sub__(self, other: Account) -> Account:
        return Account(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def each(self, made: int, asking: Account) -> Account:
        """For each of so many requests, less what asking twice took."""
        pairs = zip(astuple(self), astuple(asking), strict=True)
        return Account(*((total - 2 * own) / made for total, own in pairs))


async def requests(clients: Sequence[Client], path: str, count: int) -> int:
    each = max(2, count // len(clients))
    await block(clients, path, each)
    return each * len(clients)


async def spent(
    nodes: Sequence[Redis], clients: Sequence[Client], path: str, count: int
) -> list[Account]:
    """What each node did for a request, by a block of about so many."""
    start = [Account.of(node) for node in nodes]
    asking = [Account.of(node) - before for node, before in zip(nodes, start, strict=True)]
    made = await requests(clients, path, count)
    return [
        (Account.of(node) - before).each(made, own)
        for node, before, own in zip(nodes, start, asking, strict=True)
    ]


async def commands(server: Server, clients: Sequence[Client], path: str, size: Size) -> float:
    monitor = await asyncio.to_thread(Monitor, server)
    try:
        made = await requests(clients, path, size.requests)
        return await asyncio.to_thread(monitor.count) / made
    finally:
        monitor.close()


async def turn(
    peer: Peer, server: Server, operation: str, lanes: int, size: Size
) -> dict[str, Any]:
    """One peer's turn: an application that has just started, and an empty server."""
    server.client.flushall()
    path = f"/{operation}"
    async with driver.running(peer.app(server.url)) as app:
        clients = await driver.sign_in_all(app, lanes)
        await requests(clients, path, size.requests)
        sent = await commands(server, clients, path, size)
        (one,) = await spent(server.nodes, clients, path, size.requests)
    return {
        "commands": round(sent, 4),
        "bytes_in": round(one.received, 1),
        "bytes_out": round(one.sent, 1),
        "server_cpu_us": round(max(one.cpu, 0.0), 2),
        "errors": sum(client.errors for client in clients),
    }


async def cell(
    peers: Sequence[Peer], servers: Mapping[str, Server], operation: str, lanes: int, size: Size
) -> list[dict[str, Any]]:
    """One operation with so many requests in flight: a row for each peer, with all its rounds."""
    taken: dict[str, list[dict[str, Any]]] = {peer.name: [] for peer in peers}
    for number in range(size.rounds):
        for peer in driver.turns(peers, number):
            found = await turn(peer, servers[peer.server], operation, lanes, size)
            taken[peer.name].append(found)
    return [
        {
            "operation": operation,
            "lanes": lanes,
            "peer": name,
            **{measure: [one[measure] for one in rounds] for measure in MEASURES},
            "errors": sum(one["errors"] for one in rounds),
        }
        for name, rounds in taken.items()
    ]


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
            found = cast("Iterable[bytes]", client.scan_iter())
            keys = [key for key in found if not key.endswith(b":keys")]  # there is one for all
            before, made = int(server.info("memory")["used_memory"]), 0
            for count in sorted(size.sessions):
                copies(client, keys, made, count)
                made = count
                used = int(server.info("memory")["used_memory"]) - before
                rows.append(
                    {
                        "sessions": count,
                        "peer": peer.name,
                        "bytes_each": [round(used / count, 1)],
                        "keys": lengths(client, keys),
                    }
                )
    return rows


async def _measure(size: Size, progress: Progress) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    stored: list[dict[str, Any]] = []
    kinds = available()
    with ExitStack() as stack:
        stack.enter_context(driver.pinned())
        servers = {kind: stack.enter_context(serving(kind)) for kind in kinds}
        peers = [peer for peer in present(kinds, "redis") if peer.server_side]
        if size.peers:
            peers = [peer for peer in peers if peer.name in size.peers]
        for operation in size.operations:
            for lanes in size.lanes:
                some = await cell(peers, servers, operation, lanes, size)
                rows += some
                parts = [
                    f"{row['peer']} {min(row['commands'])} ({min(row['server_cpu_us'])} µs)"
                    for row in some
                ]
                progress(f"{operation:8}{lanes:5}: " + ", ".join(parts))
        # Near copies are kept elsewhere; what Redis remembers of them, `near` measures.
        for peer in peers if size.sessions else ():
            if peer.near:
                continue
            stored += await memory(peer, size)
            progress(f"memory  {peer.name}: {stored[-1]['bytes_each'][0]} B")
    return {"rounds": size.rounds, "redis": rows, "memory": stored}


def measure(size: Size = FULL, progress: Progress = print) -> dict[str, Any]:
    return driver.run(_measure(size, progress))
