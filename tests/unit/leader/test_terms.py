"""One term: who leads, until when, and how the one that leads learns that it doesn't any more."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress
from itertools import pairwise

import pytest

from redis_sessions import (
    LeadershipLostError,
    MemoryStore,
    StoreError,
    StoreUnavailableError,
)
from redis_sessions.leader import Leader, Term
from redis_sessions.stores.leases import leases_of
from tests.support.virtual_time import VirtualLoop, run
from tests.unit.leader.processes import LEASE, Process, Register, store_of

NAME = "nightly"


def test_one_after_the_other() -> None:
    """Of many that want to lead one does at a time, for as long as it likes; tokens grow."""

    async def test(loop: VirtualLoop) -> None:
        store, terms, leading = store_of(loop), list[Term](), 0
        leaders = [Leader(store, clock=loop.time) for _ in range(8)]

        async def lead(leader: Leader) -> None:
            nonlocal leading
            async with leader(NAME) as term:
                leading += 1
                assert leading == 1
                for _ in range(4):
                    await asyncio.sleep(LEASE)
                    term.check()
                leading -= 1
            terms.append(term)

        await asyncio.gather(*map(lead, leaders))
        tokens = [term.token for term in terms]
        assert tokens == sorted(set(tokens))
        assert len(tokens) == 8
        with pytest.raises(LeadershipLostError, match="its body has ended"):
            terms[-1].check()
        # The next one asks again a second later, at most.
        assert loop.time() - loop_start(tokens) < 8 * 4 * LEASE + 8 * LEASE / 15 * 1.25

    run(test)


def loop_start(tokens: list[int]) -> float:
    return tokens[0] / 1e6


async def test_a_run_after_the_clock_was_set_back() -> None:
    """The next run begins an interval later at most, and not when the clock is there again."""
    now = [1_800_000_000.0]
    leases = leases_of(MemoryStore(clock=lambda: now[0]))
    await leases.acquire(NAME, "a", LEASE, "here", 0)
    assert await leases.begin(NAME, "a", "run 1", 60) == 0
    now[0] -= 86_400
    assert await leases.begin(NAME, "a", "run 2", 60) == 60


@pytest.mark.parametrize("blocks", [False, True])
def test_a_lease_that_cannot_be_renewed(blocks: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The body's task is cancelled before another process leads, and the statement raises."""

    async def test(loop: VirtualLoop) -> None:
        store = store_of(loop)
        first, second = Process(store, loop.time), Process(store, loop.time)
        over = list[float]()

        async def lead() -> None:
            try:
                async with first.election.lead(NAME, LEASE, "first") as term:
                    first.away = True
                    try:
                        if blocks:  # the event loop, so that nothing can cancel the task
                            loop.now += LEASE
                            with pytest.raises(LeadershipLostError):
                                term.check()
                        await asyncio.sleep(1000)
                    finally:
                        over.append(loop.time())
                        with pytest.raises(LeadershipLostError):
                            term.check()
            except asyncio.CancelledError:
                pytest.fail("nobody else had cancelled it")

        began = loop.time()
        leading = asyncio.create_task(lead())
        await asyncio.sleep(0.1)
        async with second.election.lead(NAME, LEASE, "second"):
            assert over[0] <= loop.time()
            assert began + LEASE <= loop.time() <= began + LEASE * 1.1 + 1
        with pytest.raises(LeadershipLostError, match="the lease wasn't renewed in time"):
            await leading
        assert "renew" not in first.asked
        assert "release" not in first.asked

    caplog.set_level(logging.INFO)
    run(test)
    said = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 2 - blocks  # that it couldn't be renewed, and that it is lost
    assert "token" in said[-1]


def test_late_renewals_suffice(caplog: pytest.LogCaptureFixture) -> None:
    """A store that is back before the lease ends costs no more than a warning."""

    async def test(loop: VirtualLoop) -> None:
        process = Process(store_of(loop), loop.time)
        async with process.election.lead(NAME, LEASE, "first") as term:
            process.away = True
            await asyncio.sleep(LEASE * 0.7)
            process.away = False
            await asyncio.sleep(LEASE * 3)
            term.check()

    run(test)
    said = [record.message for record in caplog.records]
    assert len(said) == 2
    assert "no answer" in said[0]
    assert "was renewed late" in said[1]


