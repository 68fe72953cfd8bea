"""An event stream is ended when its token doesn't open its session any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from redis_sessions import SessionMiddleware, get_session
from tests.support import LOOPS
from tests.support.open import Open, opened
from tests.unit.live.live import ENDS, LAST, START, End, Live, part, sign_out

pytestmark = pytest.mark.parametrize("anyio_backend", LOOPS)

OLD, NEW = {"version": "3.0", "spec_version": "2.3"}, {"version": "3.0", "spec_version": "2.4"}


class Events:
    """A response that streams events until it is cancelled, and notes what its generator does."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.go_on = asyncio.Event()

    async def body(self, _: Request) -> AsyncIterator[str]:
        try:
            yield "data: 1\n\n"
            await self.go_on.wait()
            yield "data: 2\n\n"
            await asyncio.Event().wait()
        finally:
            self.done.append("finally")

    async def respond(self, request: Request) -> StreamingResponse:
        after = BackgroundTask(self.done.append, "background")
        kind = request.query_params.get("kind", "text/event-stream")
        return StreamingResponse(self.body(request), media_type=kind, background=after)

    def app(self, at: Live, *, inside: Any = None, outside: Any = None) -> ASGIApp:
        ours = Middleware(SessionMiddleware, manager=at.manager)
        base = Middleware(BaseHTTPMiddleware, dispatch=_pass)
        around = {"inside": [ours, base], "outside": [base, ours], None: [ours]}
        return Starlette(routes=[Route("/", self.respond)], middleware=around[inside or outside])


async def _pass(request: Request, call_next: Any) -> Any:
    return await call_next(request)


async def begun(stream: Open) -> None:
    assert (await stream.next())["type"] == "http.response.start"
    assert (await stream.next())["body"] == b"data: 1\n\n"


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
async def test_a_generator(at: Live, end: End) -> None:
    """It is cancelled where it waits, and the body is completed."""
    events, token = Events(), await at.alice()
    async with opened(events.app(at), token, kind="http") as stream:
        await begun(stream)
        assert at.watchers() == 1
        await end(at, token)
        assert await stream.next() == LAST
        await stream.end()
    assert events.done[0] == "finally"
    assert at.reported("disconnected") == [ENDS[end]]
    assert at.watchers() == 0
    assert stream.task.cancelling() == 0


@pytest.mark.parametrize("asgi", [OLD, NEW], ids=["2.3", "2.4"])
@pytest.mark.parametrize("where", ["inside", "outside", None])
async def test_where_it_is_sent(at: Live, asgi: dict[str, str], where: str | None) -> None:
    """By which task, and under which middleware, the stream is sent makes no difference."""
    events, token = Events(), await at.alice()
    app = events.app(at, inside=where)
    async with opened(app, token, kind="http", asgi=asgi) as stream:
        await begun(stream)
        events.go_on.set()
        assert (await stream.next())["body"] == b"data: 2\n\n"
        await sign_out(at, token)
        assert (await stream.next()).get("more_body", False) is False
        await stream.end()
        assert stream.task.cancelling() == 0
    assert events.done[0] == "finally"


async def test_a_generator_in_a_thread(at: Live) -> None:
    """The stream ends while its thread still works, and the thread disturbs nobody."""
    token, works, may_end = await at.alice(), threading.Event(), threading.Event()

    def body() -> Iterator[str]:
        yield "data: 1\n\n"
        works.set()
        may_end.wait(20)
        yield "data: 2\n\n"

    async def respond(_: Request) -> StreamingResponse:
        return StreamingResponse(body(), media_type="text/event-stream")

    app = Starlette(routes=[Route("/", respond)])
    async with opened(at.app(app), token, kind="http") as stream:
        try:
            await begun(stream)
            await asyncio.to_thread(works.wait, 20)
            await sign_out(at, token)
            assert await stream.next() == LAST
        finally:
            may_end.set()
        await stream.end()


