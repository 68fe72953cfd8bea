"""The demo's page: what it refuses, escapes, forbids and refers to."""

from __future__ import annotations

import html
import json
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Mount
from starlette.testclient import TestClient
from websockets.exceptions import InvalidStatus

from redis_sessions import generate_key
from redis_sessions.demo import create_app
from tests.integration.demo.process import JSON, PATIENCE, URL, Demo, open_socket


@pytest.mark.parametrize("name", ["", "   ", "x" * 65])
def test_names_that_are_refused(browser: httpx.Client, name: str) -> None:
    """A name has 1 to 64 characters besides spaces; otherwise nothing happens."""
    answer = browser.post("/sign-in", data={"name": name})

    assert answer.status_code == 422
    assert "set-cookie" not in answer.headers


def test_a_name_is_never_markup(browser: httpx.Client) -> None:
    """What somebody types is escaped wherever the page shows it."""
    page = browser.post("/sign-in", data={"name": "<script>alert(1)</script>"}).text

    assert "<script>" not in page
    assert page.count("&lt;script&gt;") >= 3


@pytest.mark.parametrize("path", ["", "laptop/", "phone/cart", "static/style.css", "nowhere"])
def test_headers(browser: httpx.Client, demo: Demo, path: str) -> None:
    """Every response forbids foreign content, framing by others, sniffing and storing."""
    headers = browser.get(demo.stage + path).headers

    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'self'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("host", "is_served"),
    [
        ("localhost:8000", True),
        ("LOCALHOST", True),
        ("192.0.2.1:8000", True),  # nobody's name leads to another address
        ("[::1]:8000", True),
        ("[::FFFF:127.0.0.1]", True),
        ("attacker.example:8000", False),
        ("localhost.", False),  # no browser needs it
        ("localhost:8000@attacker.example", False),
        ("localhost.attacker.example", False),
        ("127.0.0.1.attacker.example", False),
        ("127.0.0.1@attacker.example", False),
        ("[attacker.example]", False),
        ("::1", False),
        ("", False),
    ],
)
@pytest.mark.parametrize("path", ["", "laptop/", "panels/parallel"])
def test_it_is_served_under_its_own_names(
    browser: httpx.Client, demo: Demo, path: str, host: str, is_served: bool
) -> None:
    """A page whose name leads to this address (DNS rebinding) reads nothing, and stops nothing."""
    answer = browser.get(demo.stage + path, headers={"Host": host})

    assert answer.status_code == (400 if not is_served else 405 if "panels" in path else 200)
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "hosts", [(), ("localhost", "attacker.example"), ("localhost", "localhost")]
)
@pytest.mark.parametrize(("path", "status"), [("/", b"400"), ("/laptop/changes", b"403")])
def test_a_request_has_one_host(
    demo: Demo, hosts: tuple[str, ...], path: str, status: bytes
) -> None:
    """Without `Host`, and with two of them, a page or a WebSocket is refused."""
    lines = [f"GET {path} HTTP/1.1", *(f"Host: {host}" for host in hosts)]
    if "changes" in path:
        lines += ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
        lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    with socket.create_connection(("127.0.0.1", demo.port), PATIENCE) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        with connection.makefile("rb") as answer:
            assert answer.readline().split()[1] == status


def test_a_foreign_name_opens_no_socket(browser: httpx.Client, demo: Demo) -> None:
    """The page's WebSocket is refused, too."""
    browser.post("/count")
    with pytest.raises(InvalidStatus) as refused:
        open_socket(browser, "attacker.example")
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize("path", ["", "laptop/", "laptop/cart"])
def test_the_pages_need_nothing_from_elsewhere(
    browser: httpx.Client, demo: Demo, path: str
) -> None:
    """All that a page refers to is served by the demo, and it has no inline script or style."""
    page = browser.get(demo.stage + path).text

    links = re.findall(r'(?:href|src|action)="([^"]+)"', page)
    assert "/static/style.css" in links
    assert [link for link in links if ":" in link or link.startswith("//")] == []
    assert all(
        browser.get(f"{demo.stage}{link[1:]}").is_success
        for link in links
        if link[:1] == "/" and not link.startswith("/panels/") and link != "/laptop/open"  # POST
    )
    assert re.findall(r"<script[^>]*>[^<]", page) == []
    assert " style=" not in page


@pytest.mark.usefixtures("curl")
def test_the_commands_on_the_page_work(browser: httpx.Client, tmp_path: Path) -> None:
    """The curl commands count, sign in, look, sign out elsewhere, and here."""
    commands = re.search(r'<pre id="commands"[^>]*>(.*?)</pre>', browser.get("/").text, re.DOTALL)
    assert commands is not None
    run = subprocess.run(
        ["sh", "-euc", html.unescape(commands[1])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    counted, signed_in, looked, alone, signed_out = map(json.loads, run.stdout.splitlines())

    assert counted["session"]["data"] == {"count": 1}
    assert signed_in["session"]["principal"] == "Ada"
    assert signed_in["session"]["data"]["count"] == 1
    assert looked == signed_in
    assert [device["current"] for device in alone["devices"]] == [True]
    assert signed_out["record"] is None


def test_a_name_of_its_own() -> None:
    """`--host NAME` has it served under this name as well, however it is written."""
    app = create_app("memory://", generate_key(), "Desk.example")
    for name, status in (("desk.example", 200), ("DESK.example:8000", 200), ("example", 400)):
        assert TestClient(app, f"http://{name}").get("/").status_code == status


FORMS = {
    "sign-in": {"name": "Eve"},
    "count": {},
    "add": {"item": "pear"},
    "remove": {"item": "pear"},
    "sign-out": {},
    "revoke": {"id": "A" * 20},
    "revoke-others": {},
}
PANELS = ("parallel", "costs", "latency", "stop_redis", "start_redis")


def test_what_changes_something_is_no_other_sites_to_ask_for() -> None:
    """All of it are POSTs, and another site's page changes nothing by one."""
    app = create_app("memory://", generate_key())
    windows = {f"/{name}/{form}" for name in ("laptop", "phone") for form in FORMS}
    unsafe = {path for path, methods in _routes(app) if methods - {"GET", "HEAD"}}
    assert unsafe == windows | {f"/panels/{name}" for name in PANELS} | {
        f"/{name}/open" for name in ("laptop", "phone")
    }
    foreign = {"Sec-Fetch-Site": "cross-site", "Origin": "https://other.example"}
    with TestClient(app, URL) as client:
        client.post("/laptop/sign-in", data={"name": "Mary"})
        before = client.get("/laptop/", headers=JSON).json()
        for path in unsafe:
            form = FORMS.get(path.rpartition("/")[2], {})
            assert client.get(path).status_code == 405
            answer = client.post(path, data=form, headers=foreign, follow_redirects=False)
            assert answer.status_code == 403 or not path.startswith("/panels/")
            assert "set-cookie" not in answer.headers
            assert "Mary" not in answer.text
        assert client.get("/laptop/", headers=JSON).json() == before


def _routes(app: Any, prefix: str = "") -> Iterator[tuple[str, set[str]]]:
    """The paths of an application and of what is mounted in it, with the methods of each."""
    app = getattr(app, "app", app)  # that of the phone
    for route in app.routes:
        if isinstance(route, Mount):
            if route.name != "static":
                yield from _routes(route.app, prefix + route.path)
        else:
            yield prefix + route.path, getattr(route, "methods", None) or set()
