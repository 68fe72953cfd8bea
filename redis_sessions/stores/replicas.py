"""Reads from replicas: only from those that are known to have every write of before 5 seconds ago.

No two clocks are compared. An example:

1. At 10:00:00 of our own clock the primary is asked how long its stream of writes is: 7,000 bytes.
2. A replica says that it has 7,100 bytes. So it has every write from before 10:00:00.
3. Until 10:00:05 it is read. Later the primary is, unless a newer sample proves more.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from contextvars import Context
from typing import Any, Final

from redis import exceptions as errors

from redis_sessions.connect.connector import Connector
from redis_sessions.connect.deployment import Address
from redis_sessions.connect.dialer import Dialer
from redis_sessions.connect.health import Health
from redis_sessions.connect.resp import UNEXPECTED_REPLY
from redis_sessions.connect.sender import Sender
from redis_sessions.errors import StoreError
from redis_sessions.stores.commands import IndexCommand
from redis_sessions.stores.dialects import Dialect
from redis_sessions.stores.observing import Observation
from redis_sessions.stores.queues import ItemQueue
from redis_sessions.stores.replies import ReplyReader, alone

__all__ = ["MAX_LAG", "Replicas"]

MAX_LAG: Final = 5.0
"""Seconds: a replica that may lack a write from longer ago isn't read."""

_SAMPLE_EVERY: Final = 1.0
_SAMPLES: Final = 8
_NEVER: Final = float("-inf")
_REPLICA: Final = re.compile(r"slave\d+")


Ask = Callable[..., Awaitable[Any]]
"""`ask(*command)` is the reply of a server; `StoreError`."""


class Replicas:
    """The replicas of one primary, as one event loop sees them.

    `addresses` says which they are. If it is empty, the primary says it.
    """

    def __init__(
        self,
        connector: Connector,
        ask: Ask,
        timeout: float,
        dialect: Dialect,
        addresses: Sequence[Address] = (),
        observation: Observation | None = None,
    ) -> None:
        self._connector = connector
        self._ask = ask  # the primary
        self._timeout = timeout / 4  # a replica that hangs must not cost much
        self._dialect = dialect
        self.addresses = addresses
        self._observation = Observation() if observation is None else observation
        self._loop = asyncio.get_running_loop()
        self._all: dict[Address, _Replica] = {}
        self._chosen: _Replica | None = None
        self._stream = ""  # the id of the stream of writes that the samples are of
        # When the primary was asked, and the length of its stream of writes then.
        self._samples: deque[tuple[float, int]] = deque(maxlen=_SAMPLES)
        self._sampled = _NEVER
        self._sampling: asyncio.Task[None] | None = None

    def load(self, key: str) -> Awaitable[bytes | None] | None:
        """A replica's value of a key; None if no replica may be asked now."""
        now = self._loop.time()
        if now - self._sampled >= _SAMPLE_EVERY:
            self._sample_soon(now)
        chosen = self._chosen
        if chosen is None or not chosen.is_fresh(now):
            fresh = [replica for replica in self._all.values() if replica.is_fresh(now)]
            # All reads until the next sample go to the same replica, so that they share batches.
            self._chosen = chosen = random.choice(fresh) if fresh else None  # noqa: S311
        return None if chosen is None else chosen.load(key)

    async def close(self) -> None:
        """Disconnect; a later read begins again."""
        if self._sampling is not None:
            self._sampling.cancel()
            await asyncio.wait([self._sampling])
        self._sampled, self._chosen = _NEVER, None
        await self._keep([])

    # -- how fresh they are

    def _sample_soon(self, now: float) -> None:
        if self._sampling is None or self._sampling.done():
            self._sampled = now
            # In the background, and in no request's context.
            self._sampling = self._loop.create_task(self._sample(), context=Context())

    async def _sample(self) -> None:
        with suppress(
            StoreError, *UNEXPECTED_REPLY
        ):  # requests that ask the primary see its errors
            await self._compare()

    async def _compare(self) -> None:
        began = self._loop.time()
        said = await _replication(self._ask)
        if said.get("role") != "master":
            self._samples.clear()
            return
        if said.get("master_replid", "") != self._stream:
            self._stream = said.get("master_replid", "")
            self._samples.clear()
        self._samples.append((began, int(said["master_repl_offset"])))
        # A Cluster's map may lack the replicas (if CLUSTER SLOTS is cached). Their primary doesn't.
        await self._keep(self.addresses or self._named(said))
        replicas = self._all.values()
        await asyncio.gather(*(r.measure(self._stream, self._samples) for r in replicas))
        self._chosen = None

    def _named(self, said: dict[str, str]) -> list[Address]:
        remap = self._connector.deployment.remap
        return [remap(address) if remap else address for address in _named(said)]

    async def _keep(self, addresses: Iterable[Address]) -> None:
        wanted = set(addresses)
        for address in [known for known in self._all if known not in wanted]:
            await self._all.pop(address).close()
        for address in wanted:
            if address not in self._all:
                self._all[address] = _Replica(
                    self._connector, address, self._timeout, self._dialect, self._observation
                )


