"""A temp directory of the test's own for the server, and processes that use it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from redis_sessions.connect import embedded
from tests.integration.embedded.workers import GRACE, WORKER, Hire, Worker, processes
from tests.support import eventually


@pytest.fixture
def base(findable_server: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The temp directory: when the users have gone, no file and no process may be left in it."""
    base = Path(tempfile.mkdtemp(prefix="rs-", dir="/tmp"))
    users: dict[Path, int] = {}
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(base))
    monkeypatch.setattr(tempfile, "tempdir", str(base))
    monkeypatch.setattr(embedded, "GRACE", GRACE)
    monkeypatch.setattr(embedded, "_users", users)
    yield base
    for descriptor in users.values():
        os.close(descriptor)
    assert eventually(lambda: not processes(base) and not list(base.iterdir()))
    base.rmdir()


@pytest.fixture
def start(base: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts worker processes without waiting for them; their input ends with the test."""
    with ExitStack() as stack:

        def start(name: str = "", *, grace: float = GRACE, then: str = "") -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-c", WORKER.format(then=then), str(grace), name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            return stack.enter_context(process)

        yield start


@pytest.fixture
def hire(start: Callable[..., subprocess.Popen[str]]) -> Hire:
    """Starts worker processes and waits for the path that each prints."""

    def hire(name: str = "", *, grace: float = GRACE, then: str = "") -> Worker:
        return Worker(start(name, grace=grace, then=then))

    return hire
