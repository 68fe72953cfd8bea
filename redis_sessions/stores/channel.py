"""One server, as one event loop sees it: a wire, and the queues before it."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from contextlib import suppress
from secrets import token_hex
from typing import Any, Final, cast

from redis import exceptions as errors

from redis_sessions.connect.connector import Connector
from redis_sessions.errors import StoreError
from redis_sessions.stores.clock import Measurement, ServerClock
from redis_sessions.stores.coalescing import Batcher, Health
from redis_sessions.stores.commands import (
    COMMIT,
    NONSENSE,
    Command,
    Item,
    Question,
    Script,
    Write,
    answer_of,
    command_of,
    commit_of,
    verdict,
)
from redis_sessions.stores.durability import Durability
from redis_sessions.stores.nodes import NodeHealth
from redis_sessions.stores.protocols import Commit
from redis_sessions.stores.repeats import Repeats
from redis_sessions.stores.replicas import Replicas
from redis_sessions.stores.wire import Wire

__all__ = ["REDIRECTS", "Channel"]

REDIRECTS: Final = (
    *(errors.AskError, errors.TryAgainError),  # MOVED is an ASK
    *(errors.ClusterDownError, errors.ReadOnlyError),
)
"""What a Cluster's node says of one item, for whoever knows the other nodes."""


# WAIT's answer where the primary is one no more: since before, or while it waited.
_NO_PRIMARY: Final = ("WAIT cannot be used with replica", "UNBLOCKED")


