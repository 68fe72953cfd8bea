"""One watched session: when its time is over, by a clock that a test moves."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from contextvars import ContextVar

import pytest

from redis_sessions import Session
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.lifecycle.watching import Watch
from redis_sessions.session.record import Reject
from redis_sessions.session.session import state_of
from tests.support import LOOPS
from tests.support.open import PATIENCE
from tests.unit.live.live import Live, id_of
from tests.unit.setting import DUE

pytestmark = pytest.mark.parametrize("anyio_backend", LOOPS)


class Telling:
    """A store that tells what a test says."""

    def __init__(self) -> None:
        self.notify: Callable[[bytes | None], None] | None = None

    def watch(self, id: str, notify: Callable[[bytes | None], None]) -> Callable[[], None]:
        assert len(id) == 20
        self.notify = notify
        return self.forget

    def forget(self) -> None:
        self.notify = None

    def tell(self, sealed: bytes | None) -> None:
        assert self.notify is not None
        self.notify(sealed)


class Watched:
    """A session that is watched, and that has 5 milliseconds to live."""

    def __init__(self, at: Live, session: Session) -> None:
        self.ended: list[Reject] = []
        self.store = Telling()
        at.clock.now = at_end(session) - 0.005
        self.watch = Watch(backend_of(at.manager), self.store, session, self.ended.append)
        self.first = self.timer

    @property
    def timer(self) -> asyncio.TimerHandle | None:
        return self.watch._due  # pyright: ignore[reportPrivateUsage] - what it waits for

    async def until_it_looked(self) -> None:
        """Wait until the first timer is over."""
        async with asyncio.timeout(PATIENCE):
            while self.timer is self.first:  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.001)

    def left(self) -> float:
        """Seconds until it looks again."""
        assert self.timer is not None
        return self.timer.when() - asyncio.get_running_loop().time()


def at_end(session: Session) -> int:
    stored = state_of(session).stored
    assert stored is not None
    return stored.ends


async def test_its_time_is_over(at: Live) -> None:
    """It ends by its own timer, and the store tells nothing any more."""
    session = await at.load(await at.alice())
    watched = Watched(at, session)
    at.clock.advance(0.005)
    await watched.until_it_looked()
    assert watched.ended == [Reject.EXPIRED]
    assert watched.timer is None
    assert watched.store.notify is None


async def test_it_was_touched_elsewhere(at: Live) -> None:
    """What was told last counts, and the timer waits for that."""
    token = await at.alice()
    watched = Watched(at, await at.load(token))
    await at.put(token, {"a": 1})
    watched.store.tell(await at.store.load(id_of(token)))
    at.clock.advance(1)
    await watched.until_it_looked()
    assert watched.ended == []
    assert watched.left() > DUE


async def test_it_was_touched_here(at: Live) -> None:
    """Also if the store hasn't told it yet."""
    session = await at.load(await at.alice())
    watched = Watched(at, session)
    await session.save()
    at.clock.advance(1)
    await watched.until_it_looked()
    assert watched.ended == []
    assert watched.left() > DUE


async def test_it_ends_sooner_than_before(at: Live) -> None:
    """After an `expire_in()` elsewhere a new timer waits for the new end."""
    token = await at.begin({"user_id": "alice"})
    session = await at.load(token)
    watched = Watched(at, session)
    at.clock.now = at_end(session) - 1000
    other = await at.load(token)
    other.expire_in(60)
    await at.commit(other)
    watched.store.tell(await at.store.load(id_of(token)))
    assert watched.timer is not watched.first
    assert 50 < watched.left() < 61


async def test_it_is_over_sooner_than_when_it_was_loaded(at: Live) -> None:
    """What the connection's own session still says doesn't count then."""
    token = await at.begin({"user_id": "alice"})
    session = await at.load(token)
    watched = Watched(at, session)
    at.clock.now = at_end(session) - 1000
    other = await at.load(token)
    other.expire_in(1)
    await at.commit(other)
    sealed = await at.store.load(id_of(token))
    at.clock.advance(0.995)
    watched.store.tell(sealed)
    watched.first = watched.timer
    at.clock.advance(0.005)
    await watched.until_it_looked()
    assert watched.ended == [Reject.EXPIRED]


@pytest.mark.parametrize("sealed", [b"", b"\0" * 33, b"\xff" * 33, b"\1" + bytes(500), bytes(20)])
async def test_bytes_of_somebody_else(at: Live, sealed: bytes) -> None:
    """Whatever is stored, it is told as an end, once."""
    watched = Watched(at, await at.load(await at.alice()))
    watched.store.tell(sealed)
    assert len(watched.ended) == 1
    assert watched.store.notify is None


async def test_it_is_told_again(at: Live) -> None:
    """What is known already is nothing new."""
    token = await at.alice()
    watched = Watched(at, await at.load(token))
    watched.store.tell(await at.store.load(id_of(token)))
    assert watched.timer is watched.first
    watched.watch.stop()
    watched.watch.stop()
    assert (watched.ended, watched.store.notify, watched.timer) == ([], None, None)


async def test_a_timer_that_was_stopped_keeps_nothing(at: Live) -> None:
    """What a request has put into its context goes when its connection does."""

    class Anything:
        pass

    kept, ended = list[weakref.ref[Anything]](), list[Reject]()
    session = await at.load(await at.alice())

    async def request() -> None:
        anything = Anything()
        kept.append(weakref.ref(anything))
        ContextVar[Anything]("of the application").set(anything)
        Watch(backend_of(at.manager), Telling(), session, ended.append).stop()

    # asyncio forgets a cancelled timer at once only if it comes before all others.
    sooner = asyncio.get_running_loop().call_later(PATIENCE, ended.clear)
    await asyncio.create_task(request())
    await asyncio.sleep(0)  # what has woken this task up had the context, too
    gc.collect()
    assert kept[0]() is None
    sooner.cancel()
