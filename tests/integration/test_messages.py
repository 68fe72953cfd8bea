"""Messages over a Redis whose connections are lost, hang, or only seem to be there."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
from redis import Redis

from redis_sessions import RedisStore, StoreUnavailableError
from redis_sessions.cli.acl import Role, acl_line, rules
from redis_sessions.connect.connector import Connector
from redis_sessions.messages import Messages, Missed
from redis_sessions.stores import pubsub
from redis_sessions.testing import topology
from tests.support.asgi import KEY
from tests.support.listening import said, until, until_heard
from tests.support.near import soon, store_on
from tests.support.proxy import FAILURES, Proxy
from tests.support.servers import SERVERS, Server, as_app

BOUND = 0.2


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pubsub, "BOUND", BOUND)


@pytest.fixture
async def store(proxy: Proxy) -> AsyncIterator[RedisStore]:
    async with store_on(as_app(proxy.url), timeout=0.5) as store:
        yield store


@pytest.fixture
async def other(behind: Server) -> AsyncIterator[Messages]:
    """Another process, whose network is whole."""
    async with store_on(behind.url) as store:
        yield Messages(store, KEY)


def nothing(*_: object) -> None:
    """What is told to somebody who doesn't listen."""


def subscribers(server: Server) -> list[Any]:
    """The connections of the server that listen."""
    with Redis(port=server.port, protocol=2) as client:
        found: Any = client.client_list("pubsub")
        return list(found)


@pytest.mark.parametrize("fails", ["frozen", "replies-frozen", "cut", "half-open", "killed"])
async def test_a_connection_is_lost(
    store: RedisStore, other: Messages, proxy: Proxy, behind: Server, fails: str
) -> None:
    """However it is, everybody who listens is told that something may be missing, and goes on."""
    messages = Messages(store, KEY)
    async with messages.listen(all=True) as heard, messages.listen(principal=1) as another:
        assert await until(heard, n := await said(other)) == [n]
        if fails == "killed":
            with Redis(port=behind.port, protocol=2) as client:
                client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        else:
            FAILURES[fails](proxy)
            lost = await said(other)
            # It is found out without anybody asking for something.
            known = set(subscribers_of(store))
            await soon(lambda: not known & set(subscribers_of(store)))
            assert lost
        proxy.heal()
        items = await until_heard(heard, other)
        assert items[0] is None
        async with asyncio.timeout(20):
            assert await anext(another) == Missed()


def subscribers_of(store: RedisStore) -> list[object]:
    channels: Any = store.channels()
    return list(channels._nodes.values())


async def test_redis_is_away(store: RedisStore, proxy: Proxy) -> None:
    """Who begins to listen is told, and so is who sends; nobody waits for long."""
    messages = Messages(store, KEY)
    proxy.cut()
    channels: Any = store.channels()
    channels._failures = 5_000  # as after half an hour
    for _ in range(3):
        with pytest.raises(StoreUnavailableError):
            async with messages.listen(all=True):
                raise AssertionError
        with pytest.raises(StoreUnavailableError):
            await messages.to_all({})
    proxy.heal()
    channels._failures = 0
    heard, n = list[int | None](), 0
    async with asyncio.timeout(20):
        while not heard:  # the pause that has begun may be longer than this store's time-out
            with suppress(StoreUnavailableError):
                async with messages.listen(all=True) as listener:
                    n = await said(messages)
                    heard = await until(listener, n)
    assert heard == [n]