def test_a_lease_that_the_store_has_lost() -> None:
    """The next renewal says so: at a third of the lease the task is cancelled."""

    async def test(loop: VirtualLoop) -> None:
        store = store_of(loop)
        process, other = Process(store, loop.time), Process(store, loop.time)
        began = loop.time()
        with pytest.raises(LeadershipLostError, match="had ended in the store"):
            async with process.election.lead(NAME, LEASE, "first"):
                await other.election.leases.release(NAME, "first")
                await asyncio.sleep(1000)
        assert loop.time() == pytest.approx(began + LEASE / 3)

    run(test)


def test_somebody_else_s_cancellation() -> None:
    """It stays what it was, also if the lease is lost while the body cleans up."""

    async def test(loop: VirtualLoop) -> None:
        store = store_of(loop)
        for lost in (False, True):
            process = Process(store, loop.time)

            async def lead(process: Process = process, lost: bool = lost) -> None:
                async with process.election.lead(NAME, LEASE, f"first {lost}"):
                    try:
                        await asyncio.sleep(1000)
                    finally:
                        process.away = lost
                        with suppress(asyncio.CancelledError):
                            await asyncio.sleep(2 * LEASE if lost else 0)

            task = asyncio.create_task(lead())
            await asyncio.sleep(1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelling() == 1
            assert process.asked[-1] == ("acquire" if lost else "release")
            await asyncio.sleep(2 * LEASE)

    run(test)


def test_timeouts_around_and_within() -> None:
    """`asyncio.timeout` outside and inside, and a group of tasks, know whose end it was."""

    async def test(loop: VirtualLoop) -> None:
        process = Process(store_of(loop), loop.time)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1), process.election.lead(NAME, LEASE, "a"):
                await asyncio.sleep(1000)
        async with process.election.lead(NAME, LEASE, "b") as term:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await asyncio.sleep(1000)
            term.check()
        with pytest.raises(LeadershipLostError):
            async with asyncio.timeout(1000), process.election.lead(NAME, LEASE, "c"):
                process.away = True
                async with asyncio.timeout(1000), asyncio.TaskGroup() as group:
                    group.create_task(asyncio.sleep(1000))
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        process.away = False
        with pytest.raises(ZeroDivisionError):  # what the body raises
            async with process.election.lead(NAME, LEASE, "d"):
                raise ZeroDivisionError
        async with process.election.lead(NAME, LEASE, "e"):
            process.away = True
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(1000)
        assert task.cancelling() == 0  # a body that swallows it has ended as it wanted

    run(test)


def test_lost_replies() -> None:
    """An acquisition whose reply was lost is recognised: it is one term, and counts from later."""

    async def test(loop: VirtualLoop) -> None:
        process = Process(store_of(loop), loop.time)
        process.loses = 3
        async with process.election.lead(NAME, LEASE, "first") as term:
            assert process.asked == ["acquire"] * 4
            assert term.token < loop.time() * 1e6
            process.loses = 1
            await asyncio.sleep(LEASE * 0.9)
            term.check()
        assert process.asked[4:] == ["renew"] * 3 + ["release"]

    run(test)


@pytest.mark.parametrize("moment", [0.5, 1.5])
def test_cancelled_while_it_asks(moment: float) -> None:
    """What the store gives to somebody who was cancelled meanwhile is given back at once."""

    async def test(loop: VirtualLoop) -> None:
        store = store_of(loop)
        process = Process(store, loop.time)
        process.delay = 1

        async def lead() -> None:
            async with process.election.lead(NAME, LEASE, "first"):
                pytest.fail("it was cancelled before")

        task = asyncio.create_task(lead())
        await asyncio.sleep(moment)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert process.asked == ["acquire", "release"]
        found = await process.election.leases.look(NAME)
        assert found is not None
        assert found.left == 0

    run(test)


def test_a_reply_that_comes_too_late() -> None:
    """A lease that has ended, by the holder's own clock, before it was known isn't used."""

    async def test(loop: VirtualLoop) -> None:
        process = Process(store_of(loop), loop.time)
        process.delay = LEASE

        async def hurry() -> None:
            await asyncio.sleep(LEASE * 3)
            process.delay = 0.1

        hurrying = asyncio.create_task(hurry())
        async with process.election.lead(NAME, LEASE, "first") as term:
            term.check()
            assert process.asked.count("acquire") > 1
        await hurrying

    run(test)


