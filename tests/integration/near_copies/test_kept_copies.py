"""What becomes a near copy, and what removes it, on every server that is here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from redis_sessions import RedisStore, StoreError
from redis_sessions.session.record import is_tombstone
from redis_sessions.stores.protocols import Commit
from tests.support.near import (
    LONG,
    MINUTE,
    Told,
    copy,
    ended,
    kept,
    new_id,
    record,
    served_at_most,
    soon,
    store_on,
    stored,
)
from tests.support.redis_wire import Wire
from tests.support.servers import Server, StartServer

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(server: Server, prefix: str) -> AsyncIterator[RedisStore]:
    async with store_on(server.url, prefix, client_cache=LONG) as store:
        yield store


@pytest.fixture
async def other(server: Server, prefix: str) -> AsyncIterator[RedisStore]:
    """Another process."""
    async with store_on(server.url, prefix) as store:
        yield store


async def test_what_was_read(store: RedisStore, other: RedisStore) -> None:
    """A record that was read is kept."""
    id = new_id()
    value = await stored(other, id)
    assert copy(store, id) is None
    assert await kept(store, id) == value


async def test_what_was_stored(store: RedisStore) -> None:
    """A record that this process has stored is kept at the reply."""
    id = new_id()
    await store.load(id)
    for before in (None, await stored(store, id)):
        if before is not None:
            value = await stored(store, id, before)
            assert copy(store, id) == value


async def test_what_is_read_again_stays(store: RedisStore, other: RedisStore) -> None:
    """Reading the same bytes keeps the copy; reading other bytes replaces it."""
    id = new_id()
    first = await stored(store, id)
    before = store.near_copy(id)
    assert await store.load(id) == first
    assert store.near_copy(id) is before
    second = await stored(other, id, first)
    assert await store.load(id) == second
    after = store.near_copy(id)
    assert after is not None
    assert after.value == second


async def test_another_process_writes(store: RedisStore, other: RedisStore) -> None:
    """What was read is removed by another process' change, and so is what is read after it."""
    id = new_id()
    value = await stored(other, id)
    for _ in range(2):
        await kept(store, id)
        value = await stored(other, id, value)
        await soon(lambda: copy(store, id) is None)


async def test_40_another_process_writes_after_a_commit(
    store: RedisStore, other: RedisStore
) -> None:
    """The script reads after it has written, so the server tells of the next change as well."""
    id = new_id()
    await store.load(new_id())
    value = await stored(store, id)
    for _ in range(2):
        assert copy(store, id) == value
        value = await stored(other, id, value)
        await soon(lambda: copy(store, id) is None)
        value = await stored(store, id, value)


async def test_40_another_process_writes_after_a_repeated_commit(
    store: RedisStore, other: RedisStore
) -> None:
    """A commit that was stored already only renews the TTL, which makes the server forget us."""
    id = new_id()
    await store.load(new_id())
    value = await stored(store, id)
    assert (await store.commit(id, None, value, MINUTE)).result is Commit.STORED
    assert copy(store, id) == value
    await stored(other, id, value)
    await soon(lambda: copy(store, id) is None)


async def test_a_server_whose_table_of_keys_is_full(
    store: RedisStore, other: RedisStore, server: Server
) -> None:
    """It forgets who has read which key, and tells of that, also while it serves this very link."""
    ids = [new_id() for _ in range(20)]
    values = [await stored(other, id) for id in ids]
    with Wire(server.port) as redis:
        redis.ask("CONFIG", "SET", "tracking-table-max-keys", 5)
        try:
            told = [Told(store, id) for id in ids]
            for each, value in zip(told, values, strict=True):
                await each.until(value)
            # The second command comes with the first one, and finds the table too full.
            await asyncio.gather(*map(store.load, ids), stored(store, new_id()))
            values = [await stored(other, id, old) for id, old in zip(ids, values, strict=True)]
            for id, each, value in zip(ids, told, values, strict=True):
                await each.until(value)
                await served_at_most(store, id, value)
        finally:
            redis.ask("CONFIG", "SET", "tracking-table-max-keys", 1_000_000)


