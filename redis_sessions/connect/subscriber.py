"""One connection over which a server sends what is published in channels (Pub/Sub, RESP2).

redis-py opens the connection. Then a `Subscriber` owns its socket, as a `Link` does. It is no
`Link`, which counts replies: SUBSCRIBE has one for each channel, and in RESP3 none at all.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import suppress
from contextvars import Context
from typing import Any, Final, Protocol

import hiredis
from redis import exceptions as errors
from redis.asyncio import ConnectionPool
from redis.crc import key_slot

from redis_sessions.connect.connector import Connector
from redis_sessions.connect.dialer import MOVED
from redis_sessions.connect.failures import as_redis_error, error_reply, late, translate
from redis_sessions.connect.loops import call_later
from redis_sessions.connect.resp import UNEXPECTED_REPLY, Command, pack
from redis_sessions.connect.versions import take_over
from redis_sessions.errors import SessionError, StoreError

__all__ = ["Hearer", "Subscriber"]

_MORE: Final = object()
_PING: Final = "ping"
_BEGINS: Final = ("subscribe", "ssubscribe")
_KINDS: Final = {
    *(b"message", b"smessage", b"subscribe", b"ssubscribe", b"unsubscribe", b"sunsubscribe")
}


class Hearer(Protocol):
    """What a subscriber tells. None of it may raise."""

    def on_message(self, channel: str, data: bytes) -> None:
        """Something was published."""
        ...

    def on_subscribed(self, by: Subscriber, channel: str) -> None:
        """The server has confirmed it: what is published from now on is told."""
        ...

    def on_refused(self, by: Subscriber, channels: Sequence[str], error: Exception) -> None:
        """It doesn't subscribe to these."""
        ...

    def on_dropped(self, by: Subscriber, channel: str) -> None:
        """The server has ended a subscription, since another node has the channel's slot now."""
        ...

    def on_lost(self, by: Subscriber, error: StoreError) -> None:
        """The connection is lost, and with it all subscriptions. Nothing is told after this."""
        ...


