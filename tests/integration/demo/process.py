"""The demo as a process of its own, in a directory of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

# `python -m redis_sessions.cli`, but that the embedded server doesn't wait 30 s for a reload.
START = """
import runpy
from redis_sessions.connect import embedded
embedded.GRACE = 0.3
runpy.run_module("redis_sessions.cli", run_name="__main__", alter_sys=True)
"""
NAME = "Ada Lovelace"
COOKIE = "redis-sessions-demo"
URL = "http://localhost"
"""Where a `TestClient` finds a demo: it is served under no name but its own."""
JSON = {"Accept": "application/json"}
PATIENCE = 30
"""Seconds after which a test fails that waits for what doesn't happen. Workers start slowly."""


class Demo:
    """`redis-sessions demo --port 0`, in a directory of its own, until the block ends."""

    def __init__(self, *args: str) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="rs-"))
        environment = {k: v for k, v in os.environ.items() if k != "XDG_RUNTIME_DIR"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, "demo", "--port", "0", "--no-browser", *args],
            cwd=self.base,
            env={**environment, "TMPDIR": str(self.base)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that its workers can be ended with it
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        address = re.search(r"http://(127\.0\.0\.1|localhost):\d+/", line)
        if address is None:
            pytest.fail(f"no address in {line!r}: {self.process.communicate()}")
        self.stage = address[0]
        self.url = f"{self.stage}laptop/"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()
        wait_until(self.is_gone)
        shutil.rmtree(self.base)

    def browser(self, **headers: str) -> httpx.Client:
        """A client that keeps its cookies, follows redirects, and waits until a worker serves."""
        return httpx.Client(
            base_url=self.url, follow_redirects=True, headers=headers, timeout=PATIENCE
        )

    def stop(self, number: int) -> tuple[int, str]:
        """Send this signal; the exit status, and what it said after its address."""
        self.process.send_signal(number)
        out, err = self.process.communicate()
        return self.process.returncode, out + err

    def is_gone(self) -> bool:
        """Whether the embedded server, and the directory that it works in, are away."""
        return not list(self.base.iterdir())

    @property
    def port(self) -> int:
        return int(self.stage.rstrip("/").rpartition(":")[2])

    @property
    def socket(self) -> Path:
        """The embedded server's."""
        return next(self.base.glob("*/socket"))


def open_socket(client: httpx.Client, host: str = "127.0.0.1") -> ClientConnection:
    """The WebSocket of a page that this client has open, under a name that leads to the demo."""
    url = str(client.base_url.copy_with(scheme="ws", host=host).join("changes"))
    address = ("127.0.0.1", client.base_url.port or 80)
    cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    return connect(
        url,
        sock=socket.create_connection(address),
        additional_headers={"Cookie": cookies},
        open_timeout=PATIENCE,
    )


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it didn't happen"
        time.sleep(0.02)
