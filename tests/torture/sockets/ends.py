"""How fast a socket ends on one worker when its session is ended on another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from tests.torture.sockets.figures import Times
from tests.torture.sockets.fleet import Worker, each
from tests.torture.sockets.places import Place

READERS: Final = 16
"""Connections that read all the time, where there is read load."""


async def signed_out(
    place: Place, workers: Sequence[Worker], path: str, trials: int, *, load: bool = False
) -> Times:
    """From the answer to a sign-out at one worker to the end of a connection at another.

    It may end before the answer is there; then the time is less than 0.
    """
    seconds = list[float]()
    here, *elsewhere = workers
    async with _load(workers, READERS if load else 0):
        for number in range(trials):
            there = elsewhere[number % len(elsewhere)]
            token = await there.sign_in(f"user-{number}")
            connection = await here.open(path, token)
            answered = await there.sign_out(token)
            seconds.append(await connection.end() - answered)
    what = "an event stream" if path == "/stream" else "a WebSocket"
    during = f", {READERS} connections read all the time" if load else ""
    return Times(f"{what}, from the answer to the sign-out{during}", place.name, seconds)


@asynccontextmanager
async def _load(workers: Sequence[Worker], readers: int) -> AsyncGenerator[None, None]:
    """Each reader has a session of its own, and reads it at each worker in turn."""

    async def read(number: int) -> None:
        token = await workers[0].sign_in(f"reader-{number}")
        while True:
            for worker in workers:
                answer = await worker.ask("GET", "/read", token)
                assert answer.body == {"user_id": f"reader-{number}"}, answer

    tasks = [asyncio.create_task(read(number)) for number in range(readers)]
    try:
        yield
        for task in tasks:
            assert not task.done(), task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def all_revoked(place: Place, workers: Sequence[Worker], count: int) -> list[Times]:
    """`revoke_all` of a user with this many sessions, each of which has a WebSocket open."""
    user = f"user-with-{count}"

    async def one(number: int) -> asyncio.Future[float]:
        worker = workers[number % len(workers)]
        token = await worker.sign_in(user)
        connection = await worker.open("/socket", token)
        return asyncio.ensure_future(connection.end())

    ends = await each(range(count), one)
    began = time.monotonic()
    answer = await workers[0].ask("POST", f"/revoke-all/{user}")
    assert answer.body == count, answer
    at = await asyncio.gather(*ends)
    spread = f"`revoke_all` with {count} sockets of one user"
    return [
        Times(f"{spread}, from its answer", place.name, [end - answer.at for end in at]),
        Times(f"{spread}, from the request", place.name, [end - began for end in at]),
        Times(f"{spread}: the first, from the request", place.name, [min(at) - began]),
    ]
