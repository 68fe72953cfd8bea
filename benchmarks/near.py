"""How many calls near copies answer, and what Redis remembers of who has them.

A page makes its calls within a second, each at a random moment and to a random one of several
uvicorn processes, as a load balancer without stickiness does it. There are four pages, one after
the other, by browsers whose sessions none of these processes has seen before:

1. first: nobody has a copy yet
2. again: nothing has changed since
3. changing: one of the calls, at random, changes the session
4. after: the browser still carries the hint that it changed its session in the last ten seconds
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from benchmarks import driver
from benchmarks.driver import Progress
from benchmarks.peers import NEAR, OURS, PEERS, missing
from benchmarks.redis_cost import Monitor
from benchmarks.servers import Server, serving
from benchmarks.shop import SECRET, near
from benchmarks.workers import Site, sign_in, site
from redis_sessions import Keyring, RedisStore, SessionManager
from redis_sessions.testing import store_session

__all__ = ["FULL", "PAGES", "QUICK", "Size", "expected", "measure"]

PAGES = ("first", "again", "changing", "after")
END = b"\r\n\r\n"
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True)
class Size:
    """How much is measured. `seconds`: of a page; `sessions`: fewer than a process keeps."""

    workers: Sequence[int] = (1, 2, 4, 8)
    calls: Sequence[int] = (4, 12, 40)
    browsers: int = 40
    seconds: float = 1.0
    clients: Sequence[int] = (1, 4, 16)
    sessions: int = 4_000


FULL = Size()
QUICK = Size(workers=(1, 2), calls=(3,), browsers=2, seconds=0.05, clients=(1,), sessions=500)


def expected(workers: int, calls: int) -> float:
    """The share of a first page's calls that find a copy, if each worker asks Redis once."""
    asked = workers * (1 - (1 - 1 / workers) ** calls)
    return 1 - asked / calls


# -- pages


class Browser:
    """A browser's cookies, kept as long as they say."""

    def __init__(self, cookie: str) -> None:
        name, _, value = cookie.partition("=")
        self._cookies: dict[str, tuple[str, float]] = {name: (value, time.monotonic() + 3600)}

    def header(self) -> str:
        now = time.monotonic()
        kept = [f"{name}={value}" for name, (value, end) in self._cookies.items() if end > now]
        return "; ".join(kept)

    def keep(self, cookie: str) -> None:
        pair, *attributes = cookie.split("; ")
        name, _, value = pair.partition("=")
        ages = [text[8:] for text in attributes if text.lower().startswith("max-age=")]
        self._cookies[name] = value, time.monotonic() + int(ages[0] if ages else 3600)


class Balancer:
    """Sends each call to one of the workers at random. `errors` counts what wasn't a 200."""

    def __init__(self, sites: Sequence[Site], seed: int) -> None:
        self._ports = [site.port for site in sites]
        self._free: dict[int, list[Stream]] = defaultdict(list)
        self.random = random.Random(seed)  # noqa: S311 - nobody has to guess it
        self.errors = 0

    async def call(self, browser: Browser, path: str) -> None:
        port = self.random.choice(self._ports)
        free = self._free[port]
        reader, writer = free.pop() if free else await asyncio.open_connection("127.0.0.1", port)
        head = f"GET {path} HTTP/1.1\r\nHost: shop.example\r\nX-Forwarded-Proto: https\r\n"
        writer.write(f"{head}Cookie: {browser.header()}\r\n\r\n".encode())
        status, *lines = (await reader.readuntil(END)).decode("latin-1").split("\r\n")
        headers = [line.partition(": ")[::2] for line in lines]
        lengths = [int(value) for name, value in headers if name.lower() == "content-length"]
        await reader.readexactly(lengths[0])
        free.append((reader, writer))
        self.errors += " 200 " not in status
        for name, value in headers:
            if name.lower() == "set-cookie":
                browser.keep(value)

    async def page(self, browser: Browser, calls: int, seconds: float, *, changes: bool) -> None:
        changing = self.random.randrange(calls) if changes else None

        async def one(number: int) -> None:
            await asyncio.sleep(self.random.uniform(0, seconds))
            await self.call(browser, "/change" if number == changing else "/read")

        await asyncio.gather(*map(one, range(calls)))

    def close(self) -> None:
        for streams in self._free.values():
            for _, writer in streams:
                writer.close()


