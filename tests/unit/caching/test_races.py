"""One load for many, and what was forgotten meanwhile: callers cross in each order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from redis_sessions import Cache
from tests.unit.caching.setting import Kept, Loads, paused


@pytest.mark.parametrize("away", [False, True])
@pytest.mark.parametrize("value", ["value", LookupError("no such row")])
async def test_one_load(at: Kept, away: bool, value: Any) -> None:
    """1,000 concurrent misses load once; they all have the value, or the very error."""
    at.store.away = away
    load = Loads(value)
    calls = [at.cache.get_or_set("key", load, ttl=60) for _ in range(1000)]
    assert set(await asyncio.gather(*calls, return_exceptions=True)) == {value}
    assert load.calls == 1


async def test_late_answer(at: Kept) -> None:
    """Who came before a load began shares it, also if the answer that nothing is there is late."""
    load, other = paused(None), Loads("other")

    async def late() -> None:
        await load.began.wait()

    at.store.loaded = late
    second = asyncio.create_task(at.cache.get_or_set("key", other, ttl=60))
    await asyncio.sleep(0)
    at.store.loaded = None
    first = asyncio.create_task(at.cache.get_or_set("key", load, ttl=60))
    await load.began.wait()
    await asyncio.sleep(0)
    load.go_on.set()
    assert (await first, await second) == (None, None)
    assert other.calls == 0


async def test_two_processes(at: Kept) -> None:
    """What one process loads, another one waits for."""
    first, second = paused("first"), Loads("second")
    loading = asyncio.create_task(at.cache.get_or_set("key", first, ttl=60))
    await first.began.wait()
    looked = asyncio.Event()

    async def note() -> None:
        looked.set()

    at.store.loaded = note
    waiting = asyncio.create_task(at.another().get_or_set("key", second, ttl=60))
    await looked.wait()
    first.go_on.set()
    assert await loading == await waiting == "first"
    assert second.calls == 0


@pytest.mark.parametrize("ends", ["fails", "is cancelled", "gives None"])
async def test_load_without_result(at: Kept, ends: str) -> None:
    """If a load has nothing to keep, another process needn't wait until its claim lapses."""
    first, second = paused(LookupError() if ends == "fails" else None), Loads("second")
    loading = asyncio.create_task(at.cache.get_or_set("key", first, ttl=60, lock=3600))
    await first.began.wait()
    waiting = asyncio.create_task(at.another().get_or_set("key", second, ttl=60, lock=3600))
    if ends == "is cancelled":
        loading.cancel()
    else:
        first.go_on.set()
    await asyncio.gather(loading, return_exceptions=True)
    async with asyncio.timeout(10):
        assert await waiting == "second"


async def test_first_is_cancelled(at: Kept) -> None:
    """If the first of those who wait is cancelled, the others have the value."""
    load = paused("value")
    tasks = [asyncio.create_task(at.cache.get_or_set("key", load, ttl=60)) for _ in range(3)]
    await load.began.wait()
    tasks[0].cancel()
    await asyncio.wait(tasks[:1])
    load.go_on.set()
    assert await asyncio.gather(*tasks[1:]) == ["value", "value"]
    assert load.calls == 1


async def test_all_are_cancelled(at: Kept) -> None:
    """If nobody waits any more, the load is cancelled, and who comes then begins another one."""
    load, other = paused("value"), Loads("other")
    tasks = [asyncio.create_task(at.cache.get_or_set("key", load, ttl=60)) for _ in range(2)]
    await load.began.wait()
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 2
    assert await at.cache.get_or_set("key", other, ttl=60) == "other"


async def test_slow_to_end(at: Kept) -> None:
    """Who comes while a cancelled load comes to its end begins another one."""
    load, cancelled = Loads(), asyncio.Event()

    async def stubborn() -> Any:
        try:
            return await paused("value")()
        finally:
            cancelled.set()
            await load.go_on.wait()

    load.go_on.clear()
    task = asyncio.create_task(at.cache.get_or_set("key", stubborn, ttl=60))
    await at.until(lambda: at.cache.counts["load"] == 1)
    task.cancel()
    await cancelled.wait()
    after = asyncio.create_task(at.cache.get_or_set("key", Loads("other"), ttl=60))
    await asyncio.sleep(0)
    load.go_on.set()
    assert await after == "other"


FORGET: dict[str, tuple[Callable[[Cache], Cache], Callable[[Cache], Awaitable[None]]]] = {
    "key": (lambda cache: cache, lambda cache: cache.forget("key")),
    "principal's key": (
        lambda cache: cache.of_principal("alice"),
        lambda cache: cache.of_principal("alice").forget("key"),
    ),
    "principal": (
        lambda cache: cache.of_principal("alice"),
        lambda cache: cache.forget_principal("alice"),
    ),
}


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("kept_before", [False, True])
@pytest.mark.parametrize("kind", FORGET)
async def test_stale_set(at: Kept, kind: str, kept_before: bool, elsewhere: bool) -> None:
    """A load that began before `forget` keeps nothing, and who comes afterwards isn't given it."""
    part, forget = FORGET[kind]
    here = part(at.cache)
    if kept_before:
        await here.get_or_set("key", Loads("older"), ttl=60, stale_if_error=3600)
        at.clock.advance(60)
    old, new = paused("old"), paused("new")
    before = asyncio.create_task(here.get_or_set("key", old, ttl=60))
    await old.began.wait()
    await forget(at.another() if elsewhere else at.cache)
    after = asyncio.create_task(here.get_or_set("key", new, ttl=60))
    await new.began.wait()
    old.go_on.set()
    assert await before == "old"
    new.go_on.set()
    assert await after == "new"
    assert await here.get_or_set("key", Loads("newer"), ttl=60) == "new"
    assert await part(at.another()).get_or_set("key", Loads("newer"), ttl=60) == "new"


