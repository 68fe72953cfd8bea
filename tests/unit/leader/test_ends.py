"""Jobs and bodies that end in unusual ways, and names that one process asks for twice."""

# It looks into the leader.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from redis_sessions import ConfigurationError, LeadershipLostError, MemoryStore
from redis_sessions.leader import Leader, Term
from redis_sessions.stores.leases import leases_of
from tests.support.virtual_time import VirtualLoop, run
from tests.unit.leader.processes import LEASE, Process, store_of

NAME = "nightly"


def test_a_job_that_cancels_itself(caplog: pytest.LogCaptureFixture) -> None:
    """A job that waits for a task that was cancelled has failed; the schedule goes on."""

    async def test(loop: VirtualLoop) -> None:
        leader, count = Leader(store_of(loop), clock=loop.time), 0

        @leader.every("1h", name="clean")
        async def clean() -> None:
            nonlocal count
            count += 1
            task = asyncio.create_task(asyncio.sleep(1000))
            task.cancel()
            await task

        async with leader.running():
            await asyncio.sleep(2.5 * 3600)
        assert count == 3

    run(test)
    assert [r.message for r in caplog.records] == ["leader 'clean': the job failed"] * 3


def test_a_job_that_swallows_the_shutdown() -> None:
    """`running()` ends all the same, and the lease is released."""

    async def test(loop: VirtualLoop) -> None:
        leader = Leader(store_of(loop), clock=loop.time)

        @leader.every("5m", name="clean")
        async def clean() -> None:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(1000)

        async with asyncio.timeout(3600):
            async with leader.running():
                await asyncio.sleep(1)
        assert loop.time() < 3600 + 1_800_000_000
        found = await leader._election.leases.look("clean")
        assert found is not None
        assert found.left == 0

    run(test)


def test_one_leader_as_a_decorator() -> None:
    """Each call of a function that is decorated with it leads on its own."""

    async def test(loop: VirtualLoop) -> None:
        leader, leading = Leader(store_of(loop), clock=loop.time), 0
        decorate: Any = leader(NAME)

        async def work() -> None:
            nonlocal leading
            leading += 1
            assert leading == 1
            await asyncio.sleep(1)
            leading -= 1

        await asyncio.gather(*(decorate(work)() for _ in range(2)))

    run(test)


def test_cancelled_while_it_asks() -> None:
    """What it has asked for may arrive late. It is released afterwards all the same."""

    async def test(loop: VirtualLoop) -> None:
        process = Process(store_of(loop), loop.time)
        election = process.election
        call = election.leases._call

        async def late(name: str, weight: Any, arguments: tuple[Any, ...]) -> Any:
            await asyncio.sleep(5 if arguments[0] == "acquire" else 0)
            return await call(name, weight, arguments)

        election.leases._call = late

        async def lead() -> None:
            async with election.lead(NAME, LEASE):
                pytest.fail("it leads")

        task = asyncio.create_task(lead())
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(6)
        assert process.asked == ["acquire", "release"]
        found = await election.leases.look(NAME)
        assert found is not None
        assert found.left == 0

    run(test)


def test_slow_answers() -> None:
    """A lease counts from when it was asked for: it is over here before it is in the store."""

    async def test(loop: VirtualLoop) -> None:
        store = store_of(loop)
        process = Process(store, loop.time)
        process.delay = 2
        left = list[float]()

        async def lead() -> None:
            async with process.election.lead(NAME, LEASE):
                try:
                    await asyncio.sleep(1000)
                finally:
                    found = await leases_of(store).look(NAME)
                    assert found is not None
                    left.append(found.left)

        task = asyncio.create_task(lead())
        await asyncio.sleep(14)
        assert process.asked == ["acquire", "renew"]
        process.away = True
        await asyncio.wait([task])
        assert isinstance(task.exception(), LeadershipLostError)
        assert left[0] > 0

    run(test)


