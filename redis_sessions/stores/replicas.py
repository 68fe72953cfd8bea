"""Reads from replicas: only from those that are known to have all that is older than a bound.

No two clocks are compared. The primary is asked how far its stream of writes is, at a moment of
our own clock; a replica that has got as far has everything from before that moment. What it
answers is taken while that moment is less than `MAX_LAG` seconds ago, and the primary is asked
otherwise.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import deque
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import suppress
from contextvars import Context
from typing import Any, Final

from redis_sessions.connect.connector import Connector
from redis_sessions.connect.urls import Address
from redis_sessions.errors import StoreError
from redis_sessions.stores.coalescing import Batcher, Health
from redis_sessions.stores.commands import NONSENSE
from redis_sessions.stores.wire import Wire

__all__ = ["MAX_LAG", "Replicas"]

MAX_LAG: Final = 5.0
"""Seconds: nothing is taken from a replica that lacks a write from longer ago."""

_SAMPLE_EVERY: Final = 1.0
_SAMPLES: Final = 8
_NEVER: Final = float("-inf")
_REPLICA: Final = re.compile(r"slave\d+")


class Replicas:
    """The replicas of one primary, as one event loop sees them.

    `addresses`: which they are; without, the primary says it. `sharded`: in a Cluster.
    """

    def __init__(
        self,
        connector: Connector,
        primary: Wire,
        timeout: float,
        addresses: Sequence[Address] = (),
        *,
        sharded: bool = False,
    ) -> None:
        self._connector = connector
        self._primary = primary
        self._timeout = timeout / 4  # a replica that hangs must not cost much
        self._sharded = sharded
        self.addresses = addresses
        self._loop = asyncio.get_running_loop()
        self._all: dict[Address, _Replica] = {}
        self._chosen: _Replica | None = None
        self._stream = ""  # whose offsets the samples are
        self._samples: deque[tuple[float, int]] = deque(maxlen=_SAMPLES)
        self._sampled = _NEVER
        self._sampling: asyncio.Task[None] | None = None

    def load(self, key: str) -> Awaitable[bytes | None] | None:
        """A copy, or nothing; None if no replica may be asked now."""
        now = self._loop.time()
        if now - self._sampled >= _SAMPLE_EVERY:
            self._sample_soon(now)
        chosen = self._chosen
        if chosen is None or not chosen.is_fresh(now):
            fresh = [replica for replica in self._all.values() if replica.is_fresh(now)]
            # One for all until the next sample: what arrives together leaves together.
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
        with suppress(StoreError, *NONSENSE):  # those who need the primary are told
            await self._compare()

    async def _compare(self) -> None:
        began = self._loop.time()
        said = await _replication(self._primary)
        if said.get("role") != "master":
            self._samples.clear()
            return
        if said.get("master_replid", "") != self._stream:
            self._stream = said.get("master_replid", "")
            self._samples.clear()
        self._samples.append((began, int(said["master_repl_offset"])))
        # A Cluster's map may leave them out (a cached CLUSTER SLOTS), but their primary has them.
        await self._keep(self.addresses or self._named(said))
        replicas = self._all.values()
        await asyncio.gather(*(r.judge(self._stream, self._samples) for r in replicas))
        self._chosen = None

    def _named(self, said: dict[str, str]) -> list[Address]:
        remap = self._connector.deployment.remap
        return [remap(address) if remap else address for address in _named(said)]

    async def _keep(self, addresses: Iterable[Address]) -> None:
        wanted = set(addresses)
        for address in [known for known in self._all if known not in wanted]:
            await self._all.pop(address).wire.close()
        for address in wanted:
            if address not in self._all:
                self._all[address] = _Replica(
                    self._connector, address, self._timeout, self._sharded
                )


class _Trust:
    """What is known of one replica; its connections, which may outlive it, know no more."""

    def __init__(self, sharded: bool) -> None:
        self.sharded = sharded
        self.as_of = _NEVER
        """It has everything from before this moment."""
        self.connects = 0
        self.mixed = False
        """Not all connections lead to the same process."""
        self._process = ""

    async def greet(self, connection: Any) -> None:
        """A new connection: the replica may have started anew, from old data."""
        self.connects += 1
        self.as_of = _NEVER
        await connection.send_command("INFO", "server")
        process = _fields(await connection.read_response()).get("run_id", "")
        self.mixed = self.mixed or self._process not in ("", process)
        self._process = process
        if self.sharded:
            await connection.send_command("READONLY")
            await connection.read_response()


class _Replica:
    """One of them."""

    def __init__(
        self, connector: Connector, address: Address, timeout: float, sharded: bool
    ) -> None:
        self._trust = trust = _Trust(sharded)
        self.wire = Wire(connector.to(address, trust.greet), timeout, [])
        self._loop = asyncio.get_running_loop()
        self._loads = Batcher[str, "bytes | None"](self._get, Health(), timeout)
        self._size = 512

    def is_fresh(self, now: float) -> bool:
        """Whether it has all that is older than the bound."""
        return now - self._trust.as_of <= MAX_LAG and not self._trust.mixed

    async def load(self, key: str) -> bytes | None:
        """What it has, if it still can be relied on when the reply is there."""
        connects = self._trust.connects
        value = await self._loads.ask(key, self._size)
        relied_on = connects == self._trust.connects and self.is_fresh(self._loop.time())
        return value if relied_on else None

    async def judge(self, stream: str, samples: Sequence[tuple[float, int]]) -> None:
        """Find the latest moment from before which it has everything."""
        for _ in range(2):  # the first time it may have to connect
            connects = self._trust.connects
            try:
                said = await _replication(self.wire)
            except (StoreError, *NONSENSE):
                return  # what was known of it grows old
            if connects == self._trust.connects:
                break
        else:
            return
        if await self._leave_if_mixed():
            return
        follows = said.get("role") == "slave" and said.get("master_link_status") == "up"
        if not follows or said.get("master_replid") != stream:
            return
        offset = int(said["slave_repl_offset"])
        moments = [began for began, at in samples if at <= offset]
        self._trust.as_of = max([self._trust.as_of, *moments])

    async def _leave_if_mixed(self) -> bool:
        """Connect anew if connections lead to several processes, by a restart or by a balancer."""
        if not self._trust.mixed:
            return False
        await self.wire.close()
        self._trust.mixed = False
        return True

    async def _get(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        replies: Sequence[Any]
        try:
            if self._trust.sharded:
                replies = await self.wire.send([("GET", key) for key in keys])
            else:
                replies = await self.wire.send_one("MGET", *keys)
            pairs = zip(keys, replies, strict=True)
            found = [reply if isinstance(reply, bytes) else None for _, reply in pairs]
        except (StoreError, *NONSENSE):
            self._trust.as_of = _NEVER  # until it answers again
            return [None] * len(keys)
        if await self._leave_if_mixed():
            return [None] * len(keys)
        self._size = sum(len(value or b"") for value in found) // len(found) + 64
        return found


async def _replication(wire: Wire) -> dict[str, str]:
    return _fields(await wire.send_one("INFO", "replication"))


def _fields(text: bytes) -> dict[str, str]:
    lines = text.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _named(said: dict[str, str]) -> list[Address]:
    """The replicas that a primary names, if they follow it."""
    found: list[Address] = []
    for name, text in said.items():
        if _REPLICA.fullmatch(name):
            fields = dict(part.split("=", 1) for part in text.split(",") if "=" in part)
            if fields.get("state") == "online":
                found.append((fields["ip"], int(fields["port"])))
    return found
