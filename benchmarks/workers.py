"""uvicorn around a peer's application, as processes of their own; and browsers that it knows."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
from collections.abc import Generator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.driver import HINT
from benchmarks.peers import Peer
from benchmarks.servers import free_port
from benchmarks.shop import SECRET

__all__ = ["Site", "sign_in", "site"]

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Site:
    """A peer behind HTTP, and the cookies of browsers that are signed in there."""

    peer: Peer
    port: int
    cookies: list[str]


@contextmanager
def site(
    peer: Peer, url: str, *, browsers: int, workers: int = 1, cores: AbstractSet[int] = frozenset()
) -> Generator[Site]:
    """The peer on uvicorn with uvloop and httptools and without an access log, on these cores."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", "benchmarks.peers:from_environment"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", str(workers)]
    command += ["--loop", "uvloop", "--http", "httptools", "--backlog", "4096"]
    command += ["--no-access-log", "--log-level", "warning"]
    chosen = {"BENCH_PEER": peer.name, "BENCH_URL": url, "BENCH_SECRET": SECRET}
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, **chosen}) as process:
        try:
            if cores:
                os.sched_setaffinity(process.pid, cores)
            _await_start(port, process)
            yield Site(peer, port, sign_in(peer, port, browsers))
        finally:
            process.terminate()
            process.wait(30)


def _await_start(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/nowhere")
            connection.getresponse().read()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
        finally:
            connection.close()


def sign_in(peer: Peer, port: int, browsers: int) -> list[str]:
    """The cookies of so many browsers."""
    if peer.baseline is None:
        return ["session=none"] * browsers
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    cookies = [_get(connection, "/sign-in", None)[1] for _ in range(browsers)]
    first = cookies[0]
    for expected in ("1", "2"):
        answer, renewed = _get(connection, "/change", first)
        first = renewed or first
        if answer != expected:
            raise RuntimeError(f"{peer.name} didn't keep a session: {answer!r}")
    connection.close()
    return cookies


def _get(connection: http.client.HTTPConnection, path: str, cookie: str | None) -> tuple[str, str]:
    """The answer, and the cookie that came with it, or an empty string."""
    headers = {"X-Forwarded-Proto": "https", **({"Cookie": cookie} if cookie else {})}
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    cookies = [text.partition(";")[0] for text in response.headers.get_all("set-cookie", [])]
    # A browser keeps the hint that it changed its session for ten seconds; wrk would for ever.
    given = next((cookie for cookie in cookies if HINT.decode() not in cookie), "")
    return response.read().decode(), given
