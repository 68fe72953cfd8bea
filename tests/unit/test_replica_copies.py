"""A copy of a record, such as a replica's, and when the primary is asked all the same."""

from __future__ import annotations

from collections.abc import Awaitable

import pytest
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from redis_sessions import Keyring, MemoryStore, SessionManager, SessionMiddleware
from redis_sessions.testing import Clock, store_session
from tests.support.asgi import ask, cookie
from tests.unit.setting import DAY, KEY

FOREVER = 10**12
"""Milliseconds for which the store keeps a record, so that the record's own times decide."""


class Copied(MemoryStore):
    """A store with copies of some records, which may be older than the records."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock=clock)
        self.copies: dict[str, bytes] = {}
        self.loads = 0

    reads_replicas = True

    def load_from_replica(self, id: str) -> Awaitable[bytes | None]:
        return self._copy(id)

    async def _copy(self, id: str) -> bytes | None:
        return self.copies.get(id)

    async def load(self, id: str) -> bytes | None:
        self.loads += 1
        return await super().load(id)

    async def copy(self, token: str) -> None:
        """Copy the record as it is now, which stays in the store for long."""
        record = await super().load(token[:20])
        assert record is not None
        await self.commit(token[:20], record[:33], record, FOREVER)
        self.copies[token[:20]] = record
        self.loads = 0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> Copied:
    return Copied(clock)


@pytest.fixture
def manager(store: Copied, clock: Clock) -> SessionManager:
    return SessionManager(store, Keyring(KEY), clock=clock)


def browser(connection: HTTPConnection) -> str:
    """Bound to the browser."""
    return connection.headers["user-agent"]


async def visit(
    manager: SessionManager, token: str, agent: str = "", *, touch: bool = True, **data: object
) -> tuple[dict[str, object], list[str]]:
    """A request that sets these keys: what the application saw, and the names of its cookies."""
    seen: list[dict[str, object]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(dict(scope["session"]))
        scope["session"].update(data)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    middleware = SessionMiddleware(app, manager=manager, binding=browser, touch=touch)
    headers = [(b"cookie", cookie(token)), (b"user-agent", agent.encode())]
    reply = (await ask(middleware, headers)).checked()
    cookies = [name.partition("=")[0] for name in reply.cookies]
    return seen[0], cookies


async def test_a_copy_serves_a_reader(store: Copied, manager: SessionManager) -> None:
    """A live session is taken from its copy, and the primary isn't asked."""
    token = await store_session(manager, {"x": 1})
    await store.copy(token)
    assert await visit(manager, token) == ({"x": 1}, [])
    assert store.loads == 0


async def test_a_copy_that_is_bound_elsewhere(store: Copied, manager: SessionManager) -> None:
    """The primary says what became of it: here it has just ended, so nothing begins with it."""
    session = await manager.load(None, bound="Firefox")
    session["x"] = 1
    answer = await manager.commit(session)
    assert answer.token is not None
    token = answer.token.value
    await store.copy(token)
    assert (await visit(manager, token, "Firefox"))[0] == {"x": 1}
    assert store.loads == 0
    session = await manager.load(token, bound="Firefox")
    session.clear()
    await manager.commit(session)
    assert await visit(manager, token, "Chrome", y=1) == ({}, [])
    assert manager.counts["dropped: superseded token"] == 1


async def test_a_copy_at_its_exact_end(
    store: Copied, manager: SessionManager, clock: Clock
) -> None:
    """A copy that has come to its end isn't the last word: the record may have been touched."""
    token = await store_session(manager, {"x": 1})
    await store.copy(token)
    clock.advance(DAY)
    await manager.commit(await manager.load(token))
    store.loads = 0
    clock.advance(6 * DAY - 0.001)
    assert (await visit(manager, token, touch=False))[0] == {"x": 1}
    assert store.loads == 0
    clock.advance(0.001)
    assert (await visit(manager, token, touch=False))[0] == {"x": 1}
    assert store.loads == 1
