"""`session.messages()`: what a session hears, and that it ends with the session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from redis_sessions import ConfigurationError, Session, get_session
from redis_sessions.messages import Message, Missed
from tests.support import LOOPS
from tests.support.open import PATIENCE, opened
from tests.unit.live.live import ACCEPT, CLOSED, ENDS, End, Live

pytestmark = pytest.mark.parametrize("anyio_backend", LOOPS)


async def all_of(session: Session) -> list[Message | Missed]:
    """What comes until it is over."""
    async with asyncio.timeout(PATIENCE):
        return [message async for message in session.messages()]


async def test_what_it_hears(at: Live) -> None:
    """What is for its user, for itself and for all, and nothing of others."""
    mine, other = await at.load(await at.alice()), await at.load(await at.begin({"user_id": "bob"}))
    sent = at.manager.messages
    assert mine.id is not None
    assert other.id is not None
    async with asyncio.timeout(PATIENCE), mine.messages() as heard:
        await sent.to_principal("bob", {"n": 0})
        await sent.to_session(other.id, {"n": 0})
        await sent.to_principal("alice", {"n": 1})
        await sent.to_session(mine.id, {"n": 2})
        await sent.to_all({"n": 3})
        assert [await anext(heard) for _ in range(3)] == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert at.watchers() == 0


@pytest.mark.parametrize("end", ENDS)
async def test_it_ends_with_its_session(at: Live, end: End) -> None:
    """And what waits isn't given any more: it may be meant for who is there now."""
    token = await at.alice()
    session = await at.load(token)
    async with asyncio.timeout(PATIENCE), session.messages() as heard:
        await at.manager.messages.to_principal("alice", {"n": 1})
        assert await anext(heard) == {"n": 1}
        last = asyncio.ensure_future(anext(heard, None))
        await end(at, token)
        assert await last is None
        await at.manager.messages.to_principal("alice", {"n": 2})
        assert await anext(heard, None) is None
    assert at.watchers() == 0


async def test_a_session_that_has_ended_before(at: Live) -> None:
    """It hears nothing, even what was sent after its load."""
    token = await at.alice()
    session = await at.load(token)
    await at.request(lambda other: other.clear(), token)
    assert await all_of(session) == []


async def test_a_watch_that_is_slow_to_answer(at: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose session had ended before hears nothing, even before the watch has told of the end."""
    token = await at.alice()
    session = await at.load(token)
    await at.request(lambda other: other.clear(), token)

    def watch(*_: object) -> Callable[[], None]:
        return list[object]().clear  # which does nothing

    monkeypatch.setattr(at.store, "watch", watch)
    async with asyncio.timeout(PATIENCE), session.messages() as heard:
        await at.manager.messages.to_principal("alice", {"n": 1})
        assert await anext(heard, None) is None
    assert at.manager._backend.watched == 0  # pyright: ignore[reportPrivateUsage] - nothing else shows it


async def test_nothing_is_stored(at: Live) -> None:
    """A new session has no id, and nobody is signed in: it is over at once."""
    assert await all_of(await at.load(None)) == []


async def test_what_was_stored_decides(at: Live) -> None:
    """Whoever is signed in by a request alone hears what is for who was stored."""
    token = await at.begin({"cart": 1})
    session = await at.load(token)
    session.sign_in("bob")
    async with asyncio.timeout(PATIENCE), session.messages() as heard:
        await at.manager.messages.to_principal("bob", {"n": 1})
        await at.manager.messages.to_all({"n": 2})
        assert await anext(heard) == {"n": 2}


async def test_an_anonymous_visitor_signs_in(at: Live) -> None:
    """Who listened before hears nothing that is for the user: the browser has another session."""
    token = await at.begin({"cart": 1})
    visitor = await at.load(token)
    async with asyncio.timeout(PATIENCE), visitor.messages() as heard:
        reply = await at.request(lambda session: session.sign_in("alice"), token)
        later = await at.load(reply.token.value)
        await at.manager.messages.to_principal("alice", {"n": 1})
        assert await anext(heard, None) is None
        async with later.messages() as others:
            await at.manager.messages.to_principal("alice", {"n": 2})
            assert await anext(others) == {"n": 2}


async def test_a_socket(at: Live) -> None:
    """What is sent goes out, and the socket is closed when the session has ended."""
    token = await at.alice()
    done = list[str]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        async with get_session(HTTPConnection(scope)).messages() as messages:
            await send({"type": "websocket.send", "text": "ready"})
            async for message in messages:
                assert isinstance(message, dict)
                await send({"type": "websocket.send", "text": message["text"]})
        done.append("over")

    async with opened(at.app(app), token) as client:
        assert (await client.next())["type"] == ACCEPT["type"]
        assert await client.text() == "ready"
        await at.manager.messages.to_principal("alice", {"text": "hello"})
        assert await client.text() == "hello"
        await at.request(lambda session: session.sign_out(), token)
        assert await client.next() == CLOSED
        await client.end()
    assert done == ["over"]


async def test_a_client_that_leaves(at: Live) -> None:
    """Its messages are over."""
    token, done = await at.alice(), list[str]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)

        async def deliver() -> None:
            async for _ in get_session(HTTPConnection(scope)).messages():
                raise AssertionError
            done.append("over")

        delivery = asyncio.create_task(deliver())
        assert (await receive())["type"] == "websocket.disconnect"
        await delivery

    async with opened(at.app(app), token) as client:
        assert (await client.next())["type"] == ACCEPT["type"]
        client.leave()
        await client.end()
    assert done == ["over"]


async def test_a_store_that_tells_nothing_of_changes(at: Live) -> None:
    """The error says what is missing."""
    session = await at.load(await at.alice())
    at.manager._backend.watchable = None  # pyright: ignore[reportPrivateUsage] - as with a store of one's own
    with pytest.raises(ConfigurationError, match=r"has no watch\(\)"):
        session.messages()
