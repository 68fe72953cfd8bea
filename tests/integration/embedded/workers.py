"""Processes that use the embedded server, and what can be seen of it from outside."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from typing import IO, Protocol

GRACE = 0.3
WORKER = """
import os, subprocess, sys
from redis_sessions.connect import embedded
embedded.GRACE = float(sys.argv[1])
print(embedded.ensure_server(sys.argv[2]), flush=True)
{then}
for line in sys.stdin:
    print(embedded.ensure_server(sys.argv[2]), flush=True)
"""


def ask(path: str | Path, command: str) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(f"{command}\r\n".encode())
        return connection.recv(4096).decode()


def server_pid(path: str | Path) -> int:
    return int(Path(path).with_name("pid").read_text())


def processes(word: object) -> list[int]:
    """The pids of living processes (zombies aren't) whose command line has `word` in it."""
    if Path("/proc/self/cmdline").exists():
        found: list[int] = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if str(word) in entry.read_text(errors="replace"):
                    found.append(int(entry.parent.name))
            except OSError:  # it ended while we looked
                continue
        return found
    listing = subprocess.run(["ps", "-Ao", "pid=,args="], capture_output=True, check=True)
    lines = listing.stdout.decode(errors="replace").splitlines()
    return [int(line.split()[0]) for line in lines if str(word) in line]


class Worker:
    """A process that uses the server: a line on its input makes it ask for it again."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.path = self._answer()

    def _answer(self) -> str:
        return pipe(self.process.stdout).readline().rstrip("\n")

    def ensure(self) -> str:
        pipe(self.process.stdin).write("\n")
        pipe(self.process.stdin).flush()
        return self._answer()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


class Hire(Protocol):
    def __call__(self, name: str = "", *, grace: float = GRACE, then: str = "") -> Worker: ...
