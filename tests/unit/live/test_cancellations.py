"""A session ends at the moment in which something else cancels its connection."""

from __future__ import annotations

import asyncio

import pytest
from starlette.requests import HTTPConnection
from starlette.types import Message, Receive, Scope, Send

from redis_sessions import Event, Keyring, Session, SessionManager, SessionMiddleware, get_session
from redis_sessions.session.session import state_of
from tests.support import LOOPS
from tests.support.asgi import cookie, scope_of
from tests.support.open import PATIENCE, opened
from tests.unit.live.live import ACCEPT, CLOSED, GONE, LAST, START, Live, part, sign_out
from tests.unit.setting import KEY

pytestmark = pytest.mark.parametrize("anyio_backend", LOOPS)


@pytest.mark.parametrize("order", ["cancelled first", "ended first"])
@pytest.mark.parametrize("kind", ["websocket", "http"])
async def test_a_server_that_shuts_down(at: Live, kind: str, order: str) -> None:
    """Its cancellation isn't taken for ours."""
    token = await at.alice()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if kind == "websocket":
            await receive()
            await send(ACCEPT)
            await receive()
        else:
            await send(START)
            await asyncio.Event().wait()

    async with opened(at.app(app), token, kind=kind) as connection:
        await connection.next()
        if order == "cancelled first":
            connection.task.cancel()
            await sign_out(at, token)
        else:
            await sign_out(at, token)
            while not at.reported("disconnected"):  # noqa: ASYNC110 - of this very loop
                await asyncio.sleep(0)
            connection.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connection.end()
    assert at.watchers() == 0


@pytest.mark.parametrize("kind", ["websocket", "http"])
async def test_a_server_that_shuts_down_at_the_same_time(at: Live, kind: str) -> None:
    """Two cancellations arrive as one, and it isn't taken for ours alone."""
    token, kinds = await at.alice(), list[str]()

    def shut_down(event: Event) -> None:
        kinds.append(event.name)
        if event.name == "disconnected":
            connection.task.cancel()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if kind == "websocket":
            await receive()
            await send(ACCEPT)
            await receive()
        else:
            await send(START)
            await asyncio.Event().wait()

    manager = SessionManager(at.store, Keyring(KEY), clock=at.clock, on_event=shut_down)
    async with opened(SessionMiddleware(app, manager=manager), token, kind=kind) as connection:
        await connection.next()
        await sign_out(at, token)
        with pytest.raises(asyncio.CancelledError):
            await connection.end()
        assert connection.task.cancelling() == 1
    assert kinds == ["disconnected"]


@pytest.mark.parametrize("how", ["returns", "fails", "signs out and fails"])
@pytest.mark.parametrize("steps", range(6))
async def test_a_stream_that_is_over_at_the_same_time(at: Live, how: str, steps: int) -> None:
    """The task of an application that is through isn't cancelled, and its error is its own."""
    token, through = await at.alice(), list[str]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = get_session(HTTPConnection(scope))
        await send(START)
        await sign_out(at, token)
        for _ in range(steps):  # of the loop, in one of which the stream would be ended
            await asyncio.sleep(0)
        through.append(how)
        if how == "signs out and fails":
            session.clear()
        if how != "returns":
            raise ValueError("says the test")

    async with opened(at.app(app), token, kind="http") as stream:
        (ended,) = await asyncio.gather(stream.end(), return_exceptions=True)
    failed = through and how != "returns"
    assert repr(ended) == ("ValueError('says the test')" if failed else "None")
    assert stream.task.cancelling() == 0
    assert at.watchers() == 0


async def test_a_timeout_of_the_application(at: Live) -> None:
    """A timeout around `receive` is a timeout, before as after."""
    token, late = await at.alice(), list[str]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        try:
            async with asyncio.timeout(0):
                await receive()
        except TimeoutError:
            late.append("timeout")
        assert await receive() == GONE
        async with asyncio.timeout(20):
            await asyncio.sleep(0)

    async with opened(at.app(app), token) as socket:
        await socket.next()
        while not late:  # noqa: ASYNC110 - of this very loop
            await asyncio.sleep(0)
        await sign_out(at, token)
        assert await socket.next() == CLOSED
        await socket.end()


async def test_a_task_that_is_cancelled_later(at: Live) -> None:
    """After a disconnect of ours, a cancellation of the application's own works as ever."""
    token, waits = await at.alice(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)

        async def read() -> None:
            assert await receive() == GONE
            waits.set()
            await asyncio.Event().wait()

        reading = asyncio.ensure_future(read())
        await waits.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert reading.cancelled()

    async with opened(at.app(app), token) as socket:
        await socket.next()
        await sign_out(at, token)
        await socket.end()


async def test_a_server_whose_receive_absorbs_it(at: Live) -> None:
    """Then no cancellation is left over."""
    token = await at.alice()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        assert (await receive())["type"] == "absorbed"
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    async def server(scope: Scope, receive: Receive, send: Send) -> None:
        async def absorbing() -> dict[str, str]:
            try:
                return dict(await receive())
            except asyncio.CancelledError:
                return {"type": "absorbed"}

        await at.app(app)(scope, absorbing, send)

    async with opened(server, token) as socket:
        await socket.next()
        await sign_out(at, token)
        await socket.end()


async def test_a_message_that_arrives_at_the_same_time(at: Live) -> None:
    """The socket ends all the same."""
    token = await at.alice()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        while await receive() != GONE:
            pass

    async with opened(at.app(app), token) as socket:
        await socket.next()
        await sign_out(at, token)
        while not at.reported("disconnected"):
            socket.say("just now")
            await asyncio.sleep(0)
        await socket.end()
    assert socket.sent[1:] == [CLOSED]


async def test_a_client_that_has_gone(at: Live) -> None:
    """That the last message can't be sent is nothing."""
    token = await at.alice()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send(part("1"))
        await asyncio.Event().wait()

    async def server(scope: Scope, receive: Receive, send: Send) -> None:
        async def failing(message: dict[str, object]) -> None:
            await send(message)
            if message == LAST:
                raise OSError("gone")

        await at.app(app)(scope, receive, failing)  # type: ignore[arg-type] # a Message is one

    async with opened(server, token, kind="http") as stream:
        await stream.next()
        await sign_out(at, token)
        await stream.end()


async def test_a_server_that_gives_up_on_the_last_message(at: Live) -> None:
    """The request is over all the same: nothing holds its connection, and the scope is as before.

    The collector wouldn't find the circle of a session and its connection.
    """
    token, sessions, stuck = await at.alice(), list[Session](), asyncio.Event()
    before = {"another": "library's"}
    scope = {**scope_of("/", [(b"cookie", cookie(token))]), "session": before}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        sessions.append(get_session(HTTPConnection(scope)))
        await send(START)
        await asyncio.Event().wait()

    async def send(message: Message) -> None:
        if message == LAST:
            stuck.set()
            await asyncio.Event().wait()

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def serve() -> None:
        await at.app(app)(scope, receive, send)

    task = asyncio.create_task(serve())
    while not at.watchers():  # noqa: ASYNC110 - of this very loop
        await asyncio.sleep(0)
    await sign_out(at, token)
    async with asyncio.timeout(PATIENCE):
        await stuck.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert state_of(sessions[0]).request.context is None
    assert scope["session"] == before
