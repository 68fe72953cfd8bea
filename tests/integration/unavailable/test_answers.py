"""What becomes a 503 and what doesn't: errors in task groups, bugs, `on_unavailable`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from redis_sessions import (
    ConfigurationError,
    Event,
    SessionGoneError,
)
from tests.support.apps import BASE, doing
from tests.support.asgi import KEY
from tests.support.stores import UnreliableStore


def test_task_groups() -> None:
    """The 503 is found inside an exception group."""
    store = UnreliableStore()

    async def grouped(request: Request) -> Response:
        async def touch() -> None:
            _ = request.session

        async with asyncio.TaskGroup() as group:
            group.create_task(touch())
        return JSONResponse({})

    app = doing(Route("/grouped", grouped), store=store, secret_key=KEY)
    with TestClient(app, base_url=BASE) as client:
        client.get("/do?set=a:1")
        store.away = True
        response = client.get("/grouped")
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")


def test_bugs_stay_bugs() -> None:
    """An application's error that one of ours has caused is the application's, and a 500."""

    async def wrong(request: Request) -> Response:
        try:
            raise SessionGoneError("gone")
        except SessionGoneError as exc:
            raise ValueError("a bug") from exc

    app = doing(Route("/wrong", wrong), store="memory://", secret_key=KEY)
    with (
        TestClient(app, base_url=BASE) as client,
        pytest.raises(ValueError, match="a bug"),
    ):
        client.get("/wrong")


@pytest.mark.parametrize("answer", [None, "junk"])
def test_an_undecided_callable(answer: Any) -> None:
    """on_unavailable that returns neither word is an error, never an open door."""
    store = UnreliableStore()

    def choose(connection: object) -> Any:
        return answer

    app = doing(store=store, secret_key=KEY, on_unavailable=choose)
    with TestClient(app, base_url=BASE) as client:
        client.get("/do?set=a:1")
        store.away = True
        with pytest.raises(ConfigurationError, match="return 'error' or 'anonymous'"):
            client.get("/do")


def test_each_refusal_is_reported() -> None:
    """Whoever needed the store and got none is counted, with the reason."""
    store, events = UnreliableStore(), list[Event]()
    app = doing(store=store, secret_key=KEY, on_event=events.append)
    with TestClient(app, base_url=BASE) as client:
        client.get("/do?set=a:1")
        store.away = True
        assert client.get("/do").status_code == 503
        store.away = False
    assert Event("unavailable", "server") in events
