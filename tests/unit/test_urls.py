"""What a URL, or a redis-py client, is understood to say; no server is asked."""

from __future__ import annotations

import logging
import os
import ssl
from pathlib import Path
from typing import Any, cast

import pytest
import trustme
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.sentinel import Sentinel
from redis.credentials import CredentialProvider, UsernamePasswordCredentialProvider

from redis_sessions import ConfigurationError, RedisStore
from redis_sessions.connect import connector_of
from redis_sessions.urls import Deployment


def of(url: str) -> Deployment:
    return Deployment.of(url)


def credentials(deployment: Deployment) -> tuple[str] | tuple[str, str]:
    provider = deployment.arguments["credential_provider"]
    assert isinstance(provider, CredentialProvider)
    return provider.get_credentials()


# -- hosts, names, databases


@pytest.mark.parametrize(
    ("url", "kind", "hosts", "name", "db"),
    [
        ("redis://h", "server", [("h", 6379)], "", None),
        ("redis://h:1/2", "server", [("h", 1)], "", 2),
        ("redis://h?db=3", "server", [("h", 6379)], "", 3),
        ("redis://[::1]:7/0", "server", [("::1", 7)], "", 0),
        ("redis://:6380", "server", [("localhost", 6380)], "", None),
        ("redis://a,b:2/1?replicas=read", "server", [("a", 6379), ("b", 2)], "", 1),
        ("redis+sentinel://a/m", "sentinel", [("a", 26379)], "m", None),
        ("redis+sentinel://a:1,b/m%2Fn/4", "sentinel", [("a", 1), ("b", 26379)], "m/n", 4),
        ("redis+cluster://a:7000,b", "cluster", [("a", 7000), ("b", 6379)], "", None),
        ("rediss+cluster://a/0", "cluster", [("a", 6379)], "", 0),
    ],
)
def test_hosts(url: str, kind: str, hosts: list[Any], name: str, db: int | None) -> None:
    """Hosts with their ports, the Sentinels' name, and the database."""
    found = of(url)
    assert (found.kind, list(found.hosts), found.name) == (kind, hosts, name)
    assert found.arguments.get("db") == db
    assert found.reads_replicas is ("replicas=read" in url)
    assert found.tls is url.startswith("rediss")


def test_everything_at_once() -> None:
    """User, password and redis-py's options come along, for several hosts as for one."""
    found = of(
        "redis+sentinel://us%40er:p%2Fw@a,b/main/1?socket_connect_timeout=0.5&client_name=me"
        "&max_connections=20&sentinel_username=watch&sentinel_password=s&replicas=read"
    )
    assert found.arguments == {
        "username": "us@er",
        "password": "p/w",
        "db": 1,
        "socket_connect_timeout": 0.5,
        "client_name": "me",
    }
    assert found.sentinel_arguments == {"username": "watch", "password": "s"}
    assert (found.max_connections, found.reads_replicas) == (20, True)


def test_where_is_told_without_credentials() -> None:
    """Nor does a repr show what may be read."""
    for url in (
        "redis://u:sesame@h/1",
        "redis+sentinel://u:sesame@h/m?sentinel_password=sesame",
        "redis+cluster://u:sesame@h",
        "redis://u:sesame@h,i?replicas=read",
    ):
        store = RedisStore(url)
        assert "h:" in repr(store)
        assert "sesame" not in repr(store) + repr(of(url)) + repr(vars(store))


# -- refused

