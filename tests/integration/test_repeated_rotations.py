"""Rotations that a failover undid: whoever answered one puts its record back, first of all."""

from __future__ import annotations

from os import urandom
from typing import Final

import pytest

from redis_sessions import RedisStore
from redis_sessions.session.record import is_tombstone, rotated_at, tombstone
from redis_sessions.session.token import SessionToken
from redis_sessions.stores.protocols import Commit
from redis_sessions.stores.repeats import AT_ONCE, LARGE, LIMIT, MAX_BYTES
from redis_sessions.testing import read_session, store_session
from tests.integration.cluster_slots import MINUTE
from tests.support.apps import client_of, doing, manager_on
from tests.support.redis_wire import Monitor, Wire
from tests.support.servers import SERVERS, StartServer, as_owner

HEADER: Final = 33


def record(rotated: int, size: int = 80) -> bytes:
    """What nobody has to open: a record that was rotated then."""
    return b"\1key." + rotated.to_bytes(4, "big") + urandom(24 + size)


async def rotate(
    store: RedisStore, before: bytes, after: bytes, id: str | None = None, ttl: int = MINUTE
) -> str:
    """A record that another has replaced; its id."""
    id = id or SessionToken.generate().id
    assert (await store.commit(id, None, before, MINUTE)).result is Commit.STORED
    assert (await store.commit(id, before[:HEADER], after, ttl)).result is Commit.STORED
    return id


@pytest.mark.parametrize("kind", SERVERS)
async def test_what_is_there_decides(start_server: StartServer, kind: str) -> None:
    """Only a record that was rotated earlier is replaced, and it gets the TTL of ours."""
    server = start_server(kind=kind)
    store = RedisStore(server.url)
    times = [(0, 1), (255, 256), (0x7FFF_FFFF, 0x8000_0000), (0xFFFF_FFFE, 0xFFFF_FFFF)]
    earlier = [(before, record(now)) for before, now in times]
    late = record(100)
    ids = [await rotate(store, record(before), after) for before, after in earlier]
    others = {
        await rotate(store, record(0), late): there
        for there in (record(101), record(256), late[:HEADER] + b"newer", record(100), tombstone(1))
    }
    missing = await rotate(store, record(0), late)
    server.kill()
    server.start()
    with Wire(server.port) as redis:
        for id, (before, _) in zip(ids, earlier, strict=True):
            redis.ask("SET", store.prefix + id, record(before), "PX", 10_000)
        for id, there in others.items():
            redis.ask("SET", store.prefix + id, there, "PX", MINUTE)
        for id, (_, after) in zip(ids, earlier, strict=True):
            assert await store.load(id) == after
            assert 10_000 < redis.ask("PTTL", store.prefix + id) <= MINUTE
        for id, there in others.items():
            assert await store.load(id) == there
        assert await store.load(missing) is None
    await store.close()


async def test_41_a_rotation_is_repeated_over_a_later_one(start_server: StartServer) -> None:
    """Another process rotated it since: its record stays, on the primary that lost neither."""
    server = start_server()
    first, second = manager_on(server.url), manager_on(server.url)
    async with (
        client_of(doing(manager=first)) as browser,
        client_of(doing(manager=second)) as later,
    ):
        oldest = await store_session(first, {"user_id": "alice"})
        browser.cookies.set("__Host-session", oldest, domain="testserver.local", path="/")
        newer = (await browser.get("/do?rotate=")).cookies["__Host-session"]
        later.cookies.set("__Host-session", newer, domain="testserver.local", path="/")
        newest = (await later.get("/do?rotate=")).cookies["__Host-session"]
    with Wire(server.port) as redis:
        redis.ask("CLIENT", "KILL", "TYPE", "normal")
    with Monitor(server.port) as monitor:
        assert await read_session(first, newest) == {"user_id": "alice"}
        assert "EVALSHA" in monitor.names(), "it was repeated, and changed nothing"
        assert [await read_session(first, token) for token in (oldest, newer)] == [{}, {}]
    await first.close()
    await second.close()


