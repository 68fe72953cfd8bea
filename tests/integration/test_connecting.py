"""Whom one connects to, and what is told when that fails."""

from __future__ import annotations

import asyncio
import traceback
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.sentinel import Sentinel

from redis_sessions import ConfigurationError, RedisStore, StoreUnavailableError
from redis_sessions.connect.versions import QUIET
from redis_sessions.session.record import is_tombstone, tombstone
from redis_sessions.stores import Commit
from redis_sessions.testing import topology
from tests.support.deployments import until
from tests.support.proxy import Proxy
from tests.support.redis_wire import Wire
from tests.support.servers import SERVERS, StartServer, app_user, as_app

ID = "A" * 20


async def test_a_sentinel_that_answers_with_an_error(server_binary: Path) -> None:
    """The others are asked; if none knows better, waiting doesn't help."""
    with topology.sentinel(replicas=0, sentinels=2, server=server_binary) as running:
        first, second = running.sentinels
        first.ask("ACL", "SETUSER", "default", "-sentinel")
        store = RedisStore(running.url)
        await store.connect()
        await store.close()

        server = running.servers[0].address  # it is no Sentinel
        store = RedisStore(running.url.replace(first.address, server))
        await store.connect()
        await store.close()
        store = RedisStore(f"redis+sentinel://{server}/mymaster")
        with pytest.raises(ConfigurationError, match="unknown command"):
            await store.connect()
        await store.close()

        second.ask("ACL", "SETUSER", "default", "-sentinel")
        store = RedisStore(running.url)
        with pytest.raises(ConfigurationError, match="refused: no primary is known"):
            await store.connect()
        await store.close()


async def test_settings_of_a_ready_sentinel(sentinel_topology: topology.SentinelTopology) -> None:
    """How many others a Sentinel must know of, and where the primary is said to be."""
    hosts = [("127.0.0.1", node.port) for node in sentinel_topology.sentinels]
    given: list[tuple[dict[str, Any], str]] = [
        ({"min_other_sentinels": 5}, "no primary is known"),
        ({"force_master_ip": "nowhere.invalid"}, "nowhere.invalid"),
    ]
    if "force_master_ip" not in signature(Sentinel).parameters:  # before redis-py 6.0
        given.pop()
    for options, told in given:
        store = RedisStore(Sentinel(hosts, **options).master_for("mymaster"))
        with pytest.raises(StoreUnavailableError, match=told):
            await store.connect()
        await store.close()


async def test_addresses_of_a_ready_cluster(server_binary: Path) -> None:
    """Where nodes are known by others' addresses, the client says which they are here."""
    with topology.cluster(replicas=0, server=server_binary) as running:
        ports = {node.port + 10: node.port for node in running.nodes}
        for node in running.nodes:
            node.ask("CONFIG", "SET", "cluster-announce-port", str(node.port + 10))

        async def told() -> bool:
            maps: list[Any] = [node.ask("CLUSTER", "SLOTS") for node in running.nodes]
            return all({first[1] for _, _, first in ranges} == set(ports) for ranges in maps)

        def here(address: tuple[str, int]) -> tuple[str, int]:
            return address[0], ports[address[1]]

        await until(told)
        client = RedisCluster("127.0.0.1", running.nodes[0].port, address_remap=here)
        store = RedisStore(client)
        await store.connect()
        await store.close()


