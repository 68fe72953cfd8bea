"""Requests that list and revoke sessions, and those that are under way meanwhile."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated, Any

import anyio.from_thread
import pytest
from fastapi import Depends, FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from redis_sessions import SessionManager, SessionMiddleware, get_session
from redis_sessions.fastapi import SessionDep, SessionManagerDep
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.testing import store_session
from tests.support.apps import Events, app_of, client_of, doing, signed_in, token_in
from tests.support.redis_wire import Wire


def revoked(manager: SessionManagerDep) -> int:
    return anyio.from_thread.run(manager.revoke_all, "alice")


def shop(manager: SessionManager) -> FastAPI:
    """Endpoints that list and revoke: async, in threads, and in tasks of their own."""
    app = FastAPI()
    app.add_middleware(SessionMiddleware, manager=manager)

    @app.get("/sign-in")
    async def sign_in(session: SessionDep) -> None:
        session["user_id"] = "alice"

    @app.get("/devices")
    async def devices(manager: SessionManagerDep) -> list[dict[str, Any]]:
        return [
            {"current": info.current, "browser": info.browser, "address": info.address}
            for info in await manager.sessions_of("alice")
        ]

    @app.get("/reset/async")
    async def reset(session: SessionDep, manager: SessionManagerDep) -> int:
        ended = await manager.revoke_all("alice")
        session["user_id"] = "alice"
        return ended

    @app.get("/reset/task")
    async def in_a_task(session: SessionDep, manager: SessionManagerDep) -> int:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(manager.revoke_all("alice"))
        session["user_id"] = "alice"
        return task.result()

    @app.get("/reset/thread")
    def in_a_thread(session: SessionDep, manager: SessionManagerDep) -> int:
        ended = anyio.from_thread.run(manager.revoke_all, "alice")
        session["user_id"] = "alice"
        return ended

    @app.get("/reset/dependency")
    async def by_a_dependency(session: SessionDep, ended: Annotated[int, Depends(revoked)]) -> int:
        session["user_id"] = "alice"
        return ended

    @app.get("/everywhere/{how}")
    def everywhere(how: str, session: SessionDep, manager: SessionManagerDep) -> int:
        keep = session.id if how == "else" else None
        return anyio.from_thread.run(partial(manager.revoke_all, "alice", keep=keep))

    return app


@pytest.mark.everywhere
async def test_devices(manager: SessionManager) -> None:
    """A page of devices: each with its browser and address, the current one marked."""
    agents = {
        "Firefox 140": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        None: "no browser at all",
    }
    app = shop(manager)
    shown: list[dict[str, Any]] = []
    for agent in agents.values():
        async with client_of(app, headers={"User-Agent": agent}) as browser:
            await browser.get("/sign-in")
            shown = (await browser.get("/devices")).json()
    assert [(d["current"], d["address"]) for d in shown] == [
        (True, "127.0.0.1"),
        (False, "127.0.0.1"),
    ]
    assert [d["browser"] for d in shown] == [None, "Firefox 140"]


@pytest.mark.everywhere
@pytest.mark.parametrize("how", ["async", "task", "thread", "dependency"])
@pytest.mark.parametrize("was_in", [False, True], ids=["anonymous", "signed in"])
async def test_password_reset(manager: SessionManager, how: str, was_in: bool) -> None:
    """revoke_all, then a sign-in, in one request: signed in, and nobody else."""
    app = shop(manager)
    async with client_of(app) as thief, client_of(app) as browser:
        await thief.get("/sign-in")
        if was_in:
            await browser.get("/sign-in")
        response = await browser.get(f"/reset/{how}")
        assert (response.status_code, response.json()) == (200, 2 if was_in else 1)
        assert [d["current"] for d in (await browser.get("/devices")).json()] == [True]
        assert [d["current"] for d in (await thief.get("/devices")).json()] == [False]


@pytest.mark.everywhere
async def test_signing_out_everywhere(manager: SessionManager) -> None:
    """Everywhere else: the others end. Everywhere: the own cookie expires in that response."""
    app = shop(manager)
    async with client_of(app) as one, client_of(app) as other:
        for browser in (one, other):
            await browser.get("/sign-in")
        response = await one.get("/everywhere/else")
        assert (response.json(), token_in(response)) == (1, None)
        assert len((await one.get("/devices")).json()) == 1
        response = await one.get("/everywhere/too")
        assert (response.json(), token_in(response)) == (1, "null")
        assert (await other.get("/devices")).json() == []


@pytest.mark.parametrize("where", ["redis", "cluster", "acl"], indirect=True)
async def test_ends_from_outside(workers: list[SessionManager]) -> None:
    """What signed in with an alias at one process ends by it at another, and nothing else does."""
    one, other, third, _ = workers
    tokens: list[str] = []
    for user, sid in [("alice", "1"), ("bob", "1"), ("alice", "2")]:
        session = await one.load()
        session.sign_in(user, aliases={"sid": sid, "iss": f"https://{sid}.example"})
        answer = await one.commit(session)
        assert answer.token is not None
        tokens.append(answer.token.value)
    assert await other.revoke_by("sid", "1") == 2
    assert [(await third.load(token)).is_new for token in tokens] == [True, True, False]
    assert await third.revoke_by("iss", "https://2.example") == 1
    assert await third.revoke_by("sid", "2") == 0


async def test_a_sign_out_leaves_no_index_of_its_alias(
    manager: SessionManager, redis: Wire, prefix: str
) -> None:
    """There is one for each sign-in at a provider, so it goes with its last session."""
    session = await manager.load()
    session.sign_in("alice", aliases={"sid": "1"})
    await manager.commit(session)
    name = f"{prefix}of:{backend_of(manager).aliases.name('sid' + chr(0) + '1')}"
    assert name in redis.keys(prefix)
    session.sign_out()
    await manager.commit(session)
    assert name not in redis.keys(prefix)
    await manager.revoke_by("sid", "1")
    assert 0 < redis.ask("PTTL", name) <= 14 * 24 * 3600 * 1000 + 1


@pytest.mark.everywhere
async def test_revoked_while_a_request_is_under_way(manager: SessionManager) -> None:
    """A slow request of a revoked session: its change is dropped, and no cookie is sent."""
    events = Events()
    began, revoked = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> JSONResponse:
        began.set()
        await revoked.wait()
        request.session["late"] = 1
        return JSONResponse("done")

    watching = SessionManager(manager.store, backend_of(manager).keyring, on_event=events)
    app = doing(Route("/slow", slow), manager=watching)
    async with client_of(app) as browser:
        token = await signed_in(browser)
        task = asyncio.create_task(browser.get("/slow"))
        await began.wait()
        assert await manager.revoke_all("alice") == 1
        revoked.set()
        response = await task
        assert (response.status_code, token_in(response)) == (200, None)
        assert events.named("dropped") == ["ended elsewhere"]
        assert not await manager.load(token)


@pytest.mark.everywhere
async def test_a_refused_sign_in_is_503(manager: SessionManager) -> None:
    """revoke_all while a sign-in is under way: 503, Retry-After, no cookie, the cart intact."""

    async def slow(request: Request) -> JSONResponse:
        request.session["user_id"] = "alice"
        await asyncio.sleep(0.01)  # the server's clock counts milliseconds
        await manager_elsewhere.revoke_all("alice")
        return JSONResponse("done")

    manager_elsewhere = SessionManager(manager.store, backend_of(manager).keyring)
    app = doing(Route("/slow", slow), manager=manager)
    async with client_of(app) as browser:
        await browser.get("/do?set=cart:tea")
        response = await browser.get("/slow")
        assert response.status_code == 503
        assert "retry-after" in response.headers
        assert token_in(response) is None
        assert (await browser.get("/do")).json() == {"cart": "tea"}
        assert await manager.sessions_of("alice") == []


async def test_a_password_reset_before_the_session_is_loaded(manager: SessionManager) -> None:
    """With lazy=True, too, a request may revoke all sessions of a principal and then sign in."""

    async def reset(request: Request) -> Response:
        session = get_session(request)
        await manager.revoke_all("alice")
        await session.refresh()
        session["user_id"] = "alice"
        return JSONResponse(None)

    app = app_of(Route("/reset", reset), manager=manager, lazy=True)
    old = await store_session(manager, {"user_id": "alice"})
    async with client_of(app, old) as browser:
        new = token_in(await browser.get("/reset"))
    assert not await manager.load(old)
    assert dict(await manager.load(new)) == {"user_id": "alice"}
