"""FastHTML with our session in the place of its own: it reads the session from the scope."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

import pytest
from starlette.testclient import TestClient

from redis_sessions import Session, SessionMiddleware
from tests.interop.kit import HTTPS, Options, Records, id_of

FastHTML: Any = import_module("fasthtml.common").FastHTML  # it carries no types


def me(session: Session) -> str:
    return f"user {session.get('user_id')}, visits {session.get('visits', 0)}"


def visit(session: Session) -> str:
    session["visits"] = session.get("visits", 0) + 1
    return "seen"


def sign_in(session: Session, name: str) -> str:
    session["user_id"] = name
    return "in"


def sign_out(session: Session) -> str:
    session.clear()
    return "out"


@pytest.fixture
def client(options: Options) -> TestClient:
    """The recipe of docs/interop.md, and a few pages."""
    ours = options()
    secret_key = ours.pop("secret_key")
    app = FastHTML(
        sess_cls=partial(SessionMiddleware, **ours),
        secret_key=secret_key,
        session_cookie=HTTPS.cookie,
        sess_https_only=True,
    )
    app.get("/me")(me)
    app.post("/visit")(visit)
    app.post("/sign-in")(sign_in)
    app.post("/sign-out")(sign_out)
    return TestClient(app, base_url=HTTPS.url)


def test_session(client: TestClient, records: Records) -> None:
    """A visitor's session lasts, goes along at sign-in under a new id, and ends."""
    client.post("/visit")
    before = client.cookies[HTTPS.cookie]
    client.post("/sign-in", data={"name": "ann"})
    after = client.cookies[HTTPS.cookie]
    assert "user ann, visits 1" in client.get("/me").text
    assert id_of(after) != id_of(before)
    assert records.ids() == {id_of(after)}
    client.post("/sign-out")
    assert HTTPS.cookie not in client.cookies
    assert "user None" in client.get("/me").text
    assert records.ids() == set()


def test_vary(client: TestClient) -> None:
    """A page that shows a user's data says so to shared caches, although nobody sees the read."""
    client.post("/sign-in", data={"name": "ann"})
    response = client.get("/me")
    assert "user ann" in response.text
    assert "Cookie" in response.headers["vary"].split(", ")
