"""What is published in channels (Pub/Sub): over Redis, or within this process.

Each message arrives at most once: Redis keeps none of them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from functools import partial
from threading import Lock
from typing import Any, Final, Protocol, runtime_checkable
from weakref import WeakMethod

from redis import exceptions as errors
from redis.crc import key_slot

from redis_sessions.connect.connector import Connector
from redis_sessions.connect.deployment import Kind
from redis_sessions.connect.failures import translate
from redis_sessions.connect.loops import call_later
from redis_sessions.connect.subscriber import Subscriber
from redis_sessions.errors import StoreError
from redis_sessions.events import logger
from redis_sessions.stores.commands import IndexCommand
from redis_sessions.stores.listeners import Listened, Patience, Told, Waiting
from redis_sessions.stores.servers import Servers
from redis_sessions.stores.watching import BOUND

__all__ = ["UNKNOWN", "MemoryPubSub", "PubSub", "Publishing", "RedisPubSub", "Told"]

UNKNOWN: Final = "unknown command"
"""What a Cluster before Redis 7 answers to SPUBLISH and SSUBSCRIBE."""
_PLAIN_FOR: Final = 1.0
"""For so many seconds after this answer PUBLISH is sent at once."""
_LONGEST_PAUSE: Final = 0.5
"""The most seconds between two attempts to find the servers of channels."""
_IDLE: Final = 60.0
"""After so many seconds without a listener, the connections are closed."""
_LOOK_EVERY: Final = 1.0
"""Seconds between two looks at a Cluster's map."""
_SILENCE: Final = 60.0
"""Seconds between two warnings."""
_REDIRECTED: Final = (errors.AskError, errors.ClusterDownError, errors.TryAgainError)


class PubSub(Protocol):
    """The channels of a store, as one event loop sees them."""

    def publish(self, channel: str, data: bytes) -> Awaitable[None]:
        """Send this to all who listen now; `StoreError`. It may arrive twice."""
        ...

    async def subscribe(self, channels: Sequence[str], told: Told) -> Callable[[], None]:
        """Have `told` called, by the event loop, with what is published from now on.

        All in this loop who listen to a channel are told of a message before the next one. It
        returns once the server has confirmed it. What it returns is to be called to stop.
        `StoreError` if the server can't be reached, or refuses. If messages may have been lost
        later, `told` is called with None, as soon as new ones arrive again.
        """
        ...


@runtime_checkable
class Publishing(Protocol):
    """What a store adds that has channels."""

    def channels(self) -> PubSub:
        """The channels, for the running event loop."""
        ...


