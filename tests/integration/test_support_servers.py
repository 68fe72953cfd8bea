"""The servers that the other tests rely on."""

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from redis_sessions.testing.topologies.processes import reserve_port
from tests.support import LOOPS
from tests.support.servers import Server, StartServer, as_owner, as_user


def connect(url: str) -> Redis:
    return Redis.from_url(url, protocol=2, retry=Retry(NoBackoff(), 0))


async def test_port_and_socket_lead_to_the_same_server(server: Server, prefix: str) -> None:
    """What is written over the port is read over the Unix socket."""
    async with connect(server.url) as by_port, connect(server.unix_url) as by_socket:
        await by_port.set(f"{prefix}key", b"value", px=10_000)

        assert await by_socket.get(f"{prefix}key") == b"value"


@pytest.mark.parametrize("anyio_backend", LOOPS)
async def test_runs_on_both_loops(redis_url: str) -> None:
    """The same test runs on asyncio's own loop and on uvloop."""
    async with connect(as_owner(redis_url)) as client:
        assert await client.echo("hello") == b"hello"


async def test_restarts_on_the_same_port(start_server: StartServer) -> None:
    """A private server can be stopped, killed and started again under the same address."""
    server = start_server()
    for end in (server.stop, server.kill):
        end()
        async with connect(as_owner(server.url)) as client:
            with pytest.raises(RedisConnectionError):
                await client.echo("hello")
        server.start()
        async with connect(as_owner(server.url)) as client:
            assert await client.echo("hello") == b"hello"


async def test_takes_arguments(start_server: StartServer) -> None:
    """Further arguments configure a private server."""
    server = start_server("--requirepass", "secret")

    async with connect(as_user(server.url, ":secret")) as client:
        assert await client.echo("hello") == b"hello"


@pytest.mark.parametrize("again", [False, True])
def test_prefixes_differ(prefix: str, seen: set[str], again: bool) -> None:
    """Each test has keys of its own."""
    assert prefix not in seen
    seen.add(prefix)


@pytest.fixture(scope="module")
def seen() -> set[str]:
    return set()


def test_a_reserved_port_is_nobody_elses() -> None:
    """Until it is let go, the port of a server that doesn't run is given to no other one."""
    first, first_held = reserve_port(range(20_000, 30_000))
    second, second_held = reserve_port(range(20_000, 30_000))
    assert first != second
    for held in second_held:
        held.close()
    assert [reserved(first, second) for _ in range(20)] == [second] * 20
    for held in first_held:
        held.close()


def reserved(*ports: int) -> int:
    """Which of these can be had."""
    port, held = reserve_port(ports)
    for each in held:
        each.close()
    return port
