"""What is measured of batches on a real server, and whether a process is ready."""

from __future__ import annotations

import asyncio

from starlette.routing import Route

from redis_sessions import RedisStore, readiness
from redis_sessions.telemetry import instrument
from redis_sessions.testing import store_session
from tests.support.apps import client_of, doing, manager_on
from tests.support.asgi import cookie
from tests.support.proxy import Proxy
from tests.support.telemetry import Measured


async def test_batches_are_measured(redis_url: str, prefix: str) -> None:
    """Loads of one tick are one batch; each batch has its size, its wait and its time."""
    measured = Measured()
    manager = manager_on(RedisStore(redis_url, prefix=prefix, client_cache=5.0))
    instrument(manager, meter_provider=measured.meter_provider)
    tokens = [await store_session(manager, {"n": n}) for n in range(3)]
    await asyncio.gather(*map(manager.load, tokens))

    operation = "redis_sessions.operation"
    for name in ("batch.size", "queue.duration", "server.duration"):
        counts = measured.values(f"redis_sessions.{name}", operation)
        assert (counts["write",], counts["load",]) == (3, 1), name
    sizes = measured.metrics()["redis_sessions.batch.size"].data.data_points
    sums = {point.attributes[operation]: point.sum for point in sizes}
    assert (sums["write"], sums["load"]) == (3, 3)
    times = measured.metrics()["redis_sessions.server.duration"].data.data_points
    assert all(0 < point.sum < 60 for point in times)

    async with client_of(doing(manager=manager)) as client:
        await client.get("/plain", headers={"Cookie": cookie(tokens[0]).decode()})
    loads = measured.values("redis_sessions.loads", "redis_sessions.source")
    assert loads == {("near_copy",): 1}
    await manager.close()


async def test_failed_batches_and_readiness(proxy: Proxy) -> None:
    """A process is ready while its Redis takes writes. A batch that fails tells its error."""
    measured = Measured()
    manager = manager_on(proxy.url, timeout=0.3)
    instrument(manager, meter_provider=measured.meter_provider)
    ready = Route("/ready", readiness(manager, timeout=5))
    async with client_of(doing(ready, manager=manager)) as client:
        response = await client.get("/ready")
        assert (response.status_code, response.text) == (200, "ready")
        proxy.freeze()
        response = await client.get("/ready")
        assert (response.status_code, response.text) == (503, "not ready")
        assert response.headers["Cache-Control"] == "no-store"
        assert "set-cookie" not in response.headers
        assert await manager.ready(timeout=0) is False
    proxy.cut()  # else the connection that it held is left to the garbage collector
    by = ("redis_sessions.operation", "error.type")
    times = measured.values("redis_sessions.server.duration", *by)
    assert times["write", "StoreUnavailableError"] == 1
