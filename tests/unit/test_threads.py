"""`def` endpoints: they run in a thread, where what is awaited goes by way of the event loop."""

# No `from __future__ import annotations`: FastAPI resolves what closures are annotated with.

import asyncio
import contextvars
import inspect
import sys
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from anyio import CancelScope, from_thread, to_thread
from fastapi import BackgroundTasks, FastAPI
from starlette.requests import Request

from redis_sessions import (
    Cache,
    Session,
    SessionError,
    SessionManager,
    SessionMiddleware,
    get_session,
)
from redis_sessions.fastapi import SessionDep, SessionManagerDep
from redis_sessions.messages import Messages
from redis_sessions.testing import read_session, store_session
from tests.support.asgi import Reply, ask, cookie
from tests.unit.setting import ALICE
from tests.unit.tracebacks.shown import ours

# Before Python 3.12 the methods of a manager aren't checked.
CHECKED = sys.version_info >= (3, 12)

CALLS: dict[str, Callable[[Session, SessionManager], Awaitable[object]]] = {
    "session.save": lambda session, _: session.save(),
    "session.refresh": lambda session, _: session.refresh(),
    "manager.update, …": lambda session, manager: manager.update(session, len),
    "manager.sessions_of, …": lambda _, manager: manager.sessions_of("alice"),
    "manager.revoke, …": lambda _, manager: manager.revoke("a" * 20, "alice"),
    "manager.revoke_all, …": lambda _, manager: manager.revoke_all("alice", keep="a" * 20),
    "manager.revoke_by, …": lambda _, manager: manager.revoke_by("sid", "1"),
    "manager.ready, …": lambda _, manager: manager.ready(),
    "messages.to_principal, …": lambda _, manager: manager.messages.to_principal("alice", {}),
    "messages.to_session, …": lambda _, manager: manager.messages.to_session("a" * 20, {}),
    "messages.to_all, …": lambda _, manager: manager.messages.to_all({}),
    "manager.count": lambda _, manager: manager.count(),
    "cache.get_or_set, …": lambda _, manager: manager.cache.get_or_set("a", manager.ready, ttl=1),
    "cache.forget, …": lambda _, manager: manager.cache.forget("a"),
    "cache.forget_principal, …": lambda _, manager: manager.cache.forget_principal("alice"),
}

OWNERS = {"session": Session, "manager": SessionManager, "messages": Messages, "cache": Cache}


def app_with(manager: SessionManager, endpoint: Callable[..., Any]) -> FastAPI:
    app = FastAPI()
    app.add_api_route("/", endpoint, methods=["POST"])
    app.add_middleware(SessionMiddleware, manager=manager)
    return app


async def post(manager: SessionManager, endpoint: Callable[..., Any], token: str = "") -> Reply:
    headers = [(b"cookie", cookie(token))] if token else []
    return await ask(app_with(manager, endpoint), headers, method="POST")


async def test_from_thread(manager: SessionManager) -> None:
    """anyio.from_thread.run() runs what is awaited in the event loop, and gives its result."""
    token = await store_session(manager, ALICE)
    another = await store_session(manager, ALICE)

    def endpoint(session: SessionDep, manager: SessionManagerDep) -> int:
        session["saved"] = 1
        from_thread.run(session.save)
        shown = from_thread.run(manager.sessions_of, "alice")
        assert {info.id for info in shown} == {token[:20], another[:20]}
        return from_thread.run(partial(manager.revoke_all, "alice", keep=session.id))

    reply = await post(manager, endpoint, token)
    assert (reply.checked().status, reply.body) == (200, b"1")
    assert await read_session(manager, token) == {**ALICE, "saved": 1}
    assert await read_session(manager, another) == {}


async def test_its_own_session(manager: SessionManager) -> None:
    """A revocation from a thread knows the request's session, too: the browser is signed out."""
    token = await store_session(manager, ALICE)

    def endpoint(session: SessionDep, manager: SessionManagerDep) -> int:
        return from_thread.run(manager.revoke_all, "alice")

    reply = await post(manager, endpoint, token)
    assert reply.checked().body == b"1"
    assert reply.cookies[0].startswith("__Host-session=null;")


