"""A mixed load for minutes: does memory grow, here or in the server?

Sessions live for a few seconds, so that what Redis keeps of them comes and goes many times.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any, Final, cast

from redis.asyncio import Redis
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from redis_sessions import (
    Keyring,
    RedisStore,
    Session,
    SessionConflictError,
    SessionGoneError,
    SessionManager,
    SessionMiddleware,
    StoreUnavailableError,
    generate_key,
    get_session,
)
from tests.support.asgi import COOKIE, ask, cookie
from tests.support.servers import as_owner

BROWSERS: Final = 64
USERS: Final = 24
LIFETIME: Final = 10
ACTS: Final = {
    "read": 40,
    "write": 30,
    "increment": 8,
    "sign in": 6,
    "sign out": 3,
    "clear": 2,
    "rotate": 3,
    "authenticated": 2,
    "exclusive": 2,
    "list": 3,
    "revoke others": 0.5,
    "forget the cookie": 1,
    "nonsense": 1,
}
MEGABYTE: Final = 1 << 20
AFTERWARDS: Final = 40
"""Seconds: a tombstone's time, and some."""


@dataclass(slots=True)
class Sample:
    """How large everything was, some seconds after the start."""

    seconds: float
    requests: int
    process: int
    server: int
    keys: int

    def __str__(self) -> str:
        return (
            f"{self.seconds:5.0f} s, {self.requests} requests: "
            f"process {self.process / MEGABYTE:.1f} MiB, "
            f"server {self.server / MEGABYTE:.2f} MiB in {self.keys} keys"
        )


@dataclass(slots=True)
class Result:
    """What was served, and how memory went."""

    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter[str])
    samples: list[Sample] = field(default_factory=list[Sample])
    left: int = 0
    """Keys that are still there a while after the load, besides the users' indexes."""
    entries: int = 0
    """Fields of the largest index."""

    def growth(self) -> tuple[int, int]:
        """Of process and server, in bytes: the last third's least over the middle third's."""
        third = len(self.samples) // 3
        middle, last = self.samples[third : 2 * third], self.samples[2 * third :]
        return (
            min(s.process for s in last) - min(s.process for s in middle),
            min(s.server for s in last) - min(s.server for s in middle),
        )

    def __str__(self) -> str:
        outcomes = ", ".join(f"{count} {name}" for name, count in self.outcomes.most_common())
        here, there = self.growth()
        lines = [
            f"{self.outcomes.total()} requests in {self.seconds:.0f} s: {outcomes}",
            *map(str, self.samples[:: max(1, len(self.samples) // 6)]),
            f"a while after: {self.left} keys but indexes, {self.entries} entries in the largest",
            f"growth: process {here / MEGABYTE:.2f} MiB, server {there / MEGABYTE:.2f} MiB",
        ]
        return "\n    ".join(lines)


class Browser:
    """One cookie jar that keeps clicking."""

    def __init__(self, app: SessionMiddleware, seed: int) -> None:
        self.app = app
        self.random = random.Random(seed)  # noqa: S311 - nobody has to guess it
        self.token: str | None = None

    async def request(self) -> str:
        """One request; the status, and what it was for."""
        act = self.random.choices(list(ACTS), list(ACTS.values()))[0]
        if act == "forget the cookie":
            self.token = None
        token = "nonsense" if act == "nonsense" else self.token
        reply = await ask(
            self.app,
            [] if token is None else [(b"cookie", cookie(token))],
            act=act,
            user=self.random.randrange(USERS),
            value=self.random.randrange(1 << 20),
        )
        for value in reply.checked().cookies:
            morsel = SimpleCookie(value)[COOKIE]
            self.token = None if morsel.value == "null" else morsel.value
        return str(reply.status)


async def _handle(scope: Scope, receive: Receive, send: Send) -> None:
    session = get_session(HTTPConnection(scope))
    manager = _manager(scope)
    status = 200
    try:
        await _do(scope, session, manager)
    except (SessionConflictError, SessionGoneError):
        status = 409
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def _manager(scope: Scope) -> SessionManager:
    (active,) = scope["redis_sessions"]
    manager = active.setup.manager
    assert isinstance(manager, SessionManager)
    return manager


async def _do(scope: Scope, session: Session, manager: SessionManager) -> None:
    match scope["act"]:
        case "write":
            session[f"key {scope['value'] % 5}"] = {"value": "x" * (scope["value"] % 400)}
        case "increment":
            await manager.update(session, _increment)
        case "sign in":
            session["user_id"] = scope["user"]
        case "sign out":
            session.pop("user_id", None)
        case "clear":
            session.clear()
        case "rotate":
            session.rotate()
        case "authenticated":
            session.authenticated()
        case "exclusive":
            async with session.exclusive():
                session["exclusive"] = scope["value"]
        case "list":
            if session.principal is not None:
                await manager.sessions_of(session.principal)
        case "revoke others":
            if session.principal is not None and session.id is not None:
                await manager.revoke_all(session.principal, keep=session.id)
        case _:
            pass


def _increment(data: dict[str, Any]) -> None:
    data["count"] = data.get("count", 0) + 1


async def run(url: str, seconds: float) -> Result:
    """Serve for so long; the result says how memory went."""
    store = RedisStore(url, prefix="session:soak:")
    manager = SessionManager(
        store, Keyring(generate_key()), max_age=LIFETIME, idle_timeout=LIFETIME // 2, max_sessions=5
    )
    app = SessionMiddleware(_handle, manager=manager)
    result, started = Result(), time.monotonic()

    async def click(browser: Browser) -> None:
        while time.monotonic() < started + seconds:
            try:
                result.outcomes[await browser.request()] += 1
            except StoreUnavailableError:
                result.outcomes["unavailable"] += 1

    async def measure(redis: Redis) -> None:
        while time.monotonic() < started + seconds:
            await asyncio.sleep(min(2.0, seconds / 30))
            gc.collect()
            info: Any = await redis.info("memory")
            now = time.monotonic() - started
            keys: int = await redis.dbsize()
            sample = Sample(now, result.outcomes.total(), resident(), info["used_memory"], keys)
            result.samples.append(sample)

    async with Redis.from_url(as_owner(url)) as redis:
        async with asyncio.TaskGroup() as group:
            group.create_task(measure(redis))
            for seed in range(BROWSERS):
                group.create_task(click(Browser(app, seed)))
        result.seconds = time.monotonic() - started
        await store.close()
        await _look_after(redis, result)
    return result


async def _look_after(redis: Redis, result: Result) -> None:
    """What is there when all sessions and tombstones have had their time."""
    deadline = time.monotonic() + AFTERWARDS
    while True:
        keys = cast("list[bytes]", await redis.keys("*"))
        keys = [key for key in keys if not key.endswith(b":keys")]  # of secret keys: for a day
        indexes = [key for key in keys if b":of:" in key]
        result.left = len(keys) - len(indexes)
        if not result.left or time.monotonic() > deadline:
            break
        await asyncio.sleep(1)
    sizes = [cast("int", await cast("Any", redis.hlen(key))) for key in indexes]
    result.entries = max(sizes, default=0)


def resident() -> int:
    """The memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
