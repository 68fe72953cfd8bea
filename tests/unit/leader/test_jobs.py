"""Jobs: one process of all runs each, on a schedule that the store keeps."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from itertools import pairwise
from typing import Any, cast

import pytest

from redis_sessions import ConfigurationError, Keyring, MemoryStore, SessionManager, generate_key
from redis_sessions.leader import Leader, Term
from redis_sessions.stores.protocols import Store
from tests.support import LOOPS
from tests.support.virtual_time import VirtualLoop, run
from tests.unit.leader.processes import LEASE, store_of

MINUTE = 60


class Worker:
    """A process with one job, which takes `seconds`."""

    def __init__(self, store: MemoryStore, loop: VirtualLoop, seconds: float = 1) -> None:
        self.leader = Leader(store, clock=loop.time)
        self.began = list[float]()
        self.ended = list[float]()

        @self.leader.every("5m", name="clean")
        async def clean(term: Term) -> None:
            term.check()
            self.began.append(loop.time())
            try:
                await asyncio.sleep(seconds)
            finally:
                self.ended.append(loop.time())

    async def live(self, seconds: float) -> None:
        """Serve for so long, and shut down."""
        async with self.leader.running():
            await asyncio.sleep(seconds)


def test_changes_of_the_leader() -> None:
    """Whoever leads, and however often that changes: no run is left out, and none comes twice."""

    async def test(loop: VirtualLoop) -> None:
        store, start = store_of(loop), loop.time()
        workers = list[Worker]()

        async def deploy(seconds: float) -> None:
            while loop.time() < start + 3600:
                workers.append(Worker(store, loop))
                await workers[-1].live(seconds)

        await asyncio.gather(deploy(250), deploy(433), deploy(977))
        began = sorted(at for worker in workers for at in worker.began)
        assert len(began) == pytest.approx(3600 / (5 * MINUTE), abs=4)
        gaps = [b - a for a, b in pairwise(began)]
        assert 5 * MINUTE - 1e-3 <= min(gaps) <= max(gaps) < 5 * MINUTE + LEASE
        assert sum(bool(worker.began) for worker in workers) > 4

    run(test)


def test_runs_longer_than_the_interval() -> None:
    """The next one begins as soon as the last one has ended, and never beside it."""

    async def test(loop: VirtualLoop) -> None:
        store = store_of(loop)
        workers = [Worker(store, loop, seconds=7 * MINUTE) for _ in range(3)]
        await asyncio.gather(*(worker.live(30 * MINUTE) for worker in workers))
        began = sorted(at for worker in workers for at in worker.began)
        assert [b - a for a, b in pairwise(began)] == pytest.approx([7 * MINUTE] * 4, abs=2)

    run(test)


def test_a_run_that_is_cut_off() -> None:
    """It isn't repeated before the next one is due."""

    async def test(loop: VirtualLoop) -> None:
        store = store_of(loop)
        first, second = Worker(store, loop, seconds=200), Worker(store, loop)
        await first.live(100)
        assert first.ended == [first.began[0] + 100]
        await second.live(6 * MINUTE)
        assert second.began == pytest.approx([first.began[0] + 5 * MINUTE])

    run(test)


def test_a_run_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """The log has its exception, and the schedule goes on; a function needs no parameter."""

    async def test(loop: VirtualLoop) -> None:
        leader, count = Leader(store_of(loop), clock=loop.time), 0

        @leader.every(timedelta(hours=1))
        async def fail() -> None:
            nonlocal count
            count += 1
            raise ValueError(f"number {count}")

        async with leader.running():
            await asyncio.sleep(2.5 * 3600)
        assert count == 3
        (name,) = await leader._election.leases.names()  # pyright: ignore[reportPrivateUsage]
        assert name == f"{__name__}.test_a_run_that_fails.<locals>.test.<locals>.fail"

    run(test)
    failures = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert failures == ["number 1", "number 2", "number 3"]


def test_a_term_that_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    """The run is cancelled, and the process leads again later; whatever fails is tried again."""

    async def test(loop: VirtualLoop) -> None:
        store = store_of(loop)
        worker = Worker(store, loop, seconds=100)
        leases = worker.leader._election.leases  # pyright: ignore[reportPrivateUsage]
        call = leases._call  # pyright: ignore[reportPrivateUsage]
        refuses = False

        async def refuse(name: str, weight: Any, arguments: tuple[Any, ...]) -> Any:
            if refuses:
                raise ValueError("whatever it is")
            if arguments[0] == "renew" and loop.time() < began + 2 * LEASE:
                return 0
            return await call(name, weight, arguments)

        leases._call = refuse  # pyright: ignore[reportPrivateUsage]
        began = loop.time()
        async with worker.leader.running():
            await asyncio.sleep(10 * MINUTE)
            refuses = True
            await asyncio.sleep(10 * MINUTE)
            refuses = False
            await asyncio.sleep(LEASE * 3)
        assert worker.began[:2] == pytest.approx([began, began + 5 * MINUTE], abs=LEASE)
        assert worker.ended[0] == pytest.approx(began + LEASE / 3)
        assert worker.began[-1] > began + 20 * MINUTE

    caplog.set_level(logging.INFO)
    run(test)
    assert [r.message for r in caplog.records if "token" in r.message][1].endswith("in the store")


