"""Messages to a user, to a session and to all: who gets what, over a store in memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest

from redis_sessions import (
    ConfigurationError,
    Event,
    Keyring,
    MemoryStore,
    SessionEncodeError,
    SessionManager,
    StoreUnavailableError,
    generate_key,
)
from redis_sessions.messages import QUEUE, Message, Messages, Missed
from redis_sessions.stores.pubsub import PubSub, Told
from redis_sessions.testing.conformance import new_id
from tests.support import LOOPS
from tests.support.open import PATIENCE
from tests.unit.setting import KEY

pytestmark = pytest.mark.parametrize("anyio_backend", LOOPS)

OLD, NEW = generate_key(), generate_key()
SESSION = new_id()
Heard = AsyncGenerator[Message | Missed]


class Wire(MemoryStore):
    """A store in memory whose channels a test looks into, and may cut."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = list[tuple[str, bytes]]()
        self.told = deque[tuple[Sequence[str], Told]]()
        self.away = False

    def channels(self) -> PubSub:
        return self

    async def publish(self, channel: str, data: bytes) -> None:
        self.sent.append((channel, data))
        await super().channels().publish(channel, data)

    async def subscribe(self, channels: Sequence[str], told: Told) -> Callable[[], None]:
        if self.away:
            raise StoreUnavailableError("away")
        self.told.append((channels, told))
        return await super().channels().subscribe(channels, told)

    def cut(self) -> None:
        """The connection was lost, and is there again."""
        for channels, told in self.told:
            for channel in channels:
                told(channel, None)


@pytest.fixture
def store() -> Wire:
    return Wire()


@pytest.fixture
def messages(store: Wire) -> Messages:
    return Messages(store, KEY)


async def of(heard: Heard, count: int = 1) -> list[Message | Missed]:
    """The next ones."""
    async with asyncio.timeout(PATIENCE):
        return [await anext(heard) for _ in range(count)]


async def nothing_more(messages: Messages, heard: Heard) -> None:
    """What is sent now is the next that comes."""
    await messages.to_all({"last": 1})
    assert await of(heard) == [{"last": 1}]


TO: dict[str, tuple[Mapping[str, Any], Callable[[Messages], Any]]] = {
    "a user": ({"principal": 7}, lambda m: m.to_principal("7", {"n": 1})),
    "a UUID": ({"principal": str(UUID(int=5))}, lambda m: m.to_principal(UUID(int=5), {"n": 1})),
    "a session": ({"session": SESSION}, lambda m: m.to_session(SESSION, {"n": 1})),
}


@pytest.mark.parametrize("to", TO)
async def test_it_reaches_who_it_is_for(messages: Messages, to: str) -> None:
    """And nobody else, however much their name is like another's."""
    listening, send = TO[to]
    others = [
        {"principal": "8"},
        {"principal": "all"},
        {"principal": f"session:{SESSION}"},
        {"session": new_id()},
    ]
    async with messages.listen(**listening, all=True) as heard:
        for other in others:
            async with messages.listen(**other, all=True) as elsewhere:
                await send(messages)
                assert await of(heard) == [{"n": 1}]
                await nothing_more(messages, elsewhere)
                assert await of(heard) == [{"last": 1}]


async def test_async_for(messages: Messages) -> None:
    """It begins and ends by itself; a message is a dict of the listener's own."""
    seen = list[Message | Missed]()

    async def listen() -> None:
        async for message in messages.listen(all=True):
            assert isinstance(message, dict)
            seen.append(message)
            if len(seen) == 2:
                return

    async with asyncio.timeout(PATIENCE), messages.listen(all=True) as ready:
        task = asyncio.create_task(listen())
        await asyncio.sleep(0)
        await messages.to_all({"list": [1]})
        (other,) = await of(ready)
        assert isinstance(other, dict)
        other["list"].append(2)
        await messages.to_all({"n": 2})
        await task
    assert seen == [{"list": [1]}, {"n": 2}]


async def test_one_listening_for_several(messages: Messages) -> None:
    """Who leaves a block ends what began there, and nobody else's."""
    listening, left = messages.listen(all=True), asyncio.Event()

    async def listen_briefly() -> None:
        async with listening:
            entered.set()
            await left.wait()

    entered = asyncio.Event()
    async with asyncio.timeout(PATIENCE):
        first = asyncio.create_task(listen_briefly())
        await entered.wait()
        async with listening as heard, listening as inner:
            left.set()
            await first
            await messages.to_all({"n": 1})
            assert await of(heard) == await of(inner) == [{"n": 1}]


async def test_who_has_left_hears_nothing(store: Wire, messages: Messages) -> None:
    """Nothing is left of a listener in the store."""
    async with messages.listen(principal=1, session=SESSION, all=True):
        assert len(store._channels._told) == 3  # pyright: ignore[reportPrivateUsage] - nothing else shows it
    assert store._channels._told == {}  # pyright: ignore[reportPrivateUsage] - as above


