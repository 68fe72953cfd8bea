"""Claims whose loads are cut off, whose replies are lost, or that are of another version."""

# It looks into the cache.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any

import pytest

from redis_sessions import Cache, Commit, ConfigurationError, StoreUnavailableError
from tests.support.stores import NearStore
from tests.unit.caching.setting import Kept, Loads, paused
from tests.unit.setting import KEY


class Gate:
    """Holds the answer to the commit of this number, after it was carried out."""

    def __init__(self, at: Kept, number: int) -> None:
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()
        self._left = number
        at.store.committed = self

    async def __call__(self, expected: bytes | None, answer: Commit) -> None:
        self._left -= 1
        if not self._left:
            self.reached.set()
            await self.go_on.wait()


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("kept_before", [False, True])
async def test_cancelled_while_it_stores(at: Kept, number: int, kept_before: bool) -> None:
    """Who is cancelled while its claim or value is stored leaves no claim that others wait for."""
    if kept_before:
        await at.cache.get_or_set("key", Loads("older"), ttl=60, stale_if_error=3600)
        at.clock.advance(60)
    gate = Gate(at, number)
    task = asyncio.create_task(at.cache.get_or_set("key", Loads("cut off"), ttl=60, lock=3600))
    await gate.reached.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    async with asyncio.timeout(5):
        other = at.another().get_or_set("key", Loads("other"), ttl=60, lock=3600)
        assert await other == ("other" if number == 1 else "cut off")


async def test_lost_reply(at: Kept) -> None:
    """If the reply to a claim is lost, nobody waits for it once the value is there."""

    async def lose(expected: bytes | None, answer: Commit) -> None:
        at.store.committed = None
        raise StoreUnavailableError("the reply was lost, says the test")

    at.store.committed = lose
    load, joins = paused("value"), Loads("joins")
    first = asyncio.create_task(at.cache.get_or_set("key", load, ttl=60, lock=3600))
    await load.began.wait()
    second = asyncio.create_task(at.cache.get_or_set("key", joins, ttl=60, lock=3600))
    await asyncio.sleep(0)
    load.go_on.set()
    assert await first == await second == "value"
    async with asyncio.timeout(5):
        assert await at.another().get_or_set("key", joins, ttl=60, lock=3600) == "value"
    assert joins.calls == 0
    assert at.cache.counts["unavailable"] == 1


async def test_claimant_dies(at: Kept) -> None:
    """Who has waited for a process that died keeps what it loads then."""
    dead, other = paused("dead"), at.another()
    task = asyncio.create_task(at.cache.get_or_set("key", dead, ttl=60, lock=1))
    await dead.began.wait()
    waiting = asyncio.create_task(other.get_or_set("key", Loads("other"), ttl=60, lock=0.001))
    await at.until(lambda: bool(other._single._flights.get()))
    await asyncio.sleep(0)
    at.clock.advance(1)
    assert await waiting == "other"
    assert await at.another().get_or_set("key", Loads("newer"), ttl=60) == "other"
    task.cancel()
    await asyncio.wait([task])


async def test_claimant_dies_and_the_next_load_fails(at: Kept) -> None:
    """The value of before still stands in: no claim shortens the time for which it is kept."""
    options: dict[str, Any] = {"ttl": 60, "stale_if_error": 3600, "lock": 1}
    await at.cache.get_or_set("key", Loads("kept"), **options)
    at.clock.advance(60)
    dead = paused("dead")
    task = asyncio.create_task(at.cache.get_or_set("key", dead, **options))
    await dead.began.wait()
    at.clock.advance(2)
    assert await at.another().get_or_set("key", Loads(LookupError()), **options) == "kept"
    task.cancel()
    await asyncio.wait([task])


async def test_nothing_takes_the_place_of_a_value(at: Kept) -> None:
    """A value that was loaded, and isn't kept, doesn't leave the one of before to stand in."""
    options: dict[str, Any] = {"ttl": 60, "stale_if_error": 3600}
    await at.cache.get_or_set("key", Loads("kept"), **options)
    at.clock.advance(60)
    assert await at.cache.get_or_set("key", Loads(None), **options) is None
    with pytest.raises(LookupError):
        await at.cache.get_or_set("key", Loads(LookupError()), **options)


@dataclass
class Row:
    name: str


async def test_misfit_of_another_process(at: Kept) -> None:
    """What a process of another version loads, and isn't fit here, is loaded anew by one."""
    old, new = paused({"id": 7}), Loads({"name": "Ada"})
    loading = asyncio.create_task(at.another().get_or_set("key", old, ttl=60))
    await old.began.wait()
    waiting = [
        asyncio.create_task(at.cache.get_or_set("key", new, ttl=60, as_=Row)) for _ in range(5)
    ]
    await at.until(lambda: len(at.cache._single._flights.get()) == 1)
    old.go_on.set()
    assert await loading == {"id": 7}
    assert await asyncio.gather(*waiting) == [Row("Ada")] * 5
    assert new.calls == 1


