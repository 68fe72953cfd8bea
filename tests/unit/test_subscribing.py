"""Channels and their servers: how long listeners wait, and what they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from redis.crc import key_slot

from redis_sessions import StoreError, StoreUnavailableError
from redis_sessions.stores import pubsub
from redis_sessions.stores.pubsub import MemoryPubSub, RedisPubSub
from tests.support.virtual_time import VirtualLoop, run

TIMEOUT = 2.0
EACH = 1.4
"""Seconds that the server needs for each channel. They are noticed after 1.5."""


class Busy:
    """A server's connection that confirms one channel after the other, but for some."""

    sharded = False
    lost = False
    where = "here"
    latest: Any = None

    def __init__(self, _: object, __: float, hearer: RedisPubSub) -> None:
        Busy.latest = self
        self._hearer = hearer
        self._free = 0.0

    async def open(self) -> None:
        self._free = asyncio.get_running_loop().time()

    def subscribe(self, channels: Iterable[str]) -> None:
        here: Any = self
        for channel in channels:
            if channel != "never":
                self._free += EACH
                loop = asyncio.get_running_loop()
                loop.call_at(self._free, self._hearer.on_subscribed, here, channel)

    def unsubscribe(self, channels: Iterable[str]) -> None:
        """Nobody asks what becomes of them."""

    async def close(self) -> None:
        """There is nothing to close."""


async def primary_of(_: str, *, fresh: bool) -> object:
    del fresh
    return SimpleNamespace(where="here")


def told(*_: object) -> None:
    """Nothing is published."""


@pytest.fixture(autouse=True)
def _busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pubsub, "Subscriber", Busy)


@pytest.mark.parametrize(
    ("channels", "others", "seconds", "opens"),
    [
        (["a"], 0, EACH, True),
        (["a", "b", "c"], 0, 3 * EACH, True),  # as long as one after the other is confirmed
        (["never"], 0, TIMEOUT, False),
        (["a", "never"], 0, 1.5 + TIMEOUT, False),
        (["never"], 20, 5 * TIMEOUT, False),  # others are confirmed all the time
        (["a", *map(str, range(7))], 0, 5 * TIMEOUT, False),
    ],
)
def test_how_long_it_takes(channels: list[str], others: int, seconds: float, opens: bool) -> None:
    """The time-out counts from what was confirmed last; five of them are the most."""

    async def test(loop: VirtualLoop) -> None:
        servers: Any = SimpleNamespace(primary_of=primary_of)
        here = RedisPubSub(servers, TIMEOUT, "server")
        began = loop.now
        crowd = [asyncio.create_task(here.subscribe([f"other {n}"], told)) for n in range(others)]
        with nullcontext() if opens else pytest.raises(StoreUnavailableError, match="within 2 s"):
            await here.subscribe(channels, told)
        assert round(loop.now - began, 3) == round(seconds, 3)
        for task in crowd:
            task.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)
        await here.close()

    run(test)


def test_who_comes_in_the_middle_of_a_turn() -> None:
    """They wait for as long as the first, at least."""

    async def test(loop: VirtualLoop) -> None:
        servers: Any = SimpleNamespace(primary_of=primary_of)
        here = RedisPubSub(servers, TIMEOUT, "server")
        first = asyncio.create_task(here.subscribe(["never"], told))
        await asyncio.sleep(0.3)
        began = loop.now
        with pytest.raises(StoreUnavailableError, match="within 2 s"):
            await here.subscribe(["never"], told)
        assert TIMEOUT <= loop.now - began <= TIMEOUT * 1.25
        with pytest.raises(StoreUnavailableError, match="within 2 s"):
            await first
        await here.close()

    run(test)


def test_a_loop_that_is_busy() -> None:
    """What it does meanwhile isn't the server's time."""

    async def test(loop: VirtualLoop) -> None:
        servers: Any = SimpleNamespace(primary_of=primary_of)
        here = RedisPubSub(servers, TIMEOUT, "server")
        listening = asyncio.create_task(here.subscribe(["a"], told))
        await asyncio.sleep(0)
        loop.now += 10 * TIMEOUT  # nothing of this loop was run for so long
        await listening
        await here.close()

    run(test)


@pytest.mark.parametrize(("kind", "times"), [("server", 1), ("sentinel", 2), ("cluster", 2)])
def test_after_a_loss(kind: Any, times: int) -> None:
    """Listeners are told, and once more if publishers may notice a new primary later than they."""
    notices = list[bytes | None]()

    async def test(_: VirtualLoop) -> None:
        servers: Any = SimpleNamespace(primary_of=primary_of)
        here = RedisPubSub(servers, TIMEOUT, kind)
        await here.subscribe(["a"], lambda _, data: notices.append(data))
        here.on_lost(Busy.latest, StoreUnavailableError("lost, says the test"))
        await asyncio.sleep(60)
        await here.close()

    run(test)
    assert notices == [None] * times


def test_a_slot_that_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever listens to a channel in this slot is placed anew, and told; others aren't."""
    monkeypatch.setattr(Busy, "sharded", True)
    notices = list[str]()

    async def test(_: VirtualLoop) -> None:
        servers: Any = SimpleNamespace(primary_of=primary_of)
        here = RedisPubSub(servers, TIMEOUT, "server")
        for channel in ("a", "b"):
            await here.subscribe([channel], lambda name, _: notices.append(name))
        servers.on_moved({key_slot(b"a")})
        await asyncio.sleep(10)
        await here.close()

    run(test)
    assert notices == ["a"]


async def test_stopped_before_it_arrives() -> None:
    """In memory, too, nobody is told anything after they have stopped."""
    here, heard = MemoryPubSub(), list[bytes | None]()
    stop = await here.subscribe(["a"], lambda _, data: heard.append(data))
    await here.publish("a", b"heard")
    await asyncio.sleep(0)
    await here.publish("a", b"late")
    stop()
    await asyncio.sleep(0)
    assert heard == [b"heard"]


def test_a_listener_that_stops_another() -> None:
    """What has arrived already isn't told to who was stopped meanwhile."""
    heard = list[int]()

    async def test(_: VirtualLoop) -> None:
        servers: Any = SimpleNamespace(primary_of=primary_of)
        here = RedisPubSub(servers, TIMEOUT, "server")

        def first(*_: object) -> None:
            heard.append(1)
            stop()

        await here.subscribe(["a"], first)
        stop = await here.subscribe(["a"], lambda *_: heard.append(2))
        here.on_message("a", b"x")
        await here.close()

    run(test)
    assert heard == [1]


def test_a_cluster_that_does_not_know_sharded_channels() -> None:
    """It is sent PUBLISH for a second, and is then asked again: it may have been updated."""
    sent = list[str]()

    async def test(loop: VirtualLoop) -> None:
        async def submit(command: Any, _: int) -> None:
            sent.append(command.command[0])
            if command.command[0] == "SPUBLISH":
                raise StoreError("unknown command 'SPUBLISH'")

        servers: Any = SimpleNamespace(index_commands=SimpleNamespace(submit=submit))
        here = RedisPubSub(servers, TIMEOUT, "cluster")
        for pause in (0.5, 0.75, 0):
            await here.publish("a", b"x")
            await asyncio.sleep(pause)

    run(test)
    assert sent == ["SPUBLISH", "PUBLISH", "PUBLISH", "SPUBLISH", "PUBLISH"]
