"""examples/shop, cache, chat, messages, seats, admin and proxy do what their pages promise."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from redis_sessions import generate_key
from tests.support import ROOT

EXAMPLES = ROOT / "examples"

Browser = Callable[..., TestClient]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """The application of an example's main.py, over a store in memory."""

    def load(name: str) -> Any:
        monkeypatch.setenv("SESSION_SECRET_KEY", generate_key())
        monkeypatch.setenv("REDIS_URL", "memory://")
        monkeypatch.delenv("DEVELOPMENT", raising=False)
        spec = spec_from_file_location(f"example_{name}", EXAMPLES / name / "main.py")
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        if isinstance(database := getattr(module, "database", None), sqlite3.Connection):
            stack.callback(database.close)
        return module.app

    with ExitStack() as stack:
        yield load


@pytest.fixture
def browser() -> Iterator[Browser]:
    """Make browsers of one application, all in the event loop of the first."""
    with ExitStack() as stack:
        first: list[TestClient] = []

        def new(app: Any, **headers: str) -> TestClient:
            client = TestClient(
                app, base_url="https://testserver", headers={"Accept": "text/html", **headers}
            )
            if first:
                client.portal = first[0].portal
            else:
                first.append(stack.enter_context(client))
            return client

        yield new


def sign_in(client: TestClient, name: str, password: str) -> str:
    page = client.post("/login", data={"name": name, "password": password})
    return page.url.path


def test_shop_has_a_cart(example: Callable[[str], Any], browser: Browser) -> None:
    """The cart changes with and without htmx, and stays when its visitor signs in."""
    app = example("shop")
    plain = browser(app)
    assert "pear: 1" in plain.post("/add", data={"item": "pear"}).text
    part = plain.post("/add", data={"item": "pear"}, headers={"HX-Request": "true"})
    assert part.text.startswith('<section id="cart">')
    assert "pear: 2" in part.text
    assert "stone" not in plain.post("/add", data={"item": "stone"}).text
    assert sign_in(plain, "ada", "wrong") == "/login"
    assert sign_in(plain, "ada", "engine") == "/"
    assert "Total: 4" in plain.get("/").text
    assert "pear: 1" in plain.post("/remove", data={"item": "pear"}).text
    assert "Total: 0" in plain.post("/remove", data={"item": "pear"}).text
    assert "Total: 0" in plain.post("/remove", data={"item": "pear"}).text


def test_shop_ends_devices(example: Callable[[str], Any], browser: Browser) -> None:
    """One browser ends the other, whose list then takes the whole page to the sign-in page."""
    app = example("shop")
    laptop, phone = browser(app), browser(app)
    for client in (laptop, phone):
        assert client.get("/devices").url.path == "/login"
        sign_in(client, "ada", "engine")
    id = re.findall(r'name="id" value="(.+?)"', laptop.get("/devices").text)
    assert len(id) == 1
    htmx = {"HX-Request": "true"}
    assert phone.get("/devices/list", headers=htmx).status_code == 200
    left = laptop.post("/devices/end", data={"id": id[0]}, headers=htmx)
    assert left.text.count("<li>") == 1
    gone = phone.get(
        "/devices/list", headers={**htmx, "HX-Current-URL": "https://testserver/devices"}
    )
    assert gone.status_code == 401
    assert gone.headers["HX-Redirect"] == "/login?next=/devices"
    laptop.post("/logout")
    assert laptop.get("/devices").url.path == "/login"


def test_shop_has_no_external_resources(example: Callable[[str], Any], browser: Browser) -> None:
    """Without htmx.min.js beside it no page asks for it, nor for anything of another host."""
    client = browser(example("shop"))
    text = client.get("/").text + client.get("/login").text
    assert "//" not in text
    htmx = EXAMPLES / "shop" / "htmx.min.js"
    assert ("<script" in text) == htmx.is_file()
    assert client.get("/htmx.min.js").status_code == (200 if htmx.is_file() else 404)