BAD = [
    ("redis://a,b/0", "redis+sentinel:// or redis+cluster://"),
    ("redis://a/0?replicas=read", "write redis://primary:6379,replica:6379/0"),
    ("redis://a,b/0?replicas=yes", "write replicas=read"),
    ("unix:///s?replicas=read", "replicas=read needs to know them"),
    ("redis://a,/0?replicas=read", "can't be read"),
    ("redis://a,b:port/0?replicas=read", "can't be read"),
    ("redis+sentinel://a", "what the Sentinels call the primary"),
    ("redis+sentinel:///m", "write redis+sentinel://"),
    ("redis+sentinel://a/m/x", "can't be read"),
    ("redis+cluster://", "write redis+cluster://"),
    ("redis+cluster://a/1", "database 0 alone"),
    ("redis+cluster://a?db=1", "database 0 alone"),
    ("redis+cluster://a/m", "can't be read"),
    ("redis+cluster://a?sentinel_password=x", "is for redis+sentinel:// alone"),
    ("redis+socket://a", "write one of redis://"),
    ("redis+cluster://a?timeuot=1", "'timeuot'"),
    ("redis+sentinel://a/m?timeuot=1", "'timeuot'"),
    ("redis+cluster://a?max_connections=2", "write 8 or more"),
    ("redis://a?client_name=x&client_name=y", "client_name= twice"),
    ("rediss://a?ssl_ca_certs=", "an empty ssl_ca_certs="),
    ("redis://a?ssl_ca_certs=/x", "write rediss instead of redis"),
    ("redis+cluster://a?ssl_certfile=/x", "write rediss instead of redis"),
    ("rediss://a?ssl_ca_certs=/nowhere/ca.pem", "ssl_…=) for a:6379/0 can't be used"),
    ("rediss+sentinel://a/m?ssl_ca_certs=/nowhere/ca.pem", "can't be used"),
    ("rediss+cluster://a?ssl_certfile=/nowhere/c.pem", "can't be used"),
    ("rediss://a?ssl_min_version=769", "771 (TLS 1.2)"),
    ("rediss://a?ssl_cert_reqs=maybe", "doesn't take"),
    ("redis://a?password_env=NOT_THERE", "no such environment variable"),
    ("redis://a?password_file=/nowhere/secret", "can't be read: No such file"),
    ("redis://:p@a?password_env=HOME", "a password and password_env="),
    ("redis://a?password_file=/x&password_env=HOME", "password_file= and password_env="),
    ("redis://u@a?username_env=HOME&password_env=HOME", "a user and username_env="),
    ("redis://a?username_env=HOME", "username_env= without a password"),
    ("redis+sentinel://a/m?sentinel_password_env=NOT_THERE", "no such environment variable"),
    ("redis+sentinel://a/m?sentinel_password=a&sentinel_password_env=HOME", "write one of"),
]


@pytest.mark.parametrize(("url", "advice"), BAD)
def test_what_cannot_work_is_refused(url: str, advice: str) -> None:
    """Where it is written, and it is said what to write."""
    with pytest.raises(ConfigurationError) as caught:
        RedisStore(url)
    assert advice in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:se/same@h/0",
        "redis+sentinel://u:se/same@h/m",
        "redis+cluster://u:se/same@h",
        "redis://u:sesame@h,i/0",
        "redis://u:sesame@h?timeuot=1",
        "redis+sentinel://u:sesame@h",
        "redis+cluster://u:sesame@h/1",
        "rediss://u:sesame@h?ssl_ca_certs=/nowhere",
        "redis+sentinel://h/m?sentinel_password=sesame&sentinel_password=sesame",
    ],
)
def test_no_refusal_shows_a_password(url: str) -> None:
    """Nor do those that it was raised from."""
    with pytest.raises(ConfigurationError) as caught:
        RedisStore(url)
    told: BaseException | None = caught.value
    while told is not None:
        assert "same" not in str(told)
        told = told.__cause__ or (None if told.__suppress_context__ else told.__context__)


# -- passwords from elsewhere


def test_a_password_from_a_file(tmp_path: Path) -> None:
    """It is read for each connection: one that was exchanged meanwhile is found."""
    secret = tmp_path / "secret"
    secret.write_text("first\n")
    deployment = of(f"redis+cluster://app@h?password_file={secret}")
    assert credentials(deployment) == ("app", "first")
    assert not {"username", "password"} & set(deployment.arguments)
    secret.write_text("second")
    assert credentials(deployment) == ("app", "second")
    assert "second" not in repr(deployment)


@pytest.mark.parametrize("text", [b"", b"\n", b"\xff\xfe"])
def test_a_file_without_a_password(tmp_path: Path, text: bytes) -> None:
    """Empty, or no text: refused by name."""
    secret = tmp_path / "secret"
    secret.write_bytes(text)
    with pytest.raises(ConfigurationError, match=r"password_file=.*(empty|no text)"):
        of(f"redis://h?password_file={secret}")


