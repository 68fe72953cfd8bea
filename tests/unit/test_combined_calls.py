"""Combinations of lifecycle calls in one request."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from redis_sessions import (
    Keyring,
    MemoryStore,
    Session,
    SessionGoneError,
    SessionManager,
    generate_key,
)
from redis_sessions.session.outcome import Outcome
from redis_sessions.session.serving import serving
from redis_sessions.testing import Clock, store_session
from tests.support.served import served
from tests.unit.setting import Setting, token_of


async def signed_in(at: Setting) -> tuple[Session, str]:
    """A session of A's, in a request of its own."""
    token = await at.begin({"user_id": "A", "n": 1})
    session = await at.load(token)
    serving.set(served(session))
    return session, token


async def test_the_entry_lasts_as_long_as_the_record() -> None:
    """authenticated() with a longer expire_in(): the session stays in its principal's list."""
    at = Setting(max_age=100)
    session, _ = await signed_in(at)
    session.authenticated()
    session.expire_in(1000)
    token = token_of(await at.commit(session))
    at.clock.advance(200)
    assert len(await at.manager.sessions_of("A")) == 1
    assert await at.manager.revoke_all("A") == 1
    assert await at.data(token) == {}


async def test_the_limit_holds_during_a_roll_out() -> None:
    """max_sessions counts the entries under every key of the ring."""
    clock, one, two = Clock(), generate_key(), generate_key()
    store = MemoryStore(clock=clock)
    before = SessionManager(store, Keyring(one, two), clock=clock, max_sessions=3)
    after = SessionManager(store, Keyring(two, one), clock=clock, max_sessions=3)
    for manager in (before, before, before, after, after, after):
        await store_session(manager, {"user_id": "A"})
        clock.advance(1)
    assert len(await after.sessions_of("A")) == 3


@pytest.mark.parametrize("flash", [False, True])
async def test_clear_before_revoke_all(flash: bool) -> None:
    """Signing out here, then everywhere, is a sign-out of this browser."""
    at = Setting()
    session, token = await signed_in(at)
    session.clear()
    if flash:
        session["flash"] = "bye"
    await at.manager.revoke_all("A")
    answer = await at.commit(session)
    assert await at.data(token) == {}
    if flash:
        assert await at.data(token_of(answer)) == {"flash": "bye"}
    else:
        assert answer.expire


async def test_exclusive_of_a_lost_session() -> None:
    """A session that is known to have ended isn't held: its data are nobody's."""
    at = Setting()
    session, token = await signed_in(at)
    other = await at.load(token)
    other.clear()
    await at.commit(other)
    with pytest.raises(SessionGoneError):
        await session.refresh()
    with pytest.raises(SessionGoneError):
        async with session.exclusive():
            pytest.fail("the block ran")


async def test_rotation_before_exclusive() -> None:
    """What an exclusive block changed is stored at its end; the rotation waits for the response."""
    at = Setting()
    session, token = await signed_in(at)
    session.rotate()
    for one in (session, await at.load(token)):
        async with one.exclusive():
            one["n"] += 1
    answer = await at.commit(session)
    assert answer.outcome is Outcome.ROTATE
    assert await at.data(token_of(answer)) == {"user_id": "A", "n": 3}


async def test_a_key_removed_during_an_update() -> None:
    """Another task of the request removes a key while update() is under way: it stays removed."""
    at = Setting()
    session, _ = await signed_in(at)

    def count(data: dict[str, Any]) -> None:
        data["count"] = 1
        session.pop("n", None)

    await at.manager.update(session, count)
    assert "n" not in session


async def test_ids_of_any_type() -> None:
    """What a client sent as an id may be anything: it is nobody's session."""
    at = Setting()
    await signed_in(at)
    for id in (None, 1, b"x" * 20, "", "revoked", "last", "x" * 21, ["x"]):
        odd: Any = id
        assert await at.manager.revoke(odd, principal="A") is False
    assert len(await at.manager.sessions_of("A")) == 1


async def test_saves_take_turns() -> None:
    """save(), update() and exclusive() of one session at once: all is stored, and nothing hangs."""
    at = Setting()
    session, token = await signed_in(at)

    async def hold() -> None:
        async with session.exclusive():
            session["held"] = True

    def add(data: dict[str, Any]) -> None:
        data["n"] += 1

    session["saved"] = True
    await asyncio.gather(hold(), session.save(), at.manager.update(session, add))
    assert await at.data(token) == {"user_id": "A", "n": 2, "saved": True, "held": True}
