"""Leaders in processes of their own: what becomes of them, and of their writes."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from redis_sessions.testing import topology
from tests.support.leading import Candidates


@pytest.fixture
def port(redis_url: str) -> int:
    found = urlsplit(redis_url).port
    assert found is not None
    return found


def test_a_leader_that_fails(port: int, prefix: str) -> None:
    """Killed, stopped for longer than a lease, or cut off: another leads, and writes stay in order.

    The one that was stopped writes once more, which is refused.
    """
    with Candidates(port, prefix) as candidates:
        candidates.without_a_leader(candidates.cut_off)
        candidates.without_a_leader(candidates.stop)
        candidates.without_a_leader(lambda: candidates.kill(replace=False))
        candidates.stopped_by_the_fence()
        assert len({write.token for write in candidates.writes}) == 4


def test_a_failover(server_binary: Path, prefix: str) -> None:
    """The Sentinels promote a replica: no token is given twice, and writes stay in order."""
    with (
        topology.sentinel(replicas=1, down_after_ms=500, server=server_binary) as running,
        Candidates(running.url, prefix) as candidates,
    ):
        candidates.without_a_leader(lambda: void(running.failover()))
        candidates.stopped_by_the_fence()


def void(_: object) -> None:
    pass
