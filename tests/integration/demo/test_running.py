"""`redis-sessions demo`: how it ends, with several workers, and with a key of one's own."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from starlette.testclient import TestClient

from redis_sessions import generate_key
from redis_sessions.demo import create_app
from tests.integration.demo.process import COOKIE, JSON, NAME, URL, Demo, open_socket, wait_until
from tests.support import ROOT
from tests.support.servers import as_owner


@pytest.fixture
def start(findable_server: None) -> Iterator[Callable[..., Demo]]:
    with ExitStack() as stack:
        yield lambda *args: stack.enter_context(Demo(*args))


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 0)]
)
def test_it_ends_cleanly(start: Callable[..., Demo], number: int, status: int) -> None:
    """Told to end, it does so without a word, although a page is open; its server goes, too."""
    demo = start()
    with (
        demo.browser() as client,
        socket.socket(socket.AF_UNIX) as server,
        ExitStack() as stack,
    ):
        client.post("/count")
        stack.enter_context(open_socket(client))
        server.settimeout(20)
        server.connect(str(demo.socket))

        assert demo.stop(number) == (status, "")
        assert server.recv(1) == b""  # it has ended, too
    wait_until(demo.is_gone)

    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", demo.port)) != 0


def test_an_unfinished_request_does_not_keep_it(start: Callable[..., Demo]) -> None:
    """A client that never sends the rest of its request is left after a moment."""
    demo = start()
    with demo.browser() as client:
        client.get("/")  # it serves
    with socket.create_connection(("127.0.0.1", demo.port)) as hanging:
        hanging.sendall(
            b"POST /sign-in HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\n\r\nname="
        )
        with demo.browser() as client:
            client.get("/")  # it has read what the other one has sent
        assert demo.stop(signal.SIGTERM)[0] == -signal.SIGTERM


def test_behind_the_port_of_a_container(start: Callable[..., Demo]) -> None:
    """As docker-compose.yml starts it, the port of this machine may be another than its own."""
    compose = (ROOT / "docker-compose.yml").read_text()
    host = re.search(r"command: \[redis-sessions, demo, (--host), ([^,]+),", compose)
    assert host is not None
    demo = start(*host.groups(), "--store", "memory://")
    with demo.browser() as client:
        for name, status in (
            ("localhost:49153", 200),
            ("127.0.0.1:8000", 200),  # its healthcheck
            ("172.17.0.2:8000", 200),
            ("attacker.example:49153", 400),
            ("0.0.0.0.attacker.example", 400),
        ):
            assert client.get("/", headers={"Host": name}).status_code == status


def test_several_workers_share_the_sessions(start: Callable[..., Demo], redis_url: str) -> None:
    """With two processes every request opens the session; both end, although pages are open."""
    demo = start("--workers", "2", "--store", as_owner(redis_url))
    with demo.browser() as client, ExitStack() as pages:
        client.post("/sign-in", data={"name": NAME})
        for _ in range(20):
            with demo.browser(**JSON) as again:  # a new connection, for whichever accepts it
                again.cookies[COOKIE] = client.cookies[COOKIE]
                assert again.get("/").json()["session"]["principal"] == NAME
        for _ in range(8):
            pages.enter_context(open_socket(client))
        assert demo.stop(signal.SIGTERM) == (0, "")


def test_a_given_key_outlives_a_restart_and_a_new_one_begins_anew(redis_url: str) -> None:
    """With the same key a session goes on; with another, its cookie is no obstacle to a new one."""
    url = as_owner(redis_url)
    key = generate_key()
    with TestClient(create_app(url, key), URL) as client:
        client.post("/laptop/sign-in", data={"name": NAME})
    with TestClient(create_app(url, key), URL, cookies=client.cookies) as again:
        assert again.get("/laptop/", headers=JSON).json()["session"]["principal"] == NAME
    with TestClient(create_app(url, generate_key()), URL, cookies=client.cookies) as other:
        assert other.get("/laptop/", headers=JSON).json()["session"]["principal"] is None
        other.post("/laptop/count")
        assert other.get("/laptop/", headers=JSON).json()["session"]["data"] == {"count": 1}
