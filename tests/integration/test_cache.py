"""The cache on real servers: one Redis, a Cluster, and a Redis that goes away."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis import Redis

from redis_sessions import Cache, SessionManager, StoreUnavailableError, generate_key
from redis_sessions.stores.redis import servers_of
from redis_sessions.stores.scanning import indexes
from redis_sessions.testing import store_session
from tests.integration import cache_process
from tests.support import ROOT
from tests.support.deployments import Deployment
from tests.support.near import soon, store_on
from tests.support.proxy import Proxy
from tests.support.redis_wire import Monitor
from tests.support.servers import Server, as_owner
from tests.unit.caching.setting import Loads, paused

KEY = generate_key()
KEYS = [str(n) for n in range(12)]
"""So many that each node of a Cluster has some."""


async def exercise(url: str, prefix: str, **options: Any) -> None:
    """What one process keeps, another one has, until it is forgotten, also during a load."""
    async with store_on(url, prefix, **options) as here, store_on(url, prefix, **options) as there:
        manager, other = SessionManager(here, KEY), Cache(there, KEY)
        cache, load = manager.cache, Loads("old")

        async def ask(part: Cache, load: Loads) -> set[str]:
            asked = (part.get_or_set(key, load, ttl=60, beta=0) for key in KEYS)
            return set(await asyncio.gather(*asked))

        for mine, theirs in ((cache, other), (cache.of_principal(1), other.of_principal("1"))):
            for part in (mine, theirs, mine):
                assert await ask(part, load) == {"old"}
        assert load.calls == 2 * len(KEYS)

        await asyncio.gather(*map(other.forget, KEYS))
        await other.forget_principal(1)
        old = paused("old")
        loading = [asyncio.create_task(ask(part, old)) for part in (cache, cache.of_principal(1))]
        await soon(lambda: old.calls == 2 * len(KEYS))
        await asyncio.gather(*map(other.forget, KEYS))
        await other.forget_principal(1)
        new = Loads("new")
        for part in (other, other.of_principal(1), cache, cache.of_principal(1)):
            assert await ask(part, new) == {"new"}
        assert new.calls == 2 * len(KEYS)
        old.go_on.set()
        assert await asyncio.gather(*loading) == [{"old"}] * 2
        for part in (other, other.of_principal(1), cache, cache.of_principal(1)):
            assert await ask(part, Loads("newer")) == {"new"}

        await store_session(manager, {"user_id": 1})
        async with store_on(as_owner(url), prefix) as owner:
            assert await SessionManager(owner, KEY).count() == 1
            found = [name async for page in indexes(servers_of(owner), prefix, 2) for name in page]
        assert len(found) == 1
        assert cache.counts["unavailable"] == other.counts["unavailable"] == 0


async def test_servers(server: Server, prefix: str) -> None:
    """On each kind of server, as the application's user; entries are no sessions and no indexes."""
    await exercise(server.url, prefix)


@pytest.mark.parametrize("deployment", ["cluster", "waiting", "replicas"], indirect=True)
async def test_deployments(deployment: Deployment, prefix: str) -> None:
    """Also on each node of a Cluster, and where replicas are waited for or read."""
    await exercise(deployment.url, prefix, **deployment.options)


async def test_one_command(redis_url: str, prefix: str) -> None:
    """A session, an entry and its generation that are asked for at once are one MGET."""
    async with store_on(redis_url, prefix) as store:
        manager = SessionManager(store, KEY)
        token = await store_session(manager, {"user_id": 1})
        user, load = manager.cache.of_principal(1), Loads()
        await user.get_or_set("key", load, ttl=60)
        with Monitor(urlsplit(redis_url).port or 0) as monitor:
            await asyncio.gather(manager.load(token), user.get_or_set("key", load, ttl=60, beta=0))
            assert [name for name in monitor.names() if name != "TIME"] == ["MGET"]
        assert load.calls == 1


