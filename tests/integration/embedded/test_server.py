"""The server of our own, with real processes: who shares it, what it survives, when it goes."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from redis_sessions import RedisStore
from redis_sessions.connect import embedded
from redis_sessions.connect.embedded import ensure_server
from redis_sessions.errors import StoreUnavailableError
from tests.integration.embedded.workers import GRACE, Hire, Worker, ask, pipe, processes, server_pid
from tests.support import eventually

# -- the server and its users


async def test_a_slow_start(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may take longer than the store's time-out, which bounds what comes after it."""

    def start(name: str) -> str:
        path = ensure_server(name)
        time.sleep(2 * store.timeout)
        return path

    monkeypatch.setattr("redis_sessions.connect.connector.ensure_server", start)
    store = RedisStore("embedded://", timeout=0.2)
    assert await store.load("A" * 20) is None
    await store.close()


def test_starts_and_answers(base: Path) -> None:
    """A server listens on a socket in the temp directory and nowhere else."""
    path = ensure_server()
    assert ask(path, "PING") == "+PONG\r\n"
    assert Path(path).parent.parent == base
    assert "\r\n0\r\n" in ask(path, "CONFIG GET port")


def test_refuses_to_evict_and_writes_no_file(base: Path) -> None:
    """Sessions aren't evicted, and nothing is persisted."""
    path = ensure_server()
    assert "noeviction" in ask(path, "CONFIG GET maxmemory-policy")
    assert ask(path, "CONFIG GET save").endswith("\r\n$0\r\n\r\n")
    assert "\r\nno\r\n" in ask(path, "CONFIG GET appendonly")


def test_is_private(base: Path) -> None:
    """The directory and the socket are for their owner alone."""
    path = Path(ensure_server())
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600


def test_is_idempotent(base: Path) -> None:
    """Asking again gives the same server."""
    path = ensure_server()
    pid = server_pid(path)
    assert (ensure_server(), server_pid(path)) == (path, pid)


def test_is_out_of_reach_of_the_terminal(base: Path) -> None:
    """Ctrl-C reaches a session's processes, so neither the server nor the watchdog is in ours."""
    path = ensure_server()
    daemons = processes(base)
    assert len(daemons) == 2
    assert server_pid(path) in daemons
    assert os.getsid(0) not in map(os.getsid, daemons)


