"""Group commit under too much load, and while the store is away: one batch probes it."""

from __future__ import annotations

import asyncio
import gc
import logging
from traceback import walk_tb
from typing import Final

import pytest

from redis_sessions import StoreError, StoreUnavailableError
from redis_sessions.stores import batching
from tests.unit.batching.sending import Sending, cancelled

PATIENCE: Final = 0.01


# -- too much load


@pytest.mark.parametrize("bound", ["CAPACITY_ITEMS", "CAPACITY_BYTES"])
async def test_a_full_queue(
    at: Sending, bound: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full queue refuses what comes; that isn't away, and who waits in it is served."""
    monkeypatch.setattr(batching, bound, 2)
    first = await at.hold_up("a")
    rest = [at.batcher.submit(item, 1) for item in "bc"]
    with pytest.raises(StoreUnavailableError, match="2 operations wait") as refused:
        await at.batcher.submit("d", 1)
    assert refused.value.reason == "full"
    assert at.health.away is None
    at.go_on.set()
    assert await asyncio.gather(first, *rest) == ["a", "b", "c"]
    await at.assert_serves()
    assert caplog.records == []


async def test_a_full_queue_while_away(at: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too much while the store is away is no probe: the next one is."""
    monkeypatch.setattr(batching, "CAPACITY_BYTES", 10)
    await at.go_away()
    with pytest.raises(StoreUnavailableError, match="too much load") as refused:
        await at.batcher.submit("x" * 11, 11)
    assert refused.value.reason == "full"
    assert not at.health.probing
    assert await at.reply("x") == "x"
    await at.assert_serves()


async def test_the_capacity_that_was_freed(at: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was failed or cancelled in the queue takes no capacity any more."""
    monkeypatch.setattr(batching, "CAPACITY_BYTES", 10)
    first = await at.hold_up("a")
    behind = at.batcher.submit("b", 10)
    at.fails = StoreUnavailableError("away")
    at.go_on.set()
    results = await asyncio.gather(first, behind, return_exceptions=True)
    assert all(result is at.fails for result in results)
    at.fails = None
    others = asyncio.all_tasks()
    probe = at.batcher.submit("c", 10)
    (task,) = asyncio.all_tasks() - others
    task.cancel()
    assert await cancelled(probe)
    assert await at.reply("d", 10) == "d"


async def test_an_item_that_waits_too_long() -> None:
    """What waited for longer than its patience isn't sent; that is 'full', and not away."""
    at = Sending(patience=PATIENCE)
    first = await at.hold_up("a")
    late = at.batcher.submit("b", 1)
    asyncio.get_running_loop().call_later(2 * PATIENCE, at.go_on.set)
    assert await first == "a"
    with pytest.raises(StoreUnavailableError, match=r"it waited 0\.01 s in a queue") as refused:
        await late
    assert refused.value.reason == "full"
    assert at.batches == [["a"]]
    await at.assert_serves()


# -- away


async def test_one_probes(at: Sending) -> None:
    """While the store is away one batch probes it, and the rest fails at once."""
    await at.go_away()
    probe = await at.hold_up("a")
    with pytest.raises(StoreUnavailableError, match=r"^still away: away$"):
        await at.batcher.submit("b", 1)
    at.go_on.set()
    assert await probe == "a"
    await at.assert_serves()


@pytest.mark.parametrize("kind", [StoreUnavailableError, ZeroDivisionError])
async def test_a_failure_that_nobody_retrieves_is_logged_without_frames(
    at: Sending, kind: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """asyncio logs it with its traceback, which led through everybody's items."""
    told = list[BaseException]()
    caplog.set_level(logging.CRITICAL, "redis_sessions")  # a record would hold the error
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
    at.fails = kind("away")
    others = asyncio.all_tasks()
    abandoned = at.batcher.submit("a", 1)
    await asyncio.wait(asyncio.all_tasks() - others)
    # Whoever holds the error holds what waits, on Python 3.13: by the frame that is left.
    at.fails = at.health.away = None
    del abandoned
    gc.collect()
    assert list(map(type, told)) == [kind]
    assert [frame.f_globals["__name__"] for frame, _ in walk_tb(told[0].__traceback__)] == [
        Sending.__module__
    ]


async def test_who_is_refused_at_once_sees_nobody_else_s_traceback(at: Sending) -> None:
    """What they are told of was raised to another request, whose frames are its own."""
    at.fails = StoreUnavailableError("away")
    at.fails.__cause__ = OSError("refused")
    with pytest.raises(StoreUnavailableError, match=r"^away$"):
        await at.reply("x")
    at.go_on.clear()
    probe = await at.hold_up("a")
    with pytest.raises(StoreUnavailableError, match=r"^still away: away$") as refused:
        await at.batcher.submit("b", 1)
    assert refused.value.__cause__ is at.fails.__cause__
    at.fails = None
    at.go_on.set()
    assert await probe == "a"


async def test_what_is_refused_at_once_is_not_raised_at_once(at: Sending) -> None:
    """So that who asks for many at a time leaves none of the others' failures unseen."""
    await at.go_away()
    probe = await at.hold_up("a")
    rest = asyncio.gather(*(at.batcher.ask(item, 1) for item in "bc"), return_exceptions=True)
    assert [str(told) for told in await rest] == ["still away: away"] * 2
    at.go_on.set()
    assert await probe == "a"


async def test_one_probes_for_all_batchers_of_a_loop(at: Sending) -> None:
    """Batchers that share a Health share a probe, and what it finds."""
    other = Sending(at.health)
    await at.go_away()
    probe = await at.hold_up("a")
    with pytest.raises(StoreUnavailableError, match=r"^still away: away$"):
        await other.batcher.submit("b", 1)
    at.go_on.set()
    assert await probe == "a"
    await other.assert_serves()


@pytest.mark.parametrize(
    "refusal",
    [StoreError("no"), *(StoreUnavailableError("no", reason=r) for r in ("server", "refused"))],
    ids=["error", "server", "refused"],
)
async def test_a_refused_probe(at: Sending, refusal: StoreError) -> None:
    """A probe that is refused has found the store: it isn't away any more."""
    await at.go_away()
    at.fails = refusal
    with pytest.raises(StoreError, match=r"^no$"):
        await at.reply("x")
    at.fails = None
    await at.assert_serves()
    assert at.batches[-1] == ["one", "two"]


@pytest.mark.parametrize("reason", ["connection", "timeout"])
async def test_a_probe_that_fails(at: Sending, reason: str) -> None:
    """A probe that finds the store still away leaves it so, until one gets through."""
    await at.go_away()
    at.fails = StoreUnavailableError("gone", reason=reason)
    for _ in range(2):
        with pytest.raises(StoreUnavailableError, match=r"^gone$"):
            await at.reply("x")
        assert at.health.away is at.fails
    at.fails = None
    assert await at.reply("x") == "x"
    await at.assert_serves()


async def test_who_waits_behind_a_batch_that_found_it_away(at: Sending) -> None:
    """What waits when a batch finds the store away fails with it."""
    first = await at.hold_up("a")
    behind = at.batcher.submit("b", 1)
    at.fails = StoreUnavailableError("away")
    at.go_on.set()
    results = await asyncio.gather(first, behind, return_exceptions=True)
    assert all(result is at.fails for result in results)
    assert at.batches == [["a"]]
