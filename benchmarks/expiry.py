"""python -m benchmarks.expiry: what `on_expired=` costs a touch, a change and a read.

Two managers over one Redis take turns, with the option and without. Ratios are of the best of all
rounds. The last lines are of the server: its CPU time, and the memory of an entry.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from benchmarks.markdown import markdown
from benchmarks.servers import Server, serving, version_of
from redis_sessions import Keyring, RedisStore, SessionManager, SessionToken, generate_key
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.session.box import Box
from redis_sessions.stores.schedule import schedule_of
from redis_sessions.testing import store_session

SESSIONS: Final = 512
MANY: Final = 200 * SESSIONS
DUE: Final = 301
"""Seconds after which a session is due to be touched."""
MONTHS: Final = 90 * 24 * 3600


class Clock:
    """Time that moves when it is told to, so that each request is due to touch its session."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


Act = Callable[[SessionManager, str], Awaitable[None]]


async def read(manager: SessionManager, token: str) -> None:
    await manager.commit(await manager.load(token))


async def change(manager: SessionManager, token: str) -> None:
    session = await manager.load(token)
    session["n"] = session["n"] + 1
    await manager.commit(session)


class Side:
    """A manager with its sessions, and what it took at best."""

    def __init__(self, url: str, prefix: str, *, told: bool) -> None:
        self.clock = Clock()
        self.manager = SessionManager(
            RedisStore(url, prefix=prefix),
            generate_key(),
            max_age=MONTHS,
            idle_timeout=MONTHS,
            clock=self.clock,
            on_expired=print if told else None,
        )
        self.tokens: list[str] = []
        self.seconds: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        self.server: dict[str, float] = {}

    async def begin(self, user: str | None) -> None:
        data = {"n": 0} if user is None else {"n": 0, "user_id": user}
        self.tokens = [await store_session(self.manager, data) for _ in range(SESSIONS)]
        self.clock.now += DUE / 2  # nothing is new any more, and nothing is due

    async def measure(self, server: Server, what: str, act: Act, in_flight: int) -> None:
        # Neither is anything due in a read or a change, nor is a touch so recent as to count.
        self.clock.now += DUE if what == "touch" else DUE / 4
        turn = iter(self.tokens)

        async def lane() -> None:
            for token in turn:
                await act(self.manager, token)

        used = _used(server)
        cpu, began = time.process_time(), time.perf_counter()
        await asyncio.gather(*(lane() for _ in range(in_flight)))
        if (expiry := backend_of(self.manager).expiry) is not None:
            await expiry.wait_written()
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        for best, now in (
            (self.seconds, seconds),
            (self.cpu, cpu),
            (self.server, _used(server) - used),
        ):
            best[what] = min(best.get(what, now), now)


def _used(server: Server) -> float:
    """Seconds of CPU that the server has used."""
    said = server.nodes[0].info("cpu")
    return float(said["used_cpu_user"]) + float(said["used_cpu_sys"])


async def measure(server: Server, user: str | None, in_flight: int, rounds: int) -> list[list[str]]:
    """A row for each kind of request."""
    name = f"{user}{in_flight}"
    without = Side(server.url, f"without:{name}:", told=False)
    with_it = Side(server.url, f"with:{name}:", told=True)
    acts: dict[str, Act] = {"read": read, "change": change, "touch": read}
    for side in (without, with_it):
        await side.begin(user)
    for turn in range(rounds):
        sides = [without, with_it]
        for side in sides if turn % 2 else reversed(sides):
            for what, act in acts.items():
                await side.measure(server, what, act, in_flight)
    for side in (without, with_it):
        await side.manager.close()
    return [
        [
            f"{what}, {'anonymous' if user is None else 'signed in'}",
            str(in_flight),
            *(
                f"{theirs[what] / SESSIONS * 1e6:.1f} → {ours[what] / SESSIONS * 1e6:.1f} "
                f"({ours[what] / theirs[what]:.2f})"
                for theirs, ours in (
                    (without.seconds, with_it.seconds),
                    (without.cpu, with_it.cpu),
                    (without.server, with_it.server),
                )
                if theirs[what]
            ),
        ]
        for what in acts
    ]


async def entry_size(server: Server) -> float:
    """Bytes of memory in Redis for each of many sessions in the schedule."""
    store = RedisStore(server.url, prefix="size:")
    box = Box(Keyring(generate_key()), store.prefix, b"rs-expiry")
    before = _memory(server)
    for _ in range(MANY // SESSIONS):
        ids = [SessionToken.generate().id for _ in range(SESSIONS)]
        notes = [schedule_of(store).note(id, DUE, box.seal(id, b'["ada"]')) for id in ids]
        await asyncio.gather(*notes)
    await store.close()
    return (_memory(server) - before) / MANY


def _memory(server: Server) -> int:
    return int(server.nodes[0].info("memory")["used_memory"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.expiry", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    rounds: int = parser.parse_args().rounds
    rows = [["request", "in flight", "µs", "µs of CPU", "µs of the server's CPU"]]
    with serving("redis") as server:
        for user in (None, "ada"):
            for in_flight in (1, 64):
                rows += asyncio.run(measure(server, user, in_flight, rounds))
        size = asyncio.run(entry_size(server))
    print(f"{version_of('redis')}\n\n{markdown(rows)}\n\n{size:.0f} bytes for each session")


if __name__ == "__main__":
    main()