def test_all_of_them_are_checked() -> None:
    """Others are called by frameworks (`connect`, `close`) or by each request (`load`)."""
    awaited = {
        f"{owner}.{name}"
        for owner, kind in OWNERS.items()
        for name, method in vars(kind).items()
        if name[0] != "_" and inspect.iscoroutinefunction(inspect.unwrap(method))
    }
    called = {call.partition(",")[0] for call in CALLS}
    assert awaited - called == {
        *("manager.connect", "manager.close", "manager.load", "messages.close", "cache.close"),
    }


@pytest.mark.parametrize("call", [c for c in CALLS if CHECKED or c.startswith("session")])
@pytest.mark.parametrize("run", [None, asyncio.run], ids=["forgotten", "asyncio.run"])
async def test_what_a_thread_calls(
    manager: SessionManager, call: str, run: Callable[[Any], Any] | None
) -> None:
    """The call itself raises, and says what to write; no coroutine is left behind."""

    def endpoint(session: SessionDep, manager: SessionManagerDep) -> None:
        made = CALLS[call](session, manager)
        if run is not None:
            run(made)

    reply = await post(manager, endpoint, await store_session(manager, ALICE))
    assert type(reply.error) is SessionError
    assert f"in a `def` endpoint write anyio.from_thread.run({call})" in str(reply.error)
    assert not ours(reply.error)


async def test_background_tasks(manager: SessionManager) -> None:
    """The methods are coroutine functions to Starlette, which awaits them in the event loop."""
    token = await store_session(manager, ALICE)
    another = await store_session(manager, {"user_id": "bob"})

    def endpoint(session: SessionDep, manager: SessionManagerDep, tasks: BackgroundTasks) -> None:
        session["late"] = 1
        tasks.add_task(session.save)
        tasks.add_task(manager.revoke_all, "bob")

    (await post(manager, endpoint, token)).checked()
    assert await read_session(manager, another) == {}
    assert await read_session(manager, token) == {**ALICE, "late": 1}


@pytest.mark.parametrize(
    "name", ["connect", "close", "load", "update", "sessions_of", "revoke", "revoke_all", "count"]
)
def test_frameworks_know_what_to_await(manager: SessionManager, name: str) -> None:
    """A manager's methods are coroutine functions, as frameworks ask about their hooks."""
    assert inspect.iscoroutinefunction(getattr(manager, name))
    assert inspect.iscoroutinefunction(partial(getattr(manager, name), "alice"))


async def test_other_threads(manager: SessionManager) -> None:
    """They may have event loops of their own: below a `def` endpoint, and where anyio isn't."""
    found: list[int] = []

    async def end() -> None:
        await store_session(manager, ALICE)
        found.append(await manager.revoke_all("alice"))

    def endpoint(session: SessionDep) -> None:
        asyncio.run(end())
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(asyncio_run,))
        thread.start()
        thread.join()

    def asyncio_run() -> None:
        found.append(asyncio.run(manager.revoke_all("alice")))

    (await post(manager, endpoint)).checked()
    await to_thread.run_sync(asyncio_run)  # in no request
    assert found == [1, 0, 0]


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_request_that_is_cancelled(manager: SessionManager, cancelled: bool) -> None:
    """The thread of a request that has been cancelled is told the same."""
    found: list[str] = []

    def endpoint(session: SessionDep) -> None:
        if cancelled:
            from_thread.run_sync(scope.cancel)
        with pytest.raises(SessionError) as raised:
            _ = session.save()
        found.append(str(raised.value))

    with CancelScope() as scope:
        await post(manager, endpoint)
    assert len(found) == 1


async def test_what_isnt_awaited_works_in_a_thread(manager: SessionManager) -> None:
    """A Starlette handler that is no coroutine function signs in as it is."""

    def endpoint(request: Request) -> None:
        session = get_session(request)
        session.sign_in("alice")
        session["cart"] = 1
        session.expire_in(60)

    reply = await post(manager, endpoint)
    assert await read_session(manager, reply.checked().token.value) == {**ALICE, "cart": 1}


def test_no_method_is_forgotten() -> None:
    """What is awaited of the three classes is in the list above.

    load() is on each request's way, and frameworks call the others at their start and end.
    """
    awaited = {
        f"{owner}.{name}"
        for owner, kind in OWNERS.items()
        for name, method in vars(kind).items()
        if not name.startswith("_") and inspect.iscoroutinefunction(inspect.unwrap(method))
    }
    assert awaited - {call.partition(",")[0] for call in CALLS} == {
        "manager.load",
        "manager.connect",
        "manager.close",
        "cache.close",
        "messages.close",
    }
