"""Too much load, and what is known while a server is away: one item at a time finds out."""

from __future__ import annotations

import asyncio
import gc
import logging
from functools import partial
from traceback import walk_tb
from typing import Final

import pytest

from redis_sessions import StoreError, StoreUnavailableError
from redis_sessions.stores import queues
from tests.integration.link.asking import AWAY, Asking, answers, go_away
from tests.support.deployments import until
from tests.support.proxy import Proxy

STILL_AWAY: Final = "still away: .*can't be reached"


async def hold_up(at: Asking, proxy: Proxy) -> list[asyncio.Future[bytes]]:
    """Have two flights under way, until the proxy is healed."""
    proxy.freeze()
    return [*await at.submit_and_send("a"), *await at.submit_and_send("b")]


async def link_is_open(at: Asking) -> bool:
    return at.sender.link is not None


# -- too much load


@pytest.mark.parametrize("bound", ["CAPACITY_ITEMS", "CAPACITY_BYTES"])
async def test_a_full_queue(
    at: Asking,
    proxy: Proxy,
    bound: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It refuses what comes; that isn't away, and who waits in it is served."""
    monkeypatch.setattr(queues, bound, 2)
    futures = await hold_up(at, proxy)
    futures += at.submit("c", "d")
    with pytest.raises(StoreUnavailableError, match="2 operations wait") as refused:
        await at.submit("e")[0]
    assert refused.value.reason == "full"
    assert at.health.away is None
    proxy.heal()
    assert await answers(*futures) == [b"a", b"b", b"c", b"d"]
    await at.assert_serves()
    assert caplog.records == []


async def test_a_full_queue_while_away(
    at: Asking, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is too much then is no probe: the next one is."""
    monkeypatch.setattr(queues, "CAPACITY_BYTES", 10)
    await go_away(at, proxy)
    with pytest.raises(StoreUnavailableError, match="too much load") as refused:
        await at.submit("x", size=11)[0]
    assert refused.value.reason == "full"
    assert not at.health.probing
    proxy.heal()
    assert await at.replies("x") == [b"x"]
    await at.assert_serves()


async def test_the_capacity_that_was_freed(
    at: Asking, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What failed or was cancelled takes no capacity any more."""
    monkeypatch.setattr(queues, "CAPACITY_BYTES", 10)
    futures = await hold_up(at, proxy)
    futures += at.submit("c", size=10)
    proxy.cut()
    assert {type(each) for each in await answers(*futures)} == {StoreUnavailableError}
    proxy.heal()
    assert await at.replies("d") == [b"d"]
    at.submit("e", size=10)[0].cancel()
    await asyncio.sleep(0)  # it would have left
    assert await answers(*at.submit("f", size=10)) == [b"f"]


async def test_an_item_that_waits_too_long(at: Asking, url: str) -> None:
    """What waited for longer than its patience isn't sent; that is 'full', and not away."""
    other = Asking(url, sender=at.sender, health=at.health, patience=-1.0)  # too long at once
    late, a = *other.submit("late"), *at.submit("a")
    assert await answers(a) == [b"a"]
    with pytest.raises(StoreUnavailableError, match=r"it waited -1 s in a queue") as refused:
        await late
    assert refused.value.reason == "full"
    assert other.batches == []
    assert at.health.away is None
    await at.assert_serves()


# -- away


async def test_one_finds_out(at: Asking, proxy: Proxy) -> None:
    """The others fail at once, before it has an answer, and whoever asks for many sees no error."""
    await go_away(at, proxy)
    proxy.heal()
    probe, *rest = at.submit("a", "b", "c")
    assert all(future.done() for future in rest)
    for refused in await answers(*rest):
        assert isinstance(refused, StoreUnavailableError)
        assert refused.reason == "connection"
    with pytest.raises(StoreUnavailableError, match=STILL_AWAY):
        rest[0].result()
    assert await answers(probe) == [b"a"]
    assert at.batches[-1] == ["a"]
    await at.assert_serves()


async def test_one_finds_out_for_all_queues(at: Asking, proxy: Proxy, url: str) -> None:
    """Queues that share a `Health` share a probe, and what it finds."""
    other = Asking(url, health=at.health)
    await go_away(at, proxy)
    proxy.heal()
    (probe,) = at.submit("a")
    with pytest.raises(StoreUnavailableError, match=STILL_AWAY):
        await other.submit("b")[0]
    assert await answers(probe) == [b"a"]
    await other.assert_serves()
    await other.close()


async def test_a_probe_that_is_refused(at: Asking, proxy: Proxy) -> None:
    """It has found the server: that isn't away any more."""
    await go_away(at, proxy)
    proxy.heal()
    with pytest.raises(StoreError, match="unknown command"):
        await at.submit("!")[0]
    await at.assert_serves()
    assert at.batches[-1] == ["one", "two"]


async def test_a_probe_that_fails(at: Asking, proxy: Proxy) -> None:
    """The next one is a probe again, until one gets through."""
    await go_away(at, proxy)
    for _ in range(2):
        with pytest.raises(StoreUnavailableError, match=f"^(?!still).*({AWAY})"):
            await at.submit("x")[0]
    proxy.heal()
    assert await at.replies("x") == [b"x"]
    await at.assert_serves()


async def test_a_probe_that_nobody_waits_for(at: Asking, proxy: Proxy) -> None:
    """If it is cancelled before it leaves, the next one finds out."""
    await go_away(at, proxy)
    proxy.heal()
    at.submit("probe")[0].cancel()
    await until(partial(link_is_open, at))
    assert await at.replies("y") == [b"y"]
    assert ["probe"] not in at.batches
    await at.assert_serves()


async def test_what_they_are_told_of(at: Asking, proxy: Proxy) -> None:
    """Who is refused at once sees the cause, but no frame of the request that it was raised to."""
    await go_away(at, proxy)
    probe, rest = at.submit("a", "b")
    with pytest.raises(StoreUnavailableError, match=STILL_AWAY) as refused:
        await rest
    assert at.health.away is not None
    assert refused.value is not at.health.away
    assert refused.value.__cause__ is at.health.away.__cause__
    await answers(probe)


async def test_a_failure_that_nobody_retrieves(
    at: Asking, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """asyncio logs it, without the frames that lead through everybody's items."""
    told = list[BaseException]()
    caplog.set_level(logging.CRITICAL, "redis_sessions")  # a record would hold the error
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
    proxy.cut()
    (abandoned,) = at.submit("a")
    await asyncio.wait([abandoned])
    at.health.away = None
    del abandoned
    gc.collect()
    assert [type(error) for error in told] == [StoreUnavailableError]
    assert list(walk_tb(told[0].__traceback__)) == []