class _Knowledge:
    """What is known of one replica.

    It is an object of its own, since the replica's link may outlive the replica here.
    """

    def __init__(self, dialect: Dialect) -> None:
        self._setup = dialect.replica_setup
        self.as_of = _NEVER
        """The replica has every write from before this moment of the loop's clock."""
        self.connects = 0

    async def on_connect(self, connection: Any) -> None:
        """Note a new link: the replica may have started anew, or be another one by now."""
        self.connects += 1
        self.as_of = _NEVER
        for command in self._setup:
            await connection.send_command(*command)
            await connection.read_response()


class _Health(Health):
    """Its trouble isn't logged: requests don't feel it, since the primary serves them."""

    def log_trouble(self, trouble: StoreError | None) -> None:
        pass

    def log_recovery(self) -> None:
        pass


class _Replica:
    """One replica: its link, its queues, and what is known of it."""

    def __init__(
        self,
        connector: Connector,
        address: Address,
        timeout: float,
        dialect: Dialect,
        observation: Observation,
    ) -> None:
        self._known = known = _Knowledge(dialect)
        self._dialect = dialect
        self._dialer = Dialer(connector.to(address, known.on_connect))
        self._sender = sender = Sender(self._dialer, timeout)
        read = ReplyReader(self._dialer.where, dialect)
        self._health = _Health()
        values = read.answers if dialect.one_key_a_command else read.values
        self._loads: ItemQueue[str, bytes | None]
        self._loads = ItemQueue(
            *(sender, dialect.reads, values, self._health, timeout, observation, "replica_load")
        )
        self._commands: ItemQueue[IndexCommand, Any]
        self._commands = ItemQueue(sender, alone, read.answers, self._health, timeout)
        self._loop = asyncio.get_running_loop()
        self._size = 512

    async def close(self) -> None:
        """Disconnect."""
        await self._sender.close()
        await self._dialer.close()

    async def _ask(self, *command: Any) -> Any:
        return await self._commands.submit(IndexCommand("", command), 512)

    def is_fresh(self, now: float) -> bool:
        """Whether it has every write from before `MAX_LAG` seconds ago."""
        return now - self._known.as_of <= MAX_LAG

    async def load(self, key: str) -> bytes | None:
        """Its value of a key; None also if it is no longer fresh when the reply is there."""
        known, connects = self._known, self._known.connects
        try:
            value = await self._loads.submit(key, self._size)
        except (StoreError, errors.RedisError):
            known.as_of = _NEVER  # until it answers again
            return None
        if value is not None:
            self._size = (self._size + len(value)) // 2
        still_fresh = connects == known.connects and self.is_fresh(self._loop.time())
        return value if still_fresh else None

    async def measure(self, stream: str, samples: Sequence[tuple[float, int]]) -> None:
        """Find the latest sample whose writes it all has."""
        for _ in range(2):  # a new connection makes the first answer worthless
            connects = self._known.connects
            try:
                said = await _replication(self._ask)
            except (StoreError, *UNEXPECTED_REPLY):
                return  # what is known of it remains, and grows old
            if connects == self._known.connects:
                break
        else:
            return
        follows = said.get("role") == "slave" and said.get("master_link_status") == "up"
        if not follows or said.get("master_replid") != stream:
            return
        offset = int(said["slave_repl_offset"])
        moments = [began for began, at in samples if at <= offset]
        self._known.as_of = max([self._known.as_of, *moments])


async def _replication(ask: Ask) -> dict[str, str]:
    return _fields(await ask("INFO", "replication"))


def _fields(text: bytes) -> dict[str, str]:
    lines = text.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _named(said: dict[str, str]) -> list[Address]:
    """The replicas that a primary names, if they are in step with it."""
    found: list[Address] = []
    for name, text in said.items():
        if _REPLICA.fullmatch(name):
            fields = dict(part.split("=", 1) for part in text.split(",") if "=" in part)
            if fields.get("state") == "online":
                found.append((fields["ip"], int(fields["port"])))
    return found
