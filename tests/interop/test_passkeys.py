"""Passkeys with py_webauthn, as docs/how-to/passkeys.md has it, and a security key in software."""

from __future__ import annotations

import json
import re
import secrets
import sys
from hashlib import sha256
from types import ModuleType
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from fastapi.testclient import TestClient
from webauthn.helpers import bytes_to_base64url

from redis_sessions import generate_key
from redis_sessions.fastapi import SessionDep
from tests.support import ROOT

_USER_PRESENT, _USER_VERIFIED, _HAS_KEY = 0x01, 0x04, 0x40


class SecurityKey:
    """What `navigator.credentials` would ask, with one credential on it (WebAuthn Level 3, §6)."""

    def __init__(self, rp_id: str) -> None:
        self._rp_id = rp_id
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._id = secrets.token_bytes(16)
        self._uses = 0

    def create(self, options: dict[str, Any]) -> dict[str, Any]:
        point = self._key.public_key().public_numbers()
        x, y = (number.to_bytes(32) for number in (point.x, point.y))
        cose = cbor2.dumps({1: 2, 3: -7, -1: 1, -2: x, -3: y})
        attested = bytes(16) + len(self._id).to_bytes(2) + self._id + cose
        data = self._data(_HAS_KEY) + attested
        attestation = cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": data})
        said = self._said("webauthn.create", options)
        return self._credential(clientDataJSON=said, attestationObject=attestation)

    def get(self, options: dict[str, Any]) -> dict[str, Any]:
        self._uses += 1
        data, said = self._data(), self._said("webauthn.get", options)
        signature = self._key.sign(data + sha256(said).digest(), ec.ECDSA(SHA256()))
        return self._credential(clientDataJSON=said, authenticatorData=data, signature=signature)

    def _data(self, flags: int = 0) -> bytes:
        flags |= _USER_PRESENT | _USER_VERIFIED
        return sha256(self._rp_id.encode()).digest() + bytes([flags]) + self._uses.to_bytes(4)

    def _said(self, kind: str, options: dict[str, Any]) -> bytes:
        origin = f"https://{self._rp_id}"
        said = {"type": kind, "challenge": options["challenge"], "origin": origin}
        return json.dumps(said).encode()

    def _credential(self, **response: bytes) -> dict[str, Any]:
        id = bytes_to_base64url(self._id)
        answered = {name: bytes_to_base64url(value) for name, value in response.items()}
        return {"id": id, "rawId": id, "type": "public-key", "response": answered}


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
