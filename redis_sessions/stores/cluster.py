"""A Cluster: a channel to each node, and what to do when the nodes disagree.

An item goes to the node that has its slot, in that node's next batch. If the node names another
one, the item is sent again, alone. All of this is bounded by one time-out, and other items don't
wait for it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Container, Sequence
from functools import partial
from typing import Any, Final, Literal

from redis import exceptions as errors
from redis.crc import key_slot

from redis_sessions.connect.clock import ServerClock
from redis_sessions.connect.connector import Connector
from redis_sessions.connect.deployment import Address
from redis_sessions.connect.health import AWAY
from redis_sessions.connect.nodes import PATIENCE, SLOTS, tags
from redis_sessions.connect.resp import Script
from redis_sessions.connect.slots import SlotMap
from redis_sessions.errors import StoreError, StoreUnavailableError
from redis_sessions.stores.channel import Channel
from redis_sessions.stores.commands import Item
from redis_sessions.stores.dialects import CLUSTER_NODE
from redis_sessions.stores.durability import Durability
from redis_sessions.stores.observing import Observation
from redis_sessions.stores.protocols import NearCopy
from redis_sessions.stores.watching import Watching

__all__ = ["Cluster"]

_PAUSE: Final = 0.01
"""Seconds before the second retry, at most. Each further pause may be twice as long."""
_LONGEST_PAUSE: Final = 0.3

_RETRY: Final = (errors.TryAgainError, errors.ClusterDownError, errors.ReadOnlyError)

Queue = Literal[
    "loads", "writes", "index_commands", "replicated_writes", "replicated_index_commands"
]


class _ClusterQueue:
    """A queue of all nodes: each item goes to that queue of the node which has its key."""

    def __init__(self, cluster: Cluster, queue: Queue) -> None:
        self._cluster = cluster
        self._queue: Queue = queue

    def submit(self, item: Item, size: int) -> Awaitable[Any]:
        return self._cluster.run(self._queue, item, size)


class Cluster:
    """The nodes of one Cluster, as one event loop sees them."""

    on_moved: Callable[[Container[int]], None] | None = None

    def __init__(
        self,
        connector: Connector,
        timeout: float,
        scripts: Sequence[Script],
        clock: ServerClock,
        watching: Watching,
        durability: Durability | None = None,
        *,
        observation: Observation,
    ) -> None:
        self._connector = connector
        self._timeout = timeout
        self._scripts = scripts
        self._clock = clock
        self.watching = watching
        self._durability = durability
        self._observation = observation
        self._loop = asyncio.get_running_loop()
        self._map = SlotMap[Channel](
            connector,
            timeout,
            self._new_node,
            self._pass_on_repeats,
            self._forget,
            self._note_moved,
        )
        self._repeating: set[asyncio.Task[None]] = set()
        self.loads = _ClusterQueue(self, "loads")
        self.writes = _ClusterQueue(self, "writes")
        self.index_commands = _ClusterQueue(self, "index_commands")
        self.replicated_writes = _ClusterQueue(self, "replicated_writes")
        self.replicated_index_commands = _ClusterQueue(self, "replicated_index_commands")

    async def run(self, queue: Queue, item: Item, size: int) -> Any:
        """One item's answer, from the node that has its key; `StoreError`.

        There are five cases for what the node does:

        1. It answers, whether enough replicas have the write or not. The answer counts, unless
           the node has lost the slot meanwhile. Then the item is tried again.
        2. It names another node for the whole slot (MOVED). The slot map is corrected, and the
           item goes there.
        3. It names another node for this key alone (ASK), since the slot is on its way there. The
           item goes there once, after ASKING. The slot map stays.
        4. It says that the Cluster is down, or that the item is to be tried again. The slot map is
           fetched, and the item is tried again, unless the Cluster has been down for a while.
        5. It is away. The item is tried again if another node has the slot by now. Otherwise the
           error is raised.

        All attempts together take one time-out; the answer to the last one may take longer.
        """
        slot = key_slot((item if isinstance(item, str) else item.key).encode())
        ends = self._loop.time() + self._timeout
        attempt = 0
        while True:
            node = self._map.owners[slot] or await self._map.find(slot, ends)
            try:
                answer = await self._submit(node, queue, item, size)
            except errors.MovedError as exc:
                trouble: Exception = exc
                self._map.correct(slot, exc, node)
            except errors.AskError as exc:
                trouble = exc
                target = self._map.named_by(exc, node)
                self._check_time(ends, node, trouble)
                try:
                    answer = await target.asking.submit(item, size)
                except (*_RETRY, errors.AskError) as again:
                    trouble = again
                else:
                    if isinstance(item, str):
                        self.watching.read_later(item)  # until the slot has moved
                    return answer
            except _RETRY as exc:
                trouble = exc
                self._map.refresh()
                self._check_down(node, queue, exc)
            except StoreUnavailableError as exc:
                trouble = exc
                if exc.reason not in AWAY or not await self._map.has_moved(slot, node, ends):
                    raise
            else:
                node.node_health.note_answer(queue)
                if self._map.has_slot(node, slot):
                    return answer
                where = node.connector.where
                trouble = StoreUnavailableError(f"{where} was left meanwhile", reason="server")
            attempt += 1
            if attempt > 1:
                pause = min(_PAUSE * 2**attempt, _LONGEST_PAUSE)
                await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - to spread them
            self._check_time(ends, node, trouble)

    def _check_time(self, ends: float, node: Channel, trouble: Exception) -> None:
        """Raise if the time is over. No write may be sent later, as `stores.deadline` says."""
        if self._loop.time() > ends:
            raise _translate(node, trouble) from trouble

    def _check_down(self, node: Channel, queue: Queue, trouble: Exception) -> None:
        """Raise if the node has said CLUSTERDOWN for a while. A failover takes less than that."""
        if isinstance(trouble, errors.ClusterDownError):
            error = _translate(node, trouble)
            now, patience = self._loop.time(), self._timeout * PATIENCE
            if node.node_health.note_down(queue, error, now, patience):
                raise error from trouble

    async def _submit(self, node: Channel, queue: Queue, item: Item, size: int) -> Any:
        of_node: Any = getattr(node, queue)
        return await of_node.submit(item, size)

    def near_copy(self, key: str) -> NearCopy | None:
        """The copy of a key in this process, if it is known to be recent."""
        node = self._map.owner_of(key)
        return None if node is None else node.near_copy(key)

    def load_from_replica(self, key: str) -> Awaitable[bytes | None] | None:
        """A replica's value of a key; None if no replica may be asked now."""
        node = self._map.owner_of(key)
        return None if node is None else node.load_from_replica(key)

    async def info(self, section: str) -> list[bytes]:
        """A section of INFO, for each primary; `StoreError`."""
        await self._map.find(0, self._loop.time() + self._timeout)
        nodes = dict.fromkeys(node for node in self._map.owners if node is not None)
        return [text for node in nodes for text in await node.info(section)]

    async def tags(self, prefix: str) -> list[str]:
        """A part of a key for each primary, by which the key is on that primary."""
        await self._map.refreshed_within(self._timeout)
        if not any(self._map.owners):
            await self._map.find(0, self._loop.time())  # raises the error that says why
        return tags(prefix, self._map.owners)

    async def primaries(self) -> AsyncGenerator[tuple[Connector, frozenset[int]], None]:
        """Each primary in turn, with the slots that have been looked at.

        A slot counts as looked at if one node had it all the while. So a node may come again, for
        a slot that it has got from a node whose turn would have come later.
        """
        done = frozenset[int]()
        await self._map.renew()
        while len(done) < SLOTS:
            slot = next(slot for slot in range(SLOTS) if slot not in done)
            node = await self._map.find(slot, self._loop.time() + self._timeout)
            before = {slot for slot in range(SLOTS) if self._map.owners[slot] is node}
            yield node.connector, done
            await self._map.renew()
            done |= {slot for slot in before if self._map.owners[slot] is node}

    async def primary_of(self, key: str, *, fresh: bool = False) -> Connector:
        """The primary that has a key, or a channel; `StoreError`."""
        if fresh:
            await self._map.refreshed_within(self._timeout)
        node = await self._map.find(key_slot(key.encode()), self._loop.time() + self._timeout)
        return node.connector

    def log_trouble(self, enabled: bool) -> None:
        """Has no effect: the trouble of a single node is logged in any case."""

    async def close(self) -> None:
        """Disconnect; a later command opens again."""
        await self._map.stop()
        if tasks := list(self._repeating):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        await self._map.close()

    def _new_node(self, address: Address) -> Channel:
        return Channel(
            self._connector.to(address),
            self._timeout,
            self._scripts,
            self._clock,
            self.watching,
            self._durability,
            CLUSTER_NODE,
            self._observation,
        )

    def _note_moved(self, nodes: Sequence[Channel], slots: Container[int]) -> None:
        """Believe no copies, and read again what is watched in these slots.

        A node that has lost them may tell of changes late, or never.
        """
        for node in nodes:
            node.tracking.forget_copies()
        self.watching.read([key for key in self.watching if key_slot(key.encode()) in slots])
        if self.on_moved is not None:
            self.on_moved(slots)

    def _forget(self, node: Channel) -> None:
        self._clock.forget(node.connector.where)

    def _has_left(self, node: Channel, key: str) -> bool:
        return self._map.owner_of(key) not in (node, None)

    def _pass_on_repeats(self, nodes: Sequence[Channel]) -> None:
        """Give the repeats of slots that a node has lost to the nodes that have them now.

        Such a node may have taken over without the last writes.
        """
        owners = dict[Channel, None]()
        for node in nodes:
            for repeat in node.repeats.pop(partial(self._has_left, node)):
                owner = self._map.owner_of(repeat.write.key)
                assert owner is not None
                owner.repeats.add(repeat)
                owners[owner] = None
        for owner in owners:  # at once, since it may be sent nothing else for long
            repeating = self._loop.create_task(owner.repeat())
            self._repeating.add(repeating)
            repeating.add_done_callback(self._repeating.discard)


def _translate(node: Channel, trouble: Exception) -> StoreError:
    if isinstance(trouble, StoreError):
        return trouble
    if isinstance(trouble, errors.AskError):
        where = node.connector.where
        return StoreUnavailableError(f"{where} sends its clients on, in circles", reason="server")
    return node.translate(trouble)
