"""The servers of a deployment, as a store uses them: one server, or the nodes of a Cluster."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Container
from typing import Any, Protocol, TypeVar

from redis_sessions.connect.connector import Connector
from redis_sessions.stores.commands import IndexCommand, Write
from redis_sessions.stores.protocols import Commit, NearCopy, Written
from redis_sessions.stores.watching import Watching

__all__ = ["Queue", "Servers"]

Item_contra = TypeVar("Item_contra", contravariant=True)
Reply_co = TypeVar("Reply_co", covariant=True)


class Queue(Protocol[Item_contra, Reply_co]):
    """Takes items that leave in batches."""

    def submit(self, item: Item_contra, size: int) -> Awaitable[Reply_co]:
        """An item's reply, or `StoreError`. `size` is its number of bytes, roughly."""
        ...


class Servers(Protocol):
    """What a `Channel` and a `Cluster` have in common.

    It belongs to one event loop. `replicated_writes` and `replicated_index_commands` are for what
    waits for replicas. The answer to an index command that waits is its reply in a `Written`.
    """

    @property
    def loads(self) -> Queue[str, bytes | None]: ...
    @property
    def writes(self) -> Queue[Write, Written[Commit]]: ...
    @property
    def index_commands(self) -> Queue[IndexCommand, Any]: ...
    @property
    def replicated_writes(self) -> Queue[Write, Written[Commit]]: ...
    @property
    def replicated_index_commands(self) -> Queue[IndexCommand, Any]: ...

    @property
    def watching(self) -> Watching: ...

    on_moved: Callable[[Container[int]], None] | None
    """Is called with slots of a Cluster that another node has from now on."""

    def near_copy(self, key: str) -> NearCopy | None:
        """The copy of a key in this process, if it is known to be recent."""
        ...

    def load_from_replica(self, key: str) -> Awaitable[bytes | None] | None:
        """A replica's value of a key; None if no replica may be asked now."""
        ...

    async def info(self, section: str) -> list[bytes]:
        """A section of INFO, for each primary; `StoreError`."""
        ...

    async def tags(self, prefix: str) -> list[str]:
        """A part of a key for each primary, by which the key is on that primary."""
        ...

    def primaries(self) -> AsyncGenerator[tuple[Connector, frozenset[int]], None]:
        """Each primary in turn, until all keys have been looked at; `StoreError`.

        Before it is asked for the next one, the caller looks at all keys that this one has, but
        for those in the slots beside it.
        """
        ...

    async def primary_of(self, key: str, *, fresh: bool = False) -> Connector:
        """The primary that has a key, or a channel; `StoreError`.

        `fresh`: by a Cluster's map that is fetched first, since a node has contradicted it.
        """
        ...

    def log_trouble(self, enabled: bool) -> None:
        """Whether new trouble is logged. It needn't be while somebody else reports it."""
        ...

    async def close(self) -> None:
        """Disconnect; a later command opens again."""
        ...