@pytest.mark.parametrize("away", [False, True])
async def test_loads_that_would_wait_for_themselves(at: Kept, away: bool) -> None:
    """A load that asks for its own key, also by another load, is an error and waits for nobody."""
    at.store.away = away

    async def itself() -> Any:
        return await at.cache.get_or_set("key", itself, ttl=60)

    async def first() -> Any:
        return await asyncio.gather(*(at.cache.get_or_set("b", second, ttl=60) for _ in range(2)))

    async def second() -> Any:
        return await at.cache.get_or_set("a", first, ttl=60)

    for key, load in (("key", itself), ("a", first)):
        async with asyncio.timeout(5):
            with pytest.raises(ConfigurationError, match=r"^load= asks for its own key"):
                await at.cache.get_or_set(key, load, ttl=60)
    both = at.cache.get_or_set("a", first, ttl=60), at.cache.get_or_set("b", second, ttl=60)
    async with asyncio.timeout(5):
        results = await asyncio.gather(*both, return_exceptions=True)
    assert {type(result) for result in results} == {ConfigurationError}


async def test_loads_within_loads(at: Kept) -> None:
    """A load may ask for other keys, also for those that others load."""
    inner = paused("inner")
    outside = asyncio.create_task(at.cache.get_or_set("inner", inner, ttl=60))

    async def outer() -> Any:
        return await at.cache.get_or_set("inner", inner, ttl=60)

    loading = asyncio.create_task(at.cache.get_or_set("outer", outer, ttl=60))
    await inner.began.wait()
    inner.go_on.set()
    assert await loading == await outside == "inner"
    assert inner.calls == 1


async def test_early_once_with_near_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """With near copies it is decided once for each call whether it loads early."""
    at = Kept()
    cache = Cache(NearStore(clock=at.clock), KEY, clock=at.clock)
    times, draws = iter([0.0, 8.0, 0.0, 1.0]), iter([0.0, 0.9, 0.0])
    monkeypatch.setattr("redis_sessions.stores.single_flight.clock", lambda: next(times))
    monkeypatch.setattr(random, "random", lambda: next(draws))
    await cache.get_or_set("key", Loads("kept"), ttl=60)
    at.clock.advance(55)
    assert await cache.get_or_set("key", Loads("new"), ttl=60) == "new"


async def test_shared_by_no_group(at: Kept) -> None:
    """An entry of a group that was forgotten isn't served to somebody without a group, either."""
    grouped, alone = at.cache._part("session:x", "group:alice"), at.cache._part("session:x", None)
    await grouped.get_or_set("key", Loads("alice's"), ttl=60)
    assert await alone.get_or_set("key", Loads("nobody's"), ttl=60) == "nobody's"


@pytest.mark.parametrize("beta", [-1, float("nan"), float("inf"), "1", None, True])
async def test_beta(at: Kept, beta: Any) -> None:
    """What can't be a factor is an error that names it."""
    with pytest.raises(ConfigurationError, match=r"^beta="):
        await at.cache.get_or_set("key", Loads(), ttl=60, beta=beta)


async def test_late_look(at: Kept) -> None:
    """Who comes after `forget` isn't given what somebody else had been answered before."""
    old, answered, go_on = paused("old"), asyncio.Event(), asyncio.Event()
    loading = asyncio.create_task(at.another().get_or_set("key", old, ttl=60))
    await old.began.wait()
    looks = 0

    async def held() -> None:
        nonlocal looks
        looks += 1
        if looks == 2:  # of the one who waits
            answered.set()
            await go_on.wait()

    at.store.loaded = held
    waiting = asyncio.create_task(at.cache.get_or_set("key", Loads("new"), ttl=60))
    await at.until(lambda: looks == 1)
    old.go_on.set()
    await loading
    await answered.wait()
    await at.another().forget("key")
    after = asyncio.create_task(at.cache.get_or_set("key", Loads("new"), ttl=60))
    await at.until(lambda: looks == 3)
    go_on.set()
    assert (await waiting, await after) == ("old", "new")


@pytest.mark.parametrize("max_size", [0, -1, True, 1.5, "1"])
async def test_max_size(at: Kept, max_size: Any) -> None:
    """A size that can't be one is an error where the cache is made."""
    with pytest.raises(ConfigurationError, match=r"^max_size=.*: write bytes, such as 262144"):
        at.another(max_size=max_size)


@pytest.mark.parametrize("key", [None, 7, b"key"])
async def test_keys(at: Kept, key: Any) -> None:
    """None, which a caller may have by mistake, is no key for the values of all."""
    with pytest.raises(ConfigurationError, match=r"^key=.*: write a str"):
        await at.cache.get_or_set(key, Loads(), ttl=60)
    with pytest.raises(ConfigurationError, match=r"^key=.*: write a str"):
        await at.cache.forget(key)
