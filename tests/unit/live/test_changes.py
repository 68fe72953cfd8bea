"""`session.changes()`: what other requests store shows, and the names of its keys come out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from redis_sessions import Session, SessionError, StoreUnavailableError, get_session
from redis_sessions.middleware import active_session
from tests.support import LOOPS
from tests.support.open import PATIENCE, opened
from tests.unit.live.live import ACCEPT, CLOSED, Live, Talking, delete, sign_out
from tests.unit.setting import count

pytestmark = pytest.mark.parametrize("anyio_backend", LOOPS)

Changes = AsyncGenerator[frozenset[str], None]


async def of(changes: Changes) -> set[str]:
    """The next ones."""
    async with asyncio.timeout(PATIENCE):
        return set(await anext(changes))


async def begun(at: Live) -> tuple[str, Session]:
    token = await at.begin({"user_id": "alice", "a": 1, "b": 1})
    return token, await at.load(token)


async def waiting(changes: Changes) -> asyncio.Task[frozenset[str]]:
    """A task that has begun to wait for the next ones."""
    task = asyncio.ensure_future(anext(changes))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not task.done()
    return task


async def test_it_waits_for_a_change(at: Live) -> None:
    """The session shows it then."""
    token, session = await begun(at)
    async with asyncio.timeout(PATIENCE):
        task = await waiting(session.changes())
        await at.put(token, {"a": 2})
        assert await task == {"a"}
    assert session == {"user_id": "alice", "a": 2, "b": 1}


async def test_changes_before_it_began(at: Live) -> None:
    """Nothing is missed between the load and the first iteration, and several come as one."""
    token, session = await begun(at)
    await at.put(token, {"a": 2})
    await at.put(token, {"b": 2, "c": 2})
    changes = session.changes()
    assert await of(changes) == {"a", "b", "c"}
    await changes.aclose()
    assert at.watchers() == 0


async def test_changes_between_two_iterations(at: Live) -> None:
    """They are kept, and come as one."""
    token, session = await begun(at)
    changes = session.changes()
    await at.put(token, {"a": 2})
    assert await of(changes) == {"a"}
    await at.put(token, {"a": 3})
    await at.put(token, {"b": 3})
    assert await of(changes) == {"a", "b"}
    assert (session["a"], session["b"]) == (3, 3)


async def test_keys_that_are_removed(at: Live) -> None:
    """They are changed as well."""
    token, session = await begun(at)
    changes = session.changes()
    other = await at.load(token)
    del other["b"]
    await at.commit(other)
    assert await of(changes) == {"b"}
    assert "b" not in session


async def test_what_it_saves_itself(at: Live) -> None:
    """It doesn't come out, whether others changed something as well or not."""
    token, session = await begun(at)
    changes = session.changes()
    task = await waiting(changes)
    session["a"] = 2
    await session.save()
    await at.manager.update(session, count)
    await at.put(token, {"b": 3})  # together with the next one
    session["c"] = 3
    await session.save()
    async with asyncio.timeout(PATIENCE):
        assert await task == {"b"}
    assert dict(session) == {"user_id": "alice", "a": 2, "b": 3, "c": 3, "n": 1}
    assert await at.data(token) == session


async def test_its_own_save_asks_nothing(at: Live) -> None:
    """The session isn't loaded again because of what it has stored itself."""
    _, session = await begun(at)
    loads = list[str]()

    async def loaded() -> None:
        loads.append("load")

    task = await waiting(session.changes())
    at.store.loaded = loaded
    session["a"] = 2
    await session.save()
    for _ in range(10):
        await asyncio.sleep(0)
    assert loads == []
    task.cancel()


async def test_update_on_top_of_others(at: Live) -> None:
    """Of what `update()` finds only what others have changed comes out."""
    token, session = await begun(at)
    changes = session.changes()
    await waiting(changes)
    await at.put(token, {"b": 3})
    await at.manager.update(session, count)
    assert (session["n"], session["b"]) == (1, 3)
    await at.put(token, {"z": 1})
    again = session.changes()
    assert await of(again) == {"z"}


async def test_unsaved_changes(at: Live) -> None:
    """They are kept. A key that both have changed doesn't come out."""
    token, session = await begun(at)
    session["a"] = "mine"
    await at.put(token, {"a": "theirs", "b": "theirs"})
    assert await of(session.changes()) == {"b"}
    assert (session["a"], session["b"]) == ("mine", "theirs")


async def test_two_iterations(at: Live) -> None:
    """Both get everything, whichever of them, or the application, has refreshed the session."""
    token, session = await begun(at)
    one, two = session.changes(), session.changes()
    tasks = [await waiting(one), await waiting(two)]
    await at.put(token, {"a": 2})
    async with asyncio.timeout(PATIENCE):
        assert await asyncio.gather(*tasks) == [{"a"}, {"a"}]
    await at.put(token, {"b": 2})
    await session.refresh()
    assert [await of(one), await of(two)] == [{"b"}, {"b"}]


async def test_the_same_value_again(at: Live) -> None:
    """That is no change, and neither is a touch."""
    token, session = await begun(at)
    task = await waiting(session.changes())
    other = await at.load(token)
    other.mark_modified()
    await at.commit(other)
    await at.put(token, {"a": 2})
    async with asyncio.timeout(PATIENCE):
        assert await task == {"a"}


@pytest.mark.parametrize("how", [sign_out, delete])
async def test_the_session_ends(at: Live, how: Any) -> None:
    """So does the iteration, and nobody is reported to have sent a wrong token."""
    token, session = await begun(at)
    task = await waiting(session.changes())
    await how(at, token)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(StopAsyncIteration):
            await task
    assert at.watchers() == 0
    assert at.reported("rejected") == []


