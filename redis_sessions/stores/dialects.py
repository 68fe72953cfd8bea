"""How commands are written: for one server that has every key, or for a node of a Cluster.

For example, to read three keys:

- one server gets `MGET a b c`;
- a node gets `GET a`, `GET b` and `GET c`, since it may have lost one of the keys to another node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

from redis import exceptions as errors

from redis_sessions.connect.health import Health
from redis_sessions.connect.nodes import NodeHealth
from redis_sessions.connect.resp import Command
from redis_sessions.stores.commands import Write, command_of, commit_of

__all__ = ["CLUSTER_NODE", "ONE_SERVER", "Dialect"]


class Dialect(Protocol):
    """What differs between one server and a node of a Cluster."""

    @property
    def one_key_a_command(self) -> bool:
        """Whether each item is a command of its own, which may fail alone."""
        ...

    @property
    def redirects(self) -> tuple[type[Exception], ...]:
        """Errors of one item that `Cluster` deals with, since it knows the other nodes."""
        ...

    @property
    def replica_setup(self) -> Sequence[Command]:
        """What a new connection to a replica sends first."""
        ...

    def new_health(self, where: str) -> Health:
        """What keeps track of whether this server, or this node, is away."""
        ...

    def reads(self, keys: Sequence[str]) -> list[Command]:
        """The commands that read these keys. One command reads each key once."""
        ...

    def writes(self, writes: Sequence[Write]) -> list[Command]:
        """The commands that carry out these writes."""
        ...

    def outcomes(self, writes: Sequence[Write], replies: Sequence[Any]) -> Sequence[Any]:
        """For each write the script's answer, or an error, from the replies to `writes`."""
        ...


class _OneServer:
    one_key_a_command = False
    redirects: tuple[type[Exception], ...] = ()
    replica_setup: Sequence[Command] = ()

    def new_health(self, where: str) -> Health:
        return Health()

    def reads(self, keys: Sequence[str]) -> list[Command]:
        return [("MGET", *dict.fromkeys(keys))]

    def writes(self, writes: Sequence[Write]) -> list[Command]:
        return [commit_of(writes)] if writes else []

    def outcomes(self, writes: Sequence[Write], replies: Sequence[Any]) -> Sequence[Any]:
        if not writes:
            return []
        (reply,) = replies
        return [reply] * len(writes) if isinstance(reply, errors.RedisError) else reply


class _ClusterNode:
    one_key_a_command = True
    # In redis-py a MovedError is a subclass of AskError.
    redirects: tuple[type[Exception], ...] = (
        *(errors.AskError, errors.TryAgainError),
        *(errors.ClusterDownError, errors.ReadOnlyError),
    )
    replica_setup: Sequence[Command] = (("READONLY",),)

    def new_health(self, where: str) -> Health:
        return NodeHealth(where)

    def reads(self, keys: Sequence[str]) -> list[Command]:
        return [("GET", key) for key in keys]

    def writes(self, writes: Sequence[Write]) -> list[Command]:
        return [command_of(write) for write in writes]

    def outcomes(self, writes: Sequence[Write], replies: Sequence[Any]) -> Sequence[Any]:
        return [reply if isinstance(reply, errors.RedisError) else reply[0] for reply in replies]


ONE_SERVER: Final[Dialect] = _OneServer()
CLUSTER_NODE: Final[Dialect] = _ClusterNode()
