"""FastAPI's dependencies: the session, its principal, step-up, and what OpenAPI says of them."""

# No `from __future__ import annotations`: FastAPI resolves what closures are annotated with.

import re
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from functools import partial
from typing import Annotated, Any

import pytest
from anyio import from_thread
from fastapi import Depends, FastAPI, HTTPException, Request
from starlette.responses import StreamingResponse
from starlette.testclient import TestClient

from redis_sessions import (
    HeaderTransport,
    MemoryStore,
    Session,
    SessionManager,
    SessionMiddleware,
    get_session,
)
from redis_sessions.fastapi import (
    PrincipalDep,
    SessionDep,
    SessionManagerDep,
    fresh,
    session_security,
)
from redis_sessions.testing import Clock
from tests.support.apps import BASE, client_of, manager_on, token_in
from tests.support.redis_wire import Monitor
from tests.support.servers import StartServer


@pytest.fixture
def manager(redis_url: str, prefix: str) -> SessionManager:
    return manager_on(redis_url, prefix)


def app_with(manager: SessionManager, **options: Any) -> FastAPI:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, manager=manager, **options)

    @app.post("/sign-in/{user}")
    async def sign_in(user: str, session: SessionDep) -> None:
        session["user_id"] = user

    @app.get("/me")
    def me(user: PrincipalDep) -> str:
        return user

    @app.get("/show")
    async def show(session: SessionDep) -> dict[str, Any]:
        return session

    return app


@pytest.mark.parametrize("lazy", [False, True])
async def test_the_principal_is_asked_for(manager: SessionManager, lazy: bool) -> None:
    """PrincipalDep: 401 with a challenge without one, else who is signed in."""
    async with client_of(app_with(manager, lazy=lazy)) as browser:
        response = await browser.get("/me")
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Session"
        assert response.headers["vary"] == "Cookie"
        assert response.json() == {"detail": "Not signed in"}
        await browser.post("/sign-in/alice")
        response = await browser.get("/me")
        assert response.json() == "alice"
        assert response.headers["vary"] == "Cookie"


async def test_the_manager_is_to_be_had(manager: SessionManager) -> None:
    """SessionManagerDep is the middleware's manager."""
    app = app_with(manager)
    found: list[SessionManager] = []

    @app.get("/manager")
    async def ask(manager: SessionManagerDep) -> None:
        found.append(manager)

    async with client_of(app) as browser:
        await browser.get("/manager")
    assert found == [manager]


async def test_def_endpoints(manager: SessionManager) -> None:
    """A thread saves, and ends other sessions, over the connection of the event loop."""
    app = app_with(manager)

    @app.post("/leave-others")
    def leave_others(session: SessionDep, manager: SessionManagerDep) -> int:
        session["saved"] = 1
        from_thread.run(session.save)
        return from_thread.run(partial(manager.revoke_all, "alice", keep=session.id))

    async with client_of(app) as browser, client_of(app) as other:
        await browser.post("/sign-in/alice")
        await other.post("/sign-in/alice")
        assert (await browser.post("/leave-others")).json() == 1
        assert (await browser.get("/show")).json() == {"user_id": "alice", "saved": 1}
        assert (await other.get("/me")).status_code == 401


@pytest.mark.standard(16, "ASVS 7.5.1", "ASVS 7.5.3")
async def test_stepping_up() -> None:
    """fresh(): 401 after RFC 9470 with an old sign-in; authenticated() renews it."""
    now = [time.time()]
    # A sign-in has its time from the store's clock, which is to be set as well.
    manager = manager_on(MemoryStore(clock=lambda: now[0]), clock=lambda: now[0])
    app = app_with(manager)

    @app.get("/pay")
    async def pay(user: Annotated[str, Depends(fresh(within=timedelta(minutes=5)))]) -> str:
        return user

    @app.post("/again")
    async def again(session: SessionDep) -> None:
        session.authenticated()

    async with client_of(app) as browser:
        assert (await browser.get("/pay")).headers["www-authenticate"] == "Session"
        now[0] -= 600
        await browser.post("/sign-in/alice")
        now[0] += 600
        response = await browser.get("/pay")
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == (
            'Session error="insufficient_user_authentication", max_age=300'
        )
        assert (await browser.get("/me")).json() == "alice"
        await browser.post("/again")
        assert (await browser.get("/pay")).json() == "alice"


METHODS = [("pwd", 600), ("otp", 0), ("otp", 600), ("pwd otp", 0), ("pwd otp hwk", 0), ("", 0)]
"""By which methods somebody proved who they are, and how many seconds ago."""