def test_cache(example: Callable[[str], Any], browser: Browser) -> None:
    """The database is asked once for many pages, and a changed role is there at once."""
    app = example("cache")
    ada, bob = browser(app), browser(app)
    assert ada.get("/").url.path == "/login"
    assert sign_in(ada, "ada", "builder") == "/login"
    assert sign_in(ada, "ada", "engine") == sign_in(bob, "bob", "builder") == "/"
    for _ in range(3):
        page = bob.get("/").text
        assert "Your role is reader" in page
        assert "The database was asked 5 times" in page
    change = {"name": "bob", "role": "writer"}
    assert bob.post("/role", data=change).status_code == 403
    assert ada.post("/role", data=change).url.path == "/"
    for _ in range(3):
        page = bob.get("/").text
        assert "Your role is writer" in page
        assert "The database was asked 7 times" in page
    assert bob.post("/logout").url.path == "/login"


def test_chat(example: Callable[[str], Any], browser: Browser) -> None:
    """All tabs get what is said. A sign-out closes those of its browser, and no other."""
    app = example("chat")
    ada, bob = browser(app), browser(app)
    with pytest.raises(WebSocketDenialResponse), ada.websocket_connect("wss://testserver/chat"):
        pass
    sign_in(ada, "ada", "engine")
    sign_in(bob, "bob", "builder")
    assert "<h1>bob</h1>" in bob.get("/").text
    with (
        bob.websocket_connect("wss://testserver/chat") as his,
        ada.websocket_connect("wss://testserver/chat") as first,
        ada.websocket_connect("wss://testserver/chat") as second,
    ):
        assert his.receive_json() == {"here": ["bob"]}
        assert his.receive_json() == {"here": ["ada", "bob"]}
        first.send_text("hello")
        for tab in (his, first, second):
            while "here" in (message := tab.receive_json()):
                pass
            assert message == {"from": "ada", "text": "hello"}
        assert ada.post("/logout").url.path == "/login"
        for tab in (first, second):
            assert closed(tab) == 1008
        while his.receive_json() != {"here": ["bob"]}:
            pass
        assert bob.post("/logout-everywhere").url.path == "/login"
        assert closed(his) == 1008


def closed(tab: Any) -> int:
    """The code with which the server closes the socket."""
    while True:
        try:
            tab.receive_json()
        except WebSocketDisconnect as closing:
            return closing.code


def test_admin(example: Callable[[str], Any], browser: Browser) -> None:
    """The admin's log-in is the application's session; who is blocked is signed out at once."""
    app = example("admin")
    ada, bob = browser(app), browser(app)
    assert sign_in(bob, "bob", "builder") == "/"
    assert bob.get("/me").text == "bob"
    assert bob.get("/admin/user/list").url.path == "/admin/login"
    refused = bob.post("/admin/login", data={"username": "bob", "password": "builder"})
    assert refused.status_code == 400
    entered = ada.post("/admin/login", data={"username": "ada", "password": "engine"})
    assert entered.url.path == "/admin/"
    assert ada.get("/me").text == "ada"
    assert set(ada.cookies) == {"__Host-session"}
    assert "bob" in ada.get("/admin/user/list").text
    changed = ada.post("/admin/user/edit/bob", data={"is_blocked": "y", "save": "Save"})
    assert changed.url.path == "/admin/user/list"
    assert bob.get("/me").status_code == 401
    assert bob.post("/login", data={"name": "bob", "password": "builder"}).status_code == 403
    ada.get("/admin/logout")
    assert ada.get("/me").status_code == 401


def test_proxied_application(example: Callable[[str], Any], browser: Browser) -> None:
    """It counts visits, says which worker answered, and lists the user's addresses."""
    client = browser(example("proxy"))
    assert client.get("/health").json() == "ok"
    assert [client.get("/").json()["visits"] for _ in range(2)] == [1, 2]
    assert str(os.getpid()) in client.get("/").json()["worker"]
    assert client.get("/devices").status_code == 401
    client.post("/sign-in", json={"name": "ada"})
    assert client.get("/devices").json() == ["testclient"]


