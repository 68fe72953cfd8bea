"""A Cluster: which node has a key, a channel to each node, and what to do when they disagree.

The slot map is our own. An item goes to its slot's node in that node's next batch, and is sent
again, alone, where a node names another one: within one deadline, and to nobody else's cost.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Sequence
from contextvars import Context
from typing import Any, Final, Generic, Literal, TypeVar, cast

from redis import exceptions as errors
from redis.crc import key_slot

from redis_sessions.connect.connector import Connector
from redis_sessions.connect.urls import Address
from redis_sessions.errors import ReplicationError, StoreError, StoreUnavailableError
from redis_sessions.stores.channel import Channel
from redis_sessions.stores.clock import ServerClock
from redis_sessions.stores.coalescing import AWAY
from redis_sessions.stores.commands import NONSENSE, Item, Question, Script, Write
from redis_sessions.stores.durability import Durability
from redis_sessions.stores.nodes import SLOTS, NodeHealth, tags
from redis_sessions.stores.protocols import Commit

__all__ = ["Cluster"]

T = TypeVar("T")
Sent = TypeVar("Sent", bound=Item)

_REFRESH_EVERY: Final = 0.1  # seconds
_ASKED: Final = 8  # nodes, for one map
_PAUSE: Final = 0.01  # seconds at most before it is tried again, and each time twice that
_LONGEST_PAUSE: Final = 0.3

_LATER: Final = (errors.TryAgainError, errors.ClusterDownError, errors.ReadOnlyError)
_DOWN: Final = 0.25  # of the timeout: then requests no longer wait for a Cluster that is down

Queue = Literal["loads", "writes", "questions", "sure_writes", "sure_questions"]


class _Lane(Generic[Sent, T]):
    """One kind of item, to whichever node has it: what a channel's queue is to one server."""

    def __init__(self, cluster: Cluster, queue: Queue) -> None:
        self._cluster = cluster
        self._queue: Queue = queue

    def ask(self, item: Sent, size: int) -> Awaitable[T]:
        return self._cluster.run(self._queue, item, size)

    submit = ask


