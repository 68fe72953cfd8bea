"""A Cluster: which node has a key, a channel to each node, and what to do when they disagree.

The slot map is our own. An item goes to its slot's node, in that node's next batch. If the node
names another one, the item is sent again, alone. All of this is bounded by one time-out, and other
items don't wait for it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Sequence
from contextvars import Context
from typing import Any, Final, Literal, cast

from redis import exceptions as errors
from redis.crc import key_slot

from redis_sessions.connect.clock import ServerClock
from redis_sessions.connect.connector import Connector
from redis_sessions.connect.deployment import Address
from redis_sessions.connect.health import AWAY
from redis_sessions.connect.nodes import SLOTS, NodeHealth, tags
from redis_sessions.connect.resp import UNEXPECTED_REPLY, Script
from redis_sessions.errors import ReplicationError, StoreError, StoreUnavailableError
from redis_sessions.stores.channel import Channel
from redis_sessions.stores.commands import Item
from redis_sessions.stores.dialects import CLUSTER_NODE
from redis_sessions.stores.durability import Durability

__all__ = ["Cluster"]

_REFRESH_EVERY: Final = 0.1
"""Seconds between two fetches of the slot map."""
_MOST_ASKED: Final = 8
"""Nodes that are asked for one map, if those before don't answer."""
_PAUSE: Final = 0.01
"""Seconds before the second retry, at most. Each further pause may be twice as long."""
_LONGEST_PAUSE: Final = 0.3

_RETRY: Final = (errors.TryAgainError, errors.ClusterDownError, errors.ReadOnlyError)
_DOWN: Final = 0.25
"""The part of the time-out for which an answer CLUSTERDOWN is believed to pass."""

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

    ask = submit


