"""What happens on a conflict: merged, or an error if asked for."""

from __future__ import annotations

import asyncio

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from redis_sessions import Commit, SessionConflictError, get_session
from redis_sessions.session.outcome import Outcome
from tests.support.apps import app_of, client_of
from tests.unit.setting import DUE, Setting, count


@pytest.fixture
def strict() -> Setting:
    return Setting(on_conflict="error")


async def test_conflicts_are_merged(at: Setting) -> None:
    """64 requests that each set a key of their own: all 64 keys are there."""
    token = await at.begin({"n": 0})
    sessions = await asyncio.gather(*(at.load(token) for _ in range(64)))
    for number, session in enumerate(sessions):
        session[f"k{number}"] = number
    await asyncio.gather(*(at.commit(session) for session in sessions))
    assert await at.data(token) == {"n": 0, **{f"k{number}": number for number in range(64)}}
    assert len(at.reported("merged")) == 63


async def test_a_conflict_costs_a_load_and_a_commit(at: Setting) -> None:
    """The attempt that failed isn't made again: commit, load, commit."""
    token = await at.begin({"n": 0})
    one, other = [await at.load(token) for _ in range(2)]
    one["a"], other["b"] = 1, 2
    await at.commit(one)
    calls = list[str]()

    async def note_load() -> None:
        calls.append("load")

    async def note_commit(_: bytes | None, result: Commit) -> None:
        calls.append(f"commit: {result.name}")

    at.store.loaded, at.store.committed = note_load, note_commit
    await at.commit(other)
    assert calls == ["commit: CONFLICT", "load", "commit: STORED"]


async def test_conflicts_are_errors_if_asked_for(strict: Setting) -> None:
    """on_conflict="error": the second of two changes is refused, and the first stands."""
    token = await strict.begin({"n": 0})
    one, other = [await strict.load(token) for _ in range(2)]
    one["a"], other["b"] = 1, 2
    await strict.commit(one)
    with pytest.raises(SessionConflictError):
        await strict.commit(other)
    assert await strict.data(token) == {"n": 0, "a": 1}


async def test_a_touch_is_no_conflict(strict: Setting) -> None:
    """A change that crosses a mere touch, or a rotation of nothing, isn't refused."""
    token = await strict.begin({"n": 0})
    strict.clock.advance(DUE)
    reader, writer = [await strict.load(token) for _ in range(2)]
    assert (await strict.commit(reader)).outcome is Outcome.TOUCH
    writer["a"] = 1
    assert (await strict.commit(writer)).outcome is Outcome.CHANGE
    assert await strict.data(token) == {"n": 0, "a": 1}


async def test_a_touch_that_crosses_a_change_is_forgotten(strict: Setting) -> None:
    """A reader's touch never fails by another's change."""
    token = await strict.begin({"n": 0})
    strict.clock.advance(DUE)
    reader, writer = [await strict.load(token) for _ in range(2)]
    writer["a"] = 1
    await strict.commit(writer)
    assert (await strict.commit(reader)).outcome is Outcome.NOTHING


async def test_a_sign_out_is_never_refused(strict: Setting) -> None:
    """on_conflict="error" doesn't hold up a sign-out, or clear()."""
    for how in ("sign out", "clear"):
        token = await strict.begin({"user_id": "alice", "n": 0})
        one, other = [await strict.load(token) for _ in range(2)]
        one["a"] = 1
        await strict.commit(one)
        if how == "clear":
            other.clear()
        else:
            del other["user_id"]
        await strict.commit(other)
        assert await strict.data(token) == {}


async def test_a_conflict_is_409_over_http(strict: Setting) -> None:
    """The response of a handler whose change was refused is a 409, without a cookie."""
    token = await strict.begin({"n": 0})

    async def endpoint(request: Request) -> JSONResponse:
        other = await strict.load(token)
        other["a"] = other.get("a", 0) + 1
        await strict.commit(other)
        get_session(request)["b"] = 2
        return JSONResponse("done")

    async with client_of(app_of(Route("/", endpoint), manager=strict.manager), token) as browser:
        response = await browser.get("/")
        assert response.status_code == 409
        assert "set-cookie" not in response.headers
    assert await strict.data(token) == {"n": 0, "a": 1}


async def test_updates_resolve_conflicts_themselves(strict: Setting) -> None:
    """update() runs again on the newest data, whatever on_conflict says."""
    token = await strict.begin({"n": 0})
    sessions = await asyncio.gather(*(strict.load(token) for _ in range(8)))
    await asyncio.gather(*(strict.manager.update(session, count) for session in sessions))
    assert await strict.data(token) == {"n": 8}
