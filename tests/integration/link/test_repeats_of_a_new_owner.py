"""What a node of a Cluster is told of slots that it has taken over."""

from __future__ import annotations

from redis import Redis

from redis_sessions import RedisStore
from redis_sessions.connect.clock import ServerClock
from redis_sessions.connect.connector import connector_of
from redis_sessions.session.record import is_tombstone, tombstone
from redis_sessions.stores.channel import Channel
from redis_sessions.stores.commands import END, Write
from redis_sessions.stores.repeats import Repeat
from redis_sessions.stores.watching import Watching
from tests.support.servers import StartServer


async def test_it_may_not_know_the_script(start_server: StartServer, prefix: str) -> None:
    """An end is repeated to a node whose links were open before, and which lacks the script."""
    server, key = start_server(), prefix + "taken over"
    watching = Watching(RedisStore(server.url).load, 0)
    channel = Channel(connector_of(server.url, timeout=1), 1, [], ServerClock(), watching)
    with Redis(port=server.port, protocol=2) as redis:
        redis.set(key, b"x" * 100, px=60_000)
    assert await channel.loads.submit(key, 64) == b"x" * 100
    channel.repeats.add(Repeat(Write(key, END, tombstone(1), 30_000)))
    await channel.loads.submit(key, 64)
    assert is_tombstone(await channel.loads.submit(key, 64) or b"")
    assert not channel.repeats.due
    await channel.close()
