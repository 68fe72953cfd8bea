"""What a URL, or a redis-py client, is understood to say; no server is asked."""

from __future__ import annotations

import logging
import os
import ssl
from pathlib import Path
from typing import Any, cast

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from redis.asyncio.connection import SSLConnection
from redis.credentials import CredentialProvider

from redis_sessions import ConfigurationError, RedisStore
from redis_sessions.connect.connector import connector_of, deployment_of
from redis_sessions.connect.deployment import Deployment


def of(url: str) -> Deployment:
    return deployment_of(url)


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
        ("redis+cluster://a:1,[::1]:2", "cluster", [("a", 1), ("::1", 2)], "", None),
        ("redis+cluster://u:p@[::1],[::2]", "cluster", [("::1", 6379), ("::2", 6379)], "", None),
        ("redis://[fe80::1%25eth0]:1", "server", [("fe80::1%eth0", 1)], "", None),
        ("redis://h/0/\n", "server", [("h", 6379)], "", 0),
        ("REDIS://h_1.x-y", "server", [("h_1.x-y", 6379)], "", None),
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


def test_options_are_read_as_what_they_are() -> None:
    """A plus is a plus, an equals sign needn't be encoded; words for yes and no."""
    found = of("redis+sentinel://h/m?sentinel_password=a+b/c=&socket_keepalive=Off")
    assert found.sentinel_arguments["password"] == "a+b/c="
    assert found.arguments["socket_keepalive"] is False
    socket = of("unix://u:p@/run/a%40b?db=3")
    assert (socket.arguments["path"], socket.arguments["db"]) == ("/run/a@b", 3)
    assert (socket.arguments["username"], socket.arguments["password"]) == ("u", "p")


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


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("redis://[::1]:7/1", "[::1]:7/1"),
        ("redis+cluster://[::1],h:2", "the Cluster at [::1]:6379,h:2"),
        ("redis+sentinel://[::1]/m", "m of the Sentinels [::1]:26379/0"),
    ],
)
def test_where_has_ipv6_in_brackets(url: str, where: str) -> None:
    """As in a URL, or its port couldn't be told from it."""
    assert f"<RedisStore {where} " in repr(RedisStore(url))


# -- refused

