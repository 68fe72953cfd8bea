"""Idle timeouts, absolute lifetimes, remember-me, and clocks that differ."""

from __future__ import annotations

import pytest

from redis_sessions import Answer
from redis_sessions.session.outcome import Outcome
from tests.unit.setting import DAY, Setting, token_of


@pytest.mark.standard(10, "ASVS 7.3.1")
async def test_idle_timeout(at: Setting) -> None:
    """A session that isn't used ends; each use, once in a while, renews it."""
    token = await at.begin({"x": 1})
    for _ in range(3):
        at.clock.advance(6 * DAY if _ == 0 else DAY)
        assert (await at.commit(await at.load(token))).outcome is Outcome.TOUCH
    at.clock.advance(7 * DAY)
    assert await at.data(token) == {}


async def test_touch_is_rare(at: Setting) -> None:
    """Reads within five minutes of the last touch write nothing."""
    token = await at.begin({"x": 1})
    at.clock.advance(300)
    assert await at.commit(await at.load(token)) == Answer(Outcome.NOTHING)
    at.clock.advance(1)
    assert await at.commit(await at.load(token)) == Answer(Outcome.TOUCH)
    assert await at.commit(await at.load(token)) == Answer(Outcome.NOTHING)


@pytest.mark.standard(11, "ASVS 7.3.2")
async def test_absolute_lifetime() -> None:
    """However much it is used, a session ends at max_age."""
    at = Setting(max_age=1000, idle_timeout=600)
    token = await at.begin({"x": 1})
    for _ in range(9):
        at.clock.advance(100)
        assert await at.data(token) == {"x": 1}
        await at.commit(await at.load(token))
    at.clock.advance(100)
    assert await at.data(token) == {}


async def test_max_age_none() -> None:
    """max_age=None: the cookie ends with the browser, the session after 14 days."""
    at = Setting(max_age=None)
    session = await at.load(None)
    session["x"] = 1
    answer = await at.commit(session)
    assert answer.max_age is None
    stored = await at.load(token_of(answer))
    assert stored.expires_at is not None
    assert stored.expires_at.timestamp() == at.clock.now + 14 * DAY


async def test_remember_me(at: Setting) -> None:
    """A longer expire_in() sends the cookie again, and holds unused."""
    old = await at.begin({"user_id": 1})
    session = await at.load(old)
    session.expire_in(30 * DAY)
    answer = await at.commit(session)
    assert (answer.outcome, answer.max_age) == (Outcome.ROTATE, 30 * DAY)
    at.clock.advance(29 * DAY)
    assert await at.data(token_of(answer)) == {"user_id": 1}


async def test_shorter_lifetime(at: Setting) -> None:
    """A shorter expire_in() needs no cookie."""
    token = await at.begin({"user_id": 1})
    session = await at.load(token)
    session.expire_in(60)
    assert await at.commit(session) == Answer(Outcome.CHANGE)
    at.clock.advance(60)
    assert await at.data(token) == {}


async def test_persistence_changes(at: Setting) -> None:
    """A cookie that is to end with the browser has to go out, and so rotates."""
    session = await at.load(await at.begin({"user_id": 1}))
    session.expire_in(60, persistent=False)
    answer = await at.commit(session)
    assert (answer.outcome, answer.max_age) == (Outcome.ROTATE, None)


async def test_clocks_that_differ(at: Setting) -> None:
    """A record of a server whose clock is ahead opens."""
    token = await at.begin({"x": 1})
    at.clock.advance(-100)
    assert await at.data(token) == {"x": 1}