class Channel:
    """Sends what arrives together together: as few commands as the server allows.

    `sharded`: it is a Cluster's node, where each item is a command of its own, and its failure
    may be one of `REDIRECTS`. What has to wait for replicas has queues of its own, since the
    wait holds up what comes after it on its connection.
    """

    def __init__(
        self,
        connector: Connector,
        timeout: float,
        scripts: Sequence[Script],
        clock: ServerClock,
        waits: Durability | None = None,
        *,
        sharded: bool = False,
    ) -> None:
        self.connector = connector
        self.repeats = repeats = Repeats(sharded=sharded)
        self._measurement = measurement = Measurement(clock, connector.where)

        async def greet(connection: Any) -> None:  # not a method: pools mustn't keep a channel
            measurement.greet()
            await repeats.greet(connection)

        self.wire = Wire(connector.greeted(greet), timeout, [COMMIT, *scripts])
        self.health = health = NodeHealth(connector.where) if sharded else Health()
        self._waits = waits
        self._sharded = sharded
        get, write, ask = (
            (self._each, self._each, self._each)
            if sharded
            else (self._get_all, self._write_all, self._ask_all)
        )
        self.loads = Batcher[str, "bytes | None"](get, health, timeout)
        self.writes = Batcher[Write, Commit](write, health, timeout)
        self.questions = Batcher[Question, Any](ask, health, timeout)
        self.sure_writes, self.sure_questions = self.writes, self.questions
        self.asks = Batcher[Item, Any](self._each_asking, health, timeout) if sharded else None
        """For slots that are on their way to this node."""
        here = connector.deployment
        self.replicas: Replicas | None = None
        if here.reads_replicas:
            known = here.hosts[1:] if here.kind == "server" else ()
            self.replicas = Replicas(connector, self.wire, timeout, known, sharded=sharded)
        if waits is not None:
            patience = timeout + waits.timeout
            surely = self._each_surely if sharded else self._write_surely
            self.sure_writes = Batcher(surely, health, patience)
            self.sure_questions = Batcher(self._each_surely, health, patience)

    def nearby(self, key: str) -> Awaitable[bytes | None] | None:
        """A replica's copy, or nothing; None if no replica may be asked now."""
        return None if self.replicas is None else self.replicas.load(key)

    async def info(self, section: str) -> list[bytes]:
        """What each server says of itself; `StoreError`."""
        said = await self.questions.submit(Question("", ("INFO", section)), 512)
        if not isinstance(said, bytes):
            raise self.wire.nonsense()
        return [said]

    async def tags(self, prefix: str) -> list[str]:
        """A part of a key for each server that has some: here one."""
        return [token_hex(8)]

    async def tell(self) -> None:
        """Send what is due, without anything else; what fails stays due."""
        with suppress(StoreError):
            await self._send([("PING",)])

    async def close(self) -> None:
        """Disconnect; a later command opens again."""
        if self.replicas is not None:
            await self.replicas.close()
        await self._measurement.close()
        await self.wire.close()

    def _send(self, commands: Sequence[Command], longer: float = 0) -> Awaitable[list[Any]]:
        """Each command's reply. What is due goes ahead of them."""
        if self.repeats.due or self._measurement.due:
            return self._send_due(commands, longer)
        return self.wire.send(commands, longer)

    async def _send_due(self, commands: Sequence[Command], longer: float) -> list[Any]:
        """In as many pieces as it takes, as long as the server does some of it."""
        if self._measurement.due:
            await self._measurement.ask(self.wire)
        if not self.repeats.due:
            return await self.wire.send(commands, longer)
        while len(some := self.repeats.some_due()) < len(self.repeats.due):
            if not self.repeats.heard(some, await self.wire.send(self.repeats.commands(some))):
                return await self.wire.send(commands, longer)
        ahead = self.repeats.commands(some)
        replies = await self.wire.send([*ahead, *commands], longer)
        try:
            self.repeats.heard(some, replies[: len(ahead)])
        except NONSENSE as exc:
            raise self.wire.nonsense() from exc
        return replies[len(ahead) :]

    # -- one server: few commands

    async def _get_all(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        unique = keys if len(keys) == 1 else list(dict.fromkeys(keys))
        (values,) = await self._send([("MGET", *unique)])
        if isinstance(values, errors.RedisError):
            raise self.wire.translated(values) from values
        if values.__class__ is not list or len(values) != len(unique):
            raise self.wire.nonsense()
        self._note(values)
        if len(unique) == len(keys):
            return cast("list[bytes | None]", values)
        found: dict[str, bytes | None] = dict(zip(unique, values, strict=True))
        return [found[key] for key in keys]

    async def _write_all(self, writes: Sequence[Write]) -> list[Commit | Exception]:
        (reply,) = await self._send([commit_of(writes)])
        return self._verdicts(writes, reply)

    async def _ask_all(self, questions: Sequence[Question]) -> list[Any]:
        replies = await self._send([question.command for question in questions])
        return [self.wire.translated(r) if isinstance(r, errors.RedisError) else r for r in replies]

    async def _write_surely(self, writes: Sequence[Write]) -> list[Commit | Exception]:
        (reply,), confirmed = await self._and_wait([commit_of(writes)])
        return self._judge(writes, self._verdicts(writes, reply), confirmed)

    # -- a Cluster's node: a command for each

    async def _each(self, items: Sequence[Item]) -> list[Any]:
        replies = await self._send([command_of(item) for item in items])
        if isinstance(items[0], str):
            self._note([reply for reply in replies if isinstance(reply, bytes)])
        return self._answers(items, replies)

    async def _each_surely(self, items: Sequence[Item]) -> list[Any]:
        replies, confirmed = await self._and_wait([command_of(item) for item in items])
        return self._judge(items, self._answers(items, replies), confirmed)

    async def _each_asking(self, items: Sequence[Item]) -> list[Any]:
        commands = [part for item in items for part in (("ASKING",), command_of(item))]
        waits = self._waits
        if waits is None or not any(map(waits.concerns, items)):
            return self._answers(items, (await self._send(commands))[1::2])
        replies, confirmed = await self._and_wait(commands)
        return self._judge(items, self._answers(items, replies[1::2]), confirmed)

    # -- replies

    def _note(self, records: Sequence[bytes | None]) -> None:
        """Records are as large as they were lately: that is how many fit into a batch."""
        total = 0
        for record in records:
            if isinstance(record, bytes):
                total += len(record)
            elif record is not None:  # pyright: ignore[reportUnnecessaryComparison] - it lies
                raise self.wire.nonsense()
        mean = total // max(1, len(records))
        self.loads.reply_size += (mean - self.loads.reply_size) // 4

    async def _and_wait(self, commands: Sequence[Command]) -> tuple[list[Any], Any]:
        assert self._waits is not None
        longer = self._waits.timeout
        *replies, confirmed = await self._send([*commands, self._waits.command], longer)
        return replies, confirmed

    def _judge(self, items: Sequence[Item], answers: list[Any], confirmed: Any) -> list[Any]:
        assert self._waits is not None
        if isinstance(confirmed, errors.RedisError):
            if not any(words in str(confirmed) for words in _NO_PRIMARY):
                raise self.wire.translated(confirmed) from confirmed
            confirmed = 0  # it was demoted in between
        if not isinstance(confirmed, int):
            raise self.wire.nonsense()
        return self._waits.judge(items, answers, confirmed)

    def _verdicts(self, writes: Sequence[Write], reply: Any) -> list[Commit | Exception]:
        if isinstance(reply, errors.RedisError):
            raise self.wire.translated(reply) from reply
        try:
            verdicts = [verdict(answer) for _, answer in zip(writes, reply, strict=True)]
        except NONSENSE as exc:
            raise self.wire.nonsense() from exc
        answers: list[Commit | Exception] = [
            v if isinstance(v, Commit) else self.wire.translated(v) for v in verdicts
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
        except NONSENSE:
            return self.wire.nonsense()
        if not isinstance(answer, errors.RedisError):
            return answer
        redirected = self._sharded and isinstance(answer, REDIRECTS)
        return answer if redirected else self.wire.translated(answer)