@pytest.mark.standard(16, "ASVS 7.5.1", "ASVS 7.5.3")
@pytest.mark.parametrize(
    ("options", "passes", "challenge"),
    [
        ({"within": 300, "methods": {"otp"}}, "_1_11_", 'max_age=300, amr_values="otp"'),
        ({"within": 300, "methods": ["pwd", "otp"]}, "___11_", 'max_age=300, amr_values="otp pwd"'),
        ({"methods": ("otp",)}, "_1111_", 'amr_values="otp"'),
        ({"within": 300}, "_1_111", "max_age=300"),
    ],
    ids=["both", "several", "methods", "within"],
)
async def test_stepping_up_by_methods(options: Any, passes: str, challenge: str) -> None:
    """fresh(methods=…): all of them belong to the last proof, which is recent; others get 401."""
    clock = Clock()
    app = app_with(manager_on(MemoryStore(clock=clock), clock=clock))

    @app.post("/again/{methods}")
    async def again(session: SessionDep, methods: str) -> None:
        session.authenticated(methods=methods.split())

    @app.get("/pay")
    async def pay(user: Annotated[str, Depends(fresh(**options))]) -> str:
        return user

    async with client_of(app) as browser:
        await browser.post("/sign-in/alice")
        for (methods, ago), passed in zip(METHODS, passes, strict=True):
            await browser.post(f"/again/{methods or '%20'}")
            clock.advance(ago)
            response = await browser.get("/pay")
            assert (methods, ago, response.status_code) == (
                methods,
                ago,
                200 if passed == "1" else 401,
            )
            if passed != "1":
                assert response.headers["www-authenticate"] == (
                    f'Session error="insufficient_user_authentication", {challenge}'
                )


@pytest.mark.parametrize("before", [None, "bob"], ids=["nobody", "another"])
async def test_a_session_of_nobody_is_not_fresh(
    manager: SessionManager, before: str | None
) -> None:
    """A sign-in that this very request makes isn't stored yet: it doesn't count."""
    app = app_with(manager)

    def sneak(session: SessionDep) -> None:
        session["user_id"] = "alice"

    @app.get("/pay", dependencies=[Depends(sneak)])
    async def pay(user: Annotated[str, Depends(fresh(300))]) -> str:
        return user

    async with client_of(app) as browser:
        if before is not None:
            await browser.post(f"/sign-in/{before}")
        assert (await browser.get("/pay")).status_code == 401
        assert (await browser.get("/me")).status_code == (200 if before else 401)


def test_openapi_names_the_scheme(manager: SessionManager) -> None:
    """Cookie and header are API-key schemes under names that OpenAPI allows, on what asks."""
    app = app_with(manager)
    admin, api = session_security(cookie="my$admin"), session_security(header="X-Api-Session")

    @app.get("/admin")
    async def of_admin(session: Annotated[Session, Depends(admin.session)]) -> None: ...

    @app.get("/api")
    async def of_api(user: Annotated[str, Depends(api.fresh(within=60))]) -> None: ...

    @app.get("/open")
    async def of_all() -> None: ...

    document = app.openapi()
    schemes = document["components"]["securitySchemes"]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in schemes)
    assert {(s["type"], s["in"], s["name"]) for s in schemes.values()} == {
        ("apiKey", "cookie", "__Host-session"),
        ("apiKey", "cookie", "my$admin"),
        ("apiKey", "header", "X-Api-Session"),
    }

    def asked(path: str) -> list[str]:
        (operation,) = document["paths"][path].values()
        return [schemes[name]["name"] for item in operation.get("security", ()) for name in item]

    assert asked("/show") == ["__Host-session"]
    assert asked("/me") == ["__Host-session"]
    assert asked("/admin") == ["my$admin"]
    assert asked("/api") == ["X-Api-Session"]
    assert asked("/open") == []
    # Nothing of ours appears as a parameter or a body.
    for path in ("/show", "/me", "/admin", "/api"):
        (operation,) = document["paths"][path].values()
        assert "parameters" not in operation
        assert "requestBody" not in operation


async def test_a_token_in_a_header(redis_url: str, prefix: str) -> None:
    """HeaderTransport from end to end: the token comes and goes in its header, and no cookie."""
    app = app_with(manager_on(redis_url, prefix), transport=HeaderTransport("X-Session"))

    @app.post("/leave")
    async def leave(session: SessionDep) -> None:
        session.clear()

    async with client_of(app) as client:
        response = await client.post("/sign-in/alice")
        token = response.headers["x-session"]
        assert "set-cookie" not in response.headers
        assert response.headers["vary"] == "X-Session"
        assert response.headers["cache-control"] == "no-store"
        headers = {"X-Session": token}
        response = await client.get("/me", headers=headers)
        assert response.json() == "alice"
        assert "x-session" not in response.headers
        cookie = {"Cookie": f"__Host-session={token}; X-Session={token}"}
        assert (await client.get("/me", headers=cookie)).status_code == 401
        response = await client.post("/leave", headers=headers)
        assert response.headers["x-session"] == ""
        assert (await client.get("/me", headers=headers)).status_code == 401


