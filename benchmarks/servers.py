"""Private servers for the benchmarks: found, started on loopback TCP, stopped at the end.

A Cluster's nodes are Redis servers, too: it is here if Redis is.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis

from redis_sessions.testing.topology import cluster, single

__all__ = [
    "CLUSTER",
    "KINDS",
    "Server",
    "available",
    "clustered",
    "deployments",
    "free_port",
    "listening",
    "serving",
    "version_of",
]

KINDS = ("redis", "valkey")
CLUSTER = "cluster"
BACKLOG = "2048"  # browsers that may connect at once
VENV = Path(sys.prefix)


@dataclass(frozen=True)
class Server:
    """One server, or a Cluster's primaries. `nodes` are the benchmark's own clients of each."""

    kind: str
    url: str
    nodes: tuple[Redis, ...]

    @property
    def client(self) -> Redis:
        """For `INFO` and the like, of the only node."""
        (node,) = self.nodes
        return node

    def info(self, section: str) -> dict[str, Any]:
        return self.client.info(section)

    def connections(self) -> int:
        """Those that all nodes have, the benchmark's own among them."""
        return sum(int(node.info("clients")["connected_clients"]) for node in self.nodes)

    def empty(self) -> None:
        for node in self.nodes:
            node.flushall()


def program(kind: str) -> str | None:
    """What `make servers` linked, else what is on PATH; a wheel's server only if there is none."""
    wheels = (VENV / "bin").resolve()
    elsewhere = [p for p in os.get_exec_path() if Path(p).resolve() != wheels]
    path = os.pathsep.join([str(VENV / "servers"), *elsewhere, str(wheels)])
    return shutil.which(f"{kind}-server", path=path)


def available() -> list[str]:
    """The kinds of server that are here."""
    return [kind for kind in KINDS if program(kind)]


def deployments() -> list[str]:
    """What `serving` can start here."""
    kinds = available()
    return [*kinds, CLUSTER] if "redis" in kinds else kinds


def version_of(kind: str) -> str:
    """What the program says that its version is."""
    binary = program(kind)
    assert binary is not None
    text = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"v=([\d.]+)", text)
    return f"{kind} {found[1] if found else 'unknown'}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(kind: str) -> Generator[Server]:
    """A deployment of this kind, empty, nothing written to disk; stopped when the block ends."""
    if kind == CLUSTER:
        with clustered(3) as server:
            yield server
        return
    with single(server=_needed(kind), options={"tcp-backlog": BACKLOG}) as topology:
        (node,) = topology.nodes
        with node.connect() as client:
            yield Server(kind, topology.url, (client,))


@contextmanager
def listening(kind: str, path: Path) -> Generator[str]:
    """The URL of a server that listens at a Unix socket, too; without what a TCP stack costs."""
    with single(server=_needed(kind), options={"unixsocket": str(path)}):
        yield f"unix://{path}"


@contextmanager
def clustered(primaries: int) -> Generator[Server]:
    """A Cluster of Redis servers, without replicas."""
    with ExitStack() as stack:
        topology = stack.enter_context(
            cluster(
                primaries,
                0,
                server=_needed("redis"),
                options={"tcp-backlog": BACKLOG},
                node_timeout_ms=15_000,  # a busy machine is no failure
            )
        )
        nodes = [stack.enter_context(node.connect()) for node in topology.nodes]
        yield Server(CLUSTER, topology.url, tuple(nodes))


def _needed(kind: str) -> str:
    binary = program(kind)
    if binary is None:
        raise RuntimeError(f"{kind}-server isn't here: `make servers`, or install it")
    return binary
