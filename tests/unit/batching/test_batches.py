"""Group commit: what leaves together or alone, and nobody waits for ever, whoever is cancelled."""

from __future__ import annotations

import asyncio

import pytest

from redis_sessions import StoreError, StoreUnavailableError
from redis_sessions.stores import batching
from tests.unit.batching.sending import LONGEST, Sending, cancelled

# -- batches


async def test_what_arrives_meanwhile_leaves_together(at: Sending) -> None:
    """What arrives while a batch is under way leaves in the next one."""
    first = await at.hold_up("a")
    rest = [at.batcher.submit(item, 1) for item in "bc"]
    at.go_on.set()
    assert await asyncio.gather(first, *rest) == ["a", "b", "c"]
    assert at.batches == [["a"], ["b", "c"]]


async def test_an_exception_is_one_item_s(at: Sending) -> None:
    """A reply that is an exception is raised where it belongs."""
    at.replies = ["a", StoreError("no")]
    results = await asyncio.gather(*map(at.reply, "ab"), return_exceptions=True)
    assert results == at.replies


@pytest.mark.parametrize("replies", [["?"], ["?", "?", "?"], []], ids=len)
async def test_a_wrong_number_of_replies(at: Sending, replies: list[str | Exception]) -> None:
    """Too few or too many replies can't be told apart: they are everybody's error, once."""
    at.replies = replies
    results = await asyncio.gather(*map(at.reply, "ab"), return_exceptions=True)
    assert [type(result) for result in results] == [StoreError, StoreError]
    assert [str(result) for result in results] == [f"{len(replies)} replies to 2 operations"] * 2
    at.replies = None
    await at.assert_serves()


async def test_what_isn_t_a_store_s_error(at: Sending) -> None:
    """Whatever sending raises, those who wait get it, and nobody after them."""
    at.fails = ValueError("a bug")
    with pytest.raises(ValueError, match="a bug"):
        await at.reply("x")
    at.fails = None
    await at.assert_serves()