def test_the_greatest_token_that_was_seen() -> None:
    """It stays known, also if the answers of two who wait come in the other order."""

    async def test(loop: VirtualLoop) -> None:
        process = Process(store_of(loop), loop.time)
        election = process.election
        call = election.leases._call

        async def late(name: str, weight: Any, arguments: tuple[Any, ...]) -> Any:
            reply = await call(name, weight, arguments)
            await asyncio.sleep(10 if arguments[:2] == ("acquire", "first") else 0)
            return reply

        election.leases._call = late

        tokens = list[int]()

        async def lead(claim: str) -> None:
            async with election.lead(NAME, LEASE, claim) as term:
                tokens.append(term.token)

        first = asyncio.create_task(lead("first"))
        await asyncio.sleep(0.1)
        await election.leases.release(NAME, "first")
        await lead("second")
        await first
        # The store has lost everything, and its clock is behind.
        election.leases = leases_of(MemoryStore(clock=lambda: loop.time() - 86_400))
        await lead("third")
        assert len(tokens) == 3
        assert tokens[2] > max(tokens[:2])

    run(test)


async def two(term: Term, other: int) -> None:
    pass


async def named(*, term: Term) -> None:
    pass


@pytest.mark.parametrize("function", [two, named])
def test_parameters_that_nobody_gives(function: Any) -> None:
    """A job that takes more than the term is an error where it is written."""
    with pytest.raises(ConfigurationError, match=r"^function=.*: it may take the term, or nothing"):
        Leader(MemoryStore()).every("5m")(function)


def test_parameters() -> None:
    """A job is given the term if it takes an argument."""
    given = dict[str, Any]()

    async def test(loop: VirtualLoop) -> None:
        leader = Leader(store_of(loop), clock=loop.time)

        @leader.every("5m", name="plain")
        async def plain() -> None:
            given["plain"] = None

        @leader.every("5m", name="one")
        async def one(term: Term) -> None:
            given["one"] = term.name

        @leader.every("5m", name="optional")
        async def optional(*, database: str = "") -> None:
            given["optional"] = database

        async with leader.running():
            await asyncio.sleep(1)

    run(test)
    assert given == {"plain": None, "one": "one", "optional": ""}


@pytest.mark.parametrize("both", [False, True])
def test_nested(both: bool) -> None:
    """Of two leaders in one task, the one whose lease is lost raises, or the outer one."""

    async def test(loop: VirtualLoop) -> None:
        inner, outer = (Process(store_of(loop), loop.time) for _ in range(2))
        task = asyncio.current_task()
        assert task is not None
        with pytest.raises(LeadershipLostError, match="'outer'"):
            async with (
                outer.election.lead("outer", LEASE, "a"),
                inner.election.lead("inner", LEASE, "b"),
            ):
                outer.away, inner.away = True, both
                await asyncio.sleep(1000)
        assert task.cancelling() == 0

    run(test)


def test_a_lost_term_and_a_timeout_at_once() -> None:
    """If the body's time is up at the moment at which the lease is lost, it is a timeout."""

    async def test(loop: VirtualLoop) -> None:
        process = Process(store_of(loop), loop.time)
        task = asyncio.current_task()
        assert task is not None
        with pytest.raises(TimeoutError):
            async with asyncio.timeout_at(loop.time() + LEASE * 0.9):
                async with process.election.lead(NAME, LEASE, "a"):
                    process.away = True
                    await asyncio.sleep(1000)
        assert task.cancelling() == 0

    run(test)


def test_a_lost_term_is_not_renewed() -> None:
    """Another process leads, although the body of the one that lost its lease doesn't end."""

    async def test(loop: VirtualLoop) -> None:
        store = store_of(loop)
        stubborn, heir = Process(store, loop.time), Process(store, loop.time)
        over = asyncio.Event()

        async def lead() -> None:
            async with stubborn.election.lead(NAME, LEASE):
                stubborn.away = True
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(1000)
                stubborn.away = False  # right after 0.9 of the lease
                await over.wait()

        leading = asyncio.create_task(lead())
        await asyncio.sleep(1)
        async with asyncio.timeout(3 * LEASE), heir.election.lead(NAME, LEASE):
            over.set()
        await leading

    run(test)