@pytest.mark.parametrize("how", ["by its own end", "by another's end", "del", "expiry"])
async def test_a_session_ends(
    store: RedisStore, other: RedisStore, server: Server, how: str
) -> None:
    """However a record goes, the copy goes: an end of this process counts at its reply."""
    id = new_id()
    await stored(other, id)
    await kept(store, id)
    with Wire(server.port) as redis:
        if how == "by its own end":
            assert (await store.end(id, ended(), MINUTE)).result
            assert copy(store, id) is None
        elif how == "by another's end":
            await other.end(id, ended(), MINUTE)
        elif how == "del":
            redis.ask("DEL", store.prefix + id)
        else:
            redis.ask("PEXPIRE", store.prefix + id, 1)
            await kept_or_gone(store, id)
        await soon(lambda: copy(store, id) is None)


async def kept_or_gone(store: RedisStore, id: str) -> None:
    """Read until it has expired, which makes the server remove it."""
    while await store.load(id) is not None:
        pass


async def test_all_keys_are_removed(server: Server, prefix: str) -> None:
    """FLUSHDB is a notice about everything."""
    url = f"{server.url.removesuffix('0')}5"
    async with store_on(url, prefix, client_cache=LONG) as store:
        ids = [new_id(), new_id()]
        for id in ids:
            await stored(store, id)
            await kept(store, id)
        with Wire(server.port) as redis:
            redis.ask("SELECT", 5)
            redis.ask("FLUSHDB")
        await soon(lambda: [copy(store, id) for id in ids] == [None, None])


async def test_what_was_absent_is_created(store: RedisStore, other: RedisStore) -> None:
    """Nothing is kept of what is absent; once another process creates it, it is found."""
    id = new_id()
    assert await store.load(id) is None
    assert copy(store, id) is None
    value = await stored(other, id)
    assert copy(store, id) is None
    assert await kept(store, id) == value


async def test_a_tombstone_is_no_copy(store: RedisStore, other: RedisStore) -> None:
    """Neither one that was read, nor one that this process has stored in a record's place."""
    id = new_id()
    value = await stored(store, id)
    assert copy(store, id) == value
    written = await store.commit(id, value[:33], ended(), MINUTE)
    assert written.result is Commit.STORED
    assert copy(store, id) is None
    assert is_tombstone(await store.load(id) or b"")
    assert copy(store, id) is None


@pytest.mark.parametrize("result", [Commit.CONFLICT, Commit.GONE])
async def test_a_commit_that_stores_nothing(
    store: RedisStore, other: RedisStore, server: Server, result: Commit
) -> None:
    """After a conflict, and where nothing is left, nothing is served from a copy."""
    id = new_id()
    value = await stored(store, id)
    assert copy(store, id) == value
    expected = record()[:33]
    if result is Commit.GONE:
        with Wire(server.port) as redis:
            redis.ask("DEL", store.prefix + id)
    assert (await store.commit(id, expected, record(), MINUTE)).result is result
    assert copy(store, id) is None


async def test_a_commit_that_fails(store: RedisStore, server: Server) -> None:
    """An error of a single write removes the copy."""
    id = new_id()
    value = await stored(store, id)
    with Wire(server.port) as redis:
        redis.ask("DEL", store.prefix + id)
        redis.ask("HSET", store.prefix + id, "a", "b")
        with pytest.raises(StoreError, match="WRONGTYPE"):
            await store.commit(id, value[:33], record(), MINUTE)
    assert copy(store, id) is None


async def test_commits_of_a_server_that_refuses_them(start_server: StartServer) -> None:
    """An error of a whole batch removes the copies of all that were in it."""
    server = start_server()
    async with store_on(server.url, client_cache=LONG) as store:
        id = new_id()
        value = await stored(store, id)
        await kept(store, id)
        with Wire(server.port) as redis:
            redis.ask("ACL", "SETUSER", "app", "-evalsha")
            with pytest.raises(StoreError):
                await store.commit(id, value[:33], record(), MINUTE)
            assert copy(store, id) is None
            redis.ask("ACL", "SETUSER", "app", "+evalsha")


async def test_nothing_is_kept_by_default(server: Server, prefix: str) -> None:
    """Without `client_cache` there are no copies, and no link is asked to track."""
    async with store_on(server.url, prefix) as store:
        id = new_id()
        await stored(store, id)
        await store.load(id)
        assert store.near_copy(id) is None
        with Wire(server.port) as redis:
            assert "flags=t" not in redis.ask("CLIENT", "LIST").decode()
