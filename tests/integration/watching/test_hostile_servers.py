"""What goes wrong with the question whether a server tells what changes, or right after it."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from redis_sessions import RedisStore, StoreError
from tests.integration.wrong_servers import listening
from tests.support.near import Told, copy, new_id, record, soon, store_on

pytestmark = pytest.mark.anyio

BOUND = 0.2
VALUE = record()
PUSH = b">1\r\n$5\r\nhello\r\n"


class Scripted:
    """A server with one record, which answers as Redis does, unless `replies` say otherwise."""

    def __init__(self, **replies: bytes) -> None:
        self.asked = Counter[bytes]()
        self.connects = True
        """If not, it closes each connection at the first command."""
        self.replies = {
            b"TIME": b"*2\r\n$10\r\n%d\r\n$1\r\n0\r\n" % time.time(),
            b"HELLO": b"%1\r\n$5\r\nproto\r\n:3\r\n",
            b"ROLE": b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n",
            b"MGET": b"*1\r\n$%d\r\n%s\r\n" % (len(VALUE), VALUE),
            **{name.encode(): reply for name, reply in replies.items()},
        }

    def __call__(self, name: bytes) -> bytes:
        self.asked[name] += 1
        if not self.connects:
            raise ConnectionResetError
        return self.replies.get(name, b"+OK\r\n")


@asynccontextmanager
async def store_of(server: Scripted) -> AsyncGenerator[RedisStore]:
    async with (
        listening(server) as port,
        store_on(f"redis://127.0.0.1:{port}/0", client_cache=BOUND) as store,
    ):
        yield store


@pytest.mark.parametrize(
    "replies",
    [
        pytest.param({"HELLO": b"?\r\n"}, id="noise"),
        pytest.param({"HELLO": b"%1\r\n*0\r\n+x\r\n"}, id="a list as a key"),
        pytest.param({"CLIENT": b"+OK\r\n" + PUSH}, id="a push"),
    ],
)
async def test_wrong_answers(replies: dict[str, bytes], caplog: pytest.LogCaptureFixture) -> None:
    """After three of them it isn't asked for a while; no request fails."""
    server, id = Scripted(**replies), new_id()
    async with store_of(server) as store:
        told = Told(store, id)
        while server.asked[b"HELLO"] < 3:
            assert await store.load(id) == VALUE
        await told.until(VALUE)
        assert await store.load(id) == VALUE
        assert copy(store, id) is None
    assert server.asked[b"HELLO"] == 3
    assert len(caplog.records) == 1
    assert "doesn't say which keys change" in caplog.text


async def test_a_server_that_is_busy(caplog: pytest.LogCaptureFixture) -> None:
    """That says nothing of what it can do: it is asked again, until it can."""
    server, id = Scripted(CLIENT=b"-BUSY Redis is busy running a script.\r\n"), new_id()
    async with store_of(server) as store:
        told = Told(store, id)
        await told.until(VALUE)
        await soon(lambda: server.asked[b"HELLO"] > 4)
        assert copy(store, id) is None
        del server.replies[b"CLIENT"]
        await soon(lambda: copy(store, id) == VALUE)
    assert caplog.text == ""


@pytest.mark.parametrize(
    "reply", [b":7\r\n", b"*2\r\n:0\r\n*1\r\n$1\r\na\r\n", b"*2\r\n:0\r\n*2\r\n:1\r\n:1\r\n"]
)
async def test_notes_of_keys_that_are_none(reply: bytes) -> None:
    """What no Redis answers is an error of the store, as for all other questions."""
    async with store_of(Scripted(HSCAN=reply)) as store:
        with pytest.raises(StoreError, match="what no Redis does"):
            await store.key_ids()


async def test_a_server_whose_links_are_all_lost() -> None:
    """What is watched is read three times within the bound, however soon each of them is lost."""
    server = Scripted(MGET=b"*1\r\n$-1\r\n" + PUSH)
    async with store_of(server) as store:
        told = Told(store, new_id())
        since = time.monotonic()
        await soon(lambda: server.asked[b"MGET"] > 10)
        assert server.asked[b"MGET"] <= (time.monotonic() - since) / (BOUND / 3) + 3
        told.stop()


async def test_a_server_that_was_away_behind_a_proxy(caplog: pytest.LogCaptureFixture) -> None:
    """The proxy accepted meanwhile: that says nothing of the question, which is asked again."""
    server, id = Scripted(), new_id()
    async with store_of(server) as store:
        told = Told(store, id)
        await told.until(VALUE)
        server.connects = False
        asked = server.asked[b"HELLO"]
        with pytest.raises(StoreError):
            while True:
                await store.load(id)
        await soon(lambda: server.asked[b"HELLO"] > asked + 5)
        server.connects = True
        with caplog.at_level(logging.WARNING):
            await soon(lambda: copy(store, id) == VALUE)
    assert "doesn't say which keys change" not in caplog.text


async def test_the_question_could_not_be_sent() -> None:
    """It was to leave together with what can't be encoded: it leaves with the next read."""
    id = new_id()
    async with store_of(Scripted()) as store:
        with pytest.raises(UnicodeEncodeError):
            await store.load("\ud800")
        assert await store.load(id) == VALUE
        assert copy(store, id) == VALUE