ROLLOUT = {
    "the old one": Keyring(OLD),
    "first step": Keyring(OLD, NEW),
    "second step": Keyring(NEW, OLD),
    "the new one": Keyring(NEW),
}


@pytest.mark.parametrize(
    ("before", "after"),
    [("the old one", "first step"), ("first step", "second step"), ("second step", "the new one")],
)
async def test_a_new_key_is_rolled_out(store: Wire, before: str, after: str) -> None:
    """In each step the processes of before and those of after hear each other, and once only."""
    both = [Messages(store, ROLLOUT[before]), Messages(store, ROLLOUT[after])]
    for sender in both:
        for listener in both:
            async with listener.listen(principal=1, all=True) as heard:
                await sender.to_principal(1, {"n": 1})
                assert await of(heard) == [{"n": 1}]
                await nothing_more(sender, heard)


async def test_a_key_that_is_not_in_the_ring(store: Wire) -> None:
    """What it seals isn't heard, and what is dropped isn't either."""
    async with Messages(store, Keyring(NEW, dropped=[OLD])).listen(all=True) as heard:
        await Messages(store, OLD).to_all({"n": 1})
        await nothing_more(Messages(store, NEW), heard)


async def test_what_redis_sees(store: Wire, messages: Messages) -> None:
    """A channel's name tells nobody who it is for, and the message can't be read."""
    await messages.to_principal("alice@example.org", {"secret": "word"})
    ((channel, data),) = store.sent
    prefix, name = channel[:12], channel[12:]
    assert (prefix, len(name), int(name, 16) > 0) == ("session:msg:", 32, True)
    assert b"word" not in data


def damaged(data: bytes, other: bytes) -> list[bytes]:
    return [b"", b"x", b"\xff" * 100, data[:-1], data + b"\0", data[:40] + b"\0" + data[41:], other]


async def test_who_forges(store: Wire) -> None:
    """Bytes of somebody else, or of another channel, are dropped, and an event tells it."""
    events = list[Event]()
    messages = Messages(store, KEY, on_event=events.append)
    await messages.to_principal("bob", {"n": 1})
    other = store.sent.pop()[1]
    async with messages.listen(principal="alice") as heard:
        await messages.to_principal("alice", {"n": 1})
        channel, data = store.sent.pop()
        forged = damaged(data, other)
        for each in forged:
            await store.publish(channel, each)
        await messages.to_principal("alice", {"n": 2})
        assert await of(heard, 2) == [{"n": 1}, {"n": 2}]
    told = [(event.name, event.reason) for event in events]
    assert told == [("message_rejected", "authentication failed")] * len(forged)
    assert messages.counts["message_rejected: authentication failed"] == len(forged)


async def test_one_that_comes_twice(store: Wire, messages: Messages) -> None:
    """It is given once: a store may send again what it doesn't know to have arrived."""
    async with messages.listen(all=True) as heard, messages.listen(all=True) as another:
        await messages.to_all({"n": 1})
        await store.publish(*store.sent[0])
        await messages.to_all({"n": 2})
        await store.publish(*store.sent[0])
        await messages.to_all({"n": 3})
        for each in (heard, another):
            assert await of(each, 3) == [{"n": 1}, {"n": 2}, {"n": 3}]


