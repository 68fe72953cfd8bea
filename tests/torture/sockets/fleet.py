"""Several uvicorn processes over one deployment, and the browsers that use them."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from tests.torture.sockets.clients import Answer, Http, Open

T = TypeVar("T")
R = TypeVar("R")

_AT_ONCE: Final = 32


class Worker:
    """One process; what it is asked goes over connections that are used again."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port
        self._idle = list[Http]()

    async def ask(self, method: str, path: str, token: str | None = None) -> Answer:
        """One request. Several at once are several connections."""
        http = self._idle.pop() if self._idle else Http(self.port)
        try:
            answer = await http.ask(method, path, token)
        except BaseException:
            http.close()
            raise
        self._idle.append(http)
        return answer

    async def sign_in(self, user: str) -> str:
        """The token of a new session of this user."""
        answer = await self.ask("POST", f"/sign-in/{user}")
        assert answer.token, answer
        return answer.token

    async def sign_out(self, token: str) -> float:
        """End a session; when that was answered."""
        answer = await self.ask("POST", "/sign-out", token)
        assert answer.status == 200, answer
        return answer.at

    async def open(self, path: str, token: str) -> Open:
        """A WebSocket or a stream, which the application has begun to serve."""
        return await Open.at(self.port, path, token)

    async def close(self) -> None:
        for http in self._idle:
            http.close()
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


@asynccontextmanager
async def fleet(*stores: dict[str, Any]) -> AsyncGenerator[list[Worker], None]:
    """A process for each of these stores, given as the arguments of `RedisStore`."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    workers = list[Worker]()
    try:
        for store in stores:
            command = ("-m", "tests.torture.sockets.application", json.dumps(store))
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec(
                sys.executable, *command, stdin=pipe, stdout=pipe
            )
            workers.append(Worker(process, 0))
        for worker in workers:
            assert worker.process.stdout is not None
            worker.port = int(await worker.process.stdout.readline())
        for worker in workers:  # it has started when it answers
            assert (await worker.ask("GET", "/read")).status == 200
        yield workers
    finally:
        await asyncio.gather(*(worker.close() for worker in workers))


async def each(items: Iterable[T], act: Callable[[T], Awaitable[R]]) -> list[R]:
    """The results of `act`, in the items' order; some of them are under way at once."""
    turn = asyncio.Semaphore(_AT_ONCE)

    async def one(item: T) -> R:
        async with turn:
            return await act(item)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(item)) for item in items]
    return [task.result() for task in tasks]
