"""Sessions bounded in number, over a store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from redis_sessions import (
    Commit,
    Keyring,
    MemoryStore,
    SessionManager,
    StoreUnavailableError,
    Written,
    generate_key,
)
from redis_sessions.session.outcome import Outcome
from redis_sessions.testing import Clock, store_session
from tests.unit.setting import ALICE, DUE, Setting
from tests.unit.visits import alive, signed_in, visit


async def test_the_least_recently_seen_goes() -> None:
    """The sign-in above the limit ends the session that was seen first, and says so."""
    at = Setting(max_sessions=3)
    tokens: list[str] = []
    for _ in range(3):
        tokens.append(await signed_in(at))
        at.clock.advance(DUE)
    await visit(at, tokens[0])
    at.events.clear()
    new = await signed_in(at)
    assert await alive(at, *tokens, new) == [True, False, True, True]
    assert [(e.reason, e.id) for e in at.events if e.name == "ended"] == [
        ("evicted", tokens[1][:20])
    ]


async def test_dead_ones_go_first() -> None:
    """An entry without a session makes room before anybody is signed out."""
    at = Setting(max_sessions=2)
    live = await signed_in(at)
    at.clock.advance(DUE)
    dead = await signed_in(at)
    await at.store.end(dead[:20], b"\x01" + bytes(32), 30_000)
    new = await signed_in(at)
    assert await alive(at, live, new) == [True, True]


async def test_signed_out_ones_do_not_count() -> None:
    """Who signs out and in again never reaches the limit."""
    at = Setting(max_sessions=2)
    steady = await signed_in(at)
    for _ in range(5):
        session = await at.load(await signed_in(at))
        session.clear()
        await at.commit(session)
    assert await alive(at, steady) == [True]
    assert "evicted" not in at.reported("ended")


async def test_an_evicted_browser_starts_afresh() -> None:
    """Its next request is nobody's; its late write is dropped, without a cookie."""
    at = Setting(max_sessions=1)
    old = await signed_in(at)
    late = await at.load(old)
    await signed_in(at)
    late["a"] = 1
    assert (await at.commit(late)).outcome is Outcome.DROP
    afresh = await at.load(old)
    afresh["csrf"] = 1
    assert (await at.commit(afresh)).token is not None


async def test_making_room_fails_no_sign_in() -> None:
    """Where the others can't be ended, the sign-in holds all the same."""

    class Stuck(MemoryStore):
        async def end(self, id: str, tombstone: bytes, ttl: int) -> Written[bool]:
            raise StoreUnavailableError("away")

    clock = Clock()
    manager = SessionManager(
        Stuck(clock=clock), Keyring(generate_key()), clock=clock, max_sessions=1
    )
    tokens = [await store_session(manager, ALICE) for _ in range(2)]
    assert [dict(await manager.load(token)) for token in tokens] == [ALICE] * 2


class Gated(MemoryStore):
    """Lets the creation of records wait until a test says so."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock=clock)
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0

    async def commit(
        self, id: str, expected: bytes | None, value: bytes, ttl: int
    ) -> Written[Commit]:
        if expected is None:
            self.waiting += 1
            await self.gate.wait()
            self.waiting -= 1
        return await super().commit(id, expected, value, ttl)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - of this very loop, and nothing announces it
        await asyncio.sleep(0)


async def test_a_sign_in_that_is_under_way_is_not_dead() -> None:
    """Entered, but not yet created: another sign-in that makes room doesn't end it."""
    clock = Clock()
    store = Gated(clock)
    manager = SessionManager(store, Keyring(generate_key()), clock=clock, max_sessions=2)
    old = [await store_session(manager, ALICE) for _ in range(2)]
    store.gate.clear()
    one = asyncio.create_task(store_session(manager, ALICE))
    await until(lambda: store.waiting == 1)
    held, store.gate = store.gate, asyncio.Event()
    store.gate.set()
    two = await store_session(manager, ALICE)
    held.set()
    tokens = [await one, two]  # neither is refused
    assert [dict(await manager.load(token)) for token in tokens] == [ALICE] * 2
    assert [dict(await manager.load(token)) for token in old] == [{}] * 2


@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.parametrize("before", [0, 1, 3])
async def test_sign_ins_at_once_never_end_all(limit: int, before: int) -> None:
    """Two sign-ins at once (a double click): neither is refused, and one of them at least lives."""
    clock = Clock()
    store = Gated(clock)
    manager = SessionManager(store, Keyring(generate_key()), clock=clock, max_sessions=limit)
    for _ in range(before):
        await store_session(manager, ALICE)
        clock.advance(1)
    store.gate.clear()
    tasks = [asyncio.create_task(store_session(manager, ALICE)) for _ in range(2)]
    await until(lambda: store.waiting == 2)
    store.gate.set()
    tokens = await asyncio.gather(*tasks)
    clock.advance(DUE)
    for token in tokens:
        await manager.commit(await manager.load(token))
    living = [token for token in tokens if await manager.load(token)]
    assert len(living) >= 1
    assert len(await manager.sessions_of("alice")) <= limit


async def test_sign_ins_that_failed_cost_nobody_their_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They entered the index and never came into being: no device is signed out for them."""
    at = Setting(max_sessions=3)
    devices = [await store_session(at.manager, {"user_id": "ada"}) for _ in range(2)]

    async def fails(*_: object) -> None:
        raise StoreUnavailableError("away")

    for _ in range(3):
        session = await at.load(None)
        session["user_id"] = "ada"
        with monkeypatch.context() as patched, pytest.raises(StoreUnavailableError):
            patched.setattr(at.store, "commit", fails)
            await at.commit(session)
    newest = await store_session(at.manager, {"user_id": "ada"})
    assert [await at.data(token) for token in (*devices, newest)] == [{"user_id": "ada"}] * 3
    fourth = await store_session(at.manager, {"user_id": "ada"})
    assert [bool(await at.data(token)) for token in (*devices, newest, fourth)] == [
        *(False, True, True, True)
    ]
