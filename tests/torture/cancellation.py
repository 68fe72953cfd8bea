"""Requests cancelled at random moments while 64 sessions are read and written by one process.

Half are cancelled as tasks after a random number of the loop's ticks, or let be; of the others
some lose their client, whose server cancels the handler as a `StreamingResponse` would. Nobody may
ever see another's data, nothing may hang, and no connection may be lost.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from redis.asyncio import Redis
from starlette.requests import HTTPConnection
from starlette.types import Message, Receive, Scope, Send

from redis_sessions import (
    Keyring,
    RedisStore,
    SessionManager,
    SessionMiddleware,
    generate_key,
    get_session,
)
from tests.support.asgi import cookie, scope_of
from tests.support.servers import as_owner

SESSIONS: Final = 64
IN_FLIGHT: Final = 96
MOMENTS: Final = 16
"""How many ticks of the loop a request takes, roughly: in one of them it is cancelled."""
PATIENCE: Final = 20.0
"""Seconds after which a request that isn't over hangs: the store's and manager's deadlines pass."""


@dataclass(slots=True)
class Result:
    """What became of so many requests."""

    requests: int
    seconds: float
    outcomes: Counter[str] = field(default_factory=Counter[str])
    connections: int = 0
    """The server's own count of ours, after everything."""
    commands_after: int = 0
    """How many sessions loaded and committed afterwards."""

    def __str__(self) -> str:
        outcomes = ", ".join(f"{count} {name}" for name, count in self.outcomes.most_common())
        return (
            f"{self.requests} requests in {self.seconds:.1f} s: {outcomes}; "
            f"{self.connections} connections left, {self.commands_after} sessions work"
        )


class Site:
    """An application whose every answer says who asked, by cookie, and what was found."""

    def __init__(self, url: str, prefix: str, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - nobody has to guess it
        self.store = RedisStore(url, prefix=prefix)
        self.manager = SessionManager(self.store, Keyring(generate_key()))
        self.app = SessionMiddleware(self._handle, manager=self.manager)
        self.tokens: list[str] = []

    async def begin(self) -> None:
        """Store the sessions, each of which holds whose it is."""
        for number in range(SESSIONS):
            session = await self.manager.load()
            session.update(user_id=number, mine=number, count=0)
            answer = await self.manager.commit(session)
            assert answer.token is not None
            self.tokens.append(answer.token.value)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        session = get_session(HTTPConnection(scope))
        number: int = scope["owner"]
        _check(dict(session), number)
        match scope["path"]:
            case "/write":
                session["count"] += 1
                session[f"key {self.random.randrange(4)}"] = number
            case "/stream":
                await self._stream(scope, receive, send)
                return
            case _:
                pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Two chunks with a `save()` between them; whoever leaves is noticed, and cancels it."""
        session = get_session(HTTPConnection(scope))

        async def produce() -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"1", "more_body": True})
            session["streamed"] = scope["owner"]
            await session.save()
            await send({"type": "http.response.body", "body": b"2"})

        async def listen() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        tasks = [asyncio.create_task(produce()), asyncio.create_task(listen())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if not tasks[0].cancelled():
            tasks[0].result()

    async def request(self, number: int, path: str, gone: asyncio.Event) -> str:
        """One request of a session's browser; `gone`: its client has left."""

        async def receive() -> Message:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if gone.is_set():
                raise OSError("the client is gone")
            if message["type"] == "http.response.start":
                assert b"set-cookie" not in dict(message["headers"]), "nothing changes a token here"
            await asyncio.sleep(0)  # a transport that is busy

        headers = [(b"cookie", cookie(self.tokens[number]))]
        scope = scope_of(path, headers, client=("127.0.0.1", number + 1), owner=number)
        try:
            await self.app(scope, receive, send)
        except OSError:
            return "left"
        return "left" if gone.is_set() else "answered"


def _check(data: dict[str, Any], number: int) -> None:
    """Everything that a session holds is its owner's."""
    others = {k: v for k, v in data.items() if k != "count" and v != number}
    assert data.get("mine") == number, f"session {number} holds {data}"
    assert not others, f"session {number} holds {others}"


async def _ticks(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def _one(site: Site, outcomes: Counter[str]) -> None:
    chance = site.random.random
    number = site.random.randrange(SESSIONS)
    path = site.random.choices(["/read", "/write", "/stream"], [6, 5, 2])[0]
    gone = asyncio.Event()
    task = asyncio.create_task(site.request(number, path, gone))
    fate = chance()
    if fate < 0.5:
        await _ticks(site.random.randrange(MOMENTS))
        task.cancel()
    elif fate < 0.7:
        await _ticks(site.random.randrange(MOMENTS))
        gone.set()
        if chance() < 0.5:
            await _ticks(site.random.randrange(4))
            task.cancel()  # as a server does that waits for nothing
    done, _ = await asyncio.wait({task}, timeout=PATIENCE)
    assert done, f"{path} hangs"
    with suppress(asyncio.CancelledError):
        outcomes[task.result()] += 1
        return
    outcomes["cancelled"] += 1


async def run(url: str, requests: int, *, prefix: str = "session:cancel:", seed: int = 1) -> Result:
    """So many requests on a server of one's own; an AssertionError says what went wrong."""
    async with Redis.from_url(as_owner(url), client_name="watcher") as watcher:
        before = await _connections(watcher)
        site = Site(url, prefix, seed)
        try:
            result = await _requests(site, requests)
            result.commands_after = await _all_work(site)
            result.connections = await _connections(watcher) - before
            assert result.connections <= 2, "one for records, one for indexes"
        finally:
            await site.store.close()
        assert await _until(lambda: _is(watcher, before)), "connections outlive close()"
    return result


async def _requests(site: Site, count: int) -> Result:
    await site.begin()
    outcomes: Counter[str] = Counter()
    started, left = time.monotonic(), count

    async def worker() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await _one(site, outcomes)

    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(worker())
    assert outcomes.total() == count
    return Result(count, time.monotonic() - started, outcomes)


async def _all_work(site: Site) -> int:
    """Each session loads, commits and loads again, all at once."""

    async def works(number: int) -> bool:
        session = await site.manager.load(site.tokens[number])
        _check(dict(session), number)
        session["last"] = number
        await site.manager.commit(session)
        again = await site.manager.load(site.tokens[number])
        _check(dict(again), number)
        return bool(again["last"] == number)

    async with asyncio.timeout(PATIENCE):
        worked = await asyncio.gather(*(works(number) for number in range(SESSIONS)))
    assert all(worked)
    return len(worked)


async def _connections(watcher: Redis) -> int:
    clients: Any = await watcher.client_list()
    return sum(client["name"] != "watcher" for client in clients)


async def _is(watcher: Redis, count: int) -> bool:
    return await _connections(watcher) == count


async def _until(condition: Callable[[], Awaitable[bool]]) -> bool:
    """Whether it comes true while the server is asked a few thousand times."""
    for _ in range(5000):
        if await condition():
            return True
    return False
