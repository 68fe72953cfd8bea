"""An hour's worth of sockets that open and close, in less time: does anything stay?"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any, Final

from starlette.websockets import WebSocket

from redis_sessions import Keyring, RedisStore, SessionManager
from redis_sessions.http.live import Live
from redis_sessions.lifecycle.watching import Watch
from redis_sessions.session.token import SessionToken
from redis_sessions.stores.watching import Watching
from redis_sessions.testing import store_session
from tests.support.asgi import KEY, ask, cookie
from tests.torture.soak import MEGABYTE, resident
from tests.torture.sockets.application import COOKIE, application
from tests.torture.sockets.clients import ENDED, PATIENCE
from tests.torture.sockets.inside import Inside

BROWSERS: Final = 32
_KINDS: Final[frozenset[Any]] = frozenset({Watch, Live, WebSocket, SessionToken})
_GO: Final = ("loops that watch", "Watch", "Live", "WebSocket")
"""What has to be gone as soon as its socket is."""
_ENDS: Final = ("leaves", "signs out", "rotates", "is revoked")


def _there() -> Counter[str]:
    """What there is in this event loop of that which comes and goes with a socket."""
    gc.collect()
    found = Counter[str](tasks=len(asyncio.all_tasks()))
    objects: list[Any] = gc.get_objects()
    for each in objects:
        if isinstance(each, Watching):
            found["loops that watch"] += bool(each)
        elif isinstance(each, asyncio.Future):
            found["futures"] += not each.done()
        elif type(each) in _KINDS:
            found[type(each).__name__] += 1
    loop: Any = asyncio.get_running_loop()
    found["timers"] = sum(not timer.cancelled() for timer in getattr(loop, "_scheduled", ()))
    return found


@dataclass(slots=True)
class Result:
    """How many sockets came and went, and how memory went."""

    seconds: float = 0.0
    ends: Counter[str] = field(default_factory=Counter[str])
    samples: list[int] = field(default_factory=list[int])
    opened: Counter[str] = field(default_factory=Counter[str])
    """What is left while the stores are still open, of that which came with the sockets."""
    left: Counter[str] = field(default_factory=Counter[str])
    """What is left when they are closed."""

    @property
    def growth(self) -> int:
        """In bytes: the last third's least over the middle third's."""
        third = len(self.samples) // 3
        return min(self.samples[2 * third :]) - min(self.samples[third : 2 * third])

    def __str__(self) -> str:
        ends = ", ".join(f"{count} {how}" for how, count in sorted(self.ends.items()))
        return (
            f"{self.ends.total()} sockets in {self.seconds:.0f} s ({ends}); "
            f"{min(self.samples) / MEGABYTE:.1f} to {max(self.samples) / MEGABYTE:.1f} MiB, "
            f"growth in the last third {self.growth / MEGABYTE:.2f} MiB; "
            f"left: {dict(self.left) or 'nothing'}"
        )


class _Process:
    """What one process of a deployment has."""

    def __init__(self, url: str, prefix: str) -> None:
        self.store = RedisStore(url, prefix=prefix, client_cache=1.0)
        self.manager = SessionManager(self.store, Keyring(KEY))
        self.app = application(self.manager)


async def run(url: str, seconds: float, prefix: str = "session:churn:") -> Result:
    """Open and close sockets for so long; the result says what is left then."""
    before, result, started = _there(), Result(), time.monotonic()
    processes = [_Process(url, prefix) for _ in range(2)]
    await _each_way(processes, result)
    async with asyncio.TaskGroup() as group:
        for number in range(BROWSERS):
            group.create_task(_browse(processes, number, started + seconds, result))
        group.create_task(_sample(started, seconds, result))
    result.seconds = time.monotonic() - started
    there = _there() - before
    result.opened = Counter({kind: there[kind] for kind in _GO if kind in there})
    await asyncio.gather(*(process.store.close() for process in processes))
    del processes, group
    deadline = time.monotonic() + PATIENCE
    while (left := _there() - before) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.1)  # connections are closed, and timers that do nothing are due
    result.left = left
    return result


async def _each_way(processes: Sequence[_Process], result: Result) -> None:
    for how in _ENDS:
        for path in ("/socket", "/tab"):
            await _visit(processes, how, path, result)


async def _browse(processes: Sequence[_Process], number: int, until: float, result: Result) -> None:
    chance = random.Random(number)  # noqa: S311 - nobody has to guess it
    while time.monotonic() < until:
        how, path = chance.choice(_ENDS), chance.choice(("/socket", "/tab"))
        await _visit(chance.sample(processes, 2), how, path, result)


async def _visit(processes: Iterable[_Process], how: str, path: str, result: Result) -> None:
    """One session with a socket at the one process, changed and ended at the other."""
    here, there = (process for process in processes)
    user = token_hex(4)
    token = await store_session(there.manager, {"user_id": user, "count": 0})
    socket = Inside(here.app, path, token)
    await socket.opened.wait()
    for number in range(1, 4):
        for _ in range(2):  # a copy enters, and is served
            read = await ask(here.app, [(b"cookie", cookie(token, COOKIE))], path="/read")
            assert json.loads(read.checked().body)["user_id"] == user
        session = await there.manager.load(token)
        session["count"] = number
        await there.manager.commit(session)
    if how == "leaves":
        socket.leave()
    elif how == "is revoked":
        parsed = SessionToken.parse(token)
        assert parsed is not None
        await there.manager.revoke(parsed.id, user)
    else:
        session = await there.manager.load(token)
        if how == "rotates":
            session.rotate()
        else:
            session.sign_out()
        await there.manager.commit(session)
    async with asyncio.timeout(PATIENCE):
        await socket.task
    assert socket.code == (None if how == "leaves" else ENDED), (how, path, socket.code)
    result.ends[how] += 1


async def _sample(started: float, seconds: float, result: Result) -> None:
    while time.monotonic() < started + seconds:
        await asyncio.sleep(seconds / 30)
        gc.collect()
        result.samples.append(resident())
