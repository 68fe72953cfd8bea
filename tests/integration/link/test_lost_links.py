"""Links that are lost, are late, or say what they shouldn't: what fails, and what is sent again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from redis_sessions import StoreUnavailableError
from redis_sessions.connect.link import Link
from redis_sessions.connect.resp import Command
from redis_sessions.stores.commands import COMMIT
from redis_sessions.testing import topology
from tests.integration.link.asking import LONGEST, Asking, answers, drop
from tests.integration.wrong_servers import after_greeting, listening
from tests.support import LOOPS
from tests.support.deployments import until
from tests.support.proxy import Proxy
from tests.support.redis_wire import Wire
from tests.support.servers import StartServer, as_owner, as_user

REPLY = b"$1\r\nx\r\n"


class Scripted:
    """A server that does to each ECHO what comes next: it replies, or closes the connection."""

    def __init__(self, *replies: bytes | Exception | Callable[[], Any]) -> None:
        self._replies = list(replies)
        self.echoes = 0

    def __call__(self, name: bytes) -> Any:
        if name != b"ECHO":
            return b"+OK\r\n"
        self.echoes += 1
        reply = self._replies.pop(0) if self._replies else REPLY
        if isinstance(reply, Exception):
            raise reply
        return reply() if callable(reply) else reply


@asynccontextmanager
async def asking(server: Callable[[bytes], Any], seconds: float = 2.0) -> AsyncGenerator[Asking]:
    async with listening(server) as port:
        at = Asking(f"redis://app:sesame@127.0.0.1:{port}/0", seconds=seconds)
        yield at
        await at.close()


async def is_lost(link: Link) -> bool:
    return link.lost


# -- lost


async def test_a_link_that_is_lost_under_way(at: Asking, proxy: Proxy) -> None:
    """What was under way is sent once more over the next link, and each reply finds its item."""
    proxy.freeze()
    futures = [*await at.submit_and_send("a", "b"), *await at.submit_and_send("c")]
    futures += at.submit("d")
    drop(proxy)
    assert await answers(*futures) == [b"a", b"b", b"c", b"d"]
    assert at.batches == [["a", "b"], ["c"], ["d"]]
    assert proxy.connections == 2


async def test_a_link_that_is_lost_twice() -> None:
    """What was lost twice isn't sent a third time; the next item is."""
    server = Scripted(ConnectionResetError(), ConnectionResetError())
    async with asking(server) as at:
        (told,) = await at.replies("a")
        assert isinstance(told, StoreUnavailableError)
        assert told.reason == "connection"
        assert server.echoes == 2
        assert await at.replies("b") == [b"x"]


async def test_a_link_that_is_lost_late() -> None:
    """What has waited for its link isn't sent again once its time is over."""
    seconds = 0.3

    async def slowly(then: bytes | Exception) -> bytes:
        await asyncio.sleep(seconds * 0.6)
        if isinstance(then, Exception):
            raise then
        return then

    server = Scripted(partial(slowly, ConnectionResetError()))

    def answer(name: bytes) -> Any:
        return slowly(b"+OK\r\n") if name == b"AUTH" else server(name)

    async with asking(answer, seconds) as at:
        (told,) = await at.replies("a")
        assert isinstance(told, StoreUnavailableError)
        assert server.echoes == 1


async def test_a_server_that_went_away_and_came_back(start_server: StartServer) -> None:
    """A link that the server closed while it was idle is replaced, and nobody hears of it."""
    server = start_server()
    at = Asking(as_owner(server.url))
    assert await at.replies("a") == [b"a"]
    link = at.sender.link
    assert link is not None
    server.kill()
    server.start()
    await until(partial(is_lost, link))
    assert await at.replies("b") == [b"b"]
    assert at.batches == [["a"], ["b"]]
    await at.close()


async def test_a_link_that_is_lost_unnoticed(at: Asking, proxy: Proxy) -> None:
    """Even if that isn't known yet as an item is sent."""
    drop(proxy)
    assert await at.replies("a") == [b"a"]
    await at.assert_serves()


async def test_a_server_that_refuses_only_the_first_attempt() -> None:
    """To open a link is tried twice."""
    attempts = 0

    def answer(name: bytes) -> bytes:
        nonlocal attempts
        attempts += name == b"AUTH"
        if attempts == 1:
            raise ConnectionResetError
        return REPLY if name == b"ECHO" else b"+OK\r\n"

    async with asking(answer) as at:
        assert await at.replies("a") == [b"x"]
    assert attempts == 2


# -- late


@pytest.mark.parametrize("requests", [True, False], ids=["frozen", "replies only"])
async def test_a_late_reply(url: str, proxy: Proxy, requests: bool) -> None:
    """It closes the link: what is under way fails, and so does what waits; nothing is resent."""
    at = Asking(url, seconds=0.2)
    assert await at.replies("first") == [b"first"]
    proxy.freeze(requests=requests)
    futures = [*await at.submit_and_send("a"), *await at.submit_and_send("b"), *at.submit("c")]
    for told in await answers(*futures):
        assert isinstance(told, StoreUnavailableError)
        assert told.reason == "timeout"
    assert proxy.connections == 1
    assert at.batches == [["first"], ["a"], ["b"]]
    proxy.heal()
    await at.assert_serves()
    assert proxy.connections == 2
    await at.close()


