"""One server, as one event loop sees it: its links, and the queues before them."""

from __future__ import annotations

import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Container, Sequence
from contextlib import suppress
from functools import partial
from secrets import token_hex
from typing import Any, cast

from redis import exceptions as errors

from redis_sessions.connect.clock import Measurement, ServerClock
from redis_sessions.connect.connector import Connector
from redis_sessions.connect.deployment import Address
from redis_sessions.connect.dialer import Dialer
from redis_sessions.connect.failures import translate, unexpected_reply
from redis_sessions.connect.nodes import NodeHealth
from redis_sessions.connect.resp import Script
from redis_sessions.connect.sender import Sender
from redis_sessions.errors import StoreError, StoreUnavailableError
from redis_sessions.stores.commands import COMMIT, IndexCommand, Item, Write
from redis_sessions.stores.dialects import ONE_SERVER, Dialect
from redis_sessions.stores.durability import Durability
from redis_sessions.stores.observing import Observation
from redis_sessions.stores.protocols import Commit, Written
from redis_sessions.stores.queues import ItemQueue
from redis_sessions.stores.repeats import Repeats
from redis_sessions.stores.replicas import Replicas
from redis_sessions.stores.replies import ReplyReader, alone, asking, waiting
from redis_sessions.stores.tracking import Tracking
from redis_sessions.stores.watching import Watching

__all__ = ["Channel"]


