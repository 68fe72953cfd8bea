"""The demo as a process of its own, in a directory of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pytest

# `python -m redis_sessions.cli`, but that the embedded server doesn't wait 30 s for a reload.
START = """
import runpy
from redis_sessions.connect import embedded
embedded.GRACE = 0.3
runpy.run_module("redis_sessions.cli", run_name="__main__", alter_sys=True)
"""
NAME = "Ada Lovelace"
COOKIE = "redis-sessions-demo"
JSON = {"Accept": "application/json"}


class Demo:
    """`redis-sessions demo --port 0`, in a directory of its own, until the block ends."""

    def __init__(self, *args: str) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="rs-"))
        environment = {k: v for k, v in os.environ.items() if k != "XDG_RUNTIME_DIR"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, "demo", "--port", "0", *args],
            cwd=self.base,
            env={**environment, "TMPDIR": str(self.base)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/", line)
        if address is None:
            pytest.fail(f"no address in {line!r}: {self.process.communicate()}")
        self.url = address[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        wait_until(self.is_gone)
        shutil.rmtree(self.base)

    def stop(self, number: int) -> tuple[int, str]:
        """Send this signal; the exit status, and what it said after its address."""
        self.process.send_signal(number)
        out, err = self.process.communicate()
        return self.process.returncode, out + err

    def is_gone(self) -> bool:
        """Whether the embedded server, and the directory that it works in, are away."""
        return not list(self.base.iterdir())

    @property
    def socket(self) -> Path:
        """The embedded server's."""
        return next(self.base.glob("*/socket"))


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it didn't happen"
        time.sleep(0.02)
