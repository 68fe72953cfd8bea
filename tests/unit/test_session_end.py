"""When exactly a session ends, and what a renewed sign-in or clear() makes of that moment."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from redis_sessions import Session
from tests.unit.setting import DAY, Setting, token_of

LONG = 90 * DAY

FOREVER = 10**12
"""Milliseconds for which the store keeps a record, so that the record's own times decide."""


async def keep(at: Setting, token: str) -> None:
    """Have the store keep the record beyond the session's end, as one with a slow clock does."""
    record = await at.store.load(token[:20])
    assert record is not None
    await at.store.commit(token[:20], record[:33], record, FOREVER)


@pytest.mark.parametrize(
    ("options", "length"),
    [({}, 7 * DAY), ({"max_age": 3600, "idle_timeout": 3600}, 3600)],
    ids=["idle", "absolute"],
)
async def test_the_exact_end(options: dict[str, int], length: int) -> None:
    """A session opens until the moment before its end, and at its end no more."""
    at = Setting(**options)
    token = await at.begin({"x": 1})
    await keep(at, token)
    at.clock.advance(length - 0.001)
    assert await at.data(token) == {"x": 1}
    at.clock.advance(0.001)
    assert await at.data(token) == {}
    assert at.reported("rejected") == ["expired"]


def sign_in(session: Session) -> None:
    session.sign_in("alice")


@pytest.mark.parametrize("again", [Session.authenticated, sign_in])
async def test_a_renewed_sign_in_keeps_a_long_lifetime(
    at: Setting, again: Callable[[Session], None]
) -> None:
    """A session that is remembered for 90 days begins these days anew, and isn't cut short."""
    session = await at.load(None)
    session["user_id"] = "alice"
    session.expire_in(LONG)
    token = token_of(await at.commit(session))
    at.clock.advance(DAY)
    session = await at.load(token)
    again(session)
    answer = await at.commit(session)
    assert answer.max_age == LONG
    at.clock.advance(LONG - 1)
    assert await at.data(token_of(answer)) == {"user_id": "alice"}


@pytest.mark.parametrize("duration", [3600, LONG])
@pytest.mark.parametrize("loaded", [False, True])
async def test_clear_forgets_a_lifetime(at: Setting, duration: int, loaded: bool) -> None:
    """What expire_in() asked for the session of before isn't for the one that comes after it."""
    session = await at.load(await at.begin({"x": 1}) if loaded else None)
    session.expire_in(duration, persistent=False)
    session.clear()
    session["y"] = 1
    answer = await at.commit(session)
    assert answer.max_age == 14 * DAY
    at.clock.advance(7 * DAY)
    assert await at.data(token_of(answer)) == {}


async def test_clear_forgets_what_else_was_asked(at: Setting) -> None:
    """rotate() and authenticated() before clear() are nothing that a later commit carries out."""
    session = await at.load(await at.begin({"user_id": "alice"}))
    session.rotate()
    session.authenticated()
    session.mark_modified()
    session.clear()
    session["user_id"] = "bob"
    token = token_of(await at.commit(session))
    assert at.reported("rotated") == []
    session = await at.load(token)
    assert (await at.commit(session)).token is None
