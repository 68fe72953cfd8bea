"""An open-loop load: requests are sent at a constant rate, whether or not answers have come.

A latency counts from the moment at which a request was due, so that a server that falls behind
doesn't slow down the load that it is measured with.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

from benchmarks.driver import percentile

__all__ = ["offer"]

CONNECTIONS = 64
LATE = 1.0  # seconds that answers are waited for at the end
END = b"\r\n\r\n"


class _Connection(asyncio.Protocol):
    """One HTTP/1.1 connection, kept open; one request at a time."""

    def __init__(self, offer: _Offer) -> None:
        self._offer = offer
        self._buffer = b""
        self.due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(END)
        if not found:
            return
        at = head.lower().index(b"content-length:") + 15
        if len(body) < int(head[at:].split(b"\r\n", 1)[0]):
            return
        self._buffer = b""
        self._offer.answered(self, ok=head.startswith(b"HTTP/1.1 200"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._offer.errors += 1


class _Offer:
    """The requests of one step, those that are due, and the connections that are free."""

    def __init__(self, requests: Sequence[bytes], total: int) -> None:
        self._requests = requests
        self._total = total
        self.complete = asyncio.Event()
        self._turn = 0
        self._due: deque[float] = deque()
        self.free: list[_Connection] = []
        self.latencies: list[float] = []
        self.errors = 0

    def due(self, at: float) -> None:
        self._due.append(at)
        if self.free:
            self._send(self.free.pop())

    def answered(self, connection: _Connection, *, ok: bool) -> None:
        self.latencies.append(time.perf_counter() - connection.due)
        self.errors += not ok
        if len(self.latencies) == self._total:
            self.complete.set()
        if self._due:
            self._send(connection)
        else:
            self.free.append(connection)

    def _send(self, connection: _Connection) -> None:
        connection.due = self._due.popleft()
        self._turn = (self._turn + 1) % len(self._requests)
        connection.transport.write(self._requests[self._turn])


async def offer(
    port: int, path: str, cookies: Sequence[str], rate: float, seconds: float
) -> dict[str, Any]:
    """Offer `rate` requests a second; what came of it. `busy`: the share of a core that it took."""
    head = f"GET {path} HTTP/1.1\r\nHost: shop.example\r\nCookie: "
    total = round(rate * seconds)
    load = _Offer([f"{head}{cookie}\r\n\r\n".encode() for cookie in cookies], total)
    loop = asyncio.get_running_loop()
    connections = [
        (await loop.create_connection(lambda: _Connection(load), "127.0.0.1", port))[1]
        for _ in range(CONNECTIONS)
    ]
    load.free = list(connections)
    cpu, start = time.process_time(), time.perf_counter()
    made = 0
    while made < total:
        elapsed = time.perf_counter() - start
        while made < total and made <= elapsed * rate:
            load.due(start + made / rate)
            made += 1
        await asyncio.sleep(0.001)  # what uvloop's clock can tell apart
    sent = time.perf_counter() - start
    busy = (time.process_time() - cpu) / sent
    with suppress(TimeoutError):
        await asyncio.wait_for(load.complete.wait(), LATE)
    took, errors = time.perf_counter() - start, load.errors
    for connection in connections:
        connection.transport.abort()
    ordered = sorted(load.latencies) or [LATE]
    return {
        "offered": round(rate),
        "answered": round(len(load.latencies) / max(took, seconds)),
        "p50_ms": round(percentile(ordered, 0.5) * 1e3, 3),
        "p99_ms": round(percentile(ordered, 0.99) * 1e3, 3),
        "unanswered": total - len(load.latencies),
        "errors": errors,
        "generator": round(busy, 2),
    }