def test_a_job_that_swallows_its_cancellation() -> None:
    """It isn't run again in a term that is over."""

    async def test(loop: VirtualLoop) -> None:
        store = store_of(loop)
        leader, asked = Leader(store, clock=loop.time), list[str]()
        leases = leader._election.leases  # pyright: ignore[reportPrivateUsage]
        call = leases._call  # pyright: ignore[reportPrivateUsage]

        async def refuse(name: str, weight: Any, arguments: tuple[Any, ...]) -> Any:
            asked.append(arguments[0])
            return 0 if arguments[0] == "renew" else await call(name, weight, arguments)

        leases._call = refuse  # pyright: ignore[reportPrivateUsage]

        @leader.every("5m", name="clean")
        async def clean() -> None:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(1000)

        async with leader.running():
            await asyncio.sleep(LEASE / 3 + 0.01)
            assert asked == ["acquire", "begin", "renew", "acquire"]

    run(test)


@pytest.mark.parametrize(
    ("interval", "seconds"),
    [("30s", 30), ("5m", 300), ("1h", 3600), ("2d", 172_800), (90, 90), (timedelta(hours=2), 7200)],
)
def test_intervals(interval: Any, seconds: int) -> None:
    """They are texts with a unit, seconds, or timedeltas."""
    began = list[float]()

    async def test(loop: VirtualLoop) -> None:
        leader, start = Leader(store_of(loop), clock=loop.time, lease=seconds), loop.time()

        @leader.every(interval)
        async def job() -> None:
            began.append(loop.time() - start)

        async with leader.running():
            await asyncio.sleep(seconds + 1)

    run(test)
    assert began == pytest.approx([0, seconds], abs=0.01)


async def coroutine() -> None:
    pass


def function() -> None:
    pass


WRONG: list[tuple[Callable[[Leader], object], str]] = [
    (lambda leader: leader.every("5 minutes"), "interval='5 minutes': write '30s', '5m'"),
    (lambda leader: leader.every("0s"), "interval='0s': write '30s', '5m'"),
    (lambda leader: leader.every("500d"), "interval=43200000: write seconds or a timedelta"),
    (lambda leader: leader.every(0), "interval=0: write seconds or a timedelta"),
    (lambda leader: leader.every("5m", lease=0), "lease=0: write seconds or a timedelta"),
    (lambda leader: leader.every("5m")(cast("Any", function)), "function=<function function at"),
    (lambda leader: leader.every("5m", name="a")(coroutine), "name='a': another job"),
    (lambda leader: leader.every("5m", name="\n")(coroutine), "name='\\n': write printable"),
    (lambda leader: leader(""), "name='': write printable text of 1 to 200 characters"),
    (lambda leader: leader(cast("str", b"nightly")), "name=b'nightly': write printable text"),
    (lambda leader: leader("x" * 201), "name='xxx"),
    (lambda leader: leader("nightly", lease=-1), "lease=-1: write seconds or a timedelta"),
    (lambda _: Leader(MemoryStore(), lease=0.5), "lease=0.5: write seconds or a timedelta"),
    (lambda _: Leader(other_store()), "a leader needs a RedisStore, or a MemoryStore in tests"),
]


@pytest.mark.parametrize(("act", "message"), WRONG)
def test_what_cannot_be(act: Callable[[Leader], object], message: str) -> None:
    """An error where it is written says what to write instead."""
    leader = Leader(MemoryStore())
    leader.every("5m", name="a")(coroutine)
    with pytest.raises(ConfigurationError) as caught:
        act(leader)
    assert message in str(caught.value)


def other_store() -> Any:
    """A store of somebody else's, as far as a protocol can tell."""

    class Other:
        prefix = ""

    for name in dir(Store):
        if not name.startswith("_") and name != "prefix":
            setattr(Other, name, function)
    return Other()


@pytest.mark.parametrize("anyio_backend", LOOPS)
async def test_each_event_loop(anyio_backend: object) -> None:
    """Jobs run on uvloop as well, and any thread may check."""
    leader, ran = Leader(MemoryStore()), asyncio.Event()

    @leader.every("1h")
    async def job(term: Term) -> None:
        await asyncio.to_thread(term.check)
        ran.set()

    async with leader.running():
        await ran.wait()


def test_a_manager_s_leader() -> None:
    """It is made when it is first asked for, and leads among all who use the manager's store."""

    async def test(loop: VirtualLoop) -> None:
        store = store_of(loop)
        manager = SessionManager(store, Keyring(generate_key()))
        assert manager.leader is manager.leader
        async with manager.leader("nightly") as term:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(60), Leader(store)("nightly"):
                    pass
        assert repr(term) == f"<Term 'nightly' token={term.token}>"

    run(test)