async def test_a_server_that_doesnt_let_in(proxy: Proxy) -> None:
    """To open a link may take as long as a reply; then all that waits fails."""
    at = Asking(as_user(proxy.url, "app:sesame"), seconds=0.2)
    proxy.freeze()
    for told in await at.replies("a", "b"):
        assert isinstance(told, StoreUnavailableError)
        assert told.reason == "timeout"
    assert at.batches == []
    await at.close()


# -- what isn't expected


@pytest.mark.parametrize(
    "reply", [REPLY * 2, b"?\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["two", "?", "HTTP"]
)
async def test_an_unexpected_reply(reply: bytes) -> None:
    """It closes the link, and never reaches another item."""
    server = Scripted(reply)
    async with asking(server) as at:
        (told,) = await at.replies("a")
        assert told == b"x" or told.reason == "protocol"
        assert await at.replies("b") == [b"x"]
        assert await at.replies("c") == [b"x"]


async def test_what_nobody_asked_for() -> None:
    """What a server sends by itself closes an idle link; the next item gets its own reply."""
    server = Scripted(b"$5\r\nfirst\r\n$8\r\nunwanted\r\n")
    async with asking(server) as at:
        assert await at.replies("a") == [b"first"]
        assert at.sender.link is None or at.sender.link.lost
        assert await at.replies("b") == [b"x"]
    assert server.echoes == 2


async def test_replies_of_a_wrong_type(at: Asking, proxy: Proxy) -> None:
    """Whoever reads them says so; then the link is left."""
    protocol = StoreUnavailableError("no Redis", reason="protocol")
    read = at.read
    at.read = lambda items, replies: [protocol] * 2
    assert await at.replies("a", "b") == [protocol] * 2
    at.read = read
    assert at.sender.link is None
    await at.assert_serves()
    assert proxy.connections == 2


# -- scripts


async def test_a_script_that_isnt_known(start_server: StartServer) -> None:
    """It is loaded, and the command sent again; the others of the same flight aren't."""
    server = start_server()
    at = Asking(as_owner(server.url), scripts=[COMMIT])

    def commands(items: Sequence[str]) -> list[Command]:
        return [COMMIT.call([], ()) if item == "script" else ("INCR", item) for item in items]

    at.commands = commands
    other = Asking(as_owner(server.url), sender=at.sender)
    other.commands = commands
    futures = [*at.submit("script"), *other.submit("a")]
    script, a = await answers(*futures)
    assert (script, a) == ([], 1)
    with Wire(server.port) as redis:
        redis.ask("SCRIPT", "FLUSH")
    assert await at.replies("script") == [[]]
    await at.close()


# -- closing


async def test_closing_lets_what_is_under_way_finish(at: Asking, proxy: Proxy) -> None:
    """What is under way or waits is answered; then no connection is left."""
    proxy.freeze()
    futures = [*await at.submit_and_send("a"), *await at.submit_and_send("b"), *at.submit("c")]
    closing = asyncio.create_task(at.close())
    await asyncio.sleep(0)
    proxy.heal()
    assert await answers(*futures) == [b"a", b"b", b"c"]
    await closing
    assert at.dialer.links == set()
    assert proxy.connections == 1


async def test_closing_in_the_same_tick(url: str, proxy: Proxy) -> None:
    """Even what was asked just before is answered, and leaves no connection."""
    at = Asking(url)
    futures = at.submit("a")
    await at.close()
    assert await answers(*futures) == [b"a"]
    assert at.dialer.links == set()
    await at.assert_serves()  # it opens again
    await at.close()
    assert at.dialer.links == set()


async def test_closing_while_a_server_hangs(url: str, proxy: Proxy) -> None:
    """It isn't waited for any longer than for a reply."""
    at = Asking(url, seconds=0.2)
    assert await at.replies("first") == [b"first"]
    proxy.freeze()
    futures = await at.submit_and_send("a")
    async with asyncio.timeout(LONGEST):
        await at.close()
    assert isinstance((await answers(*futures))[0], StoreUnavailableError)
    assert at.dialer.links == set()


@pytest.mark.parametrize("anyio_backend", LOOPS)
@pytest.mark.parametrize("kind", [topology.single, topology.tls])
async def test_taking_over(server_binary: Path, kind: Callable[..., Any]) -> None:
    """What redis-py has connected is asked large things and small ones, and closed at the end."""
    with kind(server=server_binary) as running:
        at = Asking(running.url)
        large = "x" * 3_000_000
        assert await at.replies("a", large, "b") == [b"a", large.encode(), b"b"]
        await at.close()
        assert at.dialer.links == set()


async def test_a_server_that_speaks_first() -> None:
    """What it has sent before it was asked anything isn't taken for a reply."""
    async with asking(after_greeting(b"+OK\r\n+more\r\n")) as at:
        (told,) = await at.replies("a")
        assert told == b"OK"
        assert await at.replies("b") == [b"OK"]
