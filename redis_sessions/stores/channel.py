"""One server, as one event loop sees it: its connections, and the queues before them."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from contextlib import suppress
from secrets import token_hex
from typing import Any, Final, cast

from redis import exceptions as errors

from redis_sessions.connect.clock import Measurement, ServerClock
from redis_sessions.connect.connector import Connector
from redis_sessions.connect.deployment import Address
from redis_sessions.connect.nodes import NodeHealth
from redis_sessions.connect.resp import UNEXPECTED_REPLY, Command, Script
from redis_sessions.connect.wire import Wire
from redis_sessions.errors import StoreError
from redis_sessions.stores.batching import Batcher
from redis_sessions.stores.commands import (
    COMMIT,
    IndexCommand,
    Item,
    Write,
    answer_of,
    command_of,
    commit_of,
    verdict,
)
from redis_sessions.stores.dialects import ONE_SERVER, Dialect
from redis_sessions.stores.durability import Durability
from redis_sessions.stores.protocols import Commit, Written
from redis_sessions.stores.repeats import Repeats
from redis_sessions.stores.replicas import Replicas

__all__ = ["Channel"]

# WAIT answers so where the server is a replica, or became one while WAIT waited.
_NOT_PRIMARY: Final = ("WAIT cannot be used with replica", "UNBLOCKED")


class Channel:
    """Sends together what arrives together, in as few commands as the server allows.

    There are five queues. Writes that wait for replicas have queues of their own
    (`replicated_…`), since WAIT holds up everything after it on its connection.
    """

    def __init__(
        self,
        connector: Connector,
        timeout: float,
        scripts: Sequence[Script],
        clock: ServerClock,
        durability: Durability | None = None,
        dialect: Dialect = ONE_SERVER,
    ) -> None:
        self.connector = connector
        self.repeats = repeats = Repeats(dialect)
        self._measurement = measurement = Measurement(clock, connector.where)

        async def on_connect(connection: Any) -> None:  # no method: a pool mustn't hold a channel
            measurement.on_connect()
            await repeats.on_connect(connection)

        connector_here = connector.with_on_connect(on_connect)
        self.wire = Wire(connector_here, timeout, [COMMIT, *scripts])
        self.health = health = dialect.new_health(connector.where)
        self._durability = durability
        self._redirects = dialect.redirects
        load, write, write_replicated = (
            (self._each, self._each, self._each_replicated)
            if dialect.one_key_a_command
            else (self._load_all, self._write_all, self._write_all_replicated)
        )
        self.loads = Batcher[str, "bytes | None"](load, health, timeout)
        self.writes = Batcher[Write, Written[Commit]](write, health, timeout)
        self.index_commands = Batcher[IndexCommand, Any](self._each, health, timeout)
        self.replicated_writes = self.writes
        self.replicated_index_commands = self.index_commands
        self.asking = Batcher[Item, Any](self._each_asking, health, timeout)
        """For keys that are on their way to this node of a Cluster."""
        here = connector.deployment
        self.replicas: Replicas | None = None
        if here.reads_replicas:
            known = here.hosts[1:] if here.kind == "server" else ()
            self.replicas = Replicas(connector, self.wire, timeout, dialect, known)
        if durability is not None:
            patience = timeout + durability.timeout
            self.replicated_writes = Batcher(write_replicated, health, patience)
            self.replicated_index_commands = Batcher(self._each_replicated, health, patience)

    def load_from_replica(self, key: str) -> Awaitable[bytes | None] | None:
        """A replica's value of a key; None if no replica may be asked now."""
        return None if self.replicas is None else self.replicas.load(key)

    async def info(self, section: str) -> list[bytes]:
        """A section of INFO, for each server; here there is one. Raises `StoreError`."""
        said = await self.index_commands.submit(IndexCommand("", ("INFO", section)), 512)
        if not isinstance(said, bytes):
            raise self.wire.unexpected_reply()
        return [said]

    async def tags(self, prefix: str) -> list[str]:
        """A part of a key for each server, by which the key is on that server; here one."""
        return [token_hex(8)]

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
            await self._send([("PING",)])

    async def close(self) -> None:
        """Disconnect; a later command opens again."""
        if self.replicas is not None:
            await self.replicas.close()
        await self._measurement.close()
        await self.wire.close()

    def _send(self, commands: Sequence[Command], longer: float = 0) -> Awaitable[list[Any]]:
        """Each command's reply. What is due is sent before them."""
        if self.repeats.due or self._measurement.due:
            return self._send_due(commands, longer)
        return self.wire.send(commands, longer)

    async def _send_due(self, commands: Sequence[Command], longer: float) -> list[Any]:
        """Send what is due, then the commands.

        Repeats are sent in several pieces if they are many. If the server refuses all of a piece,
        the rest waits for the next time.
        """
        if self._measurement.due:
            await self._measurement.ask(self.wire)
        if not self.repeats.due:
            return await self.wire.send(commands, longer)
        while len(some := self.repeats.next_due()) < len(self.repeats.due):
            replies = await self.wire.send(self.repeats.commands(some))
            if not self.repeats.note_replies(some, replies):
                return await self.wire.send(commands, longer)
        ahead = self.repeats.commands(some)
        replies = await self.wire.send([*ahead, *commands], longer)
        try:
            self.repeats.note_replies(some, replies[: len(ahead)])
        except UNEXPECTED_REPLY as exc:
            raise self.wire.unexpected_reply() from exc
        return replies[len(ahead) :]

    # -- one server that has every key: one command for all of a batch

    async def _load_all(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        unique = keys if len(keys) == 1 else list(dict.fromkeys(keys))
        (values,) = await self._send([("MGET", *unique)])
        if isinstance(values, errors.RedisError):
            raise self.wire.translate(values) from values
        if values.__class__ is not list or len(values) != len(unique):
            raise self.wire.unexpected_reply()
        self._note_sizes(values)
        if len(unique) == len(keys):
            return cast("list[bytes | None]", values)
        found: dict[str, bytes | None] = dict(zip(unique, values, strict=True))
        return [found[key] for key in keys]

    async def _write_all(self, writes: Sequence[Write]) -> list[Written[Commit] | Exception]:
        (reply,) = await self._send([commit_of(writes)])
        return self._verdicts(writes, reply)

    async def _write_all_replicated(
        self, writes: Sequence[Write]
    ) -> list[Written[Commit] | Exception]:
        (reply,), confirmed = await self._send_and_wait([commit_of(writes)])
        return self._judge(writes, self._verdicts(writes, reply), confirmed)

    # -- a command for each item

    async def _each(self, items: Sequence[Item]) -> list[Any]:
        replies = await self._send([command_of(item) for item in items])
        if isinstance(items[0], str):
            self._note_sizes([reply for reply in replies if isinstance(reply, bytes)])
        return self._answers(items, replies)

    async def _each_replicated(self, items: Sequence[Item]) -> list[Any]:
        replies, confirmed = await self._send_and_wait([command_of(item) for item in items])
        return self._judge(items, self._answers(items, replies), confirmed)

    async def _each_asking(self, items: Sequence[Item]) -> list[Any]:
        commands = [part for item in items for part in (("ASKING",), command_of(item))]
        durability = self._durability
        if durability is None or not any(map(durability.concerns, items)):
            return self._answers(items, (await self._send(commands))[1::2])
        replies, confirmed = await self._send_and_wait(commands)
        return self._judge(items, self._answers(items, replies[1::2]), confirmed)

    # -- replies

    def _note_sizes(self, records: Sequence[bytes | None]) -> None:
        """Note how large records were lately, by which the next batch of reads is bounded."""
        total = 0
        for record in records:
            if isinstance(record, bytes):
                total += len(record)
            elif record is not None:  # pyright: ignore[reportUnnecessaryComparison] - not sure
                raise self.wire.unexpected_reply()
        mean = total // max(1, len(records))
        self.loads.reply_size += (mean - self.loads.reply_size) // 4

    async def _send_and_wait(self, commands: Sequence[Command]) -> tuple[list[Any], Any]:
        assert self._durability is not None
        longer = self._durability.timeout
        *replies, confirmed = await self._send([*commands, self._durability.command], longer)
        return replies, confirmed

    def _judge(self, items: Sequence[Item], answers: list[Any], confirmed: Any) -> list[Any]:
        assert self._durability is not None
        if isinstance(confirmed, errors.RedisError):
            if not any(words in str(confirmed) for words in _NOT_PRIMARY):
                raise self.wire.translate(confirmed) from confirmed
            confirmed = 0  # the server is no primary any more: no replica has the writes
        if not isinstance(confirmed, int):
            raise self.wire.unexpected_reply()
        return self._durability.judge(items, answers, confirmed)

    def _verdicts(self, writes: Sequence[Write], reply: Any) -> list[Written[Commit] | Exception]:
        if isinstance(reply, errors.RedisError):
            raise self.wire.translate(reply) from reply
        try:
            verdicts = [verdict(answer) for _, answer in zip(writes, reply, strict=True)]
        except UNEXPECTED_REPLY as exc:
            raise self.wire.unexpected_reply() from exc
        answers: list[Written[Commit] | Exception] = [
            v if isinstance(v, Written) else self.wire.translate(v) for v in verdicts
        ]
        self.repeats.note(writes, answers)
        return answers

    def _answers(self, items: Sequence[Item], replies: Sequence[Any]) -> list[Any]:
        pairs = zip(items, replies, strict=True)
        answers = [self._answer(item, reply) for item, reply in pairs]
        self.repeats.note(items, answers)
        return answers

    def _answer(self, item: Item, reply: Any) -> Any:
        try:
            answer = answer_of(item, reply)
        except UNEXPECTED_REPLY:
            return self.wire.unexpected_reply()
        if isinstance(answer, errors.RedisError) and not isinstance(answer, self._redirects):
            return self.wire.translate(answer)
        return answer
