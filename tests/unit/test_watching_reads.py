"""When watched keys are read: together, not too many at once, and again if that fails."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from redis_sessions import StoreUnavailableError
from redis_sessions.stores import watching
from redis_sessions.stores.watching import Watching
from tests.support.near import soon, timers
from tests.support.virtual_time import VirtualLoop, run

pytestmark = pytest.mark.anyio


class Server:
    """What `Watching` reads from; a test answers."""

    def __init__(self) -> None:
        self.asked = list[str]()
        self._replies = dict[str, asyncio.Future[bytes | None]]()

    async def load(self, key: str) -> bytes | None:
        self.asked.append(key)
        self._replies[key] = asyncio.get_running_loop().create_future()
        return await self._replies[key]

    async def answer(self, key: str, reply: bytes | Exception) -> None:
        future = self._replies.pop(key)
        if isinstance(reply, Exception):
            future.set_exception(reply)
        else:
            future.set_result(reply)
        await turns()

    async def questions(self) -> list[str]:
        """What it has been asked since the last call."""
        await turns()
        asked, self.asked = self.asked, []
        return asked


async def turns() -> None:
    """Let the loop do all that is due now."""
    for _ in range(10):
        await asyncio.sleep(0)


def away() -> Exception:
    return StoreUnavailableError("away, says the test")


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
async def some(server: Server) -> Watching:
    return Watching(server.load, 0.03)


async def test_several_reasons_are_one_read(some: Watching, server: Server) -> None:
    """What happens in one turn of the loop is one read; what isn't watched is none."""
    some.watch("a", lambda _: None)
    some.watch("a", lambda _: None)
    some.read(["a", "b"])
    some.read(None)
    assert await server.questions() == ["a"]
    some.read(["b"])
    assert await server.questions() == []


async def test_a_change_while_it_is_read(some: Watching, server: Server) -> None:
    """It is read once more, since the reply may be older."""
    told = list[bytes | None]()
    some.watch("a", told.append)
    assert await server.questions() == ["a"]
    some.read(["a"])
    await turns()
    await server.answer("a", b"1")
    assert told == [b"1"]


async def test_not_too_many_at_once(
    some: Watching, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next is read when one is answered."""
    monkeypatch.setattr(watching, "AT_ONCE", 3)
    for key in "abcde":
        some.watch(key, lambda _: None)
    assert await server.questions() == ["a", "b", "c"]
    await server.answer("b", b"1")
    assert await server.questions() == ["d"]
    await server.answer("a", away())
    assert await server.questions() == ["e"]


async def test_one_that_fails_does_not_hold_up_others(some: Watching, server: Server) -> None:
    """One node of a Cluster is away: what the others tell is read at once, and nothing else."""
    told = list[bytes | None]()
    for key in ("dead-1", "dead-2"):
        some.watch(key, lambda _: None)
        assert await server.questions() == [key]
        await server.answer(key, away())
    some.watch("alive", told.append)
    for value in (b"1", b"2"):
        some.read(["alive"])
        assert await server.questions() == ["alive"]
        await server.answer("alive", value)
    assert told == [b"1", b"2"]


async def test_one_at_a_time_finds_out_whether_it_is_back(some: Watching, server: Server) -> None:
    """Each in its turn; when one is answered, the others are read."""
    told = list[tuple[str, bytes | None]]()

    def note(key: str, value: bytes | None) -> None:
        told.append((key, value))

    for key in "abc":
        some.watch(key, partial(note, key))
    assert await server.questions() == ["a", "b", "c"]
    for key in "abc":
        await server.answer(key, away())
    for key in "ab":
        assert await until_asked(server) == [key]
        await server.answer(key, away())
    assert told == []
    assert await until_asked(server) == ["c"]
    await server.answer("c", b"1")
    assert await server.questions() == ["a", "b"]
    for key in "ab":
        await server.answer(key, b"1")
    assert told == [("c", b"1"), ("a", b"1"), ("b", b"1")]
    assert timers() == []


async def test_who_stopped_is_not_tried_again(some: Watching, server: Server) -> None:
    """Nothing is left of a key that nobody watches."""
    stop = some.watch("a", lambda _: None)
    assert await server.questions() == ["a"]
    await server.answer("a", away())
    stop()
    await soon(lambda: not timers())
    assert await server.questions() == []


@pytest.mark.parametrize(("again", "asked"), [((), 3), ((1,), 3), ((15,), 4)])
def test_polling_ends_by_itself(again: tuple[int, ...], asked: int) -> None:
    """Unless a server says again, a second later, that it can't tell what changes."""

    async def polling(loop: VirtualLoop) -> int:
        server, questions = Server(), list[str]()
        some = Watching(server.load, 0.03)
        some.watch("a", lambda _: None)
        some.poll(12)
        for seconds in again:
            loop.call_later(1, some.poll, seconds)
        while timers():
            for key in await server.questions():
                questions.append(key)
                await server.answer(key, b"1")
            await asyncio.sleep(0.5)
        return len(questions)

    assert run(polling) == asked


async def test_who_stops_another(some: Watching, server: Server) -> None:
    """One that is told may stop others: those who were to be told with it still may be."""
    told = list[str]()

    def first(_: bytes | None) -> None:
        told.append("first")
        stop()
        some.watch("b", lambda _: None)

    some.watch("a", first)
    stop = some.watch("a", lambda _: told.append("second"))
    assert await server.questions() == ["a"]
    await server.answer("a", b"1")
    assert told == ["first"]
    assert await server.questions() == ["b"]


async def until_asked(server: Server) -> list[str]:
    """What it is asked next."""
    await soon(lambda: server.asked)
    return await server.questions()