async def test_it_ends_the_session_itself(at: Live) -> None:
    """The iteration is over as well."""
    _, session = await begun(at)
    task = await waiting(session.changes())
    session.clear()
    await at.commit(session)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(StopAsyncIteration):
            await task


async def test_there_is_no_session(at: Live) -> None:
    """It is over at once."""
    session = await at.load(None)
    assert [keys async for keys in session.changes()] == []


async def test_it_is_cancelled(at: Live) -> None:
    """Nothing stays registered."""
    _, session = await begun(at)
    task = await waiting(session.changes())
    assert at.watchers() == 1
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert at.watchers() == 0
    assert at.manager._backend.listening == {}  # pyright: ignore[reportPrivateUsage] - nothing else shows it


async def test_it_is_left(at: Live) -> None:
    """By a `break`: nothing stays registered either."""
    token, session = await begun(at)
    await at.put(token, {"a": 2})
    async for _ in session.changes():
        break
    async with asyncio.timeout(PATIENCE):
        while at.watchers():  # noqa: ASYNC110 - the event loop closes what was left
            await asyncio.sleep(0)


async def test_the_store_is_away(at: Live) -> None:
    """The error is raised as by `refresh()`, and the iteration is over."""
    token, session = await begun(at)
    changes = session.changes()
    await at.put(token, {"a": 2})
    at.store.failing = {"load"}
    with pytest.raises(StoreUnavailableError):
        await of(changes)
    assert at.watchers() == 0


async def test_it_is_not_loaded(at: Live) -> None:
    """That is an error at once."""
    token = await at.alice()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(SessionError, match="lazy=True"):
            get_session(HTTPConnection(scope)).changes()
        await Talking()(scope, receive, send)

    async with opened(at.app(app, lazy=True), token) as socket:
        await socket.next()


class Showing:
    """A WebSocket that sends what has changed, from a task of its own."""

    def __init__(self) -> None:
        self.over = list[str]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        session = get_session(HTTPConnection(scope))

        async def show() -> None:
            async for keys in session.changes():
                await send({"type": "websocket.send", "text": f"{sorted(keys)}"})
            self.over.append("changes")

        await receive()
        await send(ACCEPT)
        async with asyncio.TaskGroup() as group:
            group.create_task(show())
            while (await receive())["type"] == "websocket.receive":
                session["own"] = 1
                await session.save()
            self.over.append("messages")


@pytest.mark.parametrize("end_sockets", [True, False])
async def test_a_client_that_goes(at: Live, end_sockets: bool) -> None:
    """The iteration is over as soon as the application is told, so nobody waits for ever."""
    showing, token = Showing(), await at.alice()
    async with opened(at.app(showing, end_sockets=end_sockets), token) as socket:
        await socket.next()
        await at.put(token, {"cart": 1})
        assert await socket.text() == "['cart']"
        socket.leave()
        await socket.end()
    assert sorted(showing.over) == ["changes", "messages"]
    assert at.watchers() == 0


async def test_a_socket_that_ends(at: Live) -> None:
    """Both of its tasks are told."""
    showing, token = Showing(), await at.alice()
    async with opened(at.app(showing), token) as socket:
        await socket.next()
        await sign_out(at, token)
        assert await socket.next() == CLOSED
        await socket.end()
    assert sorted(showing.over) == ["changes", "messages"]
    assert at.watchers() == 0
    assert at.reported("disconnected") == ["tombstone"]


async def test_a_task_that_outlives_the_request(at: Live) -> None:
    """The iteration is over with the request."""
    token, tasks = await at.alice(), list[asyncio.Task[frozenset[str]]]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        tasks.append(await waiting(get_session(HTTPConnection(scope)).changes()))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with opened(at.app(app), token, kind="http") as request:
        await request.end()
    await asyncio.wait(tasks)
    with pytest.raises(StopAsyncIteration):
        tasks[0].result()


async def test_it_begins_too_late(at: Live) -> None:
    """After the client has gone an iteration is over at once."""
    token, over = await at.alice(), list[str]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Talking()(scope, receive, send)
        async for _ in get_session(HTTPConnection(scope)).changes():
            pass
        over.append("over")

    async with opened(at.app(app), token) as socket:
        await socket.next()
        socket.leave()
        await socket.end()
    assert over == ["over"]


async def test_it_is_told_first(at: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the application returns because its iteration is over, the client is told why."""
    token, watch = await at.alice(), at.store.watch
    first = list[str]()

    def watching(id: str, notify: Any) -> Any:
        if first:
            return watch(id, notify)
        first.append(id)  # the connection's own
        return lambda: None

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        async for _ in get_session(HTTPConnection(scope)).changes():
            pass

    monkeypatch.setattr(at.store, "watch", watching)
    async with opened(at.app(app), token) as socket:
        await socket.next()
        await sign_out(at, token)
        assert await socket.next() == CLOSED
        await socket.end()
    assert at.reported("disconnected") == ["tombstone"]


async def test_many_iterations(at: Live) -> None:
    """None leaves anything behind in a connection that stays open."""
    token = await at.alice()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        session = get_session(HTTPConnection(scope))
        for number in range(5):
            await at.put(token, {"n": number})
            changes = session.changes()
            assert await of(changes) == {"n"}
            await changes.aclose()
        live = active_session(HTTPConnection(scope)).live
        assert live is not None
        assert live._stops == set()  # pyright: ignore[reportPrivateUsage] - nothing else shows it
        assert at.watchers() == 1

    async with opened(at.app(app), token) as socket:
        await socket.end()
