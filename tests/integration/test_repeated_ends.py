"""Ends that a failover undid: whoever answered them ends them again, before anything else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from redis_sessions import RedisStore, get_session
from redis_sessions.session.record import is_tombstone, tombstone
from redis_sessions.session.token import SessionToken
from redis_sessions.stores.protocols import Commit
from redis_sessions.stores.repeats import LIMIT
from redis_sessions.testing import read_session, store_session, topology
from tests.integration.cluster_slots import MINUTE, id_in, record, slots_of
from tests.support.apps import client_of, doing, manager_on, signed_in
from tests.support.asgi import COOKIE
from tests.support.deployments import until
from tests.support.redis_wire import Monitor, Wire
from tests.support.servers import StartServer, app_user, as_app


def restore(redis: Wire, key: str, value: bytes) -> None:
    """What a replica has that never heard of the end."""
    redis.ask("SET", key, value, "PX", MINUTE)


async def ended(store: RedisStore) -> tuple[str, bytes]:
    """A record that was there, and is no more."""
    id, value = SessionToken.generate().id, record()
    assert (await store.commit(id, None, value, MINUTE)).result is Commit.STORED
    assert (await store.end(id, tombstone(1), MINUTE)).result
    return id, value


async def is_over(store: RedisStore, id: str) -> bool:
    value = await store.load(id)
    return value is None or is_tombstone(value)


async def test_a_server_that_comes_back_with_older_data(start_server: StartServer) -> None:
    """The first that reads finds it ended."""
    server = start_server()
    store = RedisStore(server.url)
    id, value = await ended(store)
    kept = SessionToken.generate().id
    server.kill()
    server.start()
    with Wire(server.port) as redis:
        restore(redis, store.prefix + id, value)
        restore(redis, store.prefix + kept, value)
        assert is_tombstone(await store.load(id) or b"")
        assert is_tombstone(redis.ask("GET", store.prefix + id))
        assert await store.load(kept) == value
    await store.close()


async def test_a_server_that_refuses_at_first(start_server: StartServer) -> None:
    """A new primary may wait for replicas: what ended is ended as soon as it writes."""
    server = start_server()
    store = RedisStore(server.url)
    id, value = await ended(store)
    server.kill()
    server.start()
    with Wire(server.port) as redis:
        restore(redis, store.prefix + id, value)
        redis.ask("CONFIG", "SET", "min-replicas-to-write", "1")
        assert await store.load(id) == value
        redis.ask("CONFIG", "SET", "min-replicas-to-write", "0")
        assert is_tombstone(await store.load(id) or b"")
    with Monitor(server.port) as monitor:
        await store.load(id)
        assert monitor.names() == ["MGET"]
    await store.close()


async def test_each_way_to_end(start_server: StartServer) -> None:
    """By a sign-out, by `clear()`, by a rotation's loss of the old id, by a revocation."""
    server = start_server()
    manager = manager_on(server.url)
    with Wire(server.port) as redis:
        before: dict[str, bytes] = {}

        async def remember(token: str) -> str:
            key = f"session:{token[:20]}"
            before[key] = redis.ask("GET", key)
            return token

        cases = {"drop=user_id": 2, "clear=": 1, "set=user_id:bob": 1}
        for query in cases:
            async with client_of(doing(manager=manager)) as browser:
                await remember(await signed_in(browser, "alice"))
                assert (await browser.get(f"/do?{query}")).status_code == 200
        one, other = [
            await remember(await store_session(manager, {"user_id": "carol"})) for _ in range(2)
        ]
        assert await manager.revoke(one[:20], principal="carol")
        assert await manager.revoke_all("carol") == 1
        server.kill()
        server.start()
    with Wire(server.port) as redis:
        for key, value in before.items():
            restore(redis, key, value)
        assert await read_session(manager, other) == {}
        assert [key for key in before if len(redis.ask("GET", key)) > len(tombstone(0))] == []
    assert len(before) == 5
    await manager.close()


async def test_what_was_not_ended_stays(start_server: StartServer) -> None:
    """An end that found another version did nothing, and nothing is repeated."""
    server = start_server()
    store = RedisStore(server.url)
    id, value, other = SessionToken.generate().id, record(), record()
    assert (await store.commit(id, None, value, MINUTE)).result is Commit.STORED
    assert (await store.commit(id, other[:33], tombstone(1), MINUTE)).result is Commit.CONFLICT
    server.kill()
    server.start()
    with Wire(server.port) as redis:
        restore(redis, store.prefix + id, value)
        assert await store.load(id) == value
    await store.close()


