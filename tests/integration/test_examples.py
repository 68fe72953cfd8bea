"""The applications of examples/: what their users see, and that their `run` starts them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import httpx2
import pytest
from starlette.testclient import TestClient
from webauthn.helpers import bytes_to_base64url

from redis_sessions import generate_key
from tests.interop.provider import CLIENT_ID, CLIENT_SECRET, ISSUER, SUBJECT, Provider
from tests.support import ROOT
from tests.support.security_key import SecurityKey

_EXAMPLES: Final = ROOT / "examples"
_SITE: Final = "https://testserver"
_PAGE: Final = {"Accept": "text/html"}


def _browser(example: ModuleType) -> TestClient:
    return TestClient(example.app, base_url=_SITE, headers=_PAGE)


def _login(example: ModuleType) -> None:
    laptop, phone = _browser(example), _browser(example)

    def sign_in(client: TestClient, password: str, **more: str) -> Any:
        form = client.get("/devices")
        assert (form.url.path, form.url.query) == ("/login", b"next=/devices")
        return client.post(form.url, data={"name": "ada", "password": password, **more})

    assert "Wrong name" in sign_in(laptop, "wrong").text
    assert laptop.post("/login", data={"name": "eve", "password": ""}).url.path == "/login"
    assert sign_in(laptop, "engine", remember="yes").url.path == "/devices"
    assert sign_in(phone, "engine").url.path == "/devices"
    assert [c.expires is None for client in (laptop, phone) for c in client.cookies.jar] == [
        False,
        True,
    ]

    listed = laptop.get("/devices").text
    (other,) = re.findall(r'name="id" value="([^"]+)"', listed)
    assert listed.count("(this one)") == 1
    bob = _browser(example)
    away = bob.post(
        "/login?next=//evil.example/",
        data={"name": "bob", "password": "builder"},
        follow_redirects=False,
    )
    assert away.headers["location"] == "/"
    bob.post("/devices/end", data={"id": other})
    assert phone.get("/").url.path == "/"  # it isn't bob's to end
    laptop.post("/devices/end", data={"id": other})
    assert phone.get("/").url.path == "/login"

    sign_in(phone, "engine")
    assert phone.post("/logout-everywhere").url.path == "/login"
    assert laptop.get("/").url.path == "/login"
    assert "Hello, bob" in bob.get("/").text
    assert bob.post("/logout").url.path == "/login"
    assert bob.get("/").url.path == "/login"


def _single_page(example: ModuleType) -> None:
    own, front_end = _browser(example), _browser(example)
    elsewhere = {"Origin": "http://localhost:5173", "Sec-Fetch-Site": "same-site"}
    ada = {"name": "ada", "password": "engine"}

    page = own.get("/").text
    assert "localStorage" not in page
    assert set(re.findall(r'"(/api/\w+)', page)) | {"/api/devices"} <= {
        path.removesuffix("/{id}") for path in example.app.openapi()["paths"]
    }
    assert own.get("/api/me").status_code == 401
    assert own.post("/api/cart", json={"item": "tea"}).status_code == 200
    assert own.post("/api/session", json={**ada, "password": "?"}).status_code == 403
    answer = own.post("/api/session", json=ada)
    assert own.cookies["__Host-session"] not in answer.text
    assert "httponly" in answer.headers["set-cookie"]
    assert own.get("/api/cart").json() == ["tea"]  # a visitor's cart goes along

    asked = {**elsewhere, "Access-Control-Request-Method": "DELETE"}
    preflight = front_end.options("/api/session", headers=asked)
    assert preflight.headers["access-control-allow-credentials"] == "true"
    answer = front_end.post("/api/session", json=ada, headers=elsewhere)
    assert answer.headers["access-control-allow-origin"] == elsewhere["Origin"]
    assert front_end.get("/api/me", headers=elsewhere).json() == "ada"
    evil = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    answer = front_end.post("/api/cart", json={"item": "a bomb"}, headers=evil)
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers

    other = next(each for each in own.get("/api/devices").json() if not each["this_one"])
    assert own.delete(f"/api/devices/{other['id']}").json() is True
    assert front_end.get("/api/me", headers=elsewhere).status_code == 401
    own.delete("/api/session")
    assert own.get("/api/me").status_code == 401


def _oauth(example: ModuleType) -> None:
    provider = Provider()
    at_provider = TestClient(provider.app, base_url=ISSUER, follow_redirects=False)
    example.oauth.idp.client_kwargs["transport"] = httpx2.ASGITransport(app=provider.app)

    def callback(client: TestClient, page: str = "/login") -> str:
        client.follow_redirects = False
        login = client.get(page).headers["location"] if page != "/login" else page
        there = client.get(login).headers["location"]
        client.follow_redirects = True
        return at_provider.get(there).headers["location"]

    laptop, phone = _browser(example), _browser(example)
    assert "/login" in laptop.get("/").text
    answer = laptop.get(callback(laptop, "/account"))
    assert answer.url.path == "/account"
    assert "Jane Doe" in answer.text
    assert phone.get(callback(laptop)).url.path == "/refused"  # begun in another browser
    assert phone.get("/callback?error=access_denied").url.path == "/refused"
    assert phone.get(callback(phone)).url.path == "/"
    assert "Devices: 2" in phone.get("/account").text
    assert SUBJECT not in phone.get("/account").text
    phone.post("/logout-everywhere")
    assert '<a href="/login">' in laptop.get("/").text
    phone.get(callback(phone))
    assert '<a href="/login">' in phone.post("/logout").text


def _passkeys(example: ModuleType) -> None:
    laptop, phone, key = _browser(example), _browser(example), SecurityKey("testserver")

    def register(client: TestClient, key: SecurityKey, name: str = "") -> int:
        options = client.post("/passkeys/options", json={"name": name})
        if options.status_code != 200:
            return options.status_code
        return client.post("/passkeys", json=key.create(options.json())).status_code

    def sign_in(client: TestClient, key: SecurityKey) -> int:
        options = client.post("/login/options", json={}).json()
        return client.post("/login", json=key.get(options)).status_code

    assert "navigator.credentials" in laptop.get("/").text
    assert phone.get("/me").status_code == 401
    assert register(laptop, key, "ada") == 200
    assert laptop.get("/me").json() == {"name": "ada", "passkeys": 1}
    # There is no way into ada's account.
    assert phone.post("/passkeys/options", json={"name": "ada"}).status_code == 409
    assert register(phone, SecurityKey("testserver")) == 409
    assert sign_in(phone, SecurityKey("testserver")) == 400
    assert phone.post("/login", json={"id": 5}).status_code == 400
    assert phone.post("/passkeys", json={}).status_code == 400
    phone.post("/login/options", json={})
    forged = key.get({"challenge": bytes_to_base64url(b"another challenge")})
    assert phone.post("/login", json=forged).status_code == 400
    assert sign_in(phone, key) == 200

    further = SecurityKey("testserver")
    assert register(phone, further) == 200
    assert phone.get("/me").json() == {"name": "ada", "passkeys": 2}
    laptop.post("/logout", json={})
    assert laptop.get("/me").status_code == 401
    assert sign_in(laptop, further) == 200
    bob, eve, one = _browser(example), _browser(example), SecurityKey("testserver")
    options = [each.post("/passkeys/options", json={"name": "bob"}).json() for each in (bob, eve)]
    assert bob.post("/passkeys", json=one.create(options[0])).status_code == 200
    late = SecurityKey("testserver").create(options[1])
    assert eve.post("/passkeys", json=late).status_code == 409


_CONVERSATIONS: Final[dict[str, Callable[[ModuleType], None]]] = {
    "login": _login,
    "single-page": _single_page,
    "oauth": _oauth,
    "passkeys": _passkeys,
}


@pytest.mark.parametrize("name", _CONVERSATIONS)
def test_what_users_see(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An example's users sign in and out, are refused what they may not, and end their devices."""
    environment = {
        "SESSION_SECRET_KEY": generate_key(),
        "REDIS_URL": "memory://",
        "CLIENT_ID": CLIENT_ID,
        "CLIENT_SECRET": CLIENT_SECRET,
        "ISSUER": ISSUER,
        "ORIGIN": _SITE,
    }
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    path = _EXAMPLES / name / "main.py"
    spec = spec_from_file_location(f"example_{name.replace('-', '_')}", path)
    assert spec is not None
    assert spec.loader is not None
    example = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, example)
    spec.loader.exec_module(example)

    _CONVERSATIONS[name](example)


@pytest.mark.parametrize("name", _CONVERSATIONS)
def test_one_command(name: str, tmp_path: Path) -> None:
    """`run` starts the application in its own folder, with the options given."""
    for program in ("uvicorn", "python3"):
        stand_in = tmp_path / program
        stand_in.write_text(f'#!/bin/sh\necho {program} "$@" "in ${{PWD##*/}}, $DEVELOPMENT"\n')
        stand_in.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "SESSION_SECRET_KEY": "made before",
    }
    done = subprocess.run(
        [_EXAMPLES / name / "run", "--port", "8123"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )

    started = f"uvicorn main:app --host localhost --port 8123 in {name}, 1"
    assert started in done.stdout.splitlines()
    assert f"`examples/{name}/run`" in (_EXAMPLES / name / "README.md").read_text()
    assert f"({name}/README.md)" in (_EXAMPLES / "README.md").read_text()
