"""Read-modify-write, the session's lock, and what happens on a conflict."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from redis_sessions import (
    Session,
    SessionConflictError,
    SessionEncodeError,
    SessionError,
    SessionGoneError,
    get_session,
)
from redis_sessions.manager import MAX_WAITING
from redis_sessions.outcome import Outcome
from tests.integration.apps import app_of, client_of
from tests.unit.test_manager import DAY, Setting, token_of

DUE: Final = 301


@pytest.fixture
def at() -> Setting:
    return Setting()


def count(data: dict[str, Any]) -> int:
    data["n"] = data.get("n", 0) + 1
    return int(data["n"])


# -- update


async def test_counting(at: Setting) -> None:
    """update() stores at once, returns what the function returns, and shows it in the session."""
    token = await at.begin({"n": 1})
    session = await at.load(token)
    assert await at.manager.update(session, count) == 2
    assert session == {"n": 2}
    assert await at.data(token) == {"n": 2}
    assert (await at.commit(session)).outcome is Outcome.NOTHING


async def test_counting_at_once(at: Setting) -> None:
    """64 requests that loaded the same session: each increment counts."""
    token = await at.begin({"n": 0})
    sessions = await asyncio.gather(*(at.load(token) for _ in range(64)))
    results = await asyncio.gather(*(at.manager.update(s, count) for s in sessions))
    assert sorted(results) == list(range(1, 65))
    assert await at.data(token) == {"n": 64}


async def test_a_one_time_value(at: Setting) -> None:
    """Of many requests that take a value one gets it."""
    token = await at.begin({"otp": "123456"})
    sessions = await asyncio.gather(*(at.load(token) for _ in range(16)))
    taken = await asyncio.gather(
        *(at.manager.update(s, lambda data: str(data.pop("otp", ""))) for s in sessions)
    )
    assert sorted(taken) == [""] * 15 + ["123456"]
    assert await at.data(token) == {}


async def test_local_changes_stay(at: Setting) -> None:
    """What the request changed itself is neither stored by update() nor lost."""
    token = await at.begin({"n": 0, "gone": 1})
    session = await at.load(token)
    session["mine"] = [1]
    del session["gone"]
    await at.manager.update(session, count)
    assert session == {"n": 1, "mine": [1]}
    assert await at.data(token) == {"n": 1, "gone": 1}
    session["mine"].append(2)
    await at.commit(session)
    assert await at.data(token) == {"n": 1, "mine": [1, 2]}


async def test_what_the_handler_holds_stays_the_same(at: Setting) -> None:
    """A nested value that the handler holds is still the session's after an update()."""
    token = await at.begin({"n": 0, "cart": []})
    session = await at.load(token)
    cart = session["cart"]
    await at.manager.update(session, count)
    cart.append("tea")
    await at.commit(session)
    assert await at.data(token) == {"n": 1, "cart": ["tea"]}


@pytest.mark.parametrize("data", [{"n": 0}, {"n": 0, "user_id": "alice"}])
async def test_signing_in_or_out_is_refused(at: Setting, data: dict[str, Any]) -> None:
    """The principal isn't update()'s to change: nothing is stored."""
    token = await at.begin(data)
    session = await at.load(token)

    def function(data: dict[str, Any]) -> None:
        data["n"] = 1
        if data.pop("user_id", None) is None:
            data["user_id"] = "alice"

    with pytest.raises(SessionError, match="sign in or out"):
        await at.manager.update(session, function)
    assert await at.data(token) == data


async def test_a_gone_session(at: Setting) -> None:
    """Ended or rotated elsewhere: SessionGoneError, and nothing comes back."""
    for how in ("clear", "rotate"):
        token = await at.begin({"n": 0})
        session, other = await at.load(token), await at.load(token)
        getattr(other, how)()
        answer = await at.commit(other)
        with pytest.raises(SessionGoneError):
            await at.manager.update(session, count)
        with pytest.raises(SessionGoneError):  # it stays so
            await at.manager.update(session, count)
        assert await at.data(token) == {}
        newer = answer.token.value if answer.token else None
        assert await at.data(newer) == ({} if how == "clear" else {"n": 0})
        assert (await at.commit(session)).token is None


