"""Claims whose loads are cut off, whose replies are lost, or that are of another version."""

# It looks into the cache.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any

import pytest

from redis_sessions import (
    Cache,
    Commit,
    ConfigurationError,
    MemoryStore,
    StoreUnavailableError,
)
from tests.support.stores import NearStore
from tests.support.virtual_time import VirtualLoop, run
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


def test_who_waits_for_long() -> None:
    """Whoever has waited for another process as long as `lock` says loads the value itself."""

    async def test(loop: VirtualLoop) -> None:
        store = MemoryStore(clock=loop.time)
        caches = [Cache(store, KEY, clock=loop.time) for _ in range(2)]
        slow, other = paused("slow"), Loads("other")
        task = asyncio.create_task(caches[0].get_or_set("key", slow, ttl=60, lock=3600))
        await slow.began.wait()
        began = loop.time()
        assert await caches[1].get_or_set("key", other, ttl=60, lock=5) == "other"
        assert 5 <= loop.time() - began < 6
        slow.go_on.set()
        assert await task == "slow"

    run(test)


async def test_slow_after_a_failed_claim(at: Kept) -> None:
    """If the claim had no answer, nobody waits for the answer to what is stored afterwards."""
    asked, go_on = list[Commit](), asyncio.Event()

    async def answer(expected: bytes | None, result: Commit) -> None:
        asked.append(result)
        if len(asked) == 1:
            raise StoreUnavailableError("the reply was lost, says the test")
        await go_on.wait()

    at.store.committed = answer
    task = asyncio.create_task(at.cache.get_or_set("key", Loads("value"), ttl=60))
    await at.until(lambda: len(asked) == 2)
    for _ in range(5):
        await asyncio.sleep(0)
    assert task.done()
    assert task.result() == "value"
    go_on.set()


async def test_first_entries_of_a_principal(at: Kept) -> None:
    """Two processes store the first entries of one principal at once: both have one generation."""
    met, looks, loads = asyncio.Barrier(4), 0, [Loads(n) for n in range(2)]
    parts = [at.another().of_principal("alice") for _ in loads]

    async def meet() -> None:
        nonlocal looks
        looks += 1
        if looks <= met.parties:  # each looks at its entry, and at the generation
            await met.wait()

    async def ask(n: int) -> None:
        await parts[n].get_or_set(f"key{n}", loads[n], ttl=60)

    at.store.loaded = meet
    await asyncio.gather(*(ask(n) for n in range(2)))
    for n in range(2):
        await ask(n)
    assert [load.calls for load in loads] == [1, 1]


async def test_another_principal_is_forgotten(at: Kept) -> None:
    """Whoever comes to a load that is under way still joins it."""
    at.store.away = True
    load, bob = paused("value"), at.cache.of_principal("bob")
    first = asyncio.create_task(bob.get_or_set("key", load, ttl=60))
    await load.began.wait()
    await at.cache.forget_principal("alice")
    second = asyncio.create_task(bob.get_or_set("key", load, ttl=60))
    await at.until(lambda: at.cache.counts["unavailable"] == 2)
    load.go_on.set()
    assert (await first, await second) == ("value", "value")
    assert load.calls == 1


async def test_kept_no_longer_than_it_may_be(at: Kept) -> None:
    """How long a value may stand in is said when it is stored, also if a load takes very long."""
    await at.cache.get_or_set("key", Loads("kept"), ttl=60, stale_if_error=30)
    at.clock.advance(80)
    failing = paused(LookupError())
    task = asyncio.create_task(at.cache.get_or_set("key", failing, ttl=60, stale_if_error=3600))
    await failing.began.wait()
    at.clock.advance(20)
    failing.go_on.set()
    with pytest.raises(LookupError):
        await task


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