async def test_forgotten_before_the_load_began(at: Kept) -> None:
    """Who came before a load began shares it, whatever was forgotten between."""
    load = Loads("value")
    came = asyncio.Event()

    async def forget() -> None:
        came.set()
        await at.another().forget("key")

    at.store.meanwhile = forget
    values = await asyncio.gather(*(at.cache.get_or_set("key", load, ttl=60) for _ in range(3)))
    assert came.is_set()
    assert values == ["value"] * 3
    assert load.calls == 1


@pytest.mark.parametrize("fails", [False, True])
async def test_forgotten_before_the_claim(
    at: Kept, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """Who comes after `forget` and joins another one gets nothing that this one saw before."""
    options: dict[str, Any] = {"ttl": 60, "stale_if_error": 60}
    await early(at, monkeypatch, **options)
    monkeypatch.setattr(random, "random", lambda: 0.9)
    claims, go_on, commit = asyncio.Event(), asyncio.Event(), at.store.commit

    async def held(*arguments: Any) -> Any:
        claims.set()
        await go_on.wait()
        return await commit(*arguments)

    monkeypatch.setattr(at.store, "commit", held)
    load = Loads(LookupError() if fails else "new")
    tasks = [asyncio.create_task(at.cache.get_or_set("key", load, **options))]
    await claims.wait()
    await at.another().forget("key")
    tasks.append(asyncio.create_task(at.cache.get_or_set("key", load, **options)))
    await asyncio.sleep(0)
    go_on.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results == [load.value] * 2
    assert load.calls == 1


async def test_claim_lapses(at: Kept) -> None:
    """A load that takes longer than `lock` doesn't replace what another process loaded then."""
    slow, other = paused("slow"), Loads("other")
    before = asyncio.create_task(at.cache.get_or_set("key", slow, ttl=60, lock=5))
    await slow.began.wait()
    at.clock.advance(5)
    assert await at.another().get_or_set("key", other, ttl=60) == "other"
    slow.go_on.set()
    assert await before == "slow"
    assert at.cache.counts["not kept"] == 1
    assert await at.cache.get_or_set("key", Loads("newer"), ttl=60) == "other"


async def test_stale_if_error(at: Kept, caplog: pytest.LogCaptureFixture) -> None:
    """After its ttl a value stands in for loads that fail, for the stated time and no longer."""
    options: dict[str, Any] = {"ttl": 60, "stale_if_error": 30}
    await at.cache.get_or_set("key", Loads("kept"), **options)
    at.clock.advance(80)
    failing = Loads(LookupError("secret"))
    for n in (1, 2):
        assert await at.another().get_or_set("key", failing, **options) == "kept"
        assert failing.calls == n
    assert "secret" not in caplog.text
    assert "a load failed (LookupError)" in caplog.text
    with pytest.raises(LookupError):
        await at.cache.get_or_set("key", failing, ttl=60)  # this caller doesn't want it
    at.clock.advance(10)
    with pytest.raises(LookupError):
        await at.cache.get_or_set("key", failing, **options)
    assert await at.cache.get_or_set("key", Loads("new"), **options) == "new"


async def early(at: Kept, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """Have an entry whose loads take 8 seconds, as it seems, 5 seconds before its end."""
    times = iter([0.0, 8.0])
    with monkeypatch.context() as patch:
        patch.setattr("redis_sessions.stores.single_flight.clock", lambda: next(times))
        await at.cache.get_or_set("key", Loads("kept"), **{"ttl": 60, **options})
    at.clock.advance(55)


@pytest.mark.parametrize(("drawn", "is_early"), [(0.4, False), (0.6, True)])
async def test_early(
    at: Kept, monkeypatch: pytest.MonkeyPatch, drawn: float, is_early: bool
) -> None:
    """A value is loaded anew before its end if 8 s * -ln(1 - drawn) reaches there (XFetch)."""
    await early(at, monkeypatch)
    monkeypatch.setattr(random, "random", lambda: drawn)
    load = Loads("new")
    assert await at.cache.get_or_set("key", load, ttl=60, beta=0) == "kept"
    found = await at.cache.get_or_set("key", load, ttl=60)
    assert (found, load.calls, at.cache.counts["early"]) == (
        ("new", 1, 1) if is_early else ("kept", 0, 0)
    )


async def test_early_load_alone(at: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one loads early, all others have the value, also if the load fails then."""
    await early(at, monkeypatch)
    monkeypatch.setattr(random, "random", lambda: 0.9)
    failing, other = paused(LookupError()), Loads("other")
    loading = asyncio.create_task(at.cache.get_or_set("key", failing, ttl=60))
    await failing.began.wait()
    for cache in (at.cache, at.another()):
        assert await cache.get_or_set("key", other, ttl=60) == "kept"
    failing.go_on.set()
    assert await loading == "kept"
    assert other.calls == 0
    assert await at.another().get_or_set("key", other, ttl=60) == "other"


async def test_early_loads_at_once(at: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """If two processes want to load early at the same moment, one does."""
    await early(at, monkeypatch)
    monkeypatch.setattr(random, "random", lambda: 0.9)
    load = paused("new")
    tasks = [asyncio.create_task(at.another().get_or_set("key", load, ttl=60)) for _ in range(5)]
    await load.began.wait()
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    load.go_on.set()
    assert sorted(await asyncio.gather(*tasks)) == ["kept"] * 4 + ["new"]
    assert load.calls == 1
