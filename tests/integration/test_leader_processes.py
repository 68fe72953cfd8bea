"""Leaders in processes of their own: what becomes of them, and of their writes."""

from __future__ import annotations

import os
import subprocess
import threading
from contextlib import ExitStack
from pathlib import Path
from queue import Queue
from subprocess import PIPE
from urllib.parse import urlsplit

import pytest

from tests.support import ROOT, VENV
from tests.support.leading import Candidates
from tests.support.servers import StartServer, free_port


@pytest.fixture
def port(redis_url: str) -> int:
    found = urlsplit(redis_url).port
    assert found is not None
    return found


def test_a_leader_that_fails(port: int, prefix: str) -> None:
    """Stopped for longer than a lease, or cut off: another leads, and writes stay in order.

    The one that was stopped writes once more, which is refused.
    """
    with Candidates(port, prefix) as candidates:
        candidates.without_a_leader(candidates.cut_off)
        candidates.without_a_leader(candidates.stop)
        candidates.stopped_by_the_fence()
        assert len({write.token for write in candidates.writes}) == 3


def test_the_example(start_server: StartServer, tmp_path: Path) -> None:
    """examples/leader: one of two processes runs the job; killed, the other one goes on."""
    server, path = start_server(), f"{VENV / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        "REDIS_URL": server.url,
        "DATABASE": str(tmp_path / "reports"),
    }
    said = Queue[str]()
    with ExitStack() as stack:
        processes = dict[str, subprocess.Popen[str]]()
        for _ in range(2):
            command = [str(ROOT / "examples" / "leader" / "run"), "--port", str(free_port())]
            process = subprocess.Popen(
                command, env=environment, stdout=PIPE, stderr=subprocess.DEVNULL, text=True
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            processes[str(process.pid)] = process
            threading.Thread(target=_listen, args=(process, said), daemon=True).start()
        first, *_, token = said.get(timeout=20).split()
        processes[first].kill()
        while (line := said.get(timeout=20).split())[0] == first:
            pass
        assert line[0] in processes
        assert int(line[-1]) > int(token)


def _listen(process: subprocess.Popen[str], said: Queue[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        said.put(line)
