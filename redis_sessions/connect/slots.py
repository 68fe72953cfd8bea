"""The slot map of a Cluster: which node has which slot, as one event loop knows it.

A key belongs to one of 16,384 slots, and each slot to one node. The map is fetched from any node
(`CLUSTER SLOTS`), and fetched again when a node contradicts it.
"""

from __future__ import annotations

import asyncio
import random
from asyncio import FIRST_COMPLETED
from collections.abc import Callable, Container, Sequence
from contextvars import Context
from typing import Any, Final, Generic, Protocol, TypeVar

from redis import exceptions as errors
from redis.crc import key_slot

from redis_sessions.connect.connector import Connector
from redis_sessions.connect.deployment import Address
from redis_sessions.connect.nodes import PATIENCE, SLOTS, NodeHealth
from redis_sessions.connect.resp import UNEXPECTED_REPLY
from redis_sessions.errors import SessionError, StoreError, StoreUnavailableError, afresh

__all__ = ["MappedNode", "SlotMap"]

_REFRESH_EVERY: Final = 0.1
"""Seconds between two fetches of the map."""
_MOST_ASKED: Final = 8
"""Nodes that are asked for one map, if those before don't answer, or don't know all slots."""


class MappedNode(Protocol):
    """What the map needs of a node."""

    @property
    def connector(self) -> Connector: ...
    @property
    def node_health(self) -> NodeHealth: ...

    async def ask(self, *command: Any) -> Any:
        """The reply to one command; raises `StoreError`."""
        ...

    def unexpected_reply(self) -> StoreError:
        """The error for a reply that no Redis gives."""
        ...

    def note_replicas(self, addresses: Sequence[Address]) -> None:
        """Note which replicas the map names for this node."""
        ...

    def leave(self) -> None:
        """Let all that is under way fail at once."""
        ...

    async def close(self) -> None:
        """Disconnect."""
        ...


Node = TypeVar("Node", bound=MappedNode)