def test_processes_share_one(base: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    """Workers that start at the same moment get one server and one watchdog."""
    started = [start() for _ in range(5)]
    workers = [Worker(process) for process in started]
    assert {worker.path for worker in workers} == {ensure_server()}
    assert len(processes(base)) == 2


def test_survives_the_death_of_one_user(base: Path, hire: Hire) -> None:
    """A SIGKILL of the process that started the server doesn't take it from the others."""
    first, second = hire(), hire()
    pid = server_pid(first.path)
    first.kill()
    assert not eventually(lambda: not processes(base), 4 * GRACE)
    assert server_pid(second.ensure()) == pid


def test_goes_with_its_last_user(base: Path, hire: Hire) -> None:
    """When all users were killed, the server, the watchdog and all files go."""
    workers = [hire(), hire()]
    assert len(processes(base)) == 2
    for worker in workers:
        worker.kill()
    assert eventually(lambda: not processes(base) and not list(base.iterdir()))


def test_survives_a_reload(base: Path, hire: Hire) -> None:
    """A user that comes within the grace period finds the data of the last one."""
    first = hire(grace=3)
    assert ask(first.path, "SET cart full") == "+OK\r\n"
    first.kill()
    assert ask(hire().path, "GET cart") == "$4\r\nfull\r\n"


def test_newcomers_while_it_stops(base: Path, hire: Hire) -> None:
    """Whoever comes while the watchdog stops the server and removes the files gets a new one."""
    for _ in range(6):
        worker = hire(grace=0)
        assert ask(worker.path, "PING") == "+PONG\r\n"
        worker.kill()
        assert ask(ensure_server(), "PING") == "+PONG\r\n"
        for descriptor in vars(embedded)["_users"].values():
            os.close(descriptor)
        vars(embedded)["_users"].clear()


@pytest.mark.parametrize("fatal", [signal.SIGKILL, signal.SIGSTOP])
def test_replaces_a_server_that_died_or_hangs(
    base: Path, monkeypatch: pytest.MonkeyPatch, fatal: signal.Signals
) -> None:
    """A server that doesn't answer is replaced at the next call."""
    monkeypatch.setattr(embedded, "TIMEOUT", 0.5)
    pid = server_pid(ensure_server())
    os.kill(pid, fatal)
    path = ensure_server()
    assert ask(path, "PING") == "+PONG\r\n"
    assert server_pid(path) != pid
    assert pid not in processes(base)


def test_replaces_a_watchdog_that_died(base: Path) -> None:
    """The next call starts another watchdog, and the server stays."""
    path = ensure_server()
    pid = server_pid(path)
    kill_watchdog(base, path)
    ensure_server()
    assert len(processes(base)) == 2
    assert server_pid(path) == pid


def test_a_directory_removed_by_hand(base: Path, hire: Hire) -> None:
    """The watchdog of a directory that was removed leaves its successor's server alone."""
    old = hire()
    os.kill(server_pid(old.path), signal.SIGKILL)
    for file in Path(old.path).parent.iterdir():
        file.unlink()
    Path(old.path).parent.rmdir()
    path = ensure_server()
    pid = server_pid(path)
    old.kill()
    assert eventually(lambda: len(processes(base)) == 2)
    assert server_pid(ensure_server()) == pid


def test_a_forked_child_is_a_user(base: Path, hire: Hire) -> None:
    """A child by fork keeps the server when its parent ends, and asks for it on its own."""
    child = hire(then="if os.fork(): os._exit(0)")
    pid = server_pid(child.path)
    child.process.wait()
    assert not eventually(lambda: not processes(base), 4 * GRACE)
    assert server_pid(child.ensure()) == pid


def test_a_subprocess_is_no_user(base: Path, hire: Hire) -> None:
    """A program that the application started, and left behind, doesn't keep the server."""
    worker = hire(then="print(subprocess.Popen(['sleep', '60'], close_fds=False).pid, flush=True)")
    program = int(pipe(worker.process.stdout).readline())
    worker.kill()
    try:
        assert eventually(lambda: not processes(base))
        os.kill(program, 0)
    finally:
        os.kill(program, signal.SIGKILL)


# -- the watchdog


def kill_watchdog(base: Path, path: str) -> None:
    pid = server_pid(path)
    (watchdog,) = set(processes(base)) - {pid}
    os.kill(watchdog, signal.SIGKILL)
    assert eventually(lambda: processes(base) == [pid])
    lock = Path(path).with_name("watchdog")  # a process that ends lets go of its files last
    assert eventually(lambda: not is_locked(lock))


def is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_watchdog_that_fails(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a watchdog no server is started, since nobody would stop it."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "false")
        with pytest.raises(StoreUnavailableError, match="watchdog did not start"):
            ensure_server()
    assert not processes(base)
    assert ask(ensure_server(), "PING") == "+PONG\r\n"


def test_what_the_watchdog_does(base: Path, monkeypatch: pytest.MonkeyPatch, hire: Hire) -> None:
    """It waits for the last user, stops the server and removes the files: here in this process."""
    worker = hire()
    kill_watchdog(base, worker.path)
    monkeypatch.setattr(os, "fork", lambda: 0)
    worker.kill()
    vars(embedded)["_watch"](Path(worker.path).parent, 0.1)
    assert not list(base.iterdir())
    assert eventually(lambda: not processes(base))


def test_a_newcomer_at_the_last_moment(
    base: Path, monkeypatch: pytest.MonkeyPatch, hire: Hire
) -> None:
    """Who comes between the end of the grace period and the start lock keeps the server."""
    first = hire()
    kill_watchdog(base, first.path)
    lock, stop = vars(embedded)["_lock"], vars(embedded)["_stop"]
    newcomers: list[Worker] = []
    seen: list[int | None] = []

    def late(path: Path, *, wait: bool = True) -> int:
        if not newcomers:
            newcomers.append(hire())
            kill_watchdog(base, first.path)
            threading.Timer(0.3, newcomers[0].process.kill).start()
        return int(lock(path, wait=wait))

    def watched(directory: Path) -> None:
        seen.append(newcomers[0].process.poll())
        stop(directory)

    first.kill()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", lambda: 0)
        patch.setattr(embedded, "_lock", late)
        patch.setattr(embedded, "_stop", watched)
        vars(embedded)["_watch"](Path(first.path).parent, 0.1)
    assert seen == [-signal.SIGKILL]
