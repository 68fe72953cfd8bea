"""Group commit: whatever becomes of a batch, nobody waits for ever, and the next one leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import pytest

from redis_sessions import StoreError, StoreUnavailableError
from redis_sessions.stores import coalescing
from redis_sessions.stores.coalescing import Batcher, Health

PATIENCE: Final = 0.01
LONGEST: Final = 5.0  # what a reply that never comes is waited for


class Sending:
    """A batcher, and what it sends to: that echoes, fails, falls short, or is held up."""

    def __init__(self, health: Health | None = None, patience: float = 2.0) -> None:
        self.health = health or Health()
        self.batcher = Batcher[str, str](self._send, self.health, patience)
        self.batches: list[list[str]] = []
        self.fails: Exception | None = None
        self.replies: list[str | Exception] | None = None
        self.sent = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def _send(self, items: Sequence[str]) -> Sequence[str | Exception]:
        self.batches.append(list(items))
        self.sent.set()
        await self.go_on.wait()
        if self.fails is not None:
            raise self.fails
        return items if self.replies is None else self.replies

    async def hold_up(self, item: str) -> asyncio.Future[str]:
        """Submit what is on its way until `go_on` is set."""
        self.sent.clear()
        self.go_on.clear()
        future = self.batcher.submit(item, 1)
        await self.sent.wait()
        return future

    async def reply(self, item: str, size: int = 1) -> str:
        async with asyncio.timeout(LONGEST):
            return await self.batcher.submit(item, size)

    async def go_away(self) -> None:
        """Have a batch find the store away."""
        self.fails = StoreUnavailableError("away")
        with pytest.raises(StoreUnavailableError, match=r"^away$"):
            await self.reply("x")
        self.fails = None
        assert self.health.away is not None

    async def assert_serves(self) -> None:
        replies = await asyncio.gather(*map(self.reply, ("one", "two")))
        assert replies == ["one", "two"]
        assert self.health.away is None
        assert not self.health.probing


@pytest.fixture
async def at() -> Sending:
    return Sending()


async def cancelled(future: asyncio.Future[str]) -> bool:
    """Whether waiting for it ended by its cancellation."""
    await asyncio.wait([future], timeout=LONGEST)
    return future.cancelled()


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


# -- too much load


@pytest.mark.parametrize("bound", ["CAPACITY_ITEMS", "CAPACITY_BYTES"])
async def test_a_full_queue(
    at: Sending, bound: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full queue refuses what comes; that isn't away, and who waits in it is served."""
    monkeypatch.setattr(coalescing, bound, 2)
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
    monkeypatch.setattr(coalescing, "CAPACITY_BYTES", 10)
    await at.go_away()
    with pytest.raises(StoreUnavailableError, match="too much load") as refused:
        await at.batcher.submit("x" * 11, 11)
    assert refused.value.reason == "full"
    assert not at.health.probing
    assert await at.reply("x") == "x"
    await at.assert_serves()


async def test_the_capacity_that_was_freed(at: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was failed or cancelled in the queue takes no capacity any more."""
    monkeypatch.setattr(coalescing, "CAPACITY_BYTES", 10)
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


async def test_a_second_batch_leaves_beside_a_slow_one(
    at: Sending, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is slow holds up what came with it, and not what comes later; two at most."""
    monkeypatch.setattr(coalescing, "SLOW", -1.0)
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
    monkeypatch.setattr(coalescing, "CAPACITY_BYTES", 1_000)
    at.batcher.reply_size = coalescing.MAX_BYTES // 2
    first = await at.hold_up("a")
    rest = [at.batcher.submit(item, 64) for item in "bcdefgh"]
    at.go_on.set()
    assert await asyncio.gather(first, *rest) == [*"abcdefgh"]
    assert max(map(len, at.batches)) == 2
