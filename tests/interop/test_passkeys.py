"""Passkeys with py_webauthn, as docs/how-to/passkeys.md has it, and a security key in software."""

from __future__ import annotations

import re
import sys
from types import ModuleType
from typing import Any

import pytest
from fastapi.testclient import TestClient
from webauthn.helpers import bytes_to_base64url

from redis_sessions import generate_key
from redis_sessions.fastapi import SessionDep
from tests.support import ROOT
from tests.support.security_key import SecurityKey


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The application of the page, with a first sign-in."""
    monkeypatch.setenv("SESSION_SECRET_KEY", generate_key())
    page = (ROOT / "docs" / "how-to" / "passkeys.md").read_text()
    found = re.search(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert found is not None
    module = ModuleType("passkeys_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    code = found[1].replace("redis://localhost:6379/0", "memory://")
    exec(code, vars(module))  # noqa: S102 - the page's code is what is tested
    app = vars(module)["app"]

    async def first_sign_in(session: SessionDep) -> None:
        session.sign_in("ada")

    async def me(session: SessionDep) -> tuple[str | None, tuple[str, ...]]:
        return session.principal, session.authentication_methods

    app.post("/first-sign-in")(first_sign_in)
    app.get("/me")(me)
    return app


def test_passkey(app: Any) -> None:
    """A passkey signs in on another browser; a challenge counts once, and for its browser."""
    laptop, phone = (TestClient(app, base_url="https://testserver") for _ in range(2))
    key, other = SecurityKey("testserver"), SecurityKey("testserver")

    laptop.post("/first-sign-in")
    options = laptop.post("/passkeys/options").json()
    assert laptop.post("/passkeys", json=key.create(options)).status_code == 200

    options = phone.post("/login/options").json()
    assert phone.post("/login", json=other.get(options)).status_code == 400
    options = phone.post("/login/options").json()
    signed = key.get(options)
    assert laptop.post("/login", json=signed).status_code == 400
    assert phone.post("/login", json=signed).status_code == 200
    assert phone.get("/me").json() == ["ada", ["hwk", "user"]]
    assert phone.post("/login", json=signed).status_code == 400

    options = phone.post("/login/options").json()
    forged = key.get({"challenge": bytes_to_base64url(b"another challenge")})
    assert phone.post("/login", json=forged).status_code == 400