def test_compose_file_of_the_proxy(docker_compose: Path) -> None:
    """Several workers trust the network's proxy alone, which alone has a port, on this machine."""
    key = generate_key()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COMPOSE_")}
    run = subprocess.run(
        [docker_compose, "-f", EXAMPLES / "proxy" / "compose.yml", "config", "--format", "json"],
        env={**environment, "SESSION_SECRET_KEY": key},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    config = json.loads(run.stdout)
    services = config["services"]
    ports = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert [port["host_ip"] for port in ports.pop("proxy")] == ["127.0.0.1"]
    assert not ports
    app = services["app"]
    assert app["deploy"]["replicas"] > 1
    assert app["environment"]["SESSION_SECRET_KEY"] == key
    (network,) = config["networks"]["default"]["ipam"]["config"]
    trusted = app["command"][app["command"].index("--forwarded-allow-ips") + 1]
    assert trusted == network["subnet"]
    mounts = [mount for service in services.values() for mount in service.get("volumes", [])]
    assert len(mounts) == 4
    assert all(Path(mount["source"]).is_file() and mount["read_only"] for mount in mounts)


def test_nginx_takes_its_configuration(nginx: Path, tmp_path: Path) -> None:
    """nginx finds no mistake in nginx.conf."""
    conf = (EXAMPLES / "proxy" / "nginx.conf").read_text().replace("app:8000", "127.0.0.1:8000")
    (tmp_path / "server.conf").write_text(conf)
    bodies = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")  # else below /var/lib/nginx
    own = "".join(f"{each}_temp_path {tmp_path}/{each}; " for each in bodies)
    (tmp_path / "nginx.conf").write_text(
        f"pid {tmp_path}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {own}include {tmp_path}/server.conf; }}"
    )
    run = subprocess.run(
        [nginx, "-t", "-e", "stderr", "-c", tmp_path / "nginx.conf"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "warn" not in run.stderr


def test_seats(
    example: Callable[[str], Any], browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seat is free again when its session has run out, and only then."""
    monkeypatch.setenv("IDLE_TIMEOUT", "2")
    monkeypatch.setattr("redis_sessions.lifecycle.sweep.EVERY", 0.01)
    app = example("seats")
    ada, bob = browser(app), browser(app)
    sign_in(ada, "ada", "engine")
    sign_in(bob, "bob", "builder")
    bob.post("/seats/B1")
    ada.post("/seats/A1")
    page = ada.post("/seats/B1").text
    assert "A1: yours" in page
    assert "B1: taken" in page
    while "B1: taken" in page:
        page = ada.get("/").text
    assert "B1 <form" in page
    assert "A1: yours" in page
    ada.post("/logout")
    assert sign_in(bob, "bob", "builder") == "/"
    assert "A1 <form" in bob.get("/").text


HERE, PORT = "main:app --host localhost", "--port 8123"


@pytest.mark.parametrize(
    ("name", "started"),
    [
        ("shop", f"uvicorn {HERE} {PORT} in shop, 1"),
        ("chat", f"uvicorn {HERE} {PORT} in chat, 1"),
        (
            "messages",
            f"uvicorn {HERE} --workers 2 --timeout-graceful-shutdown 3 {PORT} in messages, 1",
        ),
        ("seats", f"uvicorn {HERE} {PORT} in seats, 1"),
        ("admin", f"uvicorn {HERE} {PORT} in admin, 1"),
        ("leader", f"uvicorn {HERE} {PORT} in leader, "),
        ("cache", f"uvicorn {HERE} {PORT} in cache, 1"),
        ("tutorial", f"uvicorn {HERE} {PORT} in tutorial, 1"),
        ("proxy", "docker compose up --build --port 8123 in proxy, "),
    ],
)
def test_each_runs_by_one_command(name: str, started: str, tmp_path: Path) -> None:
    """`run` starts the application in its own folder, with the options given."""
    for program in ("uvicorn", "docker"):
        stand_in = tmp_path / program
        stand_in.write_text(f'#!/bin/sh\necho {program} "$@" "in ${{PWD##*/}}, $DEVELOPMENT"\n')
        stand_in.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [EXAMPLES / name / "run", "--port", "8123"],
        env={"PATH": path, "SESSION_SECRET_KEY": "made before"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert done.stdout == f"{started}\n"
    readme = EXAMPLES / name / "README.md"
    assert name == "tutorial" or f"    examples/{name}/run" in readme.read_text()
