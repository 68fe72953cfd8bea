"""Responses that take their time: generators, event streams, and what they do to a session."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator

import anyio.to_thread
import httpx2
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from redis_sessions import SessionError, SessionMiddleware
from redis_sessions.fastapi import SessionDep
from tests.support.apps import app_of, client_of, doing, serve, signed_in, token_in
from tests.support.asgi import KEY


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("what", ["first visit", "sign-in", "sign-out"])
async def test_a_generator_changes_the_session_before_its_first_yield(
    redis_url: str, prefix: str, kind: str, what: str
) -> None:
    """The start is held until the body begins, so the cookie still goes out."""

    def act(request: Request) -> None:
        if what == "first visit":
            request.session["a"] = 1
        elif what == "sign-in":
            request.session["user_id"] = "alice"
        else:
            request.session.clear()

    def sync_body(request: Request) -> Iterator[bytes]:
        act(request)
        yield b"one"
        yield b"two"

    async def async_body(request: Request) -> AsyncIterator[bytes]:
        act(request)
        yield b"one"
        yield b"two"

    async def stream(request: Request) -> StreamingResponse:
        return StreamingResponse(
            sync_body(request) if kind == "sync" else async_body(request), media_type="text/plain"
        )

    app = doing(Route("/stream", stream), store=redis_url, prefix=prefix, secret_key=KEY)
    async with client_of(app) as browser:
        if what == "sign-out":
            await signed_in(browser)
        response = await browser.get("/stream")
        assert response.text == "onetwo"
        token = token_in(response)
        assert token is not None
        assert (token == "null") is (what == "sign-out")
        expected = {"first visit": {"a": 1}, "sign-in": {"user_id": "alice"}, "sign-out": {}}
        assert (await browser.get("/do")).json() == expected[what]


async def test_a_generator_changes_the_session_later(redis_url: str, prefix: str) -> None:
    """Data set between chunks are committed at the end; a late sign-in is an error."""

    async def body(request: Request) -> AsyncIterator[bytes]:
        yield b"one"
        request.session[request.query_params["key"]] = "x"
        yield b"two"

    async def stream(request: Request) -> StreamingResponse:
        return StreamingResponse(body(request))

    app = doing(Route("/stream", stream), store=redis_url, prefix=prefix, secret_key=KEY)
    async with client_of(app) as browser:
        await browser.get("/do?set=a:1")
        response = await browser.get("/stream?key=b")
        assert token_in(response) is None
        assert (await browser.get("/do")).json() == {"a": "1", "b": "x"}
        with pytest.raises(SessionError, match="the response has started"):
            await browser.get("/stream?key=user_id")
        assert (await browser.get("/do")).json() == {"a": "1", "b": "x"}


async def test_a_generator_that_fails_after_its_start_stores_nothing(
    redis_url: str, prefix: str
) -> None:
    """What a broken stream wrote after its first chunk isn't stored."""

    async def body(request: Request) -> AsyncIterator[bytes]:
        request.session["before"] = 1
        yield b"one"
        request.session["after"] = 2
        raise RuntimeError("oops")

    async def stream(request: Request) -> StreamingResponse:
        return StreamingResponse(body(request))

    app = doing(Route("/stream", stream), store=redis_url, prefix=prefix, secret_key=KEY)
    async with client_of(app) as browser:
        await browser.get("/do?set=a:1")
        with pytest.raises(RuntimeError, match="oops"):
            await browser.get("/stream")
        assert (await browser.get("/do")).json() == {"a": "1", "before": 1}


async def test_a_generator_that_fails_before_its_start_stores_nothing(
    redis_url: str, prefix: str
) -> None:
    """Nothing was sent yet: the answer is a 500, and the session as it was."""

    async def body(request: Request) -> AsyncIterator[bytes]:
        request.session["user_id"] = "alice"
        if request.session:
            raise RuntimeError("oops")
        yield b"never"

    async def stream(request: Request) -> StreamingResponse:
        return StreamingResponse(body(request))

    app = doing(Route("/stream", stream), store=redis_url, prefix=prefix, secret_key=KEY)
    async with client_of(app, raises=False) as browser:
        await browser.get("/do?set=a:1")
        response = await browser.get("/stream")
        assert response.status_code == 500
        assert token_in(response) is None
        assert (await browser.get("/do")).json() == {"a": "1"}


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_headers_of_an_event_stream_are_not_held_back(
    redis_url: str, prefix: str, kind: str
) -> None:
    """Under uvicorn: the headers, cookie included, arrive before the first event is produced."""
    gate = threading.Event()

    def wait() -> None:
        assert gate.wait(20)

    def sync_events() -> Iterator[str]:
        wait()
        yield "data: one\n\n"

    async def async_events() -> AsyncIterator[str]:
        await anyio.to_thread.run_sync(wait)
        yield "data: one\n\n"

    async def events(request: Request) -> StreamingResponse:
        request.session["a"] = 1
        return StreamingResponse(
            sync_events() if kind == "sync" else async_events(), media_type="text/event-stream"
        )

    app = app_of(
        Route("/events", events), store=redis_url, prefix=prefix, secret_key=KEY, https_only=False
    )
    with serve(app) as address:
        try:
            with httpx2.stream("GET", f"http://{address}/events") as response:
                assert token_in(response, "sid")
                assert not gate.is_set()
                gate.set()
                assert response.read() == b"data: one\n\n"
        finally:
            gate.set()


def test_an_event_stream_saves_while_it_lasts(redis_url: str, prefix: str) -> None:
    """`await session.save()` in a stream: other requests see it before the stream ends."""
    gate = threading.Event()
    app = FastAPI()
    app.add_middleware(
        SessionMiddleware, store=redis_url, prefix=prefix, secret_key=KEY, https_only=False
    )

    @app.post("/begin")
    async def begin(session: SessionDep) -> None:
        session["a"] = 1

    @app.get("/show")
    async def show(session: SessionDep) -> JSONResponse:
        return JSONResponse(session)

    @app.get("/events")
    async def events(session: SessionDep) -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            session["b"] = 2
            await session.save()
            yield "data: saved\n\n"
            await anyio.to_thread.run_sync(gate.wait, 20)
            session["c"] = 3

        return StreamingResponse(body(), media_type="text/event-stream")

    with serve(app) as address, httpx2.Client(base_url=f"http://{address}") as browser:
        browser.post("/begin")
        try:
            with browser.stream("GET", "/events") as response:
                events_seen = response.iter_text()
                assert next(events_seen) == "data: saved\n\n"
                assert browser.get("/show").json() == {"a": 1, "b": 2}
                gate.set()
                assert list(events_seen) == []
            # The stream's end comes before the application's: the task that commits is waited
            # for by closing the server, below.
        finally:
            gate.set()
    with serve(app) as address:
        token = {"Cookie": f"sid={browser.cookies['sid']}"}
        shown = httpx2.get(f"http://{address}/show", headers=token)
        assert shown.json() == {"a": 1, "b": 2, "c": 3}
