"""Processes that lead in turn and write, a register that fences their writes, and what goes wrong.

`python -m tests.support.leading URL PREFIX LEASE PORT REPLICAS` is one of these processes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final, NamedTuple, Self, cast

from redis_sessions import LeadershipLostError, RedisStore
from redis_sessions.leader import Leader, Term
from tests.support import ROOT
from tests.support.proxy import Proxy

__all__ = ["Candidates", "Write"]

NAME: Final = "ledger"
_LONGEST: Final = 30.0
"""Seconds after which something doesn't happen any more."""
_EVERY: Final = 0.005
"""Seconds between two writes of the leader."""


class Write(NamedTuple):
    """A write, in the order in which they came to the register."""

    at: float
    pid: int
    token: int
    checked: bool
    """Whether `term.check()` had let it pass."""
    accepted: bool
    """Whether no greater token had been seen."""


class _Register(socketserver.ThreadingTCPServer):
    """What is written to: a number that is the token of the last write, as a database's column."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Writer)
        self.fence = 0
        self.lock = threading.Lock()
        self.writes: list[Write] = []
        self.connected = set[int]()

    def handle_error(self, request: object, client_address: object) -> None:
        """A process was killed while it wrote."""


class _Writer(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        register = cast("_Register", self.server)
        for line in self.rfile:
            pid, token, checked = map(int, line.split())
            with register.lock:
                if not token:
                    register.connected.add(pid)
                    continue
                accepted = token >= register.fence  # UPDATE … WHERE fence <= token
                register.fence = max(token, register.fence)
                now = time.monotonic()
                register.writes.append(Write(now, pid, token, bool(checked), accepted))
            self.wfile.write(b"%d\n" % accepted)


class Candidate:
    """One process, behind a proxy of its own if its store is one server."""

    def __init__(self, url: str | int, prefix: str, lease: int, port: int, waits: int) -> None:
        self.proxy = None if isinstance(url, str) else Proxy(url).__enter__()
        url = url if isinstance(url, str) else cast("Proxy", self.proxy).url
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__, url, prefix, str(lease), str(port), str(waits)],
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.proxy is not None:
            self.proxy.__exit__(None, None, None)


class Candidates:
    """`count` processes that want to lead, as a context manager.

    `url`: the store's, or the port of a server on this machine, which each of them reaches by a
    proxy. `lease` is in seconds, and `waits` the store's `wait_replicas`.
    """

    def __init__(
        self, url: str | int, prefix: str, *, count: int = 2, lease: int = 1, waits: int = 0
    ) -> None:
        self._register = _Register()
        port = self._register.server_address[1]
        self._new: Callable[[], Candidate] = lambda: Candidate(url, prefix, lease, port, waits)
        self._count = count
        self._all: list[Candidate] = []
        self.lease = lease

    def __enter__(self) -> Self:
        threading.Thread(target=self._register.serve_forever, args=(0.02,), daemon=True).start()
        self._all = [self._new() for _ in range(self._count)]
        self.wait(lambda: bool(self.writes))
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._all:
            each.end()
        self._register.shutdown()
        self._register.server_close()

    @property
    def writes(self) -> list[Write]:
        """All writes so far."""
        with self._register.lock:
            return list(self._register.writes)

    def wait(self, condition: Callable[[], bool]) -> None:
        """Return once it holds."""
        until = time.monotonic() + _LONGEST
        while not condition():
            assert time.monotonic() < until, "it didn't happen"
            time.sleep(0.005)

    def without_a_leader(self, trouble: Callable[[], None]) -> float:
        """Seconds for which nobody could write, while something goes wrong.

        `trouble` returns when it is over.
        """
        self.wait(lambda: self.writes[-1].accepted)
        before = len(self.writes)
        self.wait(lambda: {each.process.pid for each in self._all} <= self._register.connected)
        trouble()
        here = len(self.writes)
        self.wait(lambda: any(write.accepted for write in self.writes[here:]))
        accepted = [write.at for write in self.writes[before - 1 :] if write.accepted]
        return max(b - a for a, b in pairwise(accepted))

    # -- what goes wrong. Each returns when another process leads

    def kill(self) -> None:
        """SIGKILL for the leader; a new process is started in its place."""
        leader = self._leader()
        leader.process.kill()
        self._until_another_leads(leader)
        self._all.remove(leader)
        leader.end()
        self._all.append(self._new())

    def stop(self) -> None:
        """SIGSTOP for the leader for longer than a lease. Then it goes on, and writes once more."""
        leader, token = self._leader(), self.writes[-1].token
        leader.process.send_signal(signal.SIGSTOP)
        self._until_another_leads(leader)
        here = len(self.writes)
        leader.process.send_signal(signal.SIGCONT)
        self.wait(lambda: any(write.token == token for write in self.writes[here:]))
        late = [write for write in self.writes[here:] if write.token == token]
        assert not any(write.accepted for write in late), "a late write was accepted"

    def cut_off(self) -> None:
        """A partition between the leader and its Redis; it goes on reaching what it writes to."""
        leader = self._leader()
        assert leader.proxy is not None
        leader.proxy.freeze()
        self._until_another_leads(leader)
        leader.proxy.heal()

    def _leader(self) -> Candidate:
        pid = next(write.pid for write in reversed(self.writes) if write.accepted)
        return next(each for each in self._all if each.process.pid == pid)

    def _until_another_leads(self, leader: Candidate) -> None:
        here = len(self.writes)
        pid = leader.process.pid
        self.wait(lambda: any(w.accepted and w.pid != pid for w in self.writes[here:]))

    # -- what must hold

    def stopped_by_the_fence(self) -> int:
        """How many writes passed the check, and were refused: what a lease can't prevent.

        Raises `AssertionError` if a write was accepted out of order, or a token given twice.
        """
        writes = self.writes
        tokens = [write.token for write in writes if write.accepted]
        assert all(a <= b for a, b in pairwise(tokens)), "a write was accepted out of order"
        pids = {(write.token, write.pid) for write in writes}
        assert len(pids) == len({token for token, _ in pids}), "two processes had one token"
        return sum(write.checked and not write.accepted for write in writes)


async def _work(url: str, prefix: str, lease: int, waits: int, register: socket.socket) -> None:
    store = RedisStore(url, prefix=prefix, timeout=0.3, wait_replicas=waits, wait_timeout=0.2)
    leader = Leader(store, lease=lease)
    register.sendall(b"%d 0 0\n" % os.getpid())  # it is there
    replies = register.makefile("rb")

    def write(term: Term) -> None:
        try:
            term.check()
            checked = 1
        except LeadershipLostError:
            checked = 0
        register.sendall(b"%d %d %d\n" % (os.getpid(), term.token, checked))
        replies.readline()

    while True:
        term: Any = None
        try:
            async with leader(NAME) as term:
                while True:
                    write(term)
                    await asyncio.sleep(_EVERY)
        except LeadershipLostError:
            write(term)  # one that was under way


def main() -> None:
    """Lead whenever it is this process's turn, and write."""
    url, prefix, lease, port, waits = sys.argv[1:]
    with socket.create_connection(("127.0.0.1", int(port))) as register:
        asyncio.run(_work(url, prefix, int(lease), int(waits), register))


if __name__ == "__main__":
    main()