async def test_it_goes_on_sending(at: Live) -> None:
    """A generator that absorbs its cancellation can send nothing more."""
    token, errors = await at.alice(), list[Exception]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send(part("1"))
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            try:
                await send(part("2"))
            except OSError as exc:
                errors.append(exc)

    async with opened(at.app(app), token, kind="http") as stream:
        await stream.next()
        await sign_out(at, token)
        await stream.end()
        assert stream.task.cancelling() == 0
    assert stream.sent[1:] == [part("1"), LAST]
    assert "the session has ended" in str(errors[0])


async def test_it_raises_that_it_cannot_send(at: Live) -> None:
    """That is no failure of the application."""
    token, ended = await at.alice(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        done = asyncio.ensure_future(ended.wait())
        while True:
            try:
                await asyncio.wait([done])
            except asyncio.CancelledError:
                await send(part("more"))

    async with opened(at.app(app), token, kind="http") as stream:
        await stream.next()
        await sign_out(at, token)
        await stream.end()
        ended.set()
    assert stream.sent[1:] == [LAST]


async def test_another_task_sends_it(at: Live) -> None:
    """The task that has sent last is cancelled, and who waits for it is no failure."""
    token, done = await at.alice(), list[str]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def body() -> None:
            try:
                await send(part("1"))
                await asyncio.Event().wait()
            finally:
                done.append("finally")

        await send(START)
        sending = asyncio.ensure_future(body())
        await asyncio.wait([sending])  # whose own cancellation doesn't cancel what it waits for
        await sending

    async with opened(at.app(app), token, kind="http") as stream:
        await stream.next()
        assert await stream.next() == part("1")
        await sign_out(at, token)
        assert await stream.next() == LAST
        await stream.end()
    assert done == ["finally"]


async def test_other_responses(at: Live) -> None:
    """A download isn't cut off."""
    events, token = Events(), await at.alice()
    async with opened(
        events.app(at), token, kind="http", query_string=b"kind=text/plain"
    ) as stream:
        await begun(stream)
        assert at.watchers() == 0
        await sign_out(at, token)
        events.go_on.set()
        assert (await stream.next())["body"] == b"data: 2\n\n"


async def test_what_comes_after_the_stream(at: Live) -> None:
    """A background task isn't cancelled, since its stream is complete."""
    token, ended, done = await at.alice(), asyncio.Event(), list[str]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send(LAST)
        await ended.wait()
        for _ in range(10):
            await asyncio.sleep(0)
        done.append("background")

    async with opened(at.app(app), token, kind="http") as stream:
        await stream.next()
        await stream.next()
        assert at.watchers() == 0
        await sign_out(at, token)
        ended.set()
        await stream.end()
    assert done == ["background"]


async def test_its_own_application_ends_the_session(at: Live) -> None:
    """It goes on, since it knows."""
    token = await at.alice()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = get_session(HTTPConnection(scope))
        await send(START)
        session.clear()
        await session.save()
        for _ in range(10):
            await asyncio.sleep(0)
        await send(part("goodbye"))
        await send(LAST)

    async with opened(at.app(app), token, kind="http") as stream:
        await stream.end()
    assert stream.sent[1:] == [part("goodbye"), LAST]
    assert at.watchers() == 0


@pytest.mark.parametrize("how", ["middleware", "route"])
async def test_it_is_switched_off(at: Live, how: str) -> None:
    """The stream goes on."""
    token, ended = await at.alice(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if how == "route":
            get_session(HTTPConnection(scope), watch=False)
        await send(START)
        await ended.wait()
        await send(part("on"))

    async with opened(at.app(app, end_sockets=how == "route"), token, kind="http") as stream:
        await stream.next()
        assert at.watchers() == 0
        await sign_out(at, token)
        ended.set()
        assert await stream.next() == part("on")


async def test_lazy(at: Live) -> None:
    """It is watched from the moment in which it is loaded."""
    token = await at.alice()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await get_session(HTTPConnection(scope)).refresh()
        await send(part("loaded"))
        await asyncio.Event().wait()

    async with opened(at.app(app, lazy=True), token, kind="http") as stream:
        await stream.next()
        assert await stream.next() == part("loaded")
        await sign_out(at, token)
        assert await stream.next() == LAST
        await stream.end()