class Cluster:
    """The nodes of one Cluster, as one event loop sees them."""

    def __init__(
        self,
        connector: Connector,
        timeout: float,
        scripts: Sequence[Script],
        clock: ServerClock,
        durability: Durability | None = None,
    ) -> None:
        self._connector = connector
        self._timeout = timeout
        self._scripts = scripts
        self._clock = clock
        self._durability = durability
        self._loop = asyncio.get_running_loop()
        self._nodes: dict[Address, Channel] = {}
        self._slots: list[Channel | None] = [None] * SLOTS
        self._refreshing: asyncio.Task[None] | None = None
        self._refreshed = float("-inf")
        self._trouble: StoreError | None = None
        """Why there is no slot map."""
        self._repeating: set[asyncio.Task[None]] = set()
        self.loads = _ClusterQueue(self, "loads")
        self.writes = _ClusterQueue(self, "writes")
        self.index_commands = _ClusterQueue(self, "index_commands")
        self.replicated_writes = _ClusterQueue(self, "replicated_writes")
        self.replicated_index_commands = _ClusterQueue(self, "replicated_index_commands")

    async def run(self, queue: Queue, item: Item, size: int) -> Any:
        """One item's answer, from the node that has its key; `StoreError`.

        There are five cases for what the node does:

        1. It answers. The answer counts, unless the node has lost the slot meanwhile.
        2. It names another node for the whole slot (MOVED). The slot map is corrected, and the
           item goes there.
        3. It names another node for this key alone (ASK), since the slot is on its way there. The
           item goes there once, after ASKING. The slot map stays.
        4. It says that the Cluster is down, or that the item is to be tried again. The slot map is
           fetched, and the item is tried again, unless the Cluster has been down for a while.
        5. It is away, or too few replicas have the write. The item is tried again if another node
           has the slot by now. Otherwise the error is raised.

        All attempts together take one time-out; the answer to the last one may take longer.
        """
        slot = key_slot((item if isinstance(item, str) else item.key).encode())
        ends = self._loop.time() + self._timeout
        attempt = 0
        while True:
            node = self._slots[slot] or await self._find(slot, ends)
            try:
                answer = await self._submit(node, queue, item, size)
            except errors.MovedError as exc:
                trouble: Exception = exc
                self._slots[slot] = named = self._named_by(exc, node)
                _health(named).note_map(known=True)
                self._refresh()
            except errors.AskError as exc:
                trouble = exc
                target = self._named_by(exc, node)
                self._check_time(ends, node, trouble)
                try:
                    return await target.asking.submit(item, size)
                except (*_RETRY, errors.AskError) as again:
                    trouble = again
            except _RETRY as exc:
                trouble = exc
                self._refresh()
                self._check_down(node, queue, exc)
            except StoreUnavailableError as exc:
                trouble = exc
                if exc.reason not in AWAY or not await self._has_moved(slot, node, ends):
                    raise
            except ReplicationError as exc:
                trouble = exc
                if self._still_has(node, slot):
                    raise
            else:
                _health(node).note_answer(queue)
                if self._still_has(node, slot):
                    return answer
                where = node.connector.where
                trouble = StoreUnavailableError(f"{where} was left meanwhile", reason="server")
            attempt += 1
            if attempt > 1:
                pause = min(_PAUSE * 2**attempt, _LONGEST_PAUSE)
                await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - to spread them
            self._check_time(ends, node, trouble)

    def _still_has(self, node: Channel, slot: int) -> bool:
        """Whether the map gives the slot to this node, or to none."""
        return self._slots[slot] in (node, None)

    def _check_time(self, ends: float, node: Channel, trouble: Exception) -> None:
        """Raise if the time is over. No write may be sent later, as `stores.deadline` says."""
        if self._loop.time() > ends:
            raise _translate(node, trouble) from trouble

    def _check_down(self, node: Channel, queue: Queue, trouble: Exception) -> None:
        """Raise if the node has said CLUSTERDOWN for a while. A failover takes less than that."""
        if isinstance(trouble, errors.ClusterDownError):
            error = _translate(node, trouble)
            if _health(node).note_down(queue, error, self._loop.time(), self._timeout * _DOWN):
                raise error from trouble

    async def _submit(self, node: Channel, queue: Queue, item: Item, size: int) -> Any:
        of_node: Any = getattr(node, queue)
        return await of_node.submit(item, size)

    def load_from_replica(self, key: str) -> Awaitable[bytes | None] | None:
        """A replica's value of a key; None if no replica may be asked now."""
        node = self._slots[key_slot(key.encode())]
        return None if node is None else node.load_from_replica(key)

    async def info(self, section: str) -> list[bytes]:
        """A section of INFO, for each primary; `StoreError`."""
        await self._find(0, self._loop.time() + self._timeout)
        nodes = {id(node): node for node in self._slots if node is not None}
        return [text for node in nodes.values() for text in await node.info(section)]

    async def tags(self, prefix: str) -> list[str]:
        """A part of a key for each primary, by which the key is on that primary."""
        await self._refreshed_within(self._timeout)
        if not any(self._slots):
            await self._find(0, self._loop.time())  # raises the error that says why
        return tags(prefix, self._slots)

    def log_trouble(self, enabled: bool) -> None:
        """Has no effect: the trouble of a single node is logged in any case."""

    async def close(self) -> None:
        """Disconnect; a later command opens again."""
        tasks = [task for task in (self._refreshing, *self._repeating) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        nodes = list(self._nodes.values())
        self._nodes.clear()
        self._slots = [None] * SLOTS
        for node in nodes:
            await node.close()

    # -- the map

    async def _find(self, slot: int, ends: float) -> Channel:
        """The slot's node, after the map was fetched; `StoreError` if no node has it."""
        if self._slots[slot] is None:
            await self._refreshed_within(ends - self._loop.time())
        node = self._slots[slot]
        if node is not None:
            return node
        where = self._connector.where
        raise self._trouble or StoreUnavailableError(
            f"{where} has no node for slot {slot}", reason="server"
        )

    async def _has_moved(self, slot: int, node: Channel, ends: float) -> bool:
        """Whether another node has the slot, by a map that is fetched first."""
        await self._refreshed_within(ends - self._loop.time())
        return self._slots[slot] not in (node, None)

    async def _refreshed_within(self, seconds: float) -> None:
        running = self._refreshing is not None and not self._refreshing.done()
        if running and self._trouble is not None:
            return  # no node answers: one request waits for the map, and the others don't
        refresh = self._refresh()
        if refresh is not None and seconds > 0:
            await asyncio.wait([refresh], timeout=seconds)

    def _refresh(self) -> asyncio.Task[None] | None:
        """The task that fetches the map, one at a time; None if the map has just been fetched."""
        running = self._refreshing
        if running is not None and not running.done():
            return running
        if self._loop.time() < self._refreshed + _REFRESH_EVERY:
            return None
        self._refreshing = task = self._loop.create_task(self._fetch(), context=Context())
        return task

    async def _fetch(self) -> None:
        trouble: StoreError | None = None
        for node in self._to_ask():
            try:
                async with asyncio.timeout(self._timeout / 4):
                    reply = await node.wire.send_one("CLUSTER", "SLOTS")
                await self._adopt(reply, node)
            except TimeoutError:
                where = node.connector.where
                trouble = StoreUnavailableError(f"{where} doesn't answer", reason="timeout")
            except StoreError as exc:
                trouble = exc
            except UNEXPECTED_REPLY:
                trouble = node.wire.unexpected_reply()
            else:
                trouble = None
                break
        self._trouble, self._refreshed = trouble, self._loop.time()

    def _to_ask(self) -> list[Channel]:
        """Some nodes, those of the URL among them; nodes without trouble come first."""
        seeds = [self._node(address) for address in self._connector.deployment.hosts]
        nodes = [*{id(n): n for n in (*self._nodes.values(), *seeds)}.values()]
        random.shuffle(nodes)
        return sorted(nodes, key=lambda node: node.health.trouble is not None)[:_MOST_ASKED]

    async def _adopt(self, reply: Any, asked: Channel) -> None:
        """Take over a slot map.

        The reply to CLUSTER SLOTS is `[first, last, primary, replica ...]` for each range of slots.
        """
        slots: list[Channel | None] = [None] * SLOTS
        for first, last, primary, *replicas in reply:
            if not 0 <= first <= last < SLOTS:
                raise ValueError(reply)
            node = self._node(_address(primary[0], primary[1], asked))
            if node.replicas is not None:
                node.replicas.addresses = [_address(r[0], r[1], asked) for r in replicas]
            slots[first : last + 1] = [node] * (last - first + 1)
        if not any(slots):
            raise StoreUnavailableError(
                f"{asked.connector.where} knows of no slots that are served", reason="server"
            )
        before, self._slots = set(self._slots), slots
        kept = set(slots)
        for known in before | kept:
            if known is not None:
                _health(known).note_map(known in kept)
        for known in self._nodes.values():
            self._pass_on_repeats(known)
        seeds = self._connector.deployment.hosts
        for address, node in list(self._nodes.items()):
            if node not in kept and address not in seeds:
                del self._nodes[address]
                self._clock.forget(node.connector.where)
                await node.close()

    def _pass_on_repeats(self, node: Channel) -> None:
        """Give the repeats of slots that a node has lost to the nodes that have them now.

        Such a node may have taken over without the last writes.
        """
        owners = set[Channel]()
        for repeat in node.repeats.pop(lambda key: self._slot_owner(key) not in (node, None)):
            owner = self._slot_owner(repeat.write.key)
            assert owner is not None
            owner.repeats.add(repeat)
            owners.add(owner)
        for owner in owners:  # at once, since it may be sent nothing else for long
            repeating = self._loop.create_task(owner.repeat())
            self._repeating.add(repeating)
            repeating.add_done_callback(self._repeating.discard)

    def _slot_owner(self, key: str) -> Channel | None:
        return self._slots[key_slot(key.encode())]

    def _named_by(self, redirection: errors.AskError, by: Channel) -> Channel:
        named: Any = redirection
        return self._node(_address(named.host, named.port, by))

    def _node(self, address: Address) -> Channel:
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes[address] = Channel(
                self._connector.to(address),
                self._timeout,
                self._scripts,
                self._clock,
                self._durability,
                CLUSTER_NODE,
            )
        return node


def _health(node: Channel) -> NodeHealth:
    return cast("NodeHealth", node.health)


def _address(host: str | bytes | None, port: int, asked: Channel) -> Address:
    """The address of a node. A node that doesn't know its host is the one that was asked."""
    name = host.decode() if isinstance(host, bytes) else host
    if not name or name == "?":
        name = asked.connector.address[0]
    remap = asked.connector.deployment.remap
    return remap((name, int(port))) if remap else (name, int(port))


def _translate(node: Channel, trouble: Exception) -> StoreError:
    if isinstance(trouble, StoreError):
        return trouble
    if isinstance(trouble, errors.AskError):
        where = node.connector.where
        return StoreUnavailableError(f"{where} sends its clients on, in circles", reason="server")
    return node.wire.translate(trouble)
