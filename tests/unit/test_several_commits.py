"""Several commits in one request, and what a store or a handler of events that fails costs it."""

from __future__ import annotations

import pytest

from redis_sessions import (
    Answer,
    Event,
    Keyring,
    MemoryStore,
    Session,
    SessionError,
    SessionGoneError,
    SessionManager,
    StoreUnavailableError,
)
from redis_sessions.lifecycle.loading import anonymous
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.session.outcome import Outcome
from tests.unit.setting import DAY, KEY, Setting, token_of

# -- several commits in one request


async def test_late_change(at: Setting) -> None:
    """What changes after the response has started is stored on top of what was."""
    token = await at.begin({"x": 1})

    async def change(session: Session) -> None:
        await at.put(token, {"y": 1})
        session["z"] = 3

    assert (await at.request(change, token, late=True)).error is None
    assert await at.data(token) == {"x": 1, "y": 1, "z": 3}


@pytest.mark.parametrize("what", ["sign in", "rotate", "create"])
async def test_late_token(at: Setting, what: str) -> None:
    """A token that the browser could never learn is an error that says so."""
    token = None if what == "create" else await at.begin({"x": 1})

    def act(session: Session) -> None:
        if what == "rotate":
            session.rotate()
        else:
            session["user_id" if what == "sign in" else "x"] = "A"

    with pytest.raises(SessionError, match="has started"):
        (await at.request(act, token, late=True)).checked()


async def test_late_end(at: Setting) -> None:
    """Ending works late, too; nothing is left behind."""
    token = await at.begin({"user_id": "A", "x": 1})
    reply = await at.request(lambda session: session.pop("user_id"), token, late=True)
    assert reply.checked().cookies == []
    assert await at.data(token) == {}
    assert at.reported("dropped") == ["signed out late"]


async def test_save(at: Setting) -> None:
    """save() stores at once; what needs a token waits for the response."""
    token = await at.begin({"x": 1})
    session = await at.load(token)
    session["x"] = 2
    await session.save()
    assert await at.data(token) == {"x": 2}
    session["user_id"] = "A"
    await session.save()
    assert await at.data(token) == {"x": 2}
    answer = await at.commit(session)
    assert await at.data(token_of(answer)) == {"x": 2, "user_id": "A"}


async def test_save_gone(at: Setting) -> None:
    """save() of a session that ended elsewhere is an error."""
    token = await at.begin({"x": 1})
    session, other = await at.load(token), await at.load(token)
    other.clear()
    await at.commit(other)
    session["x"] = 2
    with pytest.raises(SessionGoneError):
        await session.save()


async def test_refresh(at: Setting) -> None:
    """refresh() brings what others stored, and keeps what was changed here."""
    token = await at.begin({"x": 1, "y": 1})
    session, other = await at.load(token), await at.load(token)
    other["x"], other["z"] = 2, 3
    await at.commit(other)
    session["y"] = 5
    await session.refresh()
    assert dict(session) == {"x": 2, "y": 5, "z": 3}
    await at.commit(session)
    assert await at.data(token) == {"x": 2, "y": 5, "z": 3}


async def test_refresh_gone(at: Setting) -> None:
    """refresh() of a session that ended elsewhere is an error."""
    token = await at.begin({"x": 1})
    session, other = await at.load(token), await at.load(token)
    other.clear()
    await at.commit(other)
    with pytest.raises(SessionGoneError):
        await session.refresh()


# -- failures


async def test_touch_that_fails(at: Setting) -> None:
    """A read doesn't fail because its time can't be renewed."""
    token = await at.begin({"x": 1})
    at.clock.advance(DAY)
    session = await at.load(token)
    at.store.away = True
    assert await at.commit(session) == Answer(Outcome.NOTHING)


async def test_change_after_a_touch_that_failed() -> None:
    """A touch that failed isn't tried again by itself, but what is written anyway renews."""
    at = Setting(idle_timeout=1800)
    token = await at.begin({"a": 1})
    at.clock.advance(600)
    session = await at.load(token)
    at.store.failing = {"commit"}
    assert await at.commit(session) == Answer(Outcome.NOTHING)
    at.store.failing = set()
    session["a"] = 2
    assert (await at.commit(session)).outcome is Outcome.CHANGE
    at.clock.advance(1799)
    assert await at.data(token) == {"a": 2}


async def test_change_that_fails(at: Setting) -> None:
    """A change that can't be stored is an error, and may be tried again."""
    token = await at.begin({"x": 1})
    session = await at.load(token)
    session["x"] = 2
    at.store.away = True
    with pytest.raises(StoreUnavailableError):
        await at.commit(session)
    at.store.away = False
    assert (await at.commit(session)).outcome is Outcome.CHANGE
    assert await at.data(token) == {"x": 2}


async def test_anonymous_while_away(at: Setting) -> None:
    """The empty session of an absent store is read, and not written."""
    session = anonymous(backend_of(at.manager), StoreUnavailableError("away"))
    assert await at.commit(session) == Answer(Outcome.NOTHING)
    session["x"] = 1
    with pytest.raises(StoreUnavailableError):
        await at.commit(session)


async def test_on_event_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """An event handler that raises fails no request."""

    def broken(event: Event) -> None:
        raise RuntimeError("broken handler")

    manager = SessionManager(MemoryStore(), Keyring(KEY), on_event=broken)
    await manager.load("malformed")
    assert "on_event failed" in caplog.text
    assert manager.counts["rejected: malformed token"] == 1
