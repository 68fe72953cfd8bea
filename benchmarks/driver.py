"""The load: ASGI calls without a server, many at a time, and what they take."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple, TypeVar

import uvloop
from starlette.types import ASGIApp, Message

__all__ = [
    "HINT",
    "Client",
    "Sample",
    "apart",
    "block",
    "frozen",
    "percentile",
    "pinned",
    "run",
    "running",
    "settle",
    "sign_in_all",
]

T = TypeVar("T")
HINT = b"-fresh="
"""How the cookie ends by which a browser says for ten seconds that it changed its session."""
REQUEST: Message = {"type": "http.request", "body": b"", "more_body": False}


def run(main: Coroutine[Any, Any, T]) -> T:
    """On uvloop, which is what everything is measured with."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


@asynccontextmanager
async def running(app: ASGIApp) -> AsyncGenerator[ASGIApp]:
    """The application between its start-up and its shutdown."""
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    outbox: asyncio.Queue[Message] = asyncio.Queue()
    scope: dict[str, Any] = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    task = asyncio.ensure_future(app(scope, inbox.get, outbox.put))

    async def phase(name: str) -> None:
        inbox.put_nowait({"type": f"lifespan.{name}"})
        answer = asyncio.ensure_future(outbox.get())
        await asyncio.wait({task, answer}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done() or answer.result()["type"] != f"lifespan.{name}.complete":
            raise RuntimeError(f"{name}: {answer.result() if answer.done() else task}")

    await phase("startup")
    try:
        yield app
    finally:
        await phase("shutdown")
        await task


@contextmanager
def pinned() -> Generator[None]:
    """Let this process and those that it starts share one core, where the system can do that.

    On a virtual machine it costs the sender up to 40 µs to wake another core, and as much again to
    be woken: with one request in flight that is more than any library does.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@contextmanager
def apart() -> Generator[set[int]]:
    """Keep this process, and those that it starts, off one core; the set has that core.

    The set is empty, and nothing changes, where the system can't do that or has a single core.
    """
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set[int]()
    if len(cores) < 2:
        yield set()
        return
    kept = {max(cores)}
    os.sched_setaffinity(0, cores - kept)
    try:
        yield kept
    finally:
        os.sched_setaffinity(0, cores)


def settle() -> None:
    """Have the collector pass over what is there now."""
    gc.collect()
    gc.freeze()


@contextmanager
def frozen() -> Generator[None]:
    """The collector runs, but doesn't search what was there before: what all the peers have loaded
    would be at the expense of whoever is measured.
    """
    settle()
    try:
        yield
    finally:
        gc.unfreeze()


class Client:
    """One browser: its cookies and the last response's body. `errors` counts what wasn't a 200."""

    __slots__ = ("app", "body", "cookie", "errors", "hint", "status")

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.cookie: bytes | None = None
        self.hint: bytes | None = None
        self.status = 0
        self.body = b""
        self.errors = 0

    async def receive(self) -> Message:
        return REQUEST

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            for name, value in message["headers"]:
                if name.lower() == b"set-cookie":
                    cookie = value.partition(b";")[0]
                    if HINT in cookie:
                        self.hint = cookie
                    else:
                        self.cookie = cookie
        else:
            self.body = message.get("body", b"")

    async def request(self, path: str, *, anonymous: bool = False) -> None:
        headers = [
            (b"host", b"shop.example"),
            (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101"),
            (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
            (b"accept-language", b"en"),
        ]
        if self.cookie is not None and not anonymous:
            hint = self.hint
            cookies = self.cookie if hint is None else b"%b; %b" % (self.cookie, hint)
            headers.append((b"cookie", cookies))
        await self.app(
            {
                "type": "http",
                "asgi": {"version": "3.0", "spec_version": "2.4"},
                "http_version": "1.1",
                "method": "GET",
                "scheme": "https",
                "path": path,
                "raw_path": path.encode(),
                "root_path": "",
                "query_string": b"",
                "headers": headers,
                "client": ("203.0.113.7", 52_000),
                "server": ("shop.example", 443),
                "state": {},
            },
            self.receive,
            self.send,
        )
        if self.status != 200:
            self.errors += 1
        self.status = 0


class Sample(NamedTuple):
    """Microseconds for one request, of this process' CPU and of the clock."""

    cpu: float
    wall: float


async def block(clients: Sequence[Client], path: str, each: int) -> Sample:
    """Every client at the same time, each making `each` requests one after the other.

    Who only reads has changed nothing lately: the hint of an earlier change has gone.
    """
    anonymous = path == "/sign-in"
    if path == "/read":
        for client in clients:
            client.hint = None

    async def lane(client: Client) -> None:
        for _ in range(each):
            await client.request(path, anonymous=anonymous)

    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*map(lane, clients))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    scale = 1e6 / (each * len(clients))
    return Sample(cpu * scale, wall * scale)


async def timed(clients: Sequence[Client], path: str, each: int) -> list[float]:
    """The milliseconds that each request took, sorted."""

    async def lane(client: Client) -> list[float]:
        taken: list[float] = []
        for _ in range(each):
            start = time.perf_counter()
            await client.request(path)
            taken.append((time.perf_counter() - start) * 1e3)
        return taken

    gc.collect()
    lanes = await asyncio.gather(*map(lane, clients))
    return sorted(taken for lane in lanes for taken in lane)


async def sign_in_all(app: ASGIApp, count: int) -> list[Client]:
    """That many browsers, each with a session of its own that has been seen to keep a change."""
    clients = [Client(app) for _ in range(count)]
    for start in range(0, count, 64):
        some = clients[start : start + 64]
        await asyncio.gather(*(client.request("/sign-in", anonymous=True) for client in some))
    await _check(clients[0])
    return clients


async def _check(client: Client) -> None:
    for path in ("/change", "/change", "/read"):
        await client.request(path)
    if client.errors or client.body != b"2":
        raise RuntimeError(f"a session wasn't kept: {client.errors} errors, {client.body!r}")


def percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def turns(things: Sequence[T], number: int) -> list[T]:
    """The same things, each round beginning with another one."""
    start = number % len(things)
    return [*things[start:], *things[:start]]


def sized(microseconds: float, seconds: float, lanes: int, least: int) -> int:
    """How many requests each lane makes, for a block of about so many seconds."""
    return max(least, round(seconds * 1e6 / microseconds / lanes))


Progress = Callable[[str], None]