async def test_nothing_is_said_without_an_end(start_server: StartServer) -> None:
    """A new connection of whoever has ended nothing says nothing more."""
    server = start_server()
    store = RedisStore(server.url)
    id = SessionToken.generate().id
    await store.commit(id, None, record(), MINUTE)
    server.kill()
    server.start()
    with Monitor(server.port) as monitor:
        await store.load(id)
        assert monitor.names() == ["MGET"]
    await store.close()


async def test_the_last_ones_are_remembered(start_server: StartServer) -> None:
    """However many there were."""
    server = start_server()
    store = RedisStore(server.url)
    first, *others = [SessionToken.generate().id for _ in range(LIMIT + 1)]
    for id in (first, *others):
        await store.end(id, tombstone(1), MINUTE)
    server.kill()
    server.start()
    with Wire(server.port) as redis:
        assert await store.load(first) is None
        assert redis.ask("DBSIZE") == LIMIT
    await store.close()


async def test_revoking_oneself_without_an_entry(redis_url: str, prefix: str) -> None:
    """A failover may lose the entry and keep the record: that session is one's own all the same."""
    manager = manager_on(redis_url, prefix)

    async def endpoint(request: Request) -> JSONResponse:
        id = get_session(request).id or ""
        strangers = [
            await manager.revoke(id, principal="bob"),
            await manager.revoke("x", principal="alice"),
        ]
        return JSONResponse([*strangers, await manager.revoke(id, principal="alice")])

    async with client_of(doing(Route("/out", endpoint), manager=manager)) as browser:
        token = await signed_in(browser, "alice")
        with Wire.of(redis_url) as redis:
            (index,) = redis.keys(f"{prefix}of:")
            redis.ask("DEL", index)
        response = await browser.get("/out")
        assert response.json() == [False, False, True]
        assert response.headers["set-cookie"].startswith(f"{COOKIE}=null;")
    assert await read_session(manager, token) == {}
    await manager.close()


async def test_a_failover_behind_sentinels(server_binary: Path) -> None:
    """The new primary never heard of it: also of one that was answered as stored too rarely."""
    options = app_user(replicas=True)
    with topology.sentinel(replicas=1, server=server_binary, options=options) as running:
        store = RedisStore(as_app(running.url), timeout=1.0)
        strict = RedisStore(as_app(running.url), timeout=1.0, wait_replicas=2, wait_timeout=0.01)
        id, value = await ended(store)
        unsure, theirs = SessionToken.generate().id, record()
        assert (await store.commit(unsure, None, theirs, MINUTE)).result is Commit.STORED
        assert (await strict.end(unsure, tombstone(1), MINUTE)).shortfall
        before = running.primary
        before.kill()
        await asyncio.to_thread(running.wait_promoted, before)
        with Wire(running.primary.port) as redis:
            restore(redis, store.prefix + id, value)
            restore(redis, store.prefix + unsure, theirs)
            stranger = RedisStore(as_app(running.url))
            assert await stranger.load(id) == value  # who never ended it can't know
            for each, its in ((store, id), (strict, unsure), (stranger, id), (stranger, unsure)):
                assert await is_over(each, its)
        for each in (store, strict, stranger):
            await each.close()


@pytest.fixture(scope="module")
def shards(server_binary: Path) -> Iterator[topology.ClusterTopology]:
    options = app_user(cluster=True)
    with topology.cluster(server=server_binary, options=options) as running:
        yield running


@pytest.mark.parametrize("kill", [False, True], ids=["asked to", "killed"])
async def test_a_failover_in_a_cluster(
    shards: topology.ClusterTopology, prefix: str, kill: bool
) -> None:
    """Whoever has the slot next hears of it, and keeps its other sessions."""
    store = RedisStore(as_app(shards.url), prefix=prefix, timeout=1.0)
    victim = shards.primaries[0]
    (replica,) = shards.replicas_of(victim)
    slots = slots_of(shards, victim)
    ids, value = [id_in(slots, prefix) for _ in range(3)], record()
    for id in ids:
        assert (await store.commit(id, None, value, MINUTE)).result is Commit.STORED
    for id in ids[:2]:
        assert (await store.end(id, tombstone(1), MINUTE)).result
    if kill:
        victim.kill()
        await asyncio.to_thread(shards.wait_promoted, replica)
    else:
        await asyncio.to_thread(shards.failover, replica)
    with Wire(replica.port) as redis:
        for id in ids:
            restore(redis, prefix + id, value)

        async def served() -> bool:
            return await is_over(store, ids[0])

        await until(served)  # a read may come before what repeats it
        assert await is_over(store, ids[1])
        assert await store.load(ids[2]) == value
    if kill:
        victim.start()
        await asyncio.to_thread(shards.wait_ready)
    await store.close()