async def test_times(redis_url: str, prefix: str) -> None:
    """Redis forgets an entry when nobody may have it any more, and each key has a time."""
    async with store_on(redis_url, prefix) as store:
        cache = Cache(store, KEY)
        await cache.get_or_set("key", Loads(), ttl=60, stale_if_error=40)
        await cache.get_or_set("none", Loads(None), ttl=60, negative_ttl=5)
        await cache.of_principal(1).get_or_set("key", Loads(), ttl=60)
        with Redis.from_url(as_owner(redis_url)) as client:
            times = sorted(map(client.pttl, client.keys(f"{prefix}*")))
    assert [round(time / 1000) for time in times] == [5, 60, 100, 24 * 3600]


async def test_near_copies(redis_url: str, prefix: str) -> None:
    """With `client_cache` a hit asks nobody, and what another process forgets is gone soon."""
    with Proxy(urlsplit(redis_url).port or 0) as network:
        near = urlsplit(redis_url)._replace(netloc=f"app:development@127.0.0.1:{network.port}")
        async with (
            store_on(near.geturl(), prefix, client_cache=10) as here,
            store_on(redis_url, prefix) as there,
        ):
            cache, other = Cache(here, KEY), Cache(there, KEY)
            load, user = Loads(), cache.of_principal(1)
            shared, group = ids(cache)[0], ids(user)[1]

            async def ask() -> int:
                for part in (cache, user):
                    await part.get_or_set("key", load, ttl=60, beta=0)
                return load.calls

            for _ in range(3):
                assert await ask() == 2
            with Monitor(urlsplit(redis_url).port or 0) as monitor:
                assert await ask() == 2
                assert "MGET" not in monitor.names()
            network.hold(b"invalidate")
            await cache.forget("key")
            assert here.near_copy(shared) is None
            network.release(b"invalidate")
            assert await ask() == 3
            await other.forget("key")
            await other.forget_principal(1)
            await soon(lambda: here.near_copy(shared) is here.near_copy(group) is None)
            assert await ask() == 5


def unavailable(cache: Cache, times: int) -> bool:
    return cache.counts["unavailable"] == times


def ids(cache: Cache) -> list[str]:
    place = cache._place("key")  # pyright: ignore[reportPrivateUsage] - to look into the store
    assert place is not None
    return [id for id in (place.id, place.group_id) if id is not None]


async def test_away(redis_url: str, prefix: str) -> None:
    """While Redis is away, many who ask at once load once; afterwards values are kept again."""
    with Proxy(urlsplit(redis_url).port or 0) as proxy:
        async with store_on(proxy.url, prefix) as store:
            cache = Cache(store, KEY)
            await cache.get_or_set("key", Loads("old"), ttl=60)
            proxy.cut()
            for n in (1, 2):
                load = paused("new")
                asked = asyncio.gather(*(cache.get_or_set("key", load, ttl=60) for _ in range(100)))
                await soon(partial(unavailable, cache, 100 * n))
                load.go_on.set()
                assert set(await asked) == {"new"}
                assert load.calls == 1
            with pytest.raises(StoreUnavailableError):
                await cache.forget("key")
            proxy.heal()
            async with asyncio.timeout(20):
                while cache.counts["hit"] == 0:
                    await cache.get_or_set("key", load, ttl=60)


async def test_processes(redis_url: str, prefix: str, tmp_path: Path) -> None:
    """Concurrent misses in two processes run the loader once."""
    arguments = [redis_url, prefix, KEY, str(tmp_path / "loads")]
    other = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", cache_process.__name__, *arguments),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert other.stdin is not None
    assert other.stdout is not None
    assert await other.stdout.readline() == b"\n"
    other.stdin.write(b"\n")
    await asyncio.gather(cache_process.miss(*arguments), other.wait())
    assert other.returncode == 0
    assert (tmp_path / "loads").read_text() == "x"
