"""What leaves together, how much of it, and what becomes of errors."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from redis_sessions import RedisStore, StoreError
from redis_sessions.stores.queues import MAX_BYTES, MAX_ITEMS, ItemQueue
from tests.integration.link.asking import Asking, answers
from tests.support.proxy import Proxy
from tests.support.redis_wire import Monitor
from tests.support.servers import StartServer

# -- batches


async def test_what_is_asked_in_one_tick(start_server: StartServer) -> None:
    """Reads of one moment are one command, in which each id is once; so are writes."""
    server = start_server()
    store = RedisStore(server.url)
    a, b = "A" * 20, "B" * 20
    await store.connect()
    with Monitor(server.port) as monitor:
        await asyncio.gather(*(store.commit(id, None, bytes(64), 60_000) for id in (a, b)))
        assert monitor.names() == ["EVALSHA"]
        found = await asyncio.gather(*map(store.load, (a, b, a, "C" * 20, b)))
        assert found == [bytes(64), bytes(64), bytes(64), None, bytes(64)]
        assert monitor.commands() == [["MGET", *(f"session:{id * 20}" for id in "ABC")]]
    await store.close()


async def test_queues_share_what_leaves(at: Asking, url: str) -> None:
    """What several queues of one link are asked at once is one flight, and each has its reply."""
    other = Asking(url, sender=at.sender)
    futures = [*at.submit("a"), *other.submit("b", "c"), *at.submit("d")]
    await asyncio.sleep(0)
    assert at.sender.link is not None
    assert len(at.sender.link.flights) == 1
    assert await answers(*futures) == [b"a", b"b", b"c", b"d"]
    assert (at.batches, other.batches) == ([["a", "d"]], [["b", "c"]])


async def test_what_comes_meanwhile(at: Asking, proxy: Proxy) -> None:
    """Two flights may be under way; what is asked then leaves together with the next one."""
    proxy.freeze()
    futures = await at.submit_and_send("a")
    futures += await at.submit_and_send("b", "c")
    for item in "def":
        futures += await at.submit_and_send(item)
    assert at.batches == [["a"], ["b", "c"]]
    proxy.heal()
    assert await answers(*futures) == [item.encode() for item in "abcdef"]
    assert at.batches == [["a"], ["b", "c"], ["d", "e", "f"]]


async def test_many_items(at: Asking) -> None:
    """A batch has so many at most, and everybody has the own reply."""
    items = [str(number) for number in range(2 * MAX_ITEMS + 50)]
    assert await at.replies(*items) == [item.encode() for item in items]
    assert list(map(len, at.batches)) == [MAX_ITEMS, MAX_ITEMS, 50]


async def test_large_items(at: Asking) -> None:
    """A batch is over as soon as it is large enough."""
    futures = at.submit(*"abcde", size=MAX_BYTES // 2)
    assert await answers(*futures) == [item.encode() for item in "abcde"]
    assert at.batches == [["a", "b"], ["c", "d"], ["e"]]


async def test_large_replies(at: Asking) -> None:
    """They make small batches, too."""
    at.queue.reply_size = MAX_BYTES // 2 - 1
    assert await at.replies(*"abc") == [b"a", b"b", b"c"]
    assert at.batches == [["a", "b"], ["c"]]


# -- errors


async def test_an_error_is_one_items(at: Asking) -> None:
    """A command that the server refuses fails alone."""
    a, refused, b = await at.replies("a", "!", "b")
    assert (a, b) == (b"a", b"b")
    assert type(refused) is StoreError
    await at.assert_serves()


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_a_wrong_number_of_answers(at: Asking, count: int) -> None:
    """Which is whose isn't known: they are everybody's error, once."""
    read = at.read
    at.read = lambda items, replies: ["?"] * count
    results = await at.replies("a", "b")
    assert [str(result) for result in results] == [f"{count} replies to 2 operations"] * 2
    at.read = read
    await at.assert_serves()


@pytest.mark.parametrize("where", ["commands", "read"])
async def test_what_isnt_a_stores_error(
    at: Asking, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever writing and reading raise, those who wait get it, and nobody after them."""

    def fail(*_: Any) -> Any:
        raise ValueError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(at, where, fail)
        results = await at.replies("a", "b")
    assert [repr(result) for result in results] == ["ValueError('a bug')"] * 2
    await at.assert_serves()


async def test_what_cant_be_sent(at: Asking) -> None:
    """A word that is no text fails with all that would have left with it."""
    results = await at.replies("a", "\udcff")
    assert [type(result) for result in results] == [UnicodeEncodeError] * 2
    await at.assert_serves()


async def test_a_bug_beneath(at: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even an error in the queue itself is told to those who wait; then the link is replaced."""
    told = list[Any]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    def fail(queue: Any, items: Sequence[Any], futures: Sequence[Any], replies: Any) -> bool:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(ItemQueue, "answer", fail)
        results = await at.replies("a", "b")
    assert [type(result) for result in results] == [ZeroDivisionError] * 2
    assert [type(context["exception"]) for context in told] == [ZeroDivisionError]
    await at.assert_serves()


# -- cancelling


async def test_who_stops_waiting_isnt_sent(at: Asking) -> None:
    """Nothing leaves for who is cancelled before, and the others are served."""
    a, b, c = at.submit("a", "b", "c")
    b.cancel()
    assert await answers(a, c) == [b"a", b"c"]
    assert at.batches == [["a", "c"]]


async def test_many_who_stop_waiting(at: Asking) -> None:
    """A batch that nobody waits for holds up nobody behind it."""
    for future in at.submit(*["x"] * MAX_ITEMS):
        future.cancel()
    assert await at.replies("a") == [b"a"]
    assert at.batches == [["a"]]


async def test_who_stops_waiting_for_a_reply(at: Asking, proxy: Proxy) -> None:
    """The reply of who is cancelled goes to nobody, and those of others stay theirs."""
    proxy.freeze()
    a, b = await at.submit_and_send("a", "b")
    (c,) = await at.submit_and_send("c")
    a.cancel()
    proxy.heal()
    assert await answers(b, c) == [b"b", b"c"]
    assert proxy.connections == 1