async def test_credentials_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """User and password, of the servers and of the Sentinels."""
    monkeypatch.setitem(os.environ, "USER_OF_IT", "app")
    monkeypatch.setitem(os.environ, "PASSWORD_OF_IT", "pw")
    deployment = of(
        "redis+sentinel://h/m?username_env=USER_OF_IT&password_env=PASSWORD_OF_IT"
        "&sentinel_username=watch&sentinel_password_env=PASSWORD_OF_IT"
    )
    assert credentials(deployment) == ("app", "pw")
    watcher = deployment.sentinel_arguments["credential_provider"]
    assert await watcher.get_credentials_async() == ("watch", "pw")


# -- TLS


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(path)
    return path


@pytest.mark.standard(31, "ASVS 12.3.1", "ASVS 12.3.2", "ASVS 12.3.3", "ASVS 12.3.4")
async def test_tls_is_strict(authority: Path, caplog: pytest.LogCaptureFixture) -> None:
    """TLS 1.2 or later, a certificate, and the host's name in it; for every kind of connection."""
    for url in (
        f"rediss://h?ssl_ca_certs={authority}",
        f"rediss+cluster://h?ssl_ca_certs={authority}",
        f"rediss+sentinel://h/m?ssl_ca_certs={authority}",
    ):
        pool: Any = await connector_of(url, timeout=1).open()
        pools = [pool]
        if "sentinel" in url:
            pools += [client.connection_pool for client in pool.sentinel_manager.sentinels]
        for each in pools:
            connection = each.make_connection()
            assert isinstance(connection, SSLConnection)
            context = cast("Any", connection).ssl_context.get()
            assert context.minimum_version == ssl.TLSVersion.TLSv1_2
            assert context.verify_mode is ssl.CERT_REQUIRED
            assert context.check_hostname
    assert not caplog.records


@pytest.mark.standard(31, "ASVS 12.3.1", "ASVS 12.3.2", "ASVS 12.3.3", "ASVS 12.3.4")
@pytest.mark.parametrize(
    ("option", "told"),
    [("ssl_cert_reqs=none", "anybody may pose"), ("ssl_check_hostname=false", "any certificate")],
)
def test_less_than_strict_is_told(option: str, told: str, caplog: pytest.LogCaptureFixture) -> None:
    """What the URL takes from TLS is in the log."""
    with caplog.at_level(logging.WARNING):
        RedisStore(f"rediss://h?{option}")
    assert [told in record.message for record in caplog.records] == [True]


# -- clients


def test_clients() -> None:
    """A ready client's settings are a deployment's; those for its own use are left out."""
    provider = UsernamePasswordCredentialProvider("u", "p")
    one = Deployment.of(Redis(host="h", port=1, db=2, credential_provider=provider))
    assert (one.kind, one.hosts, one.arguments["db"]) == ("server", (("h", 1),), 2)
    assert one.arguments["credential_provider"] is provider

    watchers = Sentinel([("a", 1), ("b", 2)], sentinel_kwargs={"password": "w"}, password="s")
    behind = Deployment.of(watchers.master_for("main", db=3))
    assert (behind.kind, behind.hosts, behind.name) == ("sentinel", (("a", 1), ("b", 2)), "main")
    assert (behind.arguments["password"], behind.arguments["db"]) == ("s", 3)
    assert behind.sentinel_arguments["password"] == "w"
    assert behind.connection_class is Connection

    cluster = Deployment.of(RedisCluster(host="h", port=7000, password="p"))
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
        found = Deployment.of(client)
        assert found.tls
        assert found.arguments["ssl_ca_certs"] == str(authority)
        RedisStore(client)
    assert Deployment.of(watchers.master_for("main")).sentinel_class is SSLConnection


def test_a_replicas_client_is_refused() -> None:
    """Sessions are written."""
    client = Sentinel([("a", 1)]).slave_for("main")
    with pytest.raises(ConfigurationError, match=r"Sentinel.master_for\(\)"):
        RedisStore(client)
