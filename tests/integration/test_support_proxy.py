"""The network that fails on command: each of its failures, and that it heals."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from tests.support import eventually
from tests.support.proxy import Proxy
from tests.support.servers import Server


@pytest.fixture
def client(proxy: Proxy) -> Iterator[Redis]:
    retry = Retry(NoBackoff(), 0)
    with Redis(port=proxy.port, protocol=2, socket_timeout=0.3, retry=retry) as client:
        assert client.ping()
        yield client


def counted(server: Server) -> bytes | None:
    """What the server itself has."""
    with Redis(port=server.port) as direct:
        value = direct.get("n")
        assert value is None or isinstance(value, bytes)
        return value


def test_cut_refuses(proxy: Proxy, client: Redis) -> None:
    """The connection is gone, and no new one is to be had until it heals."""
    proxy.cut()
    for _ in range(2):
        with pytest.raises(RedisConnectionError):
            client.ping()
    proxy.heal()
    assert client.ping()


def test_freeze_forwards_nothing(proxy: Proxy, client: Redis, behind: Server) -> None:
    """Old and new connections are silent, and the server hears nothing; healed, it may."""
    proxy.freeze()
    before = proxy.connections
    for _ in range(2):  # on the old connection, then on a new one
        with pytest.raises(RedisTimeoutError):
            client.incr("n")
    assert counted(behind) is None
    proxy.heal()
    assert client.ping()
    assert proxy.connections > before


def test_frozen_replies_leave_the_outcome_unknown(
    proxy: Proxy, client: Redis, behind: Server
) -> None:
    """The server does the work, and nobody is told."""
    proxy.freeze(requests=False)
    with pytest.raises(RedisTimeoutError):
        client.incr("n")
    assert counted(behind) == b"1"


def test_delay_outlasts_the_timeout(proxy: Proxy, client: Redis) -> None:
    """A reply that comes too late is none; one within the time is."""
    proxy.delay(0.01)
    assert client.ping()
    proxy.delay(5)
    with pytest.raises(RedisTimeoutError):
        client.ping()
    proxy.heal()
    assert client.ping()


def test_hold_keeps_back_what_has_a_word(proxy: Proxy, client: Redis, behind: Server) -> None:
    """The server has answered; its reply and what follows come when they are released."""
    proxy.hold(b"secret")
    with Redis(port=proxy.port, protocol=2, socket_timeout=10) as other:
        assert other.set("n", b"a secret")
        with pytest.raises(RedisTimeoutError):
            client.get("n")
        assert other.ping()
    proxy.release(b"secret")
    assert client.get("n") == b"a secret"


def test_strand_leaves_connections_half_open(proxy: Proxy, client: Redis, behind: Server) -> None:
    """An old connection is silent, and the server has closed it; a new one works."""
    with Redis(port=behind.port, protocol=2) as direct:
        before = len(direct.client_list())
        proxy.strand()
        assert eventually(lambda: len(direct.client_list()) == before - 1)
        with pytest.raises(RedisTimeoutError):
            client.incr("n")
        assert client.incr("n") == 1


def test_dead_server_drops_the_connection(proxy: Proxy, client: Redis, behind: Server) -> None:
    """What happens to the server, happens through the proxy."""
    behind.kill()
    with pytest.raises(RedisConnectionError):
        client.ping()
    behind.start()
    assert client.ping()


async def test_large_values_pass_on_a_loop(proxy: Proxy) -> None:
    """It serves asynchronous tests, too, and whole replies."""
    value = b"x" * 1_000_000
    async with AsyncRedis(port=proxy.port) as client:
        await client.set("large", value)
        assert await client.get("large") == value