class RedisPubSub:
    """The channels of one store, for one event loop. A channel is subscribed to once for all.

    Each server that has channels to tell of has one connection (`Subscriber`). There are four
    reasons to look for a channel's server:

    1. Somebody listens to it, and nobody did before.
    2. The connection was lost.
    3. The server has ended the subscription, or has refused it, since another one has the slot; or
       the Cluster's map says so.
    4. An attempt has failed. There are pauses between attempts, of half a second at most.

    In a Cluster, and behind Sentinels, another server may take the place of one. Publishers may
    notice this some seconds later than listeners. So after a loss listeners are told of it twice.
    A node of a Cluster that is a replica by now takes subscriptions, too: see `_look`.
    """

    def __init__(self, servers: Servers, timeout: float, kind: Kind) -> None:
        self._servers = servers
        self._timeout = timeout
        self._cluster = kind == "cluster"
        self._several = kind in ("cluster", "sentinel")
        self._loop = asyncio.get_running_loop()
        self._channels: dict[str, Listened] = {}
        self._patience = Patience(timeout)
        self._unplaced: dict[str, None] = {}
        self._leaving: set[str] = set()  # at the end of this tick, unless somebody comes
        self._nodes: dict[str, Subscriber] = {}
        self._placing: asyncio.Task[None] | None = None
        self._opening: dict[str, tuple[asyncio.Task[None], list[str]]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._failures = 0
        self._stale = False  # whether the Cluster's map is
        self._plain_until = float("-inf")
        self._logs_from = float("-inf")
        self._resting: asyncio.TimerHandle | None = None
        self._next_look: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        me = WeakMethod(self._note_moved)  # the servers mustn't hold what has them

        def on_moved(slots: Container[int]) -> None:
            if (note := me()) is not None:
                note(slots)

        servers.on_moved = on_moved

    # -- publishing

    async def publish(self, channel: str, data: bytes) -> None:
        sharded = self._cluster and self._loop.time() >= self._plain_until
        try:
            await self._publish("SPUBLISH" if sharded else "PUBLISH", channel, data)
        except StoreError as exc:
            if not sharded or UNKNOWN not in str(exc):
                raise
            self._plain_until = self._loop.time() + _PLAIN_FOR
            await self._publish("PUBLISH", channel, data)

    def _publish(self, verb: str, channel: str, data: bytes) -> Awaitable[Any]:
        command = IndexCommand(channel, (verb, channel, data))
        return self._servers.index_commands.submit(command, len(data) + 64)

    # -- listening

    async def subscribe(self, channels: Sequence[str], told: Told) -> Callable[[], None]:
        token, waiting = object(), Waiting()
        for name in channels:
            channel = self._channels.get(name)
            if channel is None:
                channel = self._channels[name] = Listened()
                self._place_soon([name])
            channel.add(token, told, waiting)
        stop = partial(self._stop, channels, token)
        if waiting.missing:
            try:
                await self._patience.wait(waiting)
            except BaseException:
                stop()
                raise
        return stop

    def _stop(self, channels: Iterable[str], token: object) -> None:
        for name in channels:
            channel = self._channels.get(name)
            if channel is not None:
                channel.remove(token)
            if channel is not None and not channel.told:
                if not self._leaving:
                    self._loop.call_soon(self._leave, context=Context())
                self._leaving.add(name)

    def _leave(self) -> None:
        ends = dict[Subscriber, list[str]]()
        for name in self._leaving:
            if (channel := self._channels.get(name)) is not None and not channel.told:
                del self._channels[name]
                self._unplaced.pop(name, None)
                if channel.at is not None:
                    ends.setdefault(channel.at, []).append(name)
        self._leaving.clear()
        for subscriber, names in ends.items():
            subscriber.unsubscribe(names)
        if not self._channels and self._resting is None:
            self._resting = call_later(_IDLE, self, RedisPubSub._close_unused)

    def _close_unused(self) -> None:
        self._resting = None
        while self._nodes and not self._channels:
            self._close(self._nodes.popitem()[1])

    async def close(self) -> None:
        """Close all connections. Nobody is told anything any more."""
        self._channels.clear()
        self._unplaced.clear()
        for timer in (self._resting, self._next_look):
            if timer is not None:
                timer.cancel()
        for each in (self._placing, self._looking):
            if each is not None:
                each.cancel()
                await asyncio.wait([each])
        for task, _ in list(self._opening.values()):
            task.cancel()
            await asyncio.wait([task])
        self._close_unused()
        if self._closing:
            await asyncio.wait(self._closing)

    def _close(self, subscriber: Subscriber) -> None:
        closing = self._loop.create_task(subscriber.close(), context=Context())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    # -- which server has which channel

    def _place_soon(self, names: Iterable[str]) -> None:
        self._unplaced.update(dict.fromkeys(names))
        if self._placing is None or self._placing.done():
            self._placing = self._loop.create_task(self._place(), context=Context())
        if self._cluster and self._next_look is None:
            self._next_look = call_later(_LOOK_EVERY, self, RedisPubSub._look)

    def _look(self) -> None:
        """Fetch the map, again and again while somebody listens. `_note_moved` is told."""
        self._looking = self._loop.create_task(self._renew_map(), context=Context())

    async def _renew_map(self) -> None:
        with suppress(StoreError):  # those whose requests need it are told
            await self._servers.primary_of("", fresh=True)
        again = bool(self._channels)
        self._next_look = call_later(_LOOK_EVERY, self, RedisPubSub._look) if again else None

    async def _place(self) -> None:
        while self._unplaced:
            if self._failures:
                pause = min(0.02 * 2 ** min(self._failures, 9), _LONGEST_PAUSE)
                await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - to spread them
            names = list(self._unplaced)
            self._unplaced.clear()
            groups, trouble = dict[str, tuple[Connector, list[str]]](), None
            lost, ends = list[str](), self._loop.time() + self._timeout
            for name in names:
                if trouble is None or self._loop.time() < ends:
                    try:
                        connector = await self._servers.primary_of(name, fresh=self._stale)
                    except StoreError as exc:
                        trouble = exc
                    else:
                        self._stale = False
                        groups.setdefault(connector.where, (connector, []))[1].append(name)
                        continue
                lost.append(name)
            if trouble is not None:
                self._fail(lost, trouble)
            for where, (connector, here) in groups.items():
                if where in self._opening:
                    self._opening[where][1].extend(here)
                elif where in self._nodes:
                    self._place_at(self._nodes[where], here)
                else:  # a task of its own: one that hangs doesn't hold the others up
                    opening = self._loop.create_task(self._open(connector, here), context=Context())
                    self._opening[where] = opening, here

    async def _open(self, connector: Connector, names: Sequence[str]) -> None:  # they may grow
        subscriber = Subscriber(connector, BOUND, self)
        try:
            await subscriber.open()
        except Exception as exc:  # noqa: BLE001 - those who wait get it, whatever it is
            self._stale = True
            self._fail(names, exc)
        else:
            self._nodes[connector.where] = subscriber
            self._place_at(subscriber, names)
        finally:
            self._opening.pop(connector.where, None)

    def _place_at(self, subscriber: Subscriber, names: Sequence[str]) -> None:
        known = [name for name in names if name in self._channels]  # others left meanwhile
        for name in known:
            self._channels[name].at = subscriber
        if subscriber.lost:
            self._unplace(known)
        else:
            subscriber.subscribe(known)

    def _fail(self, names: Sequence[str], error: Exception) -> None:
        """Tell those who wait for these channels, and try again for those who go on."""
        if self._loop.time() >= self._logs_from:
            self._logs_from = self._loop.time() + _SILENCE
            logger.warning("sessions: messages don't arrive: %s", error)
        for name in names:
            channel = self._channels.get(name)
            if channel is not None and not channel.confirmed:
                channel.fail(error)
        self._unplace(names)

    def _unplace(self, names: Iterable[str]) -> None:
        """Note that these channels have no server any more, and look for one."""
        self._failures += 1
        for name in list(names):
            if (channel := self._channels.get(name)) is not None:
                if channel.confirmed:
                    channel.confirmed, channel.missed = False, True
                channel.at = None
                self._place_soon([name])

    def _note_moved(self, slots: Container[int]) -> None:
        """Leave the nodes that had these slots: one that is cut off tells nothing of it."""
        ends = dict[Subscriber, list[str]]()
        for name, channel in self._channels.items():
            here = channel.at
            if here is not None and here.sharded and key_slot(name.encode()) in slots:
                ends.setdefault(here, []).append(name)
        for subscriber, names in ends.items():
            subscriber.unsubscribe(names)
            self._unplace(names)

    # -- what a subscriber tells

    def on_message(self, channel: str, data: bytes) -> None:
        self._tell(channel, data)

    def on_subscribed(self, by: Subscriber, channel: str) -> None:
        known = self._channels.get(channel)
        if known is None or known.at is not by or known.confirmed:
            return
        self._failures, self._patience.heard = 0, True
        known.confirm()
        if known.missed:
            known.missed = False
            self._tell(channel, None)
            if self._several:
                seconds = self._timeout + 1.0  # publishers ask the Sentinels once a second
                call_later(seconds, self, lambda here: here._tell(channel, None))

    def on_refused(self, by: Subscriber, channels: Sequence[str], error: Exception) -> None:
        here = [name for name in channels if name in self._channels]
        if by.sharded and UNKNOWN in str(error):
            by.sharded = False
            by.subscribe(here)
        elif isinstance(error, _REDIRECTED):
            self._stale = True
            self._unplace(here)
        else:
            self._fail(here, translate(by.where, error))

    def on_dropped(self, by: Subscriber, channel: str) -> None:
        known = self._channels.get(channel)
        if known is not None and known.at is by:
            self._stale = True
            self._unplace([channel])

    def on_lost(self, by: Subscriber, error: StoreError) -> None:
        if self._nodes.get(by.where) is by:
            del self._nodes[by.where]
        self._stale = True
        self._close(by)
        self._unplace([name for name, channel in self._channels.items() if channel.at is by])

    def _tell(self, name: str, data: bytes | None) -> None:
        if (channel := self._channels.get(name)) is not None:
            for token, told in list(channel.told.items()):
                if token in channel.told:  # one that is told may stop others
                    told(name, data)


class MemoryPubSub:
    """The channels of a store in memory, shared by the threads and event loops of one process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._told: dict[str, dict[object, tuple[asyncio.AbstractEventLoop, Told]]] = {}

    async def publish(self, channel: str, data: bytes) -> None:
        loops = dict[asyncio.AbstractEventLoop, dict[object, Told]]()
        with self._lock:
            for token, (loop, told) in self._told.get(channel, {}).items():
                loops.setdefault(loop, {})[token] = told
        for loop, here in loops.items():
            try:
                loop.call_soon_threadsafe(self._tell, channel, here, data)
            except RuntimeError:  # the event loop is closed
                for token in here:
                    self._stop([channel], token)

    def _tell(self, channel: str, here: Mapping[object, Told], data: bytes) -> None:
        for token, told in here.items():
            if token in self._told.get(channel, {}):
                told(channel, data)

    async def subscribe(self, channels: Sequence[str], told: Told) -> Callable[[], None]:
        token, loop = object(), asyncio.get_running_loop()
        with self._lock:
            for channel in channels:
                self._told.setdefault(channel, {})[token] = loop, told
        return partial(self._stop, channels, token)

    def _stop(self, channels: Iterable[str], token: object) -> None:
        with self._lock:
            for channel in channels:
                here = self._told.get(channel, {})
                here.pop(token, None)
                if not here:
                    self._told.pop(channel, None)
