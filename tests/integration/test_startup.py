"""Starting: what fails it, what is only logged, and what is warned of."""

from __future__ import annotations

import logging
import socket
import threading
import time
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from redis_sessions import ConfigurationError
from tests.support import ROOT
from tests.support.apps import BASE, doing, manager_on, serve
from tests.support.redis_wire import Wire
from tests.support.servers import StartServer, as_owner, as_user


def started(url: str, **options: Any) -> Starlette:
    return doing(manager=manager_on(url, timeout=0.5), **options)


def logged(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [
        r.getMessage() for r in caplog.records if r.name == "redis_sessions" and r.levelno == level
    ]


def test_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    """A refused connection: an error in the log that names the server, and the page is served."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with serve(started(f"redis://:sesame@127.0.0.1:{port}/3")) as address:
        assert httpx2.get(f"http://{address}/plain").json() == "untouched"
    (error,) = logged(caplog, logging.ERROR)  # it is said once, and what to do
    assert f"127.0.0.1:{port}/3" in error
    assert "or write store='embedded://'" in error
    assert "the application starts all the same" in error
    assert "sesame" not in caplog.text


def test_nobody_answers(caplog: pytest.LogCaptureFixture) -> None:
    """A server that accepts and says nothing: the same, within the timeout, never a hang."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        begun = time.monotonic()
        with TestClient(started(f"redis://127.0.0.1:{port}/0"), base_url=BASE) as browser:
            assert time.monotonic() - begun < 2
            assert browser.get("/plain").json() == "untouched"
    (error,) = logged(caplog, logging.ERROR)
    assert "didn't answer within 0.5 s; the application starts all the same" in error


def test_no_room_to_connect(caplog: pytest.LogCaptureFixture) -> None:
    """A full backlog, which drops connections unanswered: the connect timeout ends it."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        try:
            begun = time.monotonic()
            with TestClient(started(f"redis://127.0.0.1:{address[1]}/0"), base_url=BASE):
                assert time.monotonic() - begun < 2
        finally:
            for filler in fillers:
                filler.close()
    (error,) = logged(caplog, logging.ERROR)
    assert "the application starts all the same" in error


def test_a_wrong_password(start_server: StartServer, caplog: pytest.LogCaptureFixture) -> None:
    """The application doesn't start; the message says why, without the password."""
    server = start_server("--requirepass", "sesame")
    url = as_user(server.url, ":guessed")
    with pytest.raises(RuntimeError, match="didn't start"), serve(started(url)):
        pass
    assert "refused" in caplog.text
    assert "correct the user and password in the URL" in caplog.text
    assert ".;" not in caplog.text
    assert "Application startup failed" in caplog.text
    assert "guessed" not in caplog.text
    with pytest.raises(ConfigurationError, match="refused"), TestClient(started(url)):
        pass


def test_no_password(start_server: StartServer) -> None:
    """None given where one is needed: the same."""
    url = as_owner(start_server("--requirepass", "sesame").url)
    with pytest.raises(ConfigurationError, match="refused"), TestClient(started(url)):
        pass


def test_the_right_password(start_server: StartServer, caplog: pytest.LogCaptureFixture) -> None:
    """It starts, and works."""
    server = start_server("--requirepass", "sesame")
    url = as_user(server.url, ":sesame")
    with TestClient(started(url), base_url=BASE) as browser:
        browser.get("/do?set=a:1")
        assert browser.get("/do").json() == {"a": "1"}
    assert not logged(caplog, logging.ERROR)


@pytest.mark.parametrize(
    "rights",
    ["+@all -eval -evalsha", "+@all -mget", "+@all -set", "-@all"],
    ids=["no scripts", "no reads", "no writes", "nothing"],
)
def test_a_user_without_rights(start_server: StartServer, rights: str) -> None:
    """Rights that don't suffice are found at the start, not at the first sign-in."""
    server = start_server()
    with Wire(server.port) as redis:
        redis.ask("ACL", "SETUSER", "app", "reset", "on", ">sesame", "~*", *rights.split())
    url = as_user(server.url, "app:sesame")
    with pytest.raises(ConfigurationError, match="rights"), TestClient(started(url)):
        pass


def test_a_user_for_other_keys(start_server: StartServer) -> None:
    """A key pattern that doesn't cover the prefix is found as well."""
    server = start_server()
    with Wire(server.port) as redis:
        redis.ask("ACL", "SETUSER", "app", "reset", "on", ">sesame", "~other:*", "+@all")
    url = as_user(server.url, "app:sesame")
    with pytest.raises(ConfigurationError, match="rights"), TestClient(started(url)):
        pass


def test_the_rights_that_we_recommend(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The user of deploy/redis/users.acl can do all that is needed."""
    (line,) = [
        line
        for line in (ROOT / "deploy/redis/users.acl").read_text().splitlines()
        if line.startswith("user app ")
    ]
    rules = [rule for rule in line.split()[2:] if not rule.startswith("#")]
    server = start_server()
    with Wire(server.port) as redis:
        redis.ask("ACL", "SETUSER", "app", "reset", ">sesame", *rules)
    url = as_user(server.url, "app:sesame")
    with TestClient(started(url), base_url=BASE) as browser:
        for query in ("set=a:1", "set=user_id:alice", "rotate=", "drop=user_id", "clear="):
            assert browser.get(f"/do?{query}").status_code == 200
        assert browser.get("/do").json() == {}
    assert not logged(caplog, logging.ERROR)


def test_another_kind_of_server() -> None:
    """Something else than Redis at that port: it doesn't start, and the message names the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                while connection.recv(4096):
                    pass

        thread = threading.Thread(target=greet)
        thread.start()
        with (
            pytest.raises(ConfigurationError, match=f"127.0.0.1:{port}"),
            TestClient(started(f"redis://127.0.0.1:{port}/0")),
        ):
            pass
        thread.join(10)
        assert not thread.is_alive()


def test_a_server_that_may_evict(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Sessions may be evicted: one warning, at the start, naming the policy and the remedy."""
    server = start_server("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    app = started(server.url)
    with TestClient(app, base_url=BASE) as browser:
        browser.get("/do?set=a:1")
        browser.get("/do")
    (warning,) = logged(caplog, logging.WARNING)
    assert "allkeys-lru" in warning
    assert "noeviction" in warning


@pytest.mark.parametrize(
    "options",
    [
        ["--maxmemory", "100mb", "--maxmemory-policy", "noeviction"],
        ["--maxmemory-policy", "allkeys-lru"],
    ],
    ids=["noeviction", "no maxmemory"],
)
def test_a_server_that_never_evicts(
    start_server: StartServer, caplog: pytest.LogCaptureFixture, options: list[str]
) -> None:
    """No warning where nothing can be evicted."""
    with TestClient(started(start_server(*options).url), base_url=BASE):
        pass
    assert not logged(caplog, logging.WARNING)


def test_a_warning_comes_once_for_each_process(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    """An application that starts again in the same process (a test suite) doesn't repeat it."""
    server = start_server("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    app = started(server.url)
    for _ in range(3):
        with TestClient(app, base_url=BASE):
            pass
    assert len(logged(caplog, logging.WARNING)) == 1