class SlotMap(Generic[Node]):
    """The nodes of a Cluster and their slots.

    `new_node` makes a node for an address. `on_new_map` is called after each fetch, `on_removed`
    with each node that has left the Cluster, and `on_moved` with all nodes and the slots that have
    another node than before.
    """

    def __init__(
        self,
        connector: Connector,
        timeout: float,
        new_node: Callable[[Address], Node],
        on_new_map: Callable[[Sequence[Node]], None],
        on_removed: Callable[[Node], None],
        on_moved: Callable[[Sequence[Node], Container[int]], None],
    ) -> None:
        self._connector = connector
        self._timeout = timeout
        self._new_node = new_node
        self._on_new_map = on_new_map
        self._on_removed = on_removed
        self._on_moved = on_moved
        self._loop = asyncio.get_running_loop()
        self._nodes: dict[Address, Node] = {}
        self.owners: list[Node | None] = [None] * SLOTS
        """The node of each slot; None where it isn't known."""
        self._closing: set[asyncio.Task[None]] = set()  # nodes that have left
        self._fetching: asyncio.Task[None] | None = None
        self._fetched = float("-inf")
        self._incomplete = float("inf")
        """Since when all maps have lacked slots."""
        self._trouble: StoreError | None = None
        """Why the last fetch has failed; None if it was long ago, or a node has answered since."""

    def owner_of(self, key: str) -> Node | None:
        """The node that has a key; None if it isn't known."""
        return self.owners[key_slot(key.encode())]

    def has_slot(self, node: Node, slot: int) -> bool:
        """Whether the map gives a slot to this node, or to none."""
        return self.owners[slot] in (node, None)

    async def find(self, slot: int, ends: float) -> Node:
        """A slot's node. If it isn't known, the map is fetched; `StoreError` if that fails.

        A map may lack slots for a moment: a node that hears of a failover from the old primary
        first doesn't know who has its slots now. So such a map is fetched again for a while.
        """
        while (node := self.owners[slot]) is None:
            await self.refreshed_within(ends - self._loop.time())
            if self.owners[slot] is None:
                until = min(ends, self._incomplete + self._timeout * PATIENCE)
                if self._trouble is not None or self._loop.time() > until:
                    raise self._unknown(slot)
                await asyncio.sleep(_REFRESH_EVERY)
        return node

    def _unknown(self, slot: int) -> SessionError:
        if self._trouble is not None:
            return afresh(self._trouble)
        where = self._connector.where
        if not any(self.owners):
            return StoreUnavailableError(f"{where} doesn't answer", reason="timeout")
        return StoreUnavailableError(f"{where} has no node for slot {slot}", reason="server")

    async def has_moved(self, slot: int, node: Node, ends: float) -> bool:
        """Whether another node has the slot, by a map that is fetched first."""
        await self.refreshed_within(ends - self._loop.time())
        return not self.has_slot(node, slot)

    async def refreshed_within(self, seconds: float) -> None:
        """Fetch the map, and wait for it so long at most."""
        running = self._fetching is not None and not self._fetching.done()
        if running and self._trouble is not None:
            return  # no node answered just now: one request waits for the map, and the others don't
        fetching = self.refresh()
        if fetching is not None and seconds > 0:
            await asyncio.wait([fetching], timeout=seconds)

    async def renew(self) -> None:
        """Fetch the map as it is from now on, also if it has just been fetched; `StoreError`."""
        running = self._fetching
        if running is not None:
            await asyncio.wait([running])  # it may have begun before
        self._fetched = float("-inf")
        if (fetching := self.refresh()) is not None:
            await asyncio.wait([fetching])
        if self._trouble is not None:
            raise afresh(self._trouble)

    def refresh(self) -> asyncio.Task[None] | None:
        """The task that fetches the map, one at a time; None if it has just been fetched.

        What failed more than a time-out ago tells nothing of now, so all wait for this task then.
        """
        running = self._fetching
        if running is not None and not running.done():
            return running
        now = self._loop.time()
        if now < self._fetched + _REFRESH_EVERY:
            return None
        if now > self._fetched + self._timeout:
            self._trouble = None
        self._fetching = task = self._loop.create_task(self._fetch(), context=Context())
        return task

    def named_by(self, redirection: errors.AskError, by: Node) -> Node:
        """The node to which another one sends its client on, by ASK or MOVED."""
        named: Any = redirection
        return self._node(_address(named.host, named.port, by))

    def correct(self, slot: int, redirection: errors.MovedError, by: Node) -> None:
        """Give a slot to the node that MOVED names, and fetch the map for the others."""
        self.owners[slot] = named = self.named_by(redirection, by)
        named.node_health.note_map(known=True)
        self._on_moved(list(self._nodes.values()), (slot,))
        self.refresh()

    async def stop(self) -> None:
        """Stop fetching the map, if it is being fetched."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])

    async def close(self) -> None:
        """Disconnect all nodes, and forget the map. A later command begins again."""
        await self.stop()
        nodes = list(self._nodes.values())
        self._nodes.clear()
        self.owners = [None] * SLOTS
        for node in nodes:
            await node.close()
        if self._closing:
            await asyncio.wait(list(self._closing))

    async def _fetch(self) -> None:
        """Ask for the map, and each quarter of the time-out another node, until one knows all."""
        trouble: StoreError | None = None
        adopted = complete = False
        to_ask, asked = self._to_ask(), dict[asyncio.Task[Any], Node]()
        ends = self._loop.time() + self._timeout
        patience = self._timeout / 4
        try:
            while not complete and (to_ask or asked):
                if to_ask:
                    node = to_ask.pop(0)
                    asked[self._loop.create_task(node.ask("CLUSTER", "SLOTS"))] = node
                # What is known may do, so those that hang aren't waited for any longer.
                left = 0 if to_ask or adopted else ends - self._loop.time()
                seconds = max(patience, left)
                done, _ = await asyncio.wait(asked, timeout=seconds, return_when=FIRST_COMPLETED)
                if not done and not to_ask:
                    where = next(iter(asked.values())).connector.where
                    trouble = StoreUnavailableError(f"{where} doesn't answer", reason="timeout")
                    break
                for task in done:
                    node = asked.pop(task)
                    try:
                        self._adopt(task.result(), node)
                    except StoreError as exc:
                        trouble = exc
                    except UNEXPECTED_REPLY:
                        trouble = node.unexpected_reply()
                    else:
                        adopted, self._trouble = True, None
                        if complete := None not in self.owners:
                            break
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        self._fetched = self._loop.time()
        if adopted:
            self._incomplete = float("inf") if complete else min(self._incomplete, self._fetched)
        else:
            self._trouble = trouble

    def _to_ask(self) -> list[Node]:
        """Some nodes, those of the URL among them; nodes without trouble come first."""
        seeds = [self._node(address) for address in self._connector.deployment.hosts]
        nodes = [*{id(n): n for n in (*self._nodes.values(), *seeds)}.values()]
        random.shuffle(nodes)
        return sorted(nodes, key=lambda node: node.node_health.trouble is not None)[:_MOST_ASKED]

    def _adopt(self, reply: Any, asked: Node) -> None:
        """Take over a map.

        The reply to CLUSTER SLOTS is `[first, last, primary, replica ...]` for each range of slots.
        """
        owners: list[Node | None] = [None] * SLOTS
        for first, last, primary, *replicas in reply:
            if not 0 <= first <= last < SLOTS:
                raise ValueError(reply)
            node = self._node(_address(primary[0], primary[1], asked))
            node.note_replicas([_address(r[0], r[1], asked) for r in replicas])
            owners[first : last + 1] = [node] * (last - first + 1)
        if not any(owners):
            raise StoreUnavailableError(
                f"{asked.connector.where} knows of no slots that are served", reason="server"
            )
        pairs = zip(self.owners, owners, strict=True) if self.owners != owners else ()
        moved = {slot for slot, (a, b) in enumerate(pairs) if a not in (None, b)}
        before, self.owners = set(self.owners), owners
        if moved:
            self._on_moved(list(self._nodes.values()), moved)
        kept = set(owners)
        for known in before | kept:
            if known is not None:
                known.node_health.note_map(known in kept)
        self._on_new_map(list(self._nodes.values()))
        seeds = self._connector.deployment.hosts
        for address, node in list(self._nodes.items()):
            if node not in kept and address not in seeds:
                del self._nodes[address]
                self._on_removed(node)
                node.node_health.note_map(known=False)
                node.leave()
                closing = self._loop.create_task(node.close(), context=Context())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)

    def _node(self, address: Address) -> Node:
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes[address] = self._new_node(address)
        return node


def _address(host: str | bytes | None, port: int, asked: MappedNode) -> Address:
    """The address of a node. A node that doesn't know its host is the one that was asked."""
    name = host.decode() if isinstance(host, bytes) else host
    if not name or name == "?":
        name = asked.connector.address[0]
    remap = asked.connector.deployment.remap
    return remap((name, int(port))) if remap else (name, int(port))
