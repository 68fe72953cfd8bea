"""Many sessions that run out: is each told, how often, and how late?

Three processes run `expiring()` on one store. In half of the runs the one that leads is killed
(SIGKILL) when half of the sessions are told.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Final

from redis_sessions import Expired, RedisStore, SessionManager, generate_key
from redis_sessions.testing import store_session

PROCESSES: Final = 3
AT_ONCE: Final = 256
LIFETIME: Final = 20
"""Seconds that each session lives."""
OTHERWISE: Final = 20
"""One of so many sessions is ended before it runs out."""
PATIENCE: Final = 90
"""Seconds after the last session's end in which all must be told."""


@dataclass
class Result:
    """What was told of sessions that ran out, and how late, in seconds."""

    sessions: int
    untold: int
    wrong: int
    """How many were told that were ended, or of somebody else."""
    repeated: int
    lateness: list[float]
    killed: bool

    def __str__(self) -> str:
        late = sorted(self.lateness)
        p50, p99, worst = (late[int(part * (len(late) - 1))] for part in (0.5, 0.99, 1))
        how = "the leader was killed" if self.killed else "nobody was killed"
        return (
            f"{self.sessions} sessions ran out, {how}: {self.untold} untold, {self.wrong} wrong, "
            f"{self.repeated} told again; seconds late: p50 {p50:.2f}, p99 {p99:.2f}, worst "
            f"{worst:.2f}"
        )


async def run(url: str, sessions: int, *, kill: bool) -> Result:
    """Have so many sessions run out."""
    prefix, key = f"session:expiry{int(kill)}:", generate_key()
    workers = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", __name__, url, prefix, key),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(PROCESSES)
    ]
    told = _Told(sessions // 2 if kill else None)
    try:
        async with asyncio.TaskGroup() as group:
            for worker in workers:
                group.create_task(told.read(worker))
            expected, ended = await _sessions(url, prefix, key, sessions)
            try:
                async with asyncio.timeout(LIFETIME + PATIENCE):
                    await told.all_of(expected)
            except TimeoutError:
                pass  # it is reported as untold
            for worker in workers:
                _stop(worker)
    finally:
        for worker in workers:
            if worker.returncode is None:
                _stop(worker)
                await worker.wait()
    return Result(
        len(expected),
        len(expected - told.count.keys()),
        told.wrong + len(ended & told.count.keys()),
        sum(told.count.values()) - len(told.count),
        told.lateness,
        kill,
    )


def _stop(worker: asyncio.subprocess.Process) -> None:
    assert worker.stdin is not None
    worker.stdin.close()


class _Told:
    """What the workers are told. `kill_at`: after so many the one that leads is killed."""

    def __init__(self, kill_at: int | None) -> None:
        self.count: Counter[str] = Counter()
        self.lateness: list[float] = []
        self.wrong = 0
        self._kill_at = kill_at
        self._missing: set[str] | None = None
        self._complete = asyncio.Event()

    async def all_of(self, ids: set[str]) -> None:
        """Wait until each of these is told."""
        self._missing = ids - self.count.keys()
        if self._missing:
            await self._complete.wait()

    async def read(self, worker: asyncio.subprocess.Process) -> None:
        assert worker.stdout is not None
        async for line in worker.stdout:
            if not line.endswith(b"\n"):
                return  # it was killed meanwhile
            id, principal, when, at = line.decode().split()
            if self._missing is not None:
                self._missing.discard(id)
                if not self._missing:
                    self._complete.set()
            if not self.count[id]:
                self.lateness.append(float(at) - float(when))
            self.count[id] += 1
            self.wrong += principal != "ada"
            if self._kill_at is not None and len(self.count) >= self._kill_at:
                self._kill_at = None
                worker.kill()


async def _sessions(url: str, prefix: str, key: str, count: int) -> tuple[set[str], set[str]]:
    """The ids of sessions that are going to run out, and of such that have ended."""
    store = RedisStore(url, prefix=prefix)
    manager = SessionManager(store, key, max_age=LIFETIME, on_expired=print)
    ids, ended = list[str](), set[str]()

    async def begin() -> None:
        for _ in range(count // AT_ONCE):
            id = (await store_session(manager, {"user_id": "ada"}))[:20]
            ids.append(id)
            if random.randrange(OTHERWISE) == 0:  # noqa: S311 - no secret
                assert await manager.revoke(id, "ada")
                ended.add(id)

    await asyncio.gather(*(begin() for _ in range(AT_ONCE)))
    await manager.close()
    return set(ids) - ended, ended


async def _work(url: str, prefix: str, key: str) -> None:
    """Tell of each session on standard output, until standard input is closed."""

    def on_expired(expired: Expired) -> None:
        print(expired.id, expired.principal, expired.when.timestamp(), time.time(), flush=True)

    manager = SessionManager(RedisStore(url, prefix=prefix), key, on_expired=on_expired)
    async with manager.expiring():
        await asyncio.to_thread(sys.stdin.read)
    await manager.close()


if __name__ == "__main__":
    asyncio.run(_work(*sys.argv[1:]))
