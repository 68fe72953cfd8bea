"""What an application's tests give a client, and find in its session: redis_sessions.testing."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from redis_sessions import (
    ConfigurationError,
    CookieTransport,
    SessionManager,
    SessionMiddleware,
    generate_key,
)
from redis_sessions.testing import (
    get_session_data,
    read_session,
    set_session_data,
    store_session,
)


async def _show(request: Request) -> JSONResponse:
    return JSONResponse(request.session)


async def _set(request: Request) -> JSONResponse:
    request.session.update(request.query_params)
    return JSONResponse({})


async def _clear(request: Request) -> JSONResponse:
    request.session.clear()
    return JSONResponse({})


ROUTES = [Route("/", _show), Route("/set", _set), Route("/clear", _clear)]


def client_of(
    manager: SessionManager, transport: CookieTransport | None, host: str = "testserver"
) -> TestClient:
    middleware = Middleware(SessionMiddleware, manager=manager, transport=transport)
    return TestClient(Starlette(routes=ROUTES, middleware=[middleware]), f"https://{host}")


@pytest.fixture
def manager() -> SessionManager:
    return SessionManager("memory://", generate_key())


@pytest.mark.parametrize("host", ["testserver", "www.example.com"])
@pytest.mark.parametrize("transport", [None, CookieTransport("other")], ids=["default", "named"])
def test_a_client_that_begins_signed_in(
    manager: SessionManager, transport: CookieTransport | None, host: str
) -> None:
    """Its first request finds the data, on a host with a dot in its name and without."""
    client = client_of(manager, transport, host)
    assert get_session_data(client, manager, transport=transport) == {}
    set_session_data(client, manager, {"user_id": "alice"}, transport=transport)
    assert get_session_data(client, manager, transport=transport) == {"user_id": "alice"}
    assert client.get("/").json() == {"user_id": "alice"}


@pytest.mark.parametrize("host", ["testserver", "www.example.com"])
@pytest.mark.parametrize("transport", [None, CookieTransport("other")], ids=["default", "named"])
def test_what_a_request_left_behind(
    manager: SessionManager, transport: CookieTransport | None, host: str
) -> None:
    """Also where its response has brought another token in the place of the one that was given."""
    client = client_of(manager, transport, host)
    set_session_data(client, manager, {"cart": 1}, transport=transport)
    client.get("/set?user_id=alice")
    assert get_session_data(client, manager, transport=transport) == {
        "cart": 1,
        "user_id": "alice",
    }
    client.get("/clear")
    assert get_session_data(client, manager, transport=transport) == {}
    client.get("/set?x=1")
    assert get_session_data(client, manager, transport=transport) == {"x": "1"}


def test_nothing_to_store(manager: SessionManager) -> None:
    """A session without data is none, and no cookie could stand for it."""
    with pytest.raises(ConfigurationError, match="at least one key"):
        set_session_data(client_of(manager, None), manager, {})


async def test_whatever_it_is_bound_to(manager: SessionManager) -> None:
    """A test reads a session without being the browser that it is bound to."""
    session = await manager.load(None, bound="Firefox")
    session["x"] = 1
    answer = await manager.commit(session)
    assert answer.token is not None
    assert await read_session(manager, answer.token.value) == {"x": 1}
    assert await read_session(manager, None) == {}
    token = await store_session(manager, {"y": 1})
    assert await read_session(manager, token) == {"y": 1}
