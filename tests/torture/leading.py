"""Leaders that die, stop, are cut off, or lose their Redis to a failover: who writes, and when."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final
from urllib.parse import urlsplit

from redis_sessions.testing import topology
from redis_sessions.testing.topology import SentinelTopology
from tests.support.leading import Candidates

__all__ = ["run"]

_LONGEST: Final = 60.0


def run(url: str, server: Path, times: int, lease: int) -> str:
    """Each fault so many times. `url`: one server; `server`: the program of those with Sentinels.

    Raises `AssertionError` if a write came out of order, or a token was given twice.
    """
    print(f"a lease of {lease} s, two processes; seconds without a leader:", flush=True)
    port = urlsplit(url).port
    assert port is not None
    for fault in ("kill", "stop", "cut_off"):
        with Candidates(port, f"session:{fault}:", lease=lease) as candidates:
            print(_many(fault, candidates, getattr(candidates, fault), times), flush=True)
    for waits in (0, 1):
        for name, trouble in _FAILOVERS.items():
            with (
                topology.sentinel(replicas=2, down_after_ms=1000, server=server) as running,
                Candidates(running.url, "session:", lease=lease, waits=waits) as candidates,
            ):
                fail = partial(_fail, running, trouble)
                shown = f"{name}, wait_replicas={waits}"
                print(_many(shown, candidates, fail, times), flush=True)
    return f"{times} times each: no write was accepted out of order, and no token given twice"


def _many(name: str, candidates: Candidates, trouble: Callable[[], None], times: int) -> str:
    seconds = sorted(candidates.without_a_leader(trouble) for _ in range(times))
    refused = candidates.stopped_by_the_fence()
    writes = candidates.writes
    return (
        f"{name}: {times} times, p50 {median(seconds):.2f}, worst {seconds[-1]:.2f}; "
        f"{len({write.token for write in writes})} terms, {len(writes)} writes, of which the fence "
        f"refused {sum(not write.accepted for write in writes)}, {refused} after term.check()"
    )


def _fail(running: SentinelTopology, trouble: Callable[[SentinelTopology], None]) -> None:
    trouble(running)
    running.wait_ready()


def _failover(running: SentinelTopology) -> None:
    running.failover()


def _killed(running: SentinelTopology) -> None:
    victim = running.primary
    victim.kill()
    _wait_promoted(running, victim)
    victim.start()


def _stopped(running: SentinelTopology) -> None:
    victim = running.primary
    victim.pause()
    _wait_promoted(running, victim)
    victim.resume()


def _wait_promoted(running: SentinelTopology, victim: object) -> None:
    until = time.monotonic() + _LONGEST
    while running.primary is victim:
        assert time.monotonic() < until, "no replica was promoted"
        time.sleep(0.02)


_FAILOVERS: Final[dict[str, Callable[[SentinelTopology], None]]] = {
    "Sentinel, a failover by command": _failover,
    "Sentinel, the primary killed": _killed,
    "Sentinel, the primary stopped (SIGSTOP), later resumed": _stopped,
}