async def test_a_second_batch_leaves_beside_a_slow_one(
    at: Sending, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is slow holds up what came with it, and not what comes later; two at most."""
    monkeypatch.setattr(batching, "SLOW", -1.0)
    slow = await at.hold_up("a")
    at.sent.clear()
    later = [at.batcher.submit(item, 1) for item in "bcd"]
    await at.sent.wait()
    assert at.batches == [["a"], ["b", "c", "d"]]
    last = at.batcher.submit("e", 1)
    await asyncio.sleep(0)
    assert len(at.batches) == 2
    at.go_on.set()
    assert await asyncio.gather(slow, *later, last) == ["a", "b", "c", "d", "e"]


async def test_the_size_of_replies_bounds_a_batch_alone(
    at: Sending, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large replies make small batches; what waits is only as large as what is asked."""
    monkeypatch.setattr(batching, "CAPACITY_BYTES", 1_000)
    at.batcher.reply_size = batching.MAX_BYTES // 2
    first = await at.hold_up("a")
    rest = [at.batcher.submit(item, 64) for item in "bcdefgh"]
    at.go_on.set()
    assert await asyncio.gather(first, *rest) == [*"abcdefgh"]
    assert max(map(len, at.batches)) == 2


# -- cancelling


async def test_a_task_cancelled_before_its_first_step(at: Sending) -> None:
    """Who waits for a batch whose task never ran is cancelled, and the next batch leaves."""
    others = asyncio.all_tasks()
    future = at.batcher.submit("x", 1)
    (task,) = asyncio.all_tasks() - others
    task.cancel()
    assert await cancelled(future)
    assert at.batches == []
    await at.assert_serves()


async def test_a_task_cancelled_under_way(at: Sending) -> None:
    """A cancelled batch cancels those who wait for it and those behind it, and no later ones."""
    others = asyncio.all_tasks()
    future = await at.hold_up("a")
    behind = at.batcher.submit("b", 1)
    (task,) = asyncio.all_tasks() - others
    task.cancel()
    assert await cancelled(future)
    assert await cancelled(behind)
    at.go_on.set()
    await at.assert_serves()


async def test_a_probe_cancelled_before_its_first_step(at: Sending) -> None:
    """A probe whose task is cancelled leaves the next one to probe."""
    await at.go_away()
    others = asyncio.all_tasks()
    probe = at.batcher.submit("x", 1)
    (task,) = asyncio.all_tasks() - others
    task.cancel()
    assert await cancelled(probe)
    assert await at.reply("x") == "x"
    await at.assert_serves()


async def test_a_request_that_stops_waiting(at: Sending) -> None:
    """Who is cancelled in the queue isn't sent, and holds up nobody."""
    first = await at.hold_up("a")
    second, third = at.batcher.submit("b", 1), at.batcher.submit("c", 1)
    second.cancel()
    at.go_on.set()
    assert (await first, await third) == ("a", "c")
    assert at.batches == [["a"], ["c"]]


async def test_a_probe_that_nobody_waits_for(at: Sending) -> None:
    """A probe that is cancelled in the queue leaves the next one to probe."""
    await at.go_away()
    others = asyncio.all_tasks()
    at.batcher.submit("x", 1).cancel()
    await asyncio.wait(asyncio.all_tasks() - others)
    assert await at.reply("x") == "x"
    await at.assert_serves()


# -- one at a time


async def alone(at: Sending) -> None:
    """Have a batch of one go, so that the next item needn't queue."""
    assert await at.reply("first") == "first"


async def test_a_lone_item_doesn_t_queue(at: Sending) -> None:
    """After a batch of one, an item that finds nobody under way runs in its caller's task."""
    await alone(at)
    tasks = asyncio.all_tasks()
    assert await at.batcher.ask("a", 1) == "a"
    assert asyncio.all_tasks() == tasks
    assert at.batches[-1] == ["a"]


async def test_who_comes_beside_a_lone_item_queues(at: Sending) -> None:
    """One item at a time goes alone; the rest leaves together, and the queue is back in charge."""
    await alone(at)
    replies = await asyncio.gather(*(at.batcher.ask(item, 1) for item in "abcd"))
    assert replies == ["a", "b", "c", "d"]
    assert sorted(map(len, at.batches)) == [1, 1, 3]
    await asyncio.gather(*(at.batcher.ask(item, 1) for item in "ef"))
    assert at.batches[-1] == ["e", "f"]


async def test_a_lone_item_that_fails(at: Sending) -> None:
    """Its failure is its own, is known to all, and the next one queues, as a probe."""
    await alone(at)
    at.fails = StoreUnavailableError("away")
    with pytest.raises(StoreUnavailableError, match=r"^away$"):
        await at.batcher.ask("a", 1)
    at.fails = None
    assert at.health.away is not None
    assert await at.batcher.ask("b", 1) == "b"
    await at.assert_serves()


async def test_a_lone_item_whose_reply_is_an_exception(at: Sending) -> None:
    await alone(at)
    at.replies = [StoreError("no")]
    with pytest.raises(StoreError, match="no"):
        await at.batcher.ask("a", 1)


async def test_a_lone_item_that_is_cancelled(at: Sending) -> None:
    """What is cancelled in the middle leaves nothing behind."""
    await alone(at)
    at.go_on.clear()
    at.sent.clear()
    task = asyncio.ensure_future(at.batcher.ask("a", 1))
    await at.sent.wait()
    task.cancel()
    assert await cancelled(task)
    at.go_on.set()
    await at.assert_serves()


async def test_a_lone_item_that_nobody_awaits(at: Sending) -> None:
    """It holds up nobody: the others queue."""
    await alone(at)
    task = asyncio.ensure_future(at.batcher.ask("a", 1))
    task.cancel()  # before its first step
    assert await cancelled(task)
    assert await asyncio.wait_for(at.batcher.ask("b", 1), LONGEST) == "b"
    assert at.batches == [["first"], ["b"]]