async def test_the_newest_that_this_process_wrote(start_server: StartServer) -> None:
    """A change under the new token goes along; one under the replaced token doesn't."""
    server = start_server()
    store = RedisStore(server.url)
    before, after, changed, stale = record(5), record(6), record(6), record(5)
    id = await rotate(store, before, after)
    assert (await store.commit(id, after[:HEADER], changed, 2 * MINUTE)).result is Commit.STORED
    server.kill()
    server.start()
    with Wire(server.port) as redis:
        redis.ask("SET", store.prefix + id, before, "PX", MINUTE)
        assert await store.load(id) == changed
        assert redis.ask("PTTL", store.prefix + id) > MINUTE
        redis.ask("SET", store.prefix + id, before, "PX", MINUTE)  # undone once more
        assert (await store.commit(id, before[:HEADER], stale, MINUTE)).result is Commit.STORED
        redis.ask("CLIENT", "KILL", "TYPE", "normal")
        assert await store.load(id) == changed
    await store.close()


async def test_a_change_is_not_repeated(start_server: StartServer) -> None:
    """A new session, or a change of one that this process never rotated, is no rotation."""
    server = start_server()
    store = RedisStore(server.url)
    id, first, second = SessionToken.generate().id, record(7), record(7)
    assert (await store.commit(id, None, first, MINUTE)).result is Commit.STORED
    assert (await store.commit(id, first[:HEADER], second, MINUTE)).result is Commit.STORED
    assert (await store.commit(id, first[:HEADER], record(8), MINUTE)).result is Commit.CONFLICT
    server.kill()
    server.start()
    with Monitor(server.port) as monitor:
        await store.load(id)
        assert monitor.names() == ["MGET"]
    await store.close()


async def test_an_end_after_a_rotation(start_server: StartServer) -> None:
    """The session ended here since: it is ended again, and not rotated."""
    server = start_server()
    store = RedisStore(server.url)
    before = record(0)
    id = await rotate(store, before, record(1))
    assert (await store.end(id, tombstone(2), MINUTE)).result
    server.kill()
    server.start()
    with Wire(server.port) as redis:
        redis.ask("SET", store.prefix + id, before, "PX", MINUTE)
        assert is_tombstone(await store.load(id) or b"")
    await store.close()


@pytest.mark.parametrize("why", ["too large", "its time is over"])
async def test_without_its_record_the_id_ends(start_server: StartServer, why: str) -> None:
    """Where the new record can't be put back, the replaced token doesn't open all the same."""
    server = start_server()
    store = RedisStore(server.url)
    large = why == "too large"
    before, after = record(3), record(4, LARGE + 1 if large else 80)
    ids = [await rotate(store, before, after, ttl=MINUTE if large else 1) for _ in range(3)]
    server.kill()
    server.start()
    with Wire(server.port) as redis:
        for id, there in zip(ids, (before, record(4), after), strict=True):
            redis.ask("SET", store.prefix + id, there, "PX", MINUTE)
        value = await store.load(ids[0])
        assert value is not None
        assert is_tombstone(value)
        assert rotated_at(value) == 4
        assert redis.ask("PTTL", store.prefix + ids[0]) <= 30_000
        kept = [await store.load(id) for id in ids[1:]]
        assert [is_tombstone(value or b"") for value in kept] == [False, False]
        assert kept[1] == after
        assert redis.ask("PTTL", store.prefix + ids[2]) > 30_000
    await store.close()


async def test_all_records_together_are_bounded(start_server: StartServer) -> None:
    """The oldest records aren't kept any more, and their ids end; the others are put back."""
    server = start_server()
    store = RedisStore(server.url)
    before, size = record(0, 0) + b"before", LARGE - HEADER
    fit = MAX_BYTES // LARGE
    values = [record(1, size) for _ in range(fit + 3)]
    ids = [await rotate(store, before, value) for value in values]
    server.kill()
    server.start()
    with Wire(server.port) as redis:
        for id in ids:
            redis.ask("SET", store.prefix + id, before, "PX", MINUTE)
        found = [await store.load(id) for id in ids]
        assert [is_tombstone(value or b"") for value in found] == [True] * 3 + [False] * fit
        assert found[3:] == values[3:]
    await store.close()