class Channel:
    """Sends together what arrives together, in as few commands as the server allows.

    There are three kinds of links to the server, which are opened when they are first used:

    1. Reads and writes of records share one link.
    2. Commands to indexes have a link of their own, since they may run long.
    3. Writes that wait for replicas have links of their own, since WAIT holds up everything after
       it. There is one for records, and one for indexes.
    """

    on_moved: Callable[[Container[int]], None] | None = None

    def __init__(
        self,
        connector: Connector,
        timeout: float,
        scripts: Sequence[Script],
        clock: ServerClock,
        watching: Watching,
        durability: Durability | None = None,
        dialect: Dialect = ONE_SERVER,
        observation: Observation | None = None,
    ) -> None:
        me = weakref.ref(self)

        def on_repeated(keys: Sequence[str]) -> None:  # no method, as below
            if (here := me()) is not None:
                here.tracking.note_changes(keys)

        self.connector = connector
        self.watching = watching
        self.repeats = repeats = Repeats(dialect, on_repeated)
        measurement = Measurement(clock, connector.where)

        async def on_connect(connection: Any) -> None:  # no method: a pool mustn't hold a channel
            await measurement.on_connect(connection)
            await repeats.on_connect(connection)

        self._dialer = Dialer(connector.with_on_connect(on_connect))
        self.health = dialect.new_health(connector.where)

        def sender(seconds: float) -> Sender:
            return Sender(self._dialer, seconds, [COMMIT, *scripts], [measurement, repeats])

        read = ReplyReader(connector.where, dialect, self._note_writes, durability)
        each = dialect.one_key_a_command
        self._values = read.answers if each else read.values
        outcomes = read.answers if each else read.outcomes
        records, indexes = sender(timeout), sender(timeout)
        self.tracking = Tracking(records, self._dialer, self.health, watching, dialect.redirects)
        self.near_copy = self.tracking.near_copy
        seen = Observation() if observation is None else observation
        queue = partial(ItemQueue[Any, Any], health=self.health, patience=timeout, observation=seen)
        self.loads: ItemQueue[str, bytes | None]
        self.loads = queue(records, dialect.reads, self._read_values, operation="load")
        self.writes: ItemQueue[Write, Written[Commit]]
        self.writes = queue(records, dialect.writes, outcomes, operation="write")
        self.replicated_writes = self.writes
        self.index_commands: ItemQueue[IndexCommand, Any]
        self.index_commands = self.replicated_index_commands = queue(indexes, alone, read.answers)
        self.asking: ItemQueue[Item, Any]
        """For keys that are on their way to this node of a Cluster."""
        self._senders = [records, indexes]
        if durability is None:
            self.asking = queue(records, asking, read.answers_asking, operation="redirected")
        else:
            seconds = timeout + durability.timeout
            records, indexes = sender(seconds), sender(seconds)
            self._senders += records, indexes
            queue = partial(queue, patience=seconds)
            wait = partial(waiting, durability)
            waits = read.waited(outcomes)
            self.replicated_writes = queue(records, wait(dialect.writes), waits, operation="write")
            waits = read.waited(read.answers_asking)
            self.asking = queue(records, wait(asking), waits, operation="redirected")
            self.replicated_index_commands = queue(indexes, wait(alone), read.waited(read.answers))
        here = connector.deployment
        self.replicas: Replicas | None = None
        if here.reads_replicas:
            known = here.hosts[1:] if here.kind == "server" else ()
            self.replicas = Replicas(connector, self.ask, timeout, dialect, known, seen)

    def _read_values(self, keys: Sequence[str], replies: list[Any]) -> Sequence[Any]:
        """The values. Copies are kept of them, and their size bounds the next batch of reads."""
        values = self._values(keys, replies)
        self.tracking.note_values(keys, values)
        records = [value for value in values if isinstance(value, bytes)]
        mean = sum(map(len, records)) // len(values)
        self.loads.reply_size += (mean - self.loads.reply_size) // 4
        return values

    def _note_writes(self, items: Sequence[Item], answers: Sequence[Any]) -> None:
        self.repeats.note(items, answers)
        self.tracking.note_writes(items, answers)

    async def ask(self, *command: Any) -> Any:
        """The reply to one command, which has no key; raises `StoreError`."""
        try:
            return await self.index_commands.submit(IndexCommand("", command), 512)
        except errors.RedisError as exc:  # a Cluster's answer to a command with a key
            raise self.unexpected_reply() from exc

    def unexpected_reply(self) -> StoreError:
        """The error for a reply that no Redis gives. All links lead to the same place."""
        self._dialer.retire()
        return unexpected_reply(self._dialer.where)

    def translate(self, exc: Exception) -> StoreError:
        """The error of a store for an error of redis-py."""
        return translate(self._dialer.where, exc)

    def load_from_replica(self, key: str) -> Awaitable[bytes | None] | None:
        """A replica's value of a key; None if no replica may be asked now."""
        return None if self.replicas is None else self.replicas.load(key)

    async def info(self, section: str) -> list[bytes]:
        """A section of INFO, for each server; here there is one. Raises `StoreError`."""
        said = await self.ask("INFO", section)
        if not isinstance(said, bytes):
            raise self.unexpected_reply()
        return [said]

    async def tags(self, prefix: str) -> list[str]:
        """A part of a key for each server, by which the key is on that server; here one."""
        return [token_hex(8)]

    async def primaries(self) -> AsyncGenerator[tuple[Connector, frozenset[int]], None]:
        """Each primary, with slots that needn't be looked at; here there is one, and no slot."""
        yield self.connector, frozenset()

    async def primary_of(self, key: str, *, fresh: bool = False) -> Connector:
        """The primary that has a key; here there is one."""
        return self.connector

    @property
    def node_health(self) -> NodeHealth:
        """Its health as that of a Cluster's node, by `CLUSTER_NODE`."""
        return cast("NodeHealth", self.health)

    def note_replicas(self, addresses: Sequence[Address]) -> None:
        """Note which replicas the Cluster's map names for this node."""
        if self.replicas is not None:
            self.replicas.addresses = addresses

    def log_trouble(self, enabled: bool) -> None:
        """Whether new trouble is logged. It needn't be while somebody else reports it."""
        self.health.quiet = not enabled

    async def repeat(self) -> None:
        """Send the repeats that are due, without anything else. What fails stays due."""
        with suppress(StoreError):
            await self.ask("PING")

    def leave(self) -> None:
        """Let all that waits or is under way fail at once, since other nodes serve it now."""
        error = StoreUnavailableError(f"{self.connector.where} was left meanwhile")
        for sender in self._senders:
            sender.leave(error)

    async def close(self) -> None:
        """Disconnect; a later command opens again."""
        self.tracking.close()
        if self.replicas is not None:
            await self.replicas.close()
        for sender in self._senders:
            await sender.close()
        await self._dialer.close()
