"""docs/migration/full-stack-template.md: its hunks are applied, and the result is used."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest

from redis_sessions import SessionManager, generate_key
from tests.integration.full_stack.changes import PAGE, apply, hunks, unchanged
from tests.support import ROOT
from tests.support.servers import StartServer

FRONT_END: Final = {"Origin": "http://localhost:5173"}
ADA: Final = {"username": "ada@example.com", "password": "engine of 1843"}
KEY: Final = generate_key()
NEW: Final = "a better one of 1844"

# The template's own fixtures, over one client for all.
_FIXTURES: Final = """
from fastapi.testclient import TestClient
from app.main import app
from tests.utils.user import user_authentication_headers
from tests.utils.utils import get_superuser_token_headers

with TestClient(app) as client:
    user = {"email": "ada@example.com", "password": "engine of 1843"}
    client.post("/api/v1/users/signup", json=user)
    first = get_superuser_token_headers(client)
    ada = user_authentication_headers(client=client, **user)
    for headers, email in ((first, "admin@example.com"), (ada, "ada@example.com")):
        assert client.get("/api/v1/users/me", headers=headers).json()["email"] == email
    assert client.get("/api/v1/users/me").status_code == 401
"""


def _environment(store: str = "memory://") -> dict[str, str]:
    more = {"SESSION_STORE": store, "SESSION_SECRET_KEY": KEY}
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


@contextmanager
def _served(backend: Path, store: str) -> Generator[str]:
    """The copy's application behind uvicorn; the address of its API."""
    with socket.create_server(("127.0.0.1", 0)) as listener:  # who comes early waits
        command = [sys.executable, "-m", "uvicorn", "app.main:app", "--fd", str(listener.fileno())]
        with subprocess.Popen(
            [*command, "--log-level", "error"],
            cwd=backend,
            env=_environment(store),
            pass_fds=[listener.fileno()],
        ) as process:
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}/api/v1"
            finally:
                process.terminate()


@pytest.fixture
def store(start_server: StartServer) -> str:
    return start_server().url


@pytest.fixture
def api(tmp_path: Path, store: str) -> Iterator[str]:
    unchanged(tmp_path)
    apply(tmp_path)
    with _served(tmp_path, store) as address:
        yield address


class Browser(httpx2.Client):
    """A page of the front end, in a browser of its own."""

    def __init__(self, api: str) -> None:
        super().__init__(base_url=api, headers=FRONT_END, timeout=30)

    def sign_in(self, form: dict[str, str] = ADA) -> Browser:
        answer = self.post("/login", data=form)
        assert answer.status_code == 200, answer.text
        return self

    def me(self) -> Any:
        answer = self.get("/users/me")
        return answer.json() if answer.status_code == 200 else answer.status_code


@pytest.fixture
def ada(api: str) -> Iterator[Browser]:
    with Browser(api) as browser:
        user = {"email": ADA["username"], "password": ADA["password"]}
        assert browser.post("/users/signup", json=user).status_code == 200
        yield browser.sign_in()


def test_signing_in_and_out(api: str, ada: Browser) -> None:
    """A sign-in sets a cookie that no script reads; a sign-out ends the session on the server."""
    assert ada.me()["email"] == ADA["username"]
    with Browser(api) as other:
        assert other.me() == 401
        assert other.post("/login", data={**ADA, "password": "wrong"}).status_code == 400
        assert "sid" not in other.cookies
        cookie = other.post("/login", data=ADA).headers["set-cookie"]
        assert "httponly" in cookie.lower()
        stolen = {"Cookie": f"sid={other.cookies['sid']}"}
        assert other.post("/logout").status_code == 200
        assert other.me() == httpx2.get(f"{api}/users/me", headers=stolen).status_code == 401
    assert ada.me()["email"] == ADA["username"]


def test_cors(ada: Browser) -> None:
    """The front end may send its cookie, and reads refusals; another origin may change nothing."""
    answer = ada.get("/users/me", headers={"Cookie": "sid=?"})
    assert answer.headers["access-control-allow-origin"] == FRONT_END["Origin"]
    assert answer.headers["access-control-allow-credentials"] == "true"
    other = {"Origin": "https://other.example"}
    assert ada.post("/logout", headers=other).status_code == 403
    assert ada.me()["email"] == ADA["username"]


def test_a_changed_password_signs_the_others_out(api: str, ada: Browser) -> None:
    """The browser that changed it stays."""
    with Browser(api) as phone:
        phone.sign_in()
        change = {"current_password": ADA["password"], "new_password": NEW}
        assert ada.patch("/users/me/password", json=change).status_code == 200
        assert phone.me() == 401
        assert ada.me()["email"] == ADA["username"]


def test_a_reset_password_signs_all_out(ada: Browser) -> None:
    """The link of a mail still works, with the key of its own."""
    ada.post(f"/password-recovery/{ADA['username']}")
    (token,) = ada.get("/outbox").json()
    reset = {"token": token, "new_password": NEW}
    assert ada.post("/reset-password/", json=reset).status_code == 200
    assert ada.me() == 401
    ada.sign_in({**ADA, "password": NEW})


async def test_who_is_deleted_or_not_active_is_signed_out(
    api: str, ada: Browser, store: str
) -> None:
    """By themselves or by an administrator; who was made active again has to sign in again."""
    ada_id = ada.me()["id"]
    manager = SessionManager(store, KEY)
    with Browser(api) as admin:
        admin.sign_in({"username": "admin@example.com", "password": "changethis"})
        assert admin.patch(f"/users/{ada_id}", json={"email": "x"}).status_code == 200
        assert ada.me()["id"] == ada_id
        for active in (False, True):
            admin.patch(f"/users/{ada_id}", json={"is_active": active})
            assert ada.me() == 401
        ada.sign_in()
        assert ada.patch(f"/users/{ada_id}", json={}).status_code == 403
        assert len(await manager.sessions_of(ada_id)) == 1
        assert admin.delete(f"/users/{ada_id}").status_code == 200
        assert await manager.sessions_of(ada_id) == []
        assert ada.me() == 401
        assert admin.delete("/users/me").status_code == 403

    user = {"email": ADA["username"], "password": ADA["password"]}
    ada.post("/users/signup", json=user)
    ada_id = ada.sign_in().me()["id"]
    assert ada.delete("/users/me").status_code == 200
    assert await manager.sessions_of(ada_id) == []
    assert ada.me() == 401
    await manager.close()


@pytest.mark.parametrize("is_changed", [False, True])
def test_headers_of_tests(tmp_path: Path, is_changed: bool) -> None:
    """The tests' helpers sign in with a token before the change, and with a cookie after it."""
    unchanged(tmp_path)
    if is_changed:
        apply(tmp_path)
    subprocess.run(
        [sys.executable, "-c", _FIXTURES], cwd=tmp_path, env=_environment(), check=True, timeout=60
    )


def test_each_hunk_of_the_back_end_is_applied() -> None:
    """No hunk is written in a way that the others aren't, and no file is named twice."""
    files = [name for name, _, _ in hunks()]
    assert len(files) == len(set(files)) == PAGE.read_text().count("# backend/")
