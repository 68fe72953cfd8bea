"""Leaders that die, stop, are cut off, or lose their Redis to a failover: who writes, and when.

A run takes up to 20 seconds on a quiet machine. Each kind says how long its runs took.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final
from urllib.parse import urlsplit

from redis_sessions.testing import topology
from redis_sessions.testing.topology import SentinelTopology, TopologyError
from tests.support.leading import Candidates

__all__ = ["KINDS", "run"]

_LONGEST: Final = 60.0


def run(url: str, server: Path, times: int, lease: int, kinds: Sequence[str]) -> str:
    """Each fault so many times. `url`: one server; `server`: the program of those with Sentinels.

    Raises `AssertionError` if a write came out of order, if a token was given twice, or if
    somebody didn't do what was waited for. The other kinds are run nevertheless.
    """
    print(f"a lease of {lease} s, two processes; seconds without a leader:", flush=True)
    port = urlsplit(url).port
    assert port is not None
    failed = list[str]()
    for kind in kinds:
        began = time.monotonic()
        try:
            said = _alone(kind, port, times, lease) or _failovers(kind, server, times, lease)
        except (AssertionError, TopologyError) as exc:
            failed.append(f"{kind}: {exc!r}")
            said = failed[-1]
        each = (time.monotonic() - began) / times
        print(f"{said}; {each:.1f} s for each run", flush=True)
    if failed:
        raise AssertionError("\n    ".join(failed))
    return f"{times} times each: no write was accepted out of order, and no token given twice"


def _alone(kind: str, port: int, times: int, lease: int) -> str:
    """A fault of the leader, with one server. "": it is none of these."""
    if kind not in _FAULTS:
        return ""
    with Candidates(port, f"session:{kind}:", lease=lease) as candidates:
        return _many(kind, candidates, partial(_FAULTS[kind], candidates), times)


def _failovers(kind: str, server: Path, times: int, lease: int) -> str:
    name, _, waits = kind.partition("-wait-")
    with (
        topology.sentinel(replicas=2, down_after_ms=1000, server=server) as running,
        Candidates(running.url, "session:", lease=lease, waits=int(waits)) as candidates,
    ):
        said = _many(kind, candidates, partial(_fail, running, _FAILOVERS[name]), times)
        return f"{said}; failovers that the Sentinels broke off: {_broken_off(running) or 'none'}"


def _broken_off(running: SentinelTopology) -> str:
    """How many, and why. After each they wait for twice the `failover-timeout`: six seconds."""
    logs = "".join((node.directory / "log").read_text() for node in running.sentinels)
    reasons = Counter(re.findall(r"-failover-abort-([a-z-]+)", logs))
    return ", ".join(f"{times} {reason}" for reason, times in reasons.items())


def _many(kind: str, candidates: Candidates, trouble: Callable[[], None], times: int) -> str:
    seconds = sorted(candidates.without_a_leader(trouble) for _ in range(times))
    refused = candidates.stopped_by_the_fence()
    writes = candidates.writes
    return (
        f"{kind}: {times} times, p50 {median(seconds):.2f}, worst {seconds[-1]:.2f}; "
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
    _wait_until(lambda: running.primary is not victim)


def _wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + _LONGEST
    while not condition():
        assert time.monotonic() < until, "it didn't happen"
        time.sleep(0.02)


def _elected_dies(running: SentinelTopology) -> None:
    """The primary is killed, and the Sentinel dies that is elected to see to it."""
    for watcher in running.sentinels:
        watcher.ask("SENTINEL", "SIMULATE-FAILURE", "crash-after-election")
    victim = running.primary
    victim.kill()
    _wait_until(lambda: any(not watcher.running for watcher in running.sentinels))
    for watcher in running.sentinels:
        if watcher.running:
            watcher.ask("SENTINEL", "SIMULATE-FAILURE", "help")  # the others may live
    _wait_promoted(running, victim)
    victim.start()
    for watcher in running.sentinels:
        if not watcher.running:
            watcher.start()


_FAULTS: Final[dict[str, Callable[[Candidates], None]]] = {
    "kill": Candidates.kill,
    "stop": Candidates.stop,
    "cut-off": Candidates.cut_off,
}
_FAILOVERS: Final[dict[str, Callable[[SentinelTopology], None]]] = {
    "failover": _failover,
    "primary-killed": _killed,
    "primary-stopped": _stopped,
    "sentinel-dies": _elected_dies,
}
KINDS: Final = (
    *_FAULTS,
    *(f"{name}-wait-{waits}" for waits in (0, 1) for name in _FAILOVERS),
)
"""What goes wrong. `wait` is the store's `wait_replicas`."""