async def test_the_last_ones_are_remembered(start_server: StartServer) -> None:
    """However many there were; and a change makes no rotation younger."""
    server = start_server()
    store = RedisStore(server.url)
    before, after, changed = record(0), record(1), record(1)
    first, *others = [await rotate(store, before, after) for _ in range(LIMIT)]
    assert (await store.commit(first, after[:HEADER], changed, MINUTE)).result is Commit.STORED
    await rotate(store, before, after)
    server.kill()
    server.start()
    with Wire(server.port) as redis:
        for id in (first, *others):
            redis.ask("SET", store.prefix + id, before, "PX", MINUTE)
        assert await store.load(first) == before
        assert [await store.load(id) for id in others] == [after] * len(others)
    await store.close()


@pytest.mark.parametrize("size", [80, AT_ONCE // 10], ids=["in one piece", "in several"])
async def test_a_server_that_refuses_at_first(start_server: StartServer, size: int) -> None:
    """It is told with each batch, by as much as shows that it refuses; and then of everything."""
    server = start_server()
    store = RedisStore(server.url)
    before, after = record(0), record(1, size)
    ids = [await rotate(store, before, after) for _ in range(25)]
    server.kill()
    server.start()
    with Wire(server.port) as redis:
        for id in ids:
            redis.ask("SET", store.prefix + id, before, "PX", MINUTE)
        redis.ask("CONFIG", "SET", "min-replicas-to-write", "1")
        assert await store.load(ids[0]) == before
        with Monitor(server.port) as monitor:
            assert await store.load(ids[0]) == before
            sent = monitor.commands()
        assert [words[0] for words in sent] == ["EVALSHA", "MGET"]
        assert int(sent[0][2]) == (len(ids) if size == 80 else 9)
        redis.ask("CONFIG", "SET", "min-replicas-to-write", "0")
        await store.load(ids[0])  # which shows that it accepts
        assert await store.load(ids[-1]) == after
        assert [redis.ask("GET", store.prefix + id) for id in ids] == [after] * len(ids)
    with Monitor(server.port) as monitor:
        await store.load(ids[0])
        assert monitor.names() == ["MGET"]
    await store.close()


async def test_a_rotation_that_too_few_replicas_had(start_server: StartServer) -> None:
    """Its token is sent all the same, so it is repeated all the same."""
    server = start_server()
    store = RedisStore(server.url)
    strict = RedisStore(as_owner(server.url), wait_replicas=1, wait_timeout=0.01)
    id, before, after = SessionToken.generate().id, record(0), record(1)
    assert (await store.commit(id, None, before, MINUTE)).result is Commit.STORED
    assert (await strict.commit(id, before[:HEADER], after, MINUTE)).shortfall
    server.kill()
    server.start()
    with Wire(server.port) as redis:
        redis.ask("SET", store.prefix + id, before, "PX", MINUTE)
    assert [await each.load(id) for each in (store, strict, store)] == [before, after, after]
    await store.close()
    await strict.close()


@pytest.mark.parametrize("kind", SERVERS)
async def test_a_server_whose_memory_is_full(start_server: StartServer, kind: str) -> None:
    """The replaced token doesn't open there, either."""
    server = start_server("--maxmemory-policy", "noeviction", kind=kind)
    store = RedisStore(server.url)
    before, after = record(0), record(1)
    id = await rotate(store, before, after)
    server.kill()
    server.start()
    with Wire(server.port) as redis:
        redis.ask("SET", store.prefix + id, before, "PX", MINUTE)
        redis.ask("CONFIG", "SET", "maxmemory", "1")
        assert await store.load(id) == after
    await store.close()