class Subscriber(asyncio.Protocol):
    """Subscriptions on one server, over one connection, which is never opened again.

    Three times within `bound` seconds it asks whether the server is still there. After two
    questions without an answer the connection is lost. Behind Sentinels it is lost, too, as soon as
    they name another primary.
    """

    def __init__(self, connector: Connector, bound: float, hearer: Hearer) -> None:
        self._connector = connector
        self.where: str = connector.where
        self.sharded: bool = connector.deployment.kind == "cluster"
        """Whether its channels belong to slots (`SSUBSCRIBE`; since Redis 7)."""
        self.lost: bool = False
        self._bound = bound
        self._hearer = hearer
        self._loop = asyncio.get_running_loop()
        self._reader: Any = hiredis.Reader(
            protocolError=errors.InvalidResponse, replyError=error_reply, notEnoughData=_MORE
        )
        self._sent: deque[tuple[str, dict[str, None]]] = deque()  # what the server has to answer
        self._leaving: dict[str, dict[str, None]] = {}  # the last command of those that end it
        self._unheard = 0
        self._timer: asyncio.TimerHandle | None = None
        self._pool: ConnectionPool | None = None
        self._checking: asyncio.Task[None] | None = None
        self._checked = self._loop.time()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._keep: object = None
        # A loop that ends closes its async generators: so no connection outlives its loop.
        self._closer = self._until_closed()

    async def open(self) -> None:
        """Connect; `StoreError`."""
        await anext(self._closer)
        try:
            self._pool = pool = await self._connector.open()  # an embedded server takes its time
            connection: Any = pool.make_connection()
            try:
                async with asyncio.timeout(self._connector.timeout):
                    await connection.connect()
                self._transport, self._keep = take_over(connection, self)
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
        except BaseException as exc:
            self.lost = True
            await self.close()
            if isinstance(exc, SessionError) or not isinstance(exc, Exception):
                raise
            raise self._translate(as_redis_error(exc)) from exc
        self._timer = call_later(self._bound / 3, self, Subscriber._tick)

    async def close(self) -> None:
        """Close the connection. Nothing is told any more."""
        await self._closer.aclose()

    def subscribe(self, channels: Iterable[str]) -> None:
        """Ask for these channels. The hearer is told of each."""
        self._send("ssubscribe" if self.sharded else "subscribe", channels)

    def unsubscribe(self, channels: Iterable[str]) -> None:
        """Ask for these channels no more."""
        self._send("sunsubscribe" if self.sharded else "unsubscribe", channels)

    def _send(self, verb: str, channels: Iterable[str]) -> None:
        groups = dict[int, dict[str, None]]()
        for channel in channels:  # one command may name channels of one slot only
            slot = key_slot(channel.encode()) if self.sharded else 0
            groups.setdefault(slot, {})[channel] = None
        for group in groups.values():
            self._sent.append((verb, group))
            if verb not in _BEGINS:
                self._leaving.update(dict.fromkeys(group, group))
        self._write([(verb, *group) for group in groups.values()])

    def _write(self, commands: Sequence[Command]) -> None:
        if commands and self._transport is not None and not self.lost:
            self._transport.write(pack(commands))

    def _translate(self, exc: Exception) -> StoreError:
        if isinstance(exc, TimeoutError):
            return late(self.where, self._connector.timeout)
        return translate(self.where, exc)

    # -- the end

    def _lose(self, exc: Exception) -> None:
        if not self.lost:
            self._end()
            self._hearer.on_lost(self, self._translate(exc))

    def _end(self) -> None:
        self.lost = True
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()  # nobody waits for an answer

    async def _until_closed(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            self._end()
            if self._transport is not None:
                await self._closed
            if self._checking is not None:
                self._checking.cancel()
                with suppress(asyncio.CancelledError):
                    await self._checking
            if self._pool is not None:
                await Connector.close(self._pool)  # the connections to Sentinels

    # -- whether the server is still there

    def _tick(self) -> None:
        # Turns are counted, and not seconds, since this loop itself may have been busy.
        if self._unheard >= 2:
            self._lose(TimeoutError())
        if self.lost:
            return
        self._unheard += 1
        self._sent.append((_PING, {}))
        self._write([("PING",)])
        now = self._loop.time()
        idle = self._checking is None or self._checking.done()
        if self._connector.asks_sentinels and idle and now - self._checked >= 1:
            self._checked = now
            self._checking = self._loop.create_task(self._check(), context=Context())
        self._timer = call_later(self._bound / 3, self, Subscriber._tick)

    async def _check(self) -> None:
        """Ask the Sentinels: a former primary that hung doesn't know yet that it is one."""
        assert self._pool is not None
        if await Connector.has_moved(self._pool):
            self._lose(errors.ConnectionError(MOVED))

    # -- asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        self._unheard = 0
        self._reader.feed(data)
        while not self.lost:
            try:
                reply = self._reader.gets()
                if reply is _MORE:
                    return
                kind, channel, told = _read(reply)
            except (errors.InvalidResponse, *UNEXPECTED_REPLY) as exc:
                self._lose(errors.InvalidResponse(str(exc)))
                return
            if kind in ("message", "smessage"):
                self._hearer.on_message(channel, told)
            else:
                self._take(kind, channel, told)

    def _take(self, kind: str, channel: str, told: Any) -> None:
        """Take an answer. The server answers in order, and names one channel at a time."""
        verb, channels = self._sent[0] if self._sent else ("", {})
        if kind == "error":
            if not verb:
                self._lose(told)
                return
            self._sent.popleft()
            for each in channels:
                self._note_left(each, channels)
            if verb in _BEGINS:
                self._hearer.on_refused(self, list(channels), told)
            # A PING that the user may not send is answered all the same. And if it can't
            # unsubscribe, another node has the slot by now.
        elif kind == verb and (kind == _PING or channel in channels):
            channels.pop(channel, None)
            if not channels:
                self._sent.popleft()
            self._note_left(channel, channels)
            # If it is left after this, a later command has to confirm it.
            if kind in _BEGINS and channel not in self._leaving:
                self._hearer.on_subscribed(self, channel)
        elif kind == "sunsubscribe":
            self._hearer.on_dropped(self, channel)
        else:
            self._lose(errors.InvalidResponse("the server has sent something by itself"))

    def _note_left(self, channel: str, by: dict[str, None]) -> None:
        if self._leaving.get(channel) is by:
            del self._leaving[channel]

    def connection_lost(self, exc: Exception | None) -> None:
        self._keep = None
        if not self._closed.done():
            self._closed.set_result(None)
        why = str(exc) if exc is not None else "the server closed the connection"
        self._lose(errors.ConnectionError(why))


def _read(reply: Any) -> tuple[str, str, Any]:
    """The kind of a reply, its channel, and what it tells; raises one of `UNEXPECTED_REPLY`."""
    if isinstance(reply, errors.ResponseError):
        return "error", "", reply
    if reply == b"PONG" or reply[0] == b"pong":  # the latter as long as there are subscriptions
        return _PING, "", None
    kind, channel, told = reply
    if kind not in _KINDS or not isinstance(told, bytes if b"message" in kind else int):
        raise TypeError(reply)
    return kind.decode(), channel.decode(), told