@pytest.fixture
def watched(start_server: StartServer) -> Iterator[tuple[str, Monitor]]:
    server = start_server()
    with Monitor(server.port) as monitor:
        yield server.url, monitor


async def test_lazy_costs_nothing_where_nobody_asks(watched: tuple[str, Monitor]) -> None:
    """lazy=True: an endpoint without SessionDep costs no command; refresh() loads as well."""
    url, monitor = watched
    app = app_with(manager_on(url), lazy=True)

    @app.get("/health")
    async def health() -> None: ...

    @app.get("/refreshed")
    async def refreshed(request: Request) -> dict[str, Any]:
        session = get_session(request)
        await session.refresh()
        assert request.session is session
        return session

    async with client_of(app) as browser:
        await browser.post("/sign-in/alice")
        monitor.names()
        response = await browser.get("/health")
        assert "vary" not in response.headers
        assert monitor.names() == []
        assert (await browser.get("/me")).json() == "alice"
        assert monitor.names() == ["MGET"]
        assert (await browser.get("/refreshed")).json() == {"user_id": "alice"}
        assert monitor.names() == ["MGET"]


async def test_lazy_says_what_to_do(manager: SessionManager) -> None:
    """A session that isn't loaded is never an empty one: each use raises, and says why."""
    app = app_with(manager, lazy=True)

    @app.get("/forgot")
    async def forgot(request: Request) -> Any:
        return request.session.get("user_id")

    async with client_of(app) as browser:
        await browser.post("/sign-in/alice")
        with pytest.raises(Exception, match="SessionDep") as raised:
            await browser.get("/forgot")
        assert type(raised.value).__module__ == "redis_sessions.errors"


async def test_yield_dependencies(manager: SessionManager) -> None:
    """Before the yield is before the response; a teardown comes late, but its data are stored."""
    app = app_with(manager)

    async def early_and_late(session: SessionDep) -> AsyncIterator[None]:
        session["early"] = 1
        yield
        session["late"] = 2

    async def in_time(session: SessionDep) -> AsyncIterator[None]:
        yield
        session["in time"] = 3

    @app.get("/yields", dependencies=[Depends(early_and_late)])
    async def yields() -> None: ...

    @app.get("/in-time", dependencies=[Depends(in_time, scope="function")])
    async def sooner() -> None: ...

    async with client_of(app) as browser:
        assert token_in(await browser.get("/yields"))
        assert (await browser.get("/show")).json() == {"early": 1, "late": 2}
    async with client_of(app) as browser:
        assert token_in(await browser.get("/in-time"))
        assert (await browser.get("/show")).json() == {"in time": 3}


async def test_an_http_exception_is_a_response(manager: SessionManager) -> None:
    """HTTPException(404) stores what was changed; one of 500 doesn't; neither signs in."""
    app = app_with(manager)

    @app.get("/fail/{status}")
    async def fail(status: int, session: SessionDep) -> None:
        session[f"at {status}"] = 1
        raise HTTPException(status)

    @app.get("/refused")
    async def refused(session: SessionDep) -> None:
        session["user_id"] = "alice"
        raise HTTPException(403)

    async with client_of(app) as browser:
        assert token_in(await browser.get("/fail/404"))
        await browser.get("/fail/500")
        assert token_in(await browser.get("/refused")) is None
        assert (await browser.get("/show")).json() == {"at 404": 1}


async def test_a_stream_of_fastapis(manager: SessionManager) -> None:
    """A generator that FastAPI streams changes the session before its first yield."""
    app = app_with(manager)

    @app.get("/stream")
    async def stream(session: SessionDep) -> StreamingResponse:
        def body() -> Iterator[bytes]:
            session["user_id"] = "alice"
            yield b"x"

        return StreamingResponse(body())

    async with client_of(app) as browser:
        assert token_in(await browser.get("/stream"))
        assert (await browser.get("/me")).json() == "alice"


def test_the_test_client_with_a_session(manager: SessionManager) -> None:
    """FastAPI under Starlette's TestClient, over https://testserver, with lifespan."""
    with TestClient(app_with(manager), base_url=BASE) as browser:
        browser.post("/sign-in/alice")
        assert browser.get("/me").json() == "alice"