async def test_what_a_ready_client_does_on_connecting(start_server: StartServer) -> None:
    """Its own function is called."""
    server = start_server()

    async def name(connection: Any) -> None:
        await connection.on_connect()
        await connection.send_command("CLIENT", "SETNAME", "mine")
        await connection.read_response()

    store = RedisStore(Redis.from_url(server.url, redis_connect_func=name))
    await store.load(ID)
    with Wire.of(server.url) as redis:
        assert b"name=mine" in redis.ask("CLIENT", "LIST")
    await store.close()


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize(
    "url",
    [
        "redis://app:sesame@{}",
        "redis+cluster://:sesame@{}",
        "redis+sentinel://{}/m?sentinel_password=sesame",
        "redis://app:sesame@{},{}?replicas=read",
    ],
)
async def test_a_server_that_repeats_the_password(
    start_server: StartServer, kind: str, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It doesn't know AUTH, and says with what it was asked; nobody else does."""
    server = start_server("--rename-command", "AUTH", "", kind=kind)
    store = RedisStore(url.replace("{}", f"127.0.0.1:{server.port}"))
    with pytest.raises(ConfigurationError, match=r"unknown command .AUTH") as caught:
        await store.connect()
    await store.close()
    told = "".join(traceback.format_exception(caught.value))
    assert "sesame" not in told + caplog.text


async def test_a_connection_that_stayed_behind(
    server_binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One was led to the new primary: whoever holds another to the former leaves that, too.

    To ask the Sentinels again would tell nothing: they name whom that one was led to.
    """
    monkeypatch.setattr("redis_sessions.connect.dialer._CHECK_EVERY", float("inf"))
    options = app_user(replicas=True)
    with topology.sentinel(replicas=1, server=server_binary, options=options) as running:
        store = RedisStore(as_app(running.url), timeout=1.0)
        before = running.primary
        assert (await store.commit(ID, None, bytes(64), 60_000)).result is Commit.STORED
        await asyncio.gather(store.load(ID), store.entries("x"))  # a connection each
        before.pause()
        await asyncio.to_thread(running.wait_promoted, before)
        for watcher in running.sentinels:  # nobody tells the former
            watcher.ask("SENTINEL", "DEBUG", "INFO-PERIOD", "100000000")
        before.resume()
        running.primary.ask("DEL", store.prefix + ID)
        with Wire(before.port) as redis:
            listed = redis.ask("CLIENT", "LIST").decode().splitlines()
            one, _ = [line.split()[0] for line in listed if "user=app" in line]
            redis.ask("CLIENT", "KILL", "ID", one.removeprefix("id="))
        await asyncio.gather(store.load(ID), store.entries("x"))  # one of them has to connect
        for _ in range(5):
            first, _, other = await asyncio.gather(
                store.load(ID), store.entries("x"), store.load(ID)
            )
            assert (first, other) == (None, None)
        assert before.role() == "primary"
        await store.close()


async def test_an_answer_of_a_former_primary(server_binary: Path) -> None:
    """What it answers once its successor is known counts for nothing: that one is asked."""
    options = app_user(replicas=True)
    with topology.sentinel(
        replicas=1, down_after_ms=300, server=server_binary, options=options
    ) as running:
        store = RedisStore(as_app(running.url), timeout=2.5)
        before = running.primary
        assert (await store.commit(ID, None, bytes(64), 60_000)).result is Commit.STORED
        before.pause()
        ending = asyncio.create_task(store.end(ID, tombstone(1), 60_000))
        await asyncio.to_thread(running.wait_promoted, before)
        for watcher in running.sentinels:
            watcher.ask("SENTINEL", "DEBUG", "INFO-PERIOD", "100000000")
        async with store.lock("B" * 20, wait=0, hold=5):  # over a new connection
            before.resume()
            assert (await ending).result
        with Wire(running.primary.port) as redis:
            assert is_tombstone(redis.ask("GET", store.prefix + ID))
        await store.close()


async def test_a_connection_that_a_former_primary_accepts_late(server_binary: Path) -> None:
    """Who connected to it while it hung asks the Sentinels again, and uses its successor."""
    with topology.sentinel(
        replicas=1, down_after_ms=300, server=server_binary, options=app_user(replicas=True)
    ) as running:
        store, before = RedisStore(as_app(running.url), timeout=2.5), running.primary
        before.pause()
        storing = store.commit(ID, None, bytes(64), 60_000)
        await asyncio.to_thread(running.wait_promoted, before)
        for watcher in running.sentinels:
            watcher.ask("SENTINEL", "DEBUG", "INFO-PERIOD", "100000000")
        before.resume()
        assert (await storing).result is Commit.STORED
        with Wire(running.primary.port) as redis:
            assert redis.ask("GET", store.prefix + ID) == bytes(64)
        await store.close()


def test_a_timeout_that_is_too_long() -> None:
    """The message names what was written."""
    with pytest.raises(ConfigurationError, match=r"^socket_timeout=5\.0: write seconds"):
        RedisStore("redis://localhost?socket_timeout=5")
    with pytest.raises(ConfigurationError, match=r"^timeout=5: write seconds"):
        RedisStore("redis://localhost?socket_timeout=1", timeout=5)


@pytest.mark.parametrize("ready", [False, True], ids=["URL", "client"])
async def test_a_proxy_that_closes_on_setinfo(start_server: StartServer, ready: bool) -> None:
    """As twemproxy does: nothing is sent there, unless a client that is passed in says so."""
    server = start_server()
    with Proxy(server.port, refuses=b"SETINFO") as proxy:
        url = as_app(proxy.url)
        store = RedisStore(Redis.from_url(url, **QUIET) if ready else url)
        await store.connect()
        assert (await store.commit(ID, None, tombstone(0), 1000)).result is Commit.STORED
        await store.close()
        says_so = RedisStore(Redis(port=proxy.port, username="app", password="development"))
        with pytest.raises(StoreUnavailableError, match="can't be reached"):
            await says_so.connect()
        await says_so.close()