async def test_a_slot_that_no_node_has(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who listens to a channel there is told, others begin to listen, and the log isn't flooded."""
    channels, nowhere, there = store.channels(), "session:msg:0", "session:msg:1"
    servers: Any = store._servers.get()  # pyright: ignore[reportPrivateUsage] - a Cluster takes long to come to this
    primary_of = servers.primary_of

    async def of(name: str, **options: Any) -> Any:
        if name == nowhere:
            raise StoreUnavailableError("no node for slot 1")
        return await primary_of(name, **options)

    monkeypatch.setattr(servers, "primary_of", of)
    heard = asyncio.Event()

    def told(*_: object) -> None:
        heard.set()

    for _ in range(3):
        first, second = await asyncio.gather(
            channels.subscribe([nowhere], nothing),
            channels.subscribe([there], told),
            return_exceptions=True,
        )
        assert isinstance(first, StoreUnavailableError)
        assert callable(second)
    assert caplog.text.count("messages don't arrive") == 1
    await channels.publish(there, b"x")
    async with asyncio.timeout(20):
        await heard.wait()


async def test_a_node_that_hangs(
    proxy: Proxy, behind: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its connection is being opened, others begin to listen to the channels of others."""
    proxy.freeze()
    async with store_on(as_app(behind.url)) as store:
        channels, hangs, there = store.channels(), "session:msg:0", "session:msg:1"
        servers: Any = store._servers.get()  # pyright: ignore[reportPrivateUsage] - as in a Cluster
        connector: Connector = await servers.primary_of(there)
        hanging, asked = connector.to(("127.0.0.1", proxy.port)), asyncio.Event()
        hanging.timeout = 60

        async def of(name: str, **_: Any) -> Any:
            return hanging if name == hangs else connector

        async def open_pool() -> Any:
            asked.set()
            return await Connector.open(hanging)

        monkeypatch.setattr(servers, "primary_of", of)
        monkeypatch.setattr(hanging, "open", open_pool)
        waiting = [asyncio.create_task(channels.subscribe([hangs], nothing)) for _ in range(2)]
        await asked.wait()
        stop = await channels.subscribe([there], nothing)
        assert not waiting[0].done()
        stop()
        proxy.heal()
        for each in waiting:
            (await each)()


async def test_redis_hangs(store: RedisStore, proxy: Proxy) -> None:
    """As above, after the store's time-out."""
    messages = Messages(store, KEY)
    proxy.freeze()
    with pytest.raises(StoreUnavailableError) as caught:
        async with messages.listen(all=True):
            raise AssertionError
    assert caught.value.reason == "timeout"


async def test_one_connection_for_all(store: RedisStore, other: Messages, behind: Server) -> None:
    """However many listen, and two objects on one store as well; a channel is asked for once."""
    both = [Messages(store, KEY), Messages(store, KEY)]
    async with AsyncExitStack() as stack:
        heard = [
            await stack.enter_async_context(both[n % 2].listen(principal=f"user{n % 10}", all=True))
            for n in range(100)
        ]
        (client,) = subscribers(behind)
        assert int(client["sub"]) == 11
        n = await said(other, "user3")
        for each in heard[3::10]:
            assert await until(each, n) == [n]
    async with both[0].listen(all=True) as last:
        await both[0].to_all({"n": 0})
        assert await until(last, 0) == [0]
        await soon(lambda: [int(each["sub"]) for each in subscribers(behind)] == [1])
    await store.close()
    await soon(lambda: subscribers(behind) == [])


async def test_a_channel_that_is_just_being_left(
    proxy: Proxy, behind: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes then begins when the server has confirmed it anew.

    The answer that was for somebody who has left meanwhile doesn't count: the server ends that
    subscription before it begins the new one.
    """
    monkeypatch.setattr(pubsub, "BOUND", 60)
    name, heard = "session:msg:0", asyncio.Event()

    def told(*_: object) -> None:
        heard.set()

    async with store_on(as_app(proxy.url), timeout=2.5) as store, store_on(behind.url) as other:
        channels = store.channels()
        proxy.hold(name.encode())
        first = asyncio.create_task(channels.subscribe([name], nothing))
        await soon(lambda: proxy.holds)
        first.cancel()
        await soon(lambda: not subscribers(behind))
        proxy.freeze(replies=False)
        second = asyncio.create_task(channels.subscribe([name], told))
        (subscriber,) = subscribers_of(store)
        await soon(lambda: unanswered(subscriber) == ["subscribe", "unsubscribe", "subscribe"])
        proxy.release(name.encode())
        await soon(lambda: unanswered(subscriber) == ["subscribe"])
        for _ in range(9):
            await asyncio.sleep(0)
        assert not second.done()
        proxy.heal()
        await second
        await other.channels().publish(name, b"x")
        async with asyncio.timeout(20):
            await heard.wait()


def unanswered(subscriber: Any) -> list[str]:
    """What the server has to answer."""
    return [verb for verb, _ in subscriber._sent if verb != "ping"]


async def test_nobody_listens_any_more(
    store: RedisStore, behind: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is closed after a while, and opened again for who listens next."""
    monkeypatch.setattr(pubsub, "_IDLE", 0.05)
    messages = Messages(store, KEY)
    for _ in range(2):
        async with messages.listen(all=True) as heard:
            assert await until(heard, n := await said(messages)) == [n]
            assert len(subscribers(behind)) == 1
        await soon(lambda: subscribers(behind) == [])
        await soon(lambda: subscribers_of(store) == [])


@pytest.mark.parametrize("ends", ["listening", "left", "collected"])
async def test_a_loop_that_ends(behind: Server, ends: str) -> None:
    """Its connection goes with it, although nobody has closed the store."""

    async def listen() -> None:
        messages = Messages(behind.url, KEY)
        listening = messages.listen(all=True)
        heard = await listening.__aenter__()
        await messages.to_all({"n": 1})
        assert await anext(heard) == {"n": 1}
        if ends != "listening":
            await listening.__aexit__(None, None, None)
        if ends == "collected":
            del messages, listening, heard
            gc.collect()

    await asyncio.to_thread(asyncio.run, listen())
    await soon(lambda: subscribers(behind) == [])


@pytest.mark.parametrize("missing", ["+subscribe", "+publish", "&session:msg:*"])
async def test_a_right_is_missing(
    redis_url: str, server: Server, missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The error names what the server refused."""
    caplog.set_level(logging.CRITICAL)
    given = [rule for rule in rules(Role.APP, prefix="session:") if rule != missing]
    name = f"without{missing.strip('+&').partition(':')[0]}"
    with Redis(port=server.port, protocol=2) as client:
        client.execute_command(*acl_line(name, ">correct-horse", given).split())
        try:
            url = f"redis://{name}:correct-horse@127.0.0.1:{server.port}/0"
            async with store_on(url) as store:
                messages = Messages(store, KEY)
                with pytest.raises(StoreUnavailableError) as caught:
                    async with messages.listen(all=True):
                        await messages.to_all({})
                assert caught.value.reason == "refused"
        finally:
            client.execute_command("ACL", "DELUSER", name)
            client.execute_command("ACL", "LOG", "RESET")


async def test_a_node_that_is_a_replica_by_now(
    cluster_topology: topology.ClusterTopology, prefix: str
) -> None:
    """It takes subscriptions, too, and hears nothing while the primary can't reach it."""
    async with store_on(cluster_topology.url, prefix) as store:
        channels, name = store.channels(), f"{prefix}msg:0"
        (await channels.subscribe([f"{prefix}msg:1"], nothing))()  # so the map is known
        before = cluster_topology.slot_owner(name)
        (now,) = cluster_topology.replicas_of(before)
        await asyncio.to_thread(cluster_topology.failover, now)
        stop = await channels.subscribe([name], nothing)
        await soon(lambda: now.ask("PUBSUB", "SHARDNUMSUB", name)[1] == 1)
        stop()


@pytest.mark.skipif("redis62" not in SERVERS, reason="no Redis 6.2 is here")
async def test_a_cluster_of_redis_6(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its channels belong to no slots: each node passes on what is published to all others."""
    with topology.cluster(replicas=0, server=SERVERS["redis62"]) as running:
        async with store_on(running.url) as store, store_on(running.url) as more:
            messages, other = Messages(store, KEY), Messages(more, KEY)
            users = [f"user{n}" for n in range(20)]
            async with AsyncExitStack() as stack:
                for user in users:
                    heard = await stack.enter_async_context(messages.listen(principal=user))
                    assert await until(heard, n := await said(other, user)) == [n]
                assert len(subscribers_of(store)) == 3