class Cluster:
    """The nodes of one Cluster, as one event loop sees them. It has what a `Channel` has."""

    def __init__(
        self,
        connector: Connector,
        timeout: float,
        scripts: Sequence[Script],
        clock: ServerClock,
        waits: Durability | None = None,
    ) -> None:
        self._connector = connector
        self._timeout = timeout
        self._scripts = scripts
        self._clock = clock
        self._waits = waits
        self._loop = asyncio.get_running_loop()
        self._nodes: dict[Address, Channel] = {}
        self._slots: list[Channel | None] = [None] * SLOTS
        self._refreshing: asyncio.Task[None] | None = None
        self._refreshed = float("-inf")
        self._trouble: StoreError | None = None  # why there is no map
        self._telling: set[asyncio.Task[None]] = set()
        self.loads = _Lane[str, "bytes | None"](self, "loads")
        self.writes = _Lane[Write, Commit](self, "writes")
        self.questions = _Lane[Question, Any](self, "questions")
        self.sure_writes = _Lane[Write, Commit](self, "sure_writes")
        self.sure_questions = _Lane[Question, Any](self, "sure_questions")

    async def run(self, queue: Queue, item: Item, size: int) -> Any:
        """One item's answer, from the node that has its key; `StoreError`."""
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
                _health(named).belongs(True)
                self._refresh()
            except (*_LATER, errors.AskError) as exc:
                trouble = exc
                if isinstance(exc, errors.AskError):  # still the map's node, but not for this key
                    target = self._named_by(exc, node)
                    try:
                        self._check(ends, node, trouble)
                        assert target.asks is not None
                        return await target.asks.submit(item, size)
                    except (*_LATER, errors.AskError) as told:
                        trouble = told
                else:
                    self._refresh()
                    self._check_down(node, queue, exc)
            except StoreUnavailableError as exc:
                trouble = exc
                # All that is sent may be repeated, but it is of use elsewhere only.
                if exc.reason not in AWAY or not await self._moved(slot, node, ends):
                    raise
            except ReplicationError as exc:
                trouble = exc
                if self._has(node, slot):
                    raise
            else:
                _health(node).serves(queue)
                if self._has(node, slot):
                    return answer
                where = node.connector.where
                trouble = StoreUnavailableError(f"{where} was left meanwhile", reason="server")
            attempt += 1
            if attempt > 1:
                pause = min(_PAUSE * 2**attempt, _LONGEST_PAUSE)
                await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - to spread them
            self._check(ends, node, trouble)

    def _has(self, node: Channel, slot: int) -> bool:
        """Whether it counts what the node answered: it may have lost the slot in between."""
        return self._slots[slot] in (node, None)

    def _check(self, ends: float, node: Channel, trouble: Exception) -> None:
        """Nothing is sent on after the deadline: a late write must find the tombstone."""
        if self._loop.time() > ends:
            raise _translated(node, trouble) from trouble

    def _check_down(self, node: Channel, queue: Queue, trouble: Exception) -> None:
        """A failover may pass quickly; a Cluster that stays down isn't waited for."""
        if isinstance(trouble, errors.ClusterDownError):
            told = _translated(node, trouble)
            if _health(node).is_down(queue, told, self._loop.time(), self._timeout * _DOWN):
                raise told from trouble

    async def _submit(self, node: Channel, queue: Queue, item: Item, size: int) -> Any:
        lane: Any = getattr(node, queue)
        return await lane.submit(item, size)

    def nearby(self, key: str) -> Awaitable[bytes | None] | None:
        """A replica's copy, or nothing; None if no replica may be asked now."""
        node = self._slots[key_slot(key.encode())]
        return None if node is None else node.nearby(key)

    async def info(self, section: str) -> list[bytes]:
        """What each primary says of itself; `StoreError`."""
        await self._find(0, self._loop.time() + self._timeout)
        nodes = {id(node): node for node in self._slots if node is not None}
        return [text for node in nodes.values() for text in await node.info(section)]

    async def tags(self, prefix: str) -> list[str]:
        """A part of a key for each primary, which makes it one of this primary's."""
        await self._refreshed_within(self._timeout)
        if not any(self._slots):
            await self._find(0, self._loop.time())  # it says why
        return tags(prefix, self._slots)

    async def close(self) -> None:
        """Disconnect; a later command opens again."""
        tasks = [task for task in (self._refreshing, *self._telling) if task is not None]
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
        """The slot's node by a map that is fetched first."""
        if self._slots[slot] is None:
            await self._refreshed_within(ends - self._loop.time())
        node = self._slots[slot]
        if node is not None:
            return node
        where = self._connector.where
        raise self._trouble or StoreUnavailableError(
            f"{where} has no node for slot {slot}", reason="server"
        )

    async def _moved(self, slot: int, node: Channel, ends: float) -> bool:
        """Whether another node than the one that is away has the slot by now."""
        await self._refreshed_within(ends - self._loop.time())
        return self._slots[slot] not in (node, None)

    async def _refreshed_within(self, seconds: float) -> None:
        running = self._refreshing is not None and not self._refreshing.done()
        if running and self._trouble is not None:
            return  # while no node answers one request waits for them, and the others don't
        refresh = self._refresh()
        if refresh is not None and seconds > 0:
            await asyncio.wait([refresh], timeout=seconds)

    def _refresh(self) -> asyncio.Task[None] | None:
        """Fetch the map again, unless that has just been done: one at a time, for all."""
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
            except NONSENSE:
                trouble = node.wire.nonsense()
            else:
                trouble = None
                break
        self._trouble, self._refreshed = trouble, self._loop.time()

    def _to_ask(self) -> list[Channel]:
        """Those that seem well first, the URL's among them."""
        seeds = [self._node(address) for address in self._connector.deployment.hosts]
        nodes = [*{id(n): n for n in (*self._nodes.values(), *seeds)}.values()]
        random.shuffle(nodes)
        return sorted(nodes, key=lambda node: node.health.trouble is not None)[:_ASKED]

    async def _adopt(self, reply: Any, asked: Channel) -> None:
        """CLUSTER SLOTS: [first, last, primary, replica ...] for each range of slots."""
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
                _health(known).belongs(known in kept)
        for known in self._nodes.values():
            self._repeat(known)
        seeds = self._connector.deployment.hosts
        for address, node in list(self._nodes.items()):
            if node not in kept and address not in seeds:
                del self._nodes[address]
                self._clock.forget(node.connector.where)
                await node.close()

    def _repeat(self, node: Channel) -> None:
        """Who has another's slots now hears what was answered there: it may have lost that."""
        owners = set[Channel]()
        for repeat in node.repeats.take(lambda key: self._slot_owner(key) not in (node, None)):
            owner = self._slot_owner(repeat.write.key)
            assert owner is not None
            owner.repeats.add(repeat)
            owners.add(owner)
        for owner in owners:  # which may be sent nothing else for long
            telling = self._loop.create_task(owner.tell())
            self._telling.add(telling)
            telling.add_done_callback(self._telling.discard)

    def _slot_owner(self, key: str) -> Channel | None:
        return self._slots[key_slot(key.encode())]

    def _named_by(self, told: errors.AskError, by: Channel) -> Channel:
        named: Any = told
        return self._node(_address(named.host, named.port, by))

    def _node(self, address: Address) -> Channel:
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes[address] = Channel(
                self._connector.to(address),
                self._timeout,
                self._scripts,
                self._clock,
                self._waits,
                sharded=True,
            )
        return node


def _health(node: Channel) -> NodeHealth:
    return cast("NodeHealth", node.health)


def _address(host: str | bytes | None, port: int, asked: Channel) -> Address:
    """A node's; a host that it doesn't know is the one that was asked."""
    name = host.decode() if isinstance(host, bytes) else host
    if not name or name == "?":
        name = asked.connector.address[0]
    remap = asked.connector.deployment.remap
    return remap((name, int(port))) if remap else (name, int(port))


def _translated(node: Channel, trouble: Exception) -> StoreError:
    if isinstance(trouble, StoreError):
        return trouble
    if isinstance(trouble, errors.AskError):
        where = node.connector.where
        return StoreUnavailableError(f"{where} sends its clients on, in circles", reason="server")
    return node.wire.translated(trouble)
