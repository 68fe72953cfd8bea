"""How long listeners wait for a server that confirms many channels, or none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from redis_sessions import StoreUnavailableError
from redis_sessions.stores import pubsub
from redis_sessions.stores.pubsub import RedisPubSub
from tests.support.virtual_time import VirtualLoop, run

TIMEOUT = 2.0
EACH = 1.4
"""Seconds that the server needs for each channel. They are noticed after 1.5."""


class Busy:
    """A server's connection that confirms one channel after the other, but for some."""

    sharded = False
    lost = False

    def __init__(self, _: object, __: float, hearer: RedisPubSub) -> None:
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
