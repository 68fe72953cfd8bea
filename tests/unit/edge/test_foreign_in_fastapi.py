"""What another origin causes, through FastAPI's dependencies, Starlette's and their test client."""

# No `from __future__ import annotations`: FastAPI resolves what closures are annotated with.

from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, WebSocket
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from redis_sessions import CrossSiteError, SessionMiddleware
from redis_sessions.fastapi import PrincipalDep, SessionDep, fresh
from tests.support.apps import BASE
from tests.unit.edge.edge import Edge

EVIL = {"Origin": "https://evil.example"}


class Backend(AuthenticationBackend):
    """Starlette's way to say who is signed in."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser] | None:
        user = conn.session.get("user_id")
        return None if user is None else (AuthCredentials(["authenticated"]), SimpleUser(user))


def client_of(at: Edge, **options: Any) -> TestClient:
    app = FastAPI()
    app.add_middleware(AuthenticationMiddleware, backend=Backend())
    app.add_middleware(SessionMiddleware, manager=at.manager, **options)

    @app.post("/sign-in")
    async def sign_in(session: SessionDep) -> None:
        session.sign_in("alice")

    @app.post("/show")
    async def show(session: SessionDep) -> dict[str, Any]:
        return dict(session)

    @app.post("/me")
    def me(user: PrincipalDep) -> str:
        return user

    @app.post("/pay")
    async def pay(user: Annotated[str, Depends(fresh(within=300))]) -> str:
        return user

    @app.post("/user")
    async def user(request: Request) -> bool:
        return bool(request.user.is_authenticated)

    @app.post("/caught")
    async def caught(session: SessionDep) -> str:
        try:
            session["x"] = 1
        except CrossSiteError:
            return "caught"
        return "stored"

    @app.websocket("/visit")
    async def visit(socket: WebSocket, session: SessionDep) -> None:
        await socket.accept()
        await socket.send_json(dict(session))
        session["x"] = 1

    @app.websocket("/member")
    async def member(socket: WebSocket, user: PrincipalDep) -> None:
        await socket.accept()
        await socket.send_json(user)

    return TestClient(app, base_url=BASE)


def test_dependencies(at: Edge) -> None:
    """It is a visitor's request: nobody's, with an empty session that can't be written."""
    client = client_of(at)
    client.post("/sign-in")
    own = {path: client.post(path).json() for path in ("/me", "/pay", "/user", "/show")}
    assert own == {"/me": "alice", "/pay": "alice", "/user": True, "/show": {"user_id": "alice"}}

    replies = {
        path: client.post(path, headers=EVIL)
        for path in ("/me", "/pay", "/user", "/show", "/caught", "/sign-in")
    }
    assert [reply.status_code for reply in replies.values()] == [401, 401, 200, 200, 200, 403]
    assert [replies[path].json() for path in ("/user", "/show", "/caught")] == [False, {}, "caught"]
    assert all("set-cookie" not in reply.headers for reply in replies.values())
    assert client.post("/me").json() == "alice"


def test_sockets(at: Edge) -> None:
    """A visitor's is accepted where visitors are, and closed when it writes; others are denied."""
    client, url = client_of(at), BASE.replace("https", "wss")
    client.post("/sign-in")
    with client.websocket_connect(f"{url}/member") as socket:
        assert socket.receive_json() == "alice"
    with pytest.raises(WebSocketDenialResponse) as denied:
        client.websocket_connect(f"{url}/member", headers=EVIL).__enter__()
    assert denied.value.status_code == 401
    with client.websocket_connect(f"{url}/visit", headers=EVIL) as socket:
        assert socket.receive_json() == {}
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
    assert (closed.value.code, closed.value.reason) == (1008, "another origin caused this")


def test_refused_sockets(at: Edge) -> None:
    """With cross_site="refuse" no endpoint runs."""
    client, url = client_of(at, cross_site="refuse"), BASE.replace("https", "wss")
    with pytest.raises(WebSocketDenialResponse) as denied:
        client.websocket_connect(f"{url}/visit", headers=EVIL).__enter__()
    assert (denied.value.status_code, denied.value.text) == (
        403,
        "Another origin caused this request",
    )
    assert client.post("/caught", headers=EVIL).status_code == 403