@pytest.mark.parametrize("reason", ["refused", None])
def test_a_store_that_refuses(reason: str | None) -> None:
    """What waiting doesn't help against is raised."""

    async def test(loop: VirtualLoop) -> None:
        leader = Leader(store_of(loop), clock=loop.time)
        error = StoreError("WRONGTYPE")
        if reason is not None:
            error = StoreUnavailableError("NOPERM", reason=reason)

        async def refuse(*_: object) -> object:
            raise error

        leases = leader._election.leases  # pyright: ignore[reportPrivateUsage] - the network
        leases._call = refuse  # pyright: ignore[reportPrivateUsage]
        with pytest.raises(StoreError) as caught:
            async with leader(NAME):
                pass
        assert caught.value is error

    run(test)


def test_tokens_grow_over_lost_data() -> None:
    """A store that has forgotten the counter gives greater tokens all the same."""

    async def test(loop: VirtualLoop) -> None:
        tokens = list[int]()
        for _ in range(3):  # each time another, empty store
            async with Leader(store_of(loop), clock=loop.time)(NAME) as term:
                tokens.append(term.token)
            await asyncio.sleep(1e-6)
        assert all(a < b for a, b in pairwise(tokens))

        loop.now -= 3600  # it is the clock of the next server, too, which is an hour behind
        behind = Process(store_of(loop), loop.time)
        behind.election._seen[NAME] = tokens[-1]  # pyright: ignore[reportPrivateUsage]
        async with behind.election.lead(NAME, LEASE, "it has waited") as term:
            assert term.token > tokens[-1]

    run(test)


def test_a_clock_that_was_set_back() -> None:
    """A dead leader's lease lasts no longer than a lease, by the clock of now."""

    async def test(loop: VirtualLoop) -> None:
        back = 0.0
        store = MemoryStore(clock=lambda: loop.time() - back)
        dead, heir = Process(store, loop.time), Process(store, loop.time)
        await dead.election.leases.acquire(NAME, "dead", LEASE, "", 0)
        back = 24 * 3600
        began = loop.time()
        async with heir.election.lead(NAME, LEASE, "heir") as term:
            assert loop.time() < began + LEASE + 2
            assert term.token > began * 1e6

    run(test)


@pytest.mark.parametrize("seed", range(6))
def test_interleavings(seed: int) -> None:
    """Whatever is lost or late: one term is in force at a time, and no write comes out of order."""
    chance = random.Random(seed)  # noqa: S311 - no secret

    async def test(loop: VirtualLoop) -> None:
        store, register = store_of(loop), Register()
        terms = list[Term]()
        count = 0

        async def live() -> None:
            nonlocal count
            process = Process(store, loop.time)
            ends = loop.time() + 400
            while loop.time() < ends:
                trouble = asyncio.create_task(be_unlucky(process))
                try:
                    async with process.election.lead(NAME, LEASE, str(count := count + 1)) as term:
                        terms.append(term)
                        await work(term)
                except LeadershipLostError:
                    pass
                finally:
                    trouble.cancel()
                await asyncio.sleep(chance.uniform(0, 3))

        async def be_unlucky(process: Process) -> None:
            while True:
                await asyncio.sleep(chance.uniform(0, LEASE))
                process.away = chance.random() < 0.3
                process.loses = chance.choice([0, 0, 1, 2])
                process.delay = chance.choice([0.0, 0.01, 1.0, 4.0])

        async def work(term: Term) -> None:
            for _ in range(chance.randrange(20)):
                await asyncio.sleep(chance.uniform(0, 2))
                try:
                    term.check()
                except LeadershipLostError:
                    continue
                assert [t for t in terms if t is not term and in_force(t)] == []
                assert register.write(term.token)

        await asyncio.gather(*(live() for _ in range(4)))
        assert register.writers == sorted(register.writers)
        assert len(set(register.writers)) > 5

    run(test)


def in_force(term: Term) -> bool:
    try:
        term.check()
    except LeadershipLostError:
        return False
    return True
