"""What a store has to do that has channels, as tests: use it as `StoreConformance`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from secrets import token_hex
from typing import Any, Final, Self

from redis_sessions.stores.pubsub import Publishing

__all__ = ["ChannelsConformance"]

PATIENCE: Final = 20
"""Seconds within which a message has to arrive. As a rule it takes milliseconds."""


class Heard:
    """What a subscriber was told: `async with Heard(store, channels) as heard`."""

    def __init__(self, store: Publishing, channels: Sequence[str]) -> None:
        self.items: list[tuple[str, bytes | None]] = []
        self.stop: Callable[[], None] = lambda: None
        self._store = store
        self._channels = channels
        self._news = asyncio.Event()

    def _told(self, channel: str, data: bytes | None) -> None:
        self.items.append((channel, data))
        self._news.set()

    async def __aenter__(self) -> Self:
        self.stop = await self._store.channels().subscribe(self._channels, self._told)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()

    async def until(self, channel: str, data: bytes | None) -> None:
        """Wait until this has been told."""
        async with asyncio.timeout(PATIENCE):
            while (channel, data) not in self.items:
                self._news.clear()
                await self._news.wait()


class ChannelsConformance:
    """The contract of `Publishing`, one test a clause. The `store` is a `SessionStore`, too."""

    def names(self, store: Any, count: int) -> list[str]:
        """New channels, as messages have them."""
        return [f"{store.prefix}msg:{token_hex(16)}" for _ in range(count)]

    async def test_what_is_published_arrives(self, store: Any) -> None:
        """Once `subscribe` has returned: byte for byte, in order, with the channel's name."""
        one, other, silent = self.names(store, 3)
        async with Heard(store, [one, other]) as heard:
            for n in range(100):
                await store.channels().publish(one, bytes([n]))
            await store.channels().publish(silent, b"x")
            await store.channels().publish(other, bytes(range(256)))
            await heard.until(one, bytes([99]))
            await heard.until(other, bytes(range(256)))
            ours = [data for channel, data in heard.items if channel == one]
            assert ours == [bytes([n]) for n in range(100)]
            assert {channel for channel, _ in heard.items} == {one, other}

    async def test_all_who_listen_are_told(self, store: Any) -> None:
        """Who has stopped isn't, and those who go on are. It may stop twice."""
        (name,) = self.names(store, 1)
        stores = [store, store, store]
        heard = [await Heard(each, [name]).__aenter__() for each in stores]
        await store.channels().publish(name, b"1")
        for each in heard:
            await each.until(name, b"1")
        heard[0].stop()
        heard[0].stop()
        await store.channels().publish(name, b"2")
        for each in heard[1:]:
            await each.until(name, b"2")
            each.stop()
        assert heard[0].items == [(name, b"1")]

    async def test_a_channel_that_was_left(self, store: Any) -> None:
        """Somebody may come to it again, at once or later, and misses nothing from then on."""
        (name,) = self.names(store, 1)
        for n in range(20):
            async with Heard(store, [name]) as heard:
                await store.channels().publish(name, bytes([n]))
                await heard.until(name, bytes([n]))
            if n % 2:
                await asyncio.sleep(0)
                await store.load("A" * 20)
            assert heard.items == [(name, bytes([n]))]

    async def test_many_channels(self, store: Any) -> None:
        """Each is told its own, wherever they are in a Cluster."""
        names = self.names(store, 200)
        heard = await asyncio.gather(*(Heard(store, [name]).__aenter__() for name in names))
        await asyncio.gather(*(store.channels().publish(name, name.encode()) for name in names))
        for name, each in zip(names, heard, strict=True):
            await each.until(name, name.encode())
            assert len(each.items) == 1
            each.stop()

    async def test_each_event_loop_hears(self, store: Any) -> None:
        """What one thread's loop publishes reaches the loops of others."""
        (name,) = self.names(store, 1)

        async def publish() -> None:
            await store.channels().publish(name, b"1")
            async with Heard(store, [name]) as there:
                await store.channels().publish(name, b"2")
                await there.until(name, b"2")
            await store.close()

        async with Heard(store, [name]) as heard:
            await asyncio.to_thread(asyncio.run, publish())
            await heard.until(name, b"2")
            assert heard.items == [(name, b"1"), (name, b"2")]