async def test_a_new_primary_that_refuses_at_first(
    shards: topology.ClusterTopology, prefix: str
) -> None:
    """It is told again and again: a node is known as a primary before it serves as one."""
    store = RedisStore(as_app(shards.url), prefix=prefix, timeout=1.0)
    (replica,) = shards.replicas_of(shards.primaries[0])
    id, value = id_in(slots_of(shards, shards.primaries[0]), prefix), record()
    assert (await store.end(id, tombstone(1), MINUTE)).result is False
    replica.ask("ACL", "SETUSER", "app", "-evalsha")
    await asyncio.to_thread(shards.failover, replica)
    with Wire(replica.port) as redis:
        restore(redis, prefix + id, value)

        async def known() -> bool:
            await store.load(id)
            return "evalsha" in str(redis.ask("ACL", "LOG"))

        await until(known)
        assert await store.load(id) == value
        redis.ask("ACL", "SETUSER", "app", "+evalsha")
        await until(lambda: is_over(store, id))
    await store.close()


async def test_a_node_that_comes_back(shards: topology.ClusterTopology, prefix: str) -> None:
    """A node that keeps its slots hears of what it ended, and of nobody else's."""
    store = RedisStore(as_app(shards.url), prefix=prefix, timeout=1.0)
    ids, value = list[str](), record()
    for node in shards.primaries:
        ids.append(id_in(slots_of(shards, node), prefix))
        assert (await store.end(ids[-1], tombstone(1), MINUTE)).result is False
    node = shards.primaries[0]
    with Wire(node.port) as redis:
        restore(redis, prefix + ids[0], value)
        assert await store.load(ids[0]) == value
        redis.ask("CLIENT", "KILL", "TYPE", "normal")
        assert await is_over(store, ids[0])
    await store.close()


async def test_a_late_answer_in_a_cluster(server_binary: Path) -> None:
    """What a node answers once the map names its successor counts for nothing."""
    options = {**app_user(cluster=True), "enable-debug-command": "local"}
    with topology.cluster(server=server_binary, options=options) as running:
        store = RedisStore(as_app(running.url), timeout=2.5)
        before = running.primaries[0]
        (replica,) = running.replicas_of(before)
        slots, elsewhere = slots_of(running, before), slots_of(running, running.primaries[1])
        value = record()
        id, other = id_in(slots, store.prefix), id_in(slots, store.prefix)
        assert (await store.commit(id, None, value, MINUTE)).result is Commit.STORED
        with Wire(before.port) as isolated:
            isolated.ask("DEBUG", "DROP-CLUSTER-PACKET-FILTER", "1")  # what says that it is left
            isolated.ask("CLIENT", "PAUSE", "60000", "WRITE")
            ending = asyncio.create_task(store.end(id, tombstone(1), MINUTE))

            async def waits() -> bool:
                return b"blocked_clients:1" in isolated.ask("INFO", "clients")

            await until(waits)
            for node in (replica, *running.replicas_of(running.primaries[1])):
                node.ask("CLUSTER", "FAILOVER", "TAKEOVER")
            with Wire(replica.port) as redis:
                restore(redis, store.prefix + other, value)

            async def left() -> bool:
                await store.load(id_in(elsewhere, store.prefix))  # which is told of, and so a map
                loading = asyncio.ensure_future(store.load(other))
                # At the former node it waits behind the end.
                await asyncio.wait([loading], timeout=0.05)
                return not loading.cancel() and await loading is not None

            await until(left)
            isolated.ask("CLIENT", "UNPAUSE")
            assert (await ending).result
        with Wire(replica.port) as redis:
            assert is_tombstone(redis.ask("GET", store.prefix + id))
        await store.close()
