"""What a ready redis-py client is understood to say; no server is asked."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Any, cast

import pytest
import trustme
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis, RedisCluster
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.sentinel import Sentinel
from redis.credentials import UsernamePasswordCredentialProvider

from redis_sessions import ConfigurationError, RedisStore
from redis_sessions.connect.connector import connector_of, deployment_of


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(path)
    return path


def test_clients() -> None:
    """A ready client's settings are a deployment's; those for its own use are left out."""
    provider = UsernamePasswordCredentialProvider("u", "p")
    one = deployment_of(Redis(host="h", port=1, db=2, credential_provider=provider))
    assert (one.kind, one.hosts, one.arguments["db"]) == ("server", (("h", 1),), 2)
    assert one.arguments["credential_provider"] is provider

    watchers = Sentinel([("a", 1), ("b", 2)], sentinel_kwargs={"password": "w"}, password="s")
    behind = deployment_of(watchers.master_for("main", db=3))
    assert (behind.kind, behind.hosts, behind.name) == ("sentinel", (("a", 1), ("b", 2)), "main")
    assert (behind.arguments["password"], behind.arguments["db"]) == ("s", 3)
    assert behind.sentinel_arguments["password"] == "w"
    assert behind.connection_class is Connection

    cluster = deployment_of(RedisCluster(host="h", port=7000, password="p"))
    assert (cluster.kind, cluster.hosts) == ("cluster", (("h", 7000),))
    assert cluster.arguments["password"] == "p"
    for deployment in (one, behind, cluster):
        unwanted = {"host", "port", "connection_pool", "max_connections", "himport_registry"}
        assert not unwanted & set(deployment.arguments)


def test_a_client_with_tls(authority: Path) -> None:
    """Each of them keeps it."""
    tls: dict[str, Any] = {"ssl": True, "ssl_ca_certs": str(authority)}
    watchers = Sentinel([("a", 1)], sentinel_kwargs=tls, **tls)
    for client in (
        Redis(host="h", **tls),
        watchers.master_for("main"),
        RedisCluster(host="h", port=1, **tls),
    ):
        found = deployment_of(client)
        assert found.tls
        assert found.arguments["ssl_ca_certs"] == str(authority)
        RedisStore(client)
    assert deployment_of(watchers.master_for("main")).sentinel_class is SSLConnection


async def test_tls_of_a_client_is_judged_as_that_of_a_url(caplog: pytest.LogCaptureFixture) -> None:
    """What loosens it is logged, TLS below 1.2 is refused, and what doesn't load is an error."""
    loose: dict[str, Any] = {"ssl": True, "ssl_cert_reqs": "none", "ssl_check_hostname": False}
    watchers = Sentinel([("a", 1)], **loose)
    for client in (
        Redis(**loose),
        watchers.master_for("main"),
        RedisCluster(host="h", port=1, **loose),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            store = RedisStore(client)
        assert ["anybody may pose" in record.message for record in caplog.records] == [True]
        pool: Any = await connector_of(client, timeout=1).open()
        context = pool.make_connection().ssl_context.get()
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        await store.close()
    old = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ConfigurationError, match=r"TLS 1\.2"):
        RedisStore(Redis(ssl=True, ssl_min_version=old))
    with pytest.raises(ConfigurationError, match="can't be used"):
        RedisStore(Redis(ssl=True, ssl_keyfile="/nowhere"))


def test_a_clients_limit_is_used() -> None:
    """Of connections; one that is too low is refused as a URL's is."""
    assert deployment_of(Redis(max_connections=12)).max_connections == 12
    pool = BlockingConnectionPool(max_connections=13)
    assert deployment_of(Redis(connection_pool=pool)).max_connections == 13
    watched = Sentinel([("a", 1)]).master_for("main", max_connections=14)
    assert deployment_of(watched).max_connections == 14
    cluster = RedisCluster(host="h", port=1, max_connections=15)
    assert deployment_of(cluster).max_connections == 15
    with pytest.raises(ConfigurationError, match="write 8 or more"):
        RedisStore(Redis(max_connections=3))


async def test_the_retries_of_a_client_are_left_out() -> None:
    """And nothing grows with each connection."""
    pool = ConnectionPool(retry_on_timeout=True, retry_on_error=[OSError])
    opened: Any = await connector_of(Redis.from_pool(pool), timeout=1).open()
    assert [opened.make_connection().retry_on_error for _ in range(2)] == [[], []]


def test_what_is_no_client_is_refused() -> None:
    """A pipeline and a subscription have a pool, too, and are something else."""
    for other in (Redis().pipeline(), Redis().pubsub(), ConnectionPool(), b"redis://h"):
        with pytest.raises(ConfigurationError, match="can't be used"):
            RedisStore(cast("Any", other))


def test_a_replicas_client_is_refused() -> None:
    """Sessions are written."""
    client = Sentinel([("a", 1)]).slave_for("main")
    with pytest.raises(ConfigurationError, match=r"Sentinel.master_for\(\)"):
        RedisStore(client)