async def pages(
    sites: Sequence[Site], cookies: Sequence[str], monitor: Monitor, calls: int, size: Size
) -> list[dict[str, Any]]:
    """Each page by all these browsers at the same time."""
    balancer = Balancer(sites, seed=calls * 100 + len(sites))
    browsers = [Browser(cookie) for cookie in cookies]
    rows: list[dict[str, Any]] = []
    for name in PAGES:
        changes = name == "changing"
        await asyncio.to_thread(monitor.count)
        await asyncio.gather(
            *(balancer.page(each, calls, size.seconds, changes=changes) for each in browsers)
        )
        loads, made = await asyncio.to_thread(monitor.loads), calls * len(browsers)
        row = {"page": name, "workers": len(sites), "calls": calls, "requests": made}
        rows.append({**row, "loads": loads, "hits": round(1 - loads / made, 4)})
    balancer.close()
    return [{**row, "errors": balancer.errors} for row in rows]


def hits(server: Server, size: Size, progress: Progress) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        elsewhere = stack.enter_context(site(PEERS[OURS], server.url, browsers=1))
        sites = [
            stack.enter_context(site(PEERS[NEAR], server.url, browsers=1))
            for _ in range(max(size.workers))
        ]
        monitor = Monitor(server)
        stack.callback(monitor.close)
        for workers in size.workers:
            for calls in size.calls:
                cookies = sign_in(elsewhere.peer, elsewhere.port, size.browsers)
                some = driver.run(pages(sites[:workers], cookies, monitor, calls, size))
                shown = ", ".join(f"{row['page']} {row['hits']:.0%}" for row in some)
                progress(f"{workers} workers, {calls} calls: {shown}")
                rows += some
    return rows


# -- what Redis remembers


async def tracked(server: Server, size: Size, progress: Progress) -> list[dict[str, Any]]:
    """Bytes of Redis' memory for a session of which so many processes have a copy.

    The connections of these processes, and what Redis has for each of them, don't count.
    """
    rows: list[dict[str, Any]] = []
    keyring = Keyring(SECRET)
    plain = SessionManager(RedisStore(server.url), keyring)
    tokens = [await store_session(plain, {"n": number}) for number in range(size.sessions)]
    managers: list[SessionManager] = []
    used = 0
    for clients in sorted(size.clients):
        new = [
            SessionManager(RedisStore(near(server.url)), keyring)
            for _ in range(clients - len(managers))
        ]
        managers += new
        await _load_all(new, tokens[:64])
        before = int(server.info("memory")["used_memory"])
        await _load_all(new, tokens[64:])
        used += int(server.info("memory")["used_memory"]) - before
        keys = int(server.info("stats")["tracking_total_keys"])
        rows.append(
            {"clients": clients, "keys": keys, "bytes_each": round(used / (len(tokens) - 64), 1)}
        )
        progress(f"{clients} processes have copies: {rows[-1]['bytes_each']} B for a session")
    for manager in [plain, *managers]:
        await manager.close()
    return rows


async def _load_all(managers: Sequence[SessionManager], tokens: Sequence[str]) -> None:
    for manager in managers:
        for start in range(0, len(tokens), 64):
            await asyncio.gather(*map(manager.load, tokens[start : start + 64]))


def measure(size: Size = FULL, progress: Progress = print) -> dict[str, Any]:
    """Nothing, if this library has no near copies."""
    if missing(PEERS[NEAR]):
        progress(f"left out: needs {', '.join(missing(PEERS[NEAR]))}")
        return {"hits": [], "tracked": []}
    with serving("redis") as server:
        found = hits(server, size, progress)
    with serving("redis") as server:
        remembered = driver.run(tracked(server, size, progress))
    return {"browsers": size.browsers, "hits": found, "tracked": remembered}
