"""Tracebacks as an application's error handlers, its log and its server see them."""

# No `from __future__ import annotations`: FastAPI resolves what closures are annotated with.

import logging
from typing import Any

import pytest
from fastapi import Depends, FastAPI, Request, WebSocket
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from redis_sessions import (
    SessionAuthBackend,
    SessionEncodeError,
    SessionMiddleware,
    SessionToken,
)
from redis_sessions.fastapi import PrincipalDep, SessionDep
from tests.unit.tracebacks.shown import frames, ours, shown
from tests.unit.tracebacks.troubled_request import MARK, Visit

HERE = __name__


def fail(*_: Any) -> Any:
    raise ZeroDivisionError


class Application:
    """A FastAPI application, and the frames of what its error handler is given."""

    def __init__(self, visit: Visit, *, reraise: bool = True, **options: Any) -> None:
        self.app = FastAPI()
        self.app.add_middleware(SessionMiddleware, manager=visit.manager, **options)
        self.app.add_exception_handler(ZeroDivisionError, self.handle)
        self.app.add_exception_handler(SessionEncodeError, self.handle)
        self.handled: list[list[str]] = []
        cookies = {} if visit.token is None else {"__Host-session": visit.token}
        self.client = TestClient(
            self.app, "https://testserver", cookies=cookies, raise_server_exceptions=reraise
        )

    async def handle(self, request: Request, exc: Exception) -> PlainTextResponse:
        self.handled.append(frames(exc))  # afterwards Starlette takes its traceback away
        return PlainTextResponse(type(exc).__name__, 500)


async def test_an_error_handler_sees_the_dependency_fail_without_our_frames() -> None:
    """A lazy session is loaded below FastAPI: what `on_unavailable` raises is shown as its own."""
    visit = Visit()
    await visit.begin()
    visit.store.failing = {"load"}
    at = Application(visit, on_unavailable=fail, lazy=True)

    @at.app.get("/")
    async def read(session: SessionDep) -> None: ...

    assert at.client.get("/").text == "ZeroDivisionError"
    (names,) = at.handled
    assert (names[-2].partition(".")[0], names[-1]) == ("fastapi", HERE)
    assert not any(name.startswith("redis_sessions") for name in names)


async def test_a_callable_principal_that_fails_in_a_dependency() -> None:
    """Its own frame is shown, and not ours."""

    def principal(data: dict[str, Any]) -> None:
        if "n" in data:
            raise ZeroDivisionError

    visit = Visit(principal=principal)
    await visit.begin()
    at = Application(visit, reraise=False)

    async def write(session: SessionDep) -> None:
        session["n"] = 1

    @at.app.get("/", dependencies=[Depends(write)])
    async def read(user: PrincipalDep) -> None: ...

    at.client.get("/")
    assert at.handled
    for names in at.handled:
        assert names[-1] == HERE
        assert not any(name.startswith("redis_sessions") for name in names)


async def test_a_backend_whose_scopes_fail() -> None:
    """SessionAuthBackend calls the application's function, whose own frame is shown."""
    visit = Visit()
    await visit.begin(user_id="alice")
    at = Application(visit)
    at.app.user_middleware.append(
        Middleware(AuthenticationMiddleware, backend=SessionAuthBackend(scopes=fail))
    )
    with pytest.raises(ZeroDivisionError) as caught:
        at.client.get("/")
    assert frames(caught.value)[-1] == HERE
    assert not ours(caught.value)


@pytest.mark.parametrize("handler", ["get", "websocket"])
async def test_a_server_sees_starlette_s_frames_and_the_handler_s(handler: str) -> None:
    """Starlette holds the session in the scope, of which no more than its id is shown."""
    visit = Visit()
    await visit.begin()
    at = Application(visit)

    @at.app.get("/")
    async def read(session: SessionDep) -> None:
        assert session["mark"] == MARK
        raise LookupError

    @at.app.websocket("/")
    async def connect(websocket: WebSocket) -> None:
        assert websocket.session["mark"] == MARK
        raise LookupError

    with pytest.raises(LookupError) as caught:
        if handler == "get":
            at.client.get("/")
        else:
            with at.client.websocket_connect("wss://testserver/"):
                pass
    names = frames(caught.value)
    assert "starlette.routing" in names
    assert names[-1] == HERE
    assert not any(name.startswith("redis_sessions") for name in names)
    assert "<Session id=" in shown(caught.value)
    assert MARK not in shown(caught.value)
    assert not getattr(caught.value, "__notes__", [])


async def test_a_socket_that_can_t_be_accepted() -> None:
    """What the commit raises is the application's to see."""
    visit = Visit()
    await visit.begin()
    at = Application(visit)

    @at.app.websocket("/")
    async def connect(websocket: WebSocket) -> None:
        websocket.session["more"] = object()
        try:
            await websocket.accept()
        except SessionEncodeError as exc:
            visit.catch(exc)
            raise

    with pytest.raises(SessionEncodeError), at.client.websocket_connect("wss://testserver/"):
        pass
    assert visit.caught


async def test_an_end_that_fails_is_logged_without_our_frames(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What a failed request ended may not have ended, says the log, with the store's error."""
    visit = Visit()
    await visit.begin()

    def clear_and_fail(session: Any) -> None:
        session.clear()
        fail()

    with caplog.at_level(logging.ERROR):
        await visit.ask(clear_and_fail, failing=["end"])
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.exc_info
    _, exc, traceback = record.exc_info
    assert exc is not None
    assert traceback is exc.__traceback__
    assert "end fails" in str(exc)
    assert set(frames(exc)) == {"tests.support.stores"}
    assert not ours(exc)


async def test_a_session_that_is_read_in_a_handler(tokens: list[SessionToken]) -> None:
    """Of a placeholder the error names the store's trouble, by a note."""
    visit = Visit()
    await visit.begin()

    async def act(session: Any) -> None:
        session["more"] = MARK

    await visit.ask(act, failing=["load"])
    (exc,) = visit.caught
    (note,) = exc.__notes__
    assert note.startswith("left out of this traceback: redis_sessions.session.placeholder:")
    visit.check(tokens)
