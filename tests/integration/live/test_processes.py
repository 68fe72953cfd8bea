"""Sockets of several uvicorn processes: short versions of `python -m tests.torture sockets`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import StartServer, as_app
from tests.torture.sockets import churn, cut, ends, failover, idle, tabs
from tests.torture.sockets.fleet import fleet
from tests.torture.sockets.places import PLACES, Place, place

_FIXTURES = dict(zip(PLACES, ("redis_url", "sentinel_topology", "cluster_topology"), strict=True))


@pytest.fixture(params=PLACES)
def at(request: pytest.FixtureRequest, prefix: str) -> Place:
    """Each deployment, shared with other tests."""
    found: Any = request.getfixturevalue(_FIXTURES[request.param])
    return Place(request.param, found if isinstance(found, str) else as_app(found.url), prefix)


async def test_what_another_process_does_arrives(at: Place) -> None:
    """A sign-out and a `revoke_all` end sockets and streams; no change is lost between two tabs."""
    async with fleet(at.store(), at.store()) as workers:
        for path in ("/socket", "/stream"):
            await ends.signed_out(at, workers, path, 5)
        await ends.signed_out(at, workers, "/socket", 5, load=True)
        await tabs.changed(at, workers, 60)
        await ends.all_revoked(at, workers, 40)


async def test_a_link_is_cut_off(start_server: StartServer) -> None:
    """No copy is served that is older than the bound, and the sockets end when they can."""
    server = start_server()
    await cut.cut_off(Place("one server", server.url), server.port, 5, bound=0.3)


async def test_a_primary_is_killed(server_binary: Path) -> None:
    """Sockets of sessions that are there stay open, and later sign-outs end theirs."""
    with place("Sentinels", server_binary, patience_ms=500) as (at, running):
        async with fleet(at.store(), at.store()) as workers:
            watched: Any = running
            await failover.killed(at, watched, workers, 40, 6, settles=0.3)


async def test_nothing_stays(redis_url: str, prefix: str) -> None:
    """No registration, timer, task or future is left by sockets that have opened and closed."""
    result = await churn.run(redis_url, 0.5, prefix)
    assert not result.opened, result
    assert not result.left, result


async def test_open_sockets_ask_nothing(start_server: StartServer) -> None:
    """Redis gets no more commands from many open sockets than from one."""
    await idle.costs(start_server().url, 100, 0.3)