BAD = [
    ("redis://a,b/0", "redis+sentinel:// or redis+cluster://"),
    ("redis://a/0?replicas=read", "write redis://primary:6379,replica:6379/0"),
    ("redis://a,b/0?replicas=yes", "write replicas=read"),
    ("unix:///s?replicas=read", "replicas=read needs to know the replicas"),
    ("redis://a,/0?replicas=read", "can't be read"),
    ("redis://a,b:port/0?replicas=read", "can't be read"),
    ("redis+sentinel://a", "what the Sentinels call the primary"),
    ("redis+sentinel:///m", "write redis+sentinel://"),
    ("redis+sentinel://a/m/x", "the database, after the last /, is a number"),
    ("redis+cluster://", "write redis+cluster://"),
    ("redis+cluster://a/1", "database 0 alone"),
    ("redis+cluster://a?db=1", "database 0 alone"),
    ("redis+cluster://a/m", "the database, after the last /, is a number"),
    ("redis+cluster://a?sentinel_password=x", "is for redis+sentinel:// alone"),
    ("redis+socket://a", "write one of redis://"),
    ("redis+cluster://a?timeuot=1", "timeuot= is no option"),
    ("redis+sentinel://a/m?timeuot=1", "timeuot= is no option"),
    ("redis+cluster://a?max_connections=2", "write 8 or more"),
    ("redis://a?client_name=x&client_name=y", "client_name= twice"),
    ("rediss://a?ssl_ca_certs=", "an empty ssl_ca_certs="),
    ("redis://a?ssl_ca_certs=/x", "write rediss instead of redis"),
    ("redis+cluster://a?ssl_certfile=/x", "write rediss instead of redis"),
    ("rediss://a?ssl_ca_certs=/nowhere/ca.pem", "ssl_…=) for a:6379/0 can't be used"),
    ("rediss+sentinel://a/m?ssl_ca_certs=/nowhere/ca.pem", "can't be used"),
    ("rediss+cluster://a?ssl_certfile=/nowhere/c.pem", "can't be used"),
    ("rediss://a?ssl_min_version=TLSv1.1", "TLSv1.2 (771)"),
    ("rediss://a?ssl_cert_reqs=maybe", "required, optional or none"),
    ("redis://a?password_env=NOT_THERE", "no environment variable of that name"),
    ("redis://a?password_file=/nowhere/secret", "can't be read: No such file"),
    ("redis://:p@a?password_env=HOME", "a password and password_env="),
    ("redis://a?password_file=/x&password_env=HOME", "password_file= and password_env="),
    ("redis://u@a?username_env=HOME&password_env=HOME", "a user and username_env="),
    ("redis://a?username_env=HOME", "username_env= without a password"),
    (
        "redis+sentinel://a/m?sentinel_password_env=NOT_THERE",
        "no environment variable of that name",
    ),
    ("redis+sentinel://a/m?sentinel_password=a&sentinel_password_env=HOME", "write one of"),
    ("redis+sentinel://a/m?sentinel_username=x", "sentinel_username= without a password"),
    # What is written must be what is done.
    ("redis://a:0", "can't be read"),
    ("redis://a:65536", "can't be read"),
    ("redis://a:", "can't be read"),
    ("redis://a..b", "can't be read"),
    (f"redis+sentinel://a,{'b' * 64}/m", "can't be read"),
    ("redis://a?host=b", "host= is no option"),
    ("redis://a?port=1", "port= is no option"),
    ("redis://a/0#b", "can't be read"),
    ("redis://a/1?db=5", "a database and db="),
    ("redis://a/1?db=1", "a database and db="),
    ("redis://u:p@a?password=q", "a password and password="),
    ("redis://u:p@a?username=v", "a username and username="),
    ("redis://a//1", "the database, after the last /, is a number"),
    ("redis+sentinel://a//1", "what the Sentinels call the primary"),
    ("redis+cluster://u:p@a:1,u:p@b:2", "user and password once"),
    ("redis+cluster://a:1,u:p@b:2", "user and password once"),
    ("redis://u:p@q@a", "user and password once"),
    ("redis://u:%ff@a", "can't be read"),
    ("redis://::1", "can't be read"),
    ("redis://[a]", "can't be read"),
    ("redis://[::1", "can't be read"),
    ("redis://a%20b", "can't be read"),
    ("redis://a\nb", "can't be read"),
    ("redis://a?client_name=x%0Ay", "client_name= takes"),
    ("unix://", "write unix:///path"),
    ("unix:///", "write unix:///path"),
    ("unix://run/x.sock", "write unix:///path"),
    ("unix:/run/x.sock", "no URL of a store"),
    ("embedded://a/b", "write embedded://"),
    ("embedded://?db=1", "takes no options: leave db= out"),
    ("memory://", "no Redis"),
    # What redis-py takes, and then can't connect with, or what a store has its own way for.
    *(
        (f"redis://a?{name}=1", f"{name}= is no option")
        for name in (
            *("credential_provider", "redis_connect_func", "socket_keepalive_options", "encoding"),
            *("socket_read_size", "timeout", "protocol", "decode_responses", "retry"),
        )
    ),
    ("redis://a?socket_connect_timeout=0", "seconds, more than 0"),
    ("redis://a?socket_timeout=3", "timeout"),
    ("redis://a?socket_connect_timeout=-1", "seconds, more than 0"),
    ("redis://a?socket_connect_timeout=nan", "seconds, more than 0"),
    ("redis://a?socket_keepalive=maybe", "true or false"),
    ("redis://a?max_connections=1e3", "takes a number"),
    ("redis://a?db=-1", "takes a number"),
    ("rediss://a?ssl_keyfile=/x", "write ssl_certfile="),
    ("rediss://a?ssl_password=x", "write ssl_certfile="),
    ("rediss://a?ssl_min_version=9999", "TLSv1.2 (771)"),
    ("rediss://a?ssl_ca_path=/nowhere", "a directory that is there"),
    ("rediss://a?ssl_exclude_verify_flags=x", "ssl.VerifyFlags"),
    ("rediss://a?ssl_ciphers=nonesuch", "can't be used"),
    ("rediss://a?ssl_validate_ocsp=true", "ssl_validate_ocsp= is no option"),
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
        "redis://u:12?sesame@h:6379/0",
        "redis://u:12?sesame=x@h/0",
        "redis://u:12?db=1&sesame=x@h/0",
        "redis://:1?sesame=@h/0",
        "redis://h?Sesame=x",
        "redis://u:12#sesame@h",
        "redis+sentinel://u:12/sesame@h",
        "redis+cluster://u:p@a:1,u:sesame@b:2",
        "unix://u:sesame@",
        "embedded://u:sesame@x/y",
        "embedded://u:sesame@x",
        "redis://h?password_env=sesame",
        "redis://h?password_file=sesame",
        "redis+sentinel://h/m?sentinel_password_env=sesame",
        "redis://h?username_env=sesame&password_env=HOME",
        "redis://h,i?replicas=sesame",
        "redis://h?db=sesame",
        "rediss://h?ssl_ca_path=sesame",
        "rediss://h?ssl_min_version=sesame",
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


@pytest.mark.parametrize("text", [b"", b"\n", b"\xff\xfe", b"one\ntwo\n", b"\none\n"])
def test_a_file_without_a_password(tmp_path: Path, text: bytes) -> None:
    """Empty, no text, or several lines: refused by name."""
    secret = tmp_path / "secret"
    secret.write_bytes(text)
    with pytest.raises(ConfigurationError, match=r"password_file=.*(empty|no text|several lines)"):
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


def test_an_encrypted_key(tmp_path: Path) -> None:
    """Nobody is asked for its password at a terminal; the error says where it belongs."""
    issued = trustme.CA().issue_cert("app")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "c")
    (tmp_path / "k").write_bytes(
        load_pem_private_key(issued.private_key_pem.bytes(), None).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"sesame")
        )
    )
    url = f"rediss://h?ssl_certfile={tmp_path}/c&ssl_keyfile={tmp_path}/k"
    RedisStore(f"{url}&ssl_password=sesame")
    with pytest.raises(ConfigurationError, match="give ssl_password="):
        RedisStore(url)


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
    [
        ("ssl_cert_reqs=none", "anybody may pose"),
        ("ssl_check_hostname=false", "any certificate"),
        ("ssl_exclude_verify_flags=VERIFY_X509_TRUSTED_FIRST", "certificates are checked less"),
        ("ssl_ciphers=ALL:@SECLEVEL=0", "ciphers are taken"),
    ],
)
def test_less_than_strict_is_told(option: str, told: str, caplog: pytest.LogCaptureFixture) -> None:
    """What the URL takes from TLS is in the log."""
    with caplog.at_level(logging.WARNING):
        RedisStore(f"rediss://h?{option}")
    assert [told in record.message for record in caplog.records] == [True]


def test_stricter_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody is warned of TLS 1.3, fewer ciphers and more checks."""
    more = "ssl_min_version=772&ssl_ciphers=ECDHE+AESGCM"
    with caplog.at_level(logging.WARNING):
        RedisStore(f"rediss://h?{more}&ssl_include_verify_flags=VERIFY_X509_STRICT")
    assert not caplog.records