async def test_a_session_that_is_not_stored(at: Setting) -> None:
    """A new session, or one after clear(): the function is applied, the response stores it."""
    session = await at.load(None)
    assert await at.manager.update(session, count) == 1
    token = token_of(await at.commit(session))
    assert await at.data(token) == {"n": 1}
    session = await at.load(token)
    session.clear()
    assert await at.manager.update(session, count) == 1
    assert await at.data(token_of(await at.commit(session))) == {"n": 1}


async def test_a_function_that_fails(at: Setting) -> None:
    """Its exception goes through, and nothing is stored; what can't be stored is named."""
    token = await at.begin({"n": 0})
    session = await at.load(token)
    with pytest.raises(ZeroDivisionError):
        await at.manager.update(session, lambda data: data.update(n=1 // 0))
    with pytest.raises(SessionEncodeError, match="odd"):
        await at.manager.update(session, lambda data: data.update(odd=object()))
    with pytest.raises(SessionEncodeError):
        await at.manager.update(session, lambda data: data.update(big="x" * 100_000))
    assert session == await at.data(token) == {"n": 0}


async def test_a_longer_life_beside_an_update(at: Setting) -> None:
    """expire_in() and update() in one request: the longer cookie goes out all the same."""
    token = await at.begin({"user_id": "alice"})
    at.clock.advance(10)
    session = await at.load(token)
    session.expire_in(30 * DAY, persistent=True)
    await at.manager.update(session, count)
    answer = await at.commit(session)
    assert (answer.token is not None, answer.max_age) == (True, 30 * DAY)


async def test_an_update_renews_the_time(at: Setting) -> None:
    """When a touch is due, update() renews the session as any change does."""
    token = await at.begin({"n": 0})
    for _ in range(4):
        at.clock.advance(3 * DAY)
        await at.manager.update(await at.load(token), count)
    assert await at.data(token) == {"n": 4}


async def test_an_unloaded_session(at: Setting) -> None:
    """lazy=True: update() of a session that isn't loaded says so, and how to load it."""
    token = await at.begin({"n": 0})
    caught: list[SessionError] = []

    async def endpoint(request: Request) -> JSONResponse:
        session = get_session(request)
        with pytest.raises(SessionError) as raised:
            await at.manager.update(session, count)
        caught.append(raised.value)
        await session.refresh()
        return JSONResponse(await at.manager.update(session, count))

    app = app_of(Route("/", endpoint), manager=at.manager, lazy=True)
    async with client_of(app, token) as browser:
        assert (await browser.get("/")).json() == 1
    assert "isn't loaded" in str(caught[0])
    assert not isinstance(caught[0], SessionEncodeError)


@pytest.mark.parametrize("mounted", [False, True])
@pytest.mark.parametrize("how", ["update", "exclusive", "refresh", "save"])
async def test_gone_is_409_over_http(at: Setting, how: str, mounted: bool) -> None:
    """What is awaited on a session that ended becomes a 409, inside a mounted application too."""
    token = await at.begin({"n": 0})

    async def endpoint(request: Request) -> JSONResponse:
        session = get_session(request)
        other = await at.load(token)
        other.clear()
        await at.commit(other)
        session["n"] = 7
        match how:
            case "update":
                await at.manager.update(session, count)
            case "exclusive":
                async with session.exclusive():
                    pass
            case _:
                await getattr(session, how)()
        return JSONResponse("done")

    routes = [Route("/x", endpoint)]
    inner = [Mount("/m", Starlette(routes=routes))] if mounted else routes
    async with client_of(app_of(*inner, manager=at.manager), token, raises=False) as browser:
        assert (await browser.get("/m/x" if mounted else "/x")).status_code == 409


# -- exclusive


async def add_one(session: Session, **options: Any) -> None:
    async with session.exclusive(**options):
        session["n"] += 1
        await asyncio.sleep(0)  # where another would come between


async def test_exclusive(at: Setting) -> None:
    """Blocks of one session don't interleave; each begins with the newest data and stores."""
    token = await at.begin({"n": 0})
    sessions = await asyncio.gather(*(at.load(token) for _ in range(MAX_WAITING)))
    await asyncio.gather(*(add_one(session) for session in sessions))
    assert await at.data(token) == {"n": MAX_WAITING}


async def test_exclusive_keeps_what_was_changed_before(at: Setting) -> None:
    """Changes that the request made before the block are kept, on top of the newest data."""
    token = await at.begin({"n": 0})
    session = await at.load(token)
    session["mine"] = 1
    await at.manager.update(await at.load(token), count)
    await add_one(session)
    assert await at.data(token) == {"n": 2, "mine": 1}


async def test_a_new_session_needs_no_lock(at: Setting) -> None:
    """Nobody else has a session that isn't stored."""
    session = await at.load(None)
    session["n"] = 0
    await add_one(session)
    assert session == {"n": 1}
    assert await at.data(token_of(await at.commit(session))) == {"n": 1}


async def test_sessions_do_not_wait_for_each_other(at: Setting) -> None:
    """The lock is one session's."""
    one, other = [await at.load(await at.begin({"n": 0})) for _ in range(2)]
    async with one.exclusive(), other.exclusive(timeout=0.01):
        pass


async def test_waiting_has_an_end(at: Setting) -> None:
    """After `timeout` seconds: SessionConflictError, and the block doesn't run."""
    token = await at.begin({"n": 0})
    one, other = [await at.load(token) for _ in range(2)]
    async with one.exclusive():
        with pytest.raises(SessionConflictError, match="locked"):
            await add_one(other, timeout=0.02)
    assert await at.data(token) == {"n": 0}
    await add_one(other)


async def test_too_many_wait(at: Setting) -> None:
    """Where many wait already, the next is told at once; the others get their turn."""
    token = await at.begin({"n": 0})
    first, *others = [await at.load(token) for _ in range(MAX_WAITING + 1)]
    async with first.exclusive():
        tasks = [asyncio.create_task(add_one(session)) for session in others[:-1]]
        await asyncio.sleep(0)
        with pytest.raises(SessionConflictError, match="wait"):
            await add_one(others[-1])
    await asyncio.gather(*tasks)
    await add_one(others[-1])
    assert await at.data(token) == {"n": MAX_WAITING}
    assert not at.manager._waiting  # pyright: ignore[reportPrivateUsage] - nothing is left behind


async def test_an_exception_releases_the_lock(at: Setting) -> None:
    """Where the block fails nothing is stored, and the next one needn't wait."""
    token = await at.begin({"n": 0})
    session = await at.load(token)
    with pytest.raises(ZeroDivisionError):
        async with session.exclusive():
            session["n"] = 1 // 0
    await add_one(await at.load(token), timeout=0.01)
    assert await at.data(token) == {"n": 1}


@pytest.mark.parametrize("holds", [False, True], ids=["waiting", "holding"])
async def test_a_cancelled_request_releases_the_lock(at: Setting, holds: bool) -> None:
    """A request that is cancelled while it waits, or while it holds, blocks nobody."""
    token = await at.begin({"n": 0})
    inside, forever = asyncio.Event(), asyncio.Event()

    async def hold(session: Session) -> None:
        async with session.exclusive():
            inside.set()
            await forever.wait()

    if holds:
        task = asyncio.create_task(hold(await at.load(token)))
        await inside.wait()
        task.cancel()
        await asyncio.wait([task])
    else:
        async with (await at.load(token)).exclusive():
            task = asyncio.create_task(hold(await at.load(token)))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
    assert task.cancelled()
    await add_one(await at.load(token), timeout=0.01)
    assert not at.manager._waiting  # pyright: ignore[reportPrivateUsage] - nothing is left behind


async def test_a_lock_is_409_over_http(at: Setting) -> None:
    """A request that can't get the lock in time is answered 409, without a cookie."""
    token = await at.begin({"n": 0})

    async def endpoint(request: Request) -> JSONResponse:
        await add_one(get_session(request), timeout=0.01)
        return JSONResponse("done")

    async with client_of(app_of(Route("/", endpoint), manager=at.manager), token) as browser:
        async with (await at.load(token)).exclusive():
            response = await browser.get("/")
        assert response.status_code == 409
        assert "set-cookie" not in response.headers
        assert (await browser.get("/")).json() == "done"


async def test_a_session_that_ended_while_one_waited(at: Setting) -> None:
    """exclusive() on a session that ended: SessionGoneError, and the lock is free."""
    token = await at.begin({"n": 0})
    one, other = [await at.load(token) for _ in range(2)]
    one.clear()
    await at.commit(one)
    with pytest.raises(SessionGoneError):
        await add_one(other)
    assert await at.data(token) == {}


# -- conflicts


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
