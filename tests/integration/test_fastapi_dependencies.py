"""FastAPI's dependencies where they are made: what `fresh` takes, and a missing middleware."""

# No `from __future__ import annotations`: FastAPI resolves what closures are annotated with.

from typing import Any

import pytest
from fastapi import Depends, FastAPI
from starlette.testclient import TestClient

from redis_sessions import (
    ConfigurationError,
    MemoryStore,
    SessionManager,
    SessionMiddleware,
)
from redis_sessions.fastapi import (
    SessionDep,
    fresh,
)
from redis_sessions.testing import Clock
from tests.support.apps import BASE, client_of, manager_on


@pytest.fixture
def manager(redis_url: str, prefix: str) -> SessionManager:
    return manager_on(redis_url, prefix)


@pytest.mark.parametrize("options", [{}, {"methods": "otp"}, {"methods": ["a b"]}, {"within": 0}])
def test_what_fresh_refuses(options: Any) -> None:
    """At the start, and with what to write."""
    with pytest.raises(ConfigurationError, match="write"):
        fresh(**options)


async def test_without_the_middleware(manager: SessionManager) -> None:
    """An application that forgot the middleware is told what to write."""
    app = FastAPI()

    @app.get("/")
    async def show(session: SessionDep) -> None: ...

    async with client_of(app) as browser:
        with pytest.raises(ConfigurationError, match="add_middleware"):
            await browser.get("/")


def test_fresh_goes_by_the_managers_clock() -> None:
    """Step-up asks the same clock that the sign-in was timed with."""
    clock = Clock()
    app = FastAPI()
    app.add_middleware(SessionMiddleware, manager=manager_on(MemoryStore(clock=clock), clock=clock))

    @app.post("/in")
    async def enter(session: SessionDep) -> None:
        session["user_id"] = 1

    @app.get("/pay", dependencies=[Depends(fresh(within=300))])
    async def pay() -> None: ...

    with TestClient(app, base_url=BASE) as client:
        client.post("/in")
        clock.advance(299)
        assert client.get("/pay").status_code == 200
        clock.advance(2)
        assert client.get("/pay").status_code == 401
