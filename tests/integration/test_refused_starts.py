"""Real servers, with default settings: what can't work doesn't start, and they say why."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from redis_sessions import ConfigurationError, SessionMiddleware
from tests.support.apps import BASE, doing, manager_on, serve
from tests.support.asgi import KEY, ask
from tests.support.servers import free_port

APPLICATION = """
from starlette.applications import Starlette

from redis_sessions import HeaderTransport, SessionMiddleware

app = Starlette()
for options in {options}:
    app.add_middleware(SessionMiddleware, store="memory://", **options)
"""

SHORT_KEY: list[dict[str, Any]] = [{"secret_key": "short"}]
TWICE: list[dict[str, Any]] = [{"secret_key": KEY}, {"secret_key": KEY}]
ONE_PREFIX: list[dict[str, Any]] = [{"secret_key": KEY}, {"secret_key": KEY, "session_cookie": "b"}]

CASES = pytest.mark.parametrize(
    ("options", "advice"),
    [
        (SHORT_KEY, "make one with `redis-sessions key`"),
        (TWICE, "share the cookie '__Host-session': remove one of them"),
        (ONE_PREFIX, "give one of them another prefix="),
    ],
    ids=["a short key", "the middleware twice", "one prefix for two cookies"],
)


@CASES
@pytest.mark.parametrize("server", ["uvicorn", "hypercorn"])
def test_it_does_not_start(
    tmp_path: Path, server: str, options: list[dict[str, Any]], advice: str
) -> None:
    """The process ends by itself, and its stderr says what to write."""
    (tmp_path / "main.py").write_text(APPLICATION.format(options=options))
    port = free_port()
    where = ["--port", str(port)] if server == "uvicorn" else ["--bind", f"127.0.0.1:{port}"]
    done = subprocess.run(
        [sys.executable, "-m", server, "main:app", *where],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # hypercorn's is 0 whatever its worker process' was: with one worker it loses it on the way.
    assert done.returncode != 0 or server == "hypercorn"
    assert advice in done.stderr
    assert KEY not in done.stderr


@CASES
def test_without_a_lifespan(
    options: list[dict[str, Any]], advice: str, caplog: pytest.LogCaptureFixture
) -> None:
    """uvicorn --lifespan off: each request is a 500, and the log says what to write."""
    app = Starlette()
    for each in options:
        app.add_middleware(SessionMiddleware, store="memory://", **each)
    with serve(app, lifespan="off") as address:
        for _ in range(2):
            assert httpx2.get(f"http://{address}/").status_code == 500
    raised = [r for r in caplog.records if r.exc_info and isinstance(r.exc_info[1], Exception)]
    assert [advice in str(r.exc_info and r.exc_info[1]) for r in raised] == [True, True]


@CASES
def test_a_test_client_raises(options: list[dict[str, Any]], advice: str) -> None:
    """Used with `with` as well as without."""
    app = Starlette()
    for each in options:
        app.add_middleware(SessionMiddleware, store="memory://", **each)
    with pytest.raises(ConfigurationError) as caught, TestClient(app, base_url=BASE):
        pass
    assert advice in str(caught.value)
    with pytest.raises(ConfigurationError) as caught:
        TestClient(app, base_url=BASE).get("/")
    assert advice in str(caught.value)


def test_a_web_socket() -> None:
    """Is refused before it is accepted."""
    app = doing(store="memory://", secret_key="short")
    with pytest.raises(ConfigurationError), TestClient(app).websocket_connect("/ws"):
        pass


def test_it_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Where it is constructed: a server may say nothing of a lifespan that failed."""
    app = SessionMiddleware(Starlette(), store="memory://", secret_key="short")
    for _ in range(2):
        assert isinstance(asyncio.run(ask(app)).error, ConfigurationError)
    (record,) = [r for r in caplog.records if r.name == "redis_sessions"]
    assert record.levelno == logging.ERROR
    assert "at least 32" in record.getMessage()


def test_each_error_is_a_new_one() -> None:
    """One that was raised again and again would keep what each of the requests had."""
    app = SessionMiddleware(Starlette(), store="memory://", secret_key="short")
    one, other = [asyncio.run(ask(app)).error for _ in range(2)]
    assert isinstance(one, ConfigurationError)
    assert one is not other


def test_a_start_that_fails_inside_closes_what_was_opened(redis_url: str, prefix: str) -> None:
    """The application's own start fails: the connection that was made ahead is closed."""
    closed: list[str] = []
    manager = manager_on(redis_url, prefix)
    close = manager.close

    async def noted() -> None:
        await close()
        closed.append("closed")

    manager.close = noted  # type: ignore[method-assign]  # to be seen

    def fails(app: Any) -> Any:
        raise RuntimeError("oops")

    app = Starlette(middleware=[Middleware(SessionMiddleware, manager=manager)], lifespan=fails)
    with pytest.raises(RuntimeError, match="oops"), TestClient(app):
        pass
    assert closed == ["closed"]