async def test_how_many_are_known(
    store: Wire, messages: Messages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of so many of the latest messages it is known that they have come, and of no others."""
    monkeypatch.setattr("redis_sessions.messages._REMEMBERED", 2)
    async with messages.listen(all=True) as heard:
        for n in range(3):
            await messages.to_all({"n": n})
        for again in (0, 2):
            await store.publish(*store.sent[again])
        await messages.to_all({"n": 3})
        came = await of(heard)
        while came[-1] != {"n": 3}:
            came += await of(heard)
        assert came == [{"n": n} for n in (0, 1, 2, 0, 3)]


class Meanwhile:
    """A loop, and another thread that sends a message as soon as the first listener has one."""

    def __init__(self, send: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._sends = [send]

    def call_soon_threadsafe(self, *args: Any) -> None:
        self._loop.call_soon(*args)
        while self._sends:
            with suppress(StopIteration):
                self._sends.pop()().send(None)


async def test_two_threads_send_at_once(store: Wire, messages: Messages) -> None:
    """Each listener gets both, and no message counts as one that has come before."""
    async with messages.listen(all=True) as heard, messages.listen(all=True) as another:
        loop: Any = Meanwhile(lambda: messages.to_all({"n": 2}))
        (here,) = store._channels._told.values()  # pyright: ignore[reportPrivateUsage] - no thread is that punctual
        here.update({token: (loop, told) for token, (_, told) in here.items()})
        await messages.to_all({"n": 1})
        for each in (heard, another):
            assert await of(each, 2) == [{"n": 1}, {"n": 2}]


async def test_a_slow_listener(messages: Messages) -> None:
    """The oldest are dropped, and it is told how many; then come those that are left."""
    async with messages.listen(all=True) as heard, messages.listen(principal=1) as quick:
        await messages.to_principal(1, {"n": 0})
        assert await of(quick) == [{"n": 0}]
        for n in range(QUEUE + 10):
            await messages.to_all({"n": n})
        await messages.to_principal(1, {"n": 1})
        assert await of(quick) == [{"n": 1}]  # what was sent before has arrived
        assert await of(heard, 2) == [Missed(10), {"n": 10}]
        rest = await of(heard, QUEUE - 1)
        assert rest[-1] == {"n": QUEUE + 9}
        await nothing_more(messages, heard)


async def test_a_gap(store: Wire, messages: Messages) -> None:
    """After a connection was lost there is one note, in its place, of a number nobody knows."""
    async with messages.listen(principal=1, all=True) as heard:
        await messages.to_all({"n": 1})
        await asyncio.sleep(0)
        store.cut()
        await messages.to_all({"n": 2})
        assert await of(heard, 3) == [{"n": 1}, Missed(), {"n": 2}]
        store.cut()
        for _ in range(QUEUE + 1):
            await messages.to_all({"n": 3})
        await asyncio.sleep(0)
        assert await of(heard) == [Missed(None)]


async def test_redis_is_away_when_it_begins(store: Wire, messages: Messages) -> None:
    """The error says so, in both ways to listen."""
    store.away = True
    with pytest.raises(StoreUnavailableError):
        async with messages.listen(all=True):
            raise AssertionError
    with pytest.raises(StoreUnavailableError):
        async for _ in messages.listen(all=True):
            raise AssertionError


class Odd:
    """A type that nobody knows."""


async def test_what_can_not_be_sent(store: Wire) -> None:
    """The error names the place, and the message instead of the session; nothing is sent."""
    messages = Messages(store, KEY, max_size=100)
    with pytest.raises(SessionEncodeError, match=r"^message\['a'\]\[1\] can't be stored"):
        await messages.to_all({"a": [1, Odd()]})
    with pytest.raises(SessionEncodeError, match=r"^the message is 115 bytes, over max_size=100"):
        await messages.to_session(SESSION, {"text": "x" * 107})
    with pytest.raises(SessionEncodeError, match="a message is a dict"):
        await messages.to_all([1, 2])  # type: ignore[arg-type]
    assert store.sent == []
    hooked = Messages(store, KEY, enc_hook=lambda value: type(value).__name__)
    async with hooked.listen(all=True) as heard:
        await hooked.to_all({"a": Odd()})
        assert await of(heard) == [{"a": "Odd"}]


async def test_wrong_arguments(messages: Messages) -> None:
    """Nobody is addressed by accident."""
    with pytest.raises(ConfigurationError, match="empty str"):
        await messages.to_principal("", {})
    with pytest.raises(ConfigurationError, match="session's id"):
        await messages.to_session(None, {})  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="session's id"):
        messages.listen(session="*")
    with pytest.raises(ConfigurationError, match="listen"):
        messages.listen()


async def test_a_store_without_channels() -> None:
    """The error says what is missing, when messages are first used."""

    class Bare(MemoryStore):
        channels: Any = None

    manager = SessionManager(Bare(), KEY)
    with pytest.raises(ConfigurationError, match=r"has no channels\(\)"):
        manager.messages  # noqa: B018


async def test_those_of_a_manager(store: Wire) -> None:
    """They are one object, with its store, keys, hooks and events."""
    events = list[Event]()
    manager = SessionManager(store, KEY, max_size=50, enc_hook=str, on_event=events.append)
    messages = manager.messages
    assert manager.messages is messages
    with pytest.raises(SessionEncodeError, match="max_size=50"):
        await messages.to_all({"text": "x" * 100})
    async with Messages(store, KEY).listen(all=True) as heard:
        await messages.to_all({"a": Odd})
        ((channel, _),) = store.sent
        assert await of(heard) == [{"a": str(Odd)}]
    async with messages.listen(all=True) as heard:
        await store.publish(channel, b"x")
        await nothing_more(messages, heard)
    assert [event.name for event in events] == ["message_rejected"]
    assert manager.counts["message_rejected"] == 1


async def test_each_event_loop_hears(store: Wire, messages: Messages) -> None:
    """One message reaches the loops of other threads, each in its own."""
    ready, heard = asyncio.Event(), list[Message | Missed]()
    loop = asyncio.get_running_loop()

    async def listen() -> None:
        async with messages.listen(all=True) as there:
            loop.call_soon_threadsafe(ready.set)
            heard.extend(await of(there))

    other = asyncio.create_task(asyncio.to_thread(asyncio.run, listen()))
    async with messages.listen(all=True) as here:
        await ready.wait()
        await messages.to_all({"n": 1})
        assert await of(here) == [{"n": 1}]
        await other
    assert heard == [{"n": 1}]
