"""A process whose wall clock is wrong: started by tests, told what to do line by line.

    python -m tests.integration.clocks.worker

It patches `time.time` before the library is imported. Each line is `[command, argument …]` in
JSON, and so is the answer.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

_real = time.time
ahead = 0.0
time.time = lambda: _real() + ahead

from redis_sessions import (  # noqa: E402
    Keyring,
    RedisStore,
    Session,
    SessionManager,
    StoreUnavailableError,
)
from redis_sessions.lifecycle.manager import backend_of  # noqa: E402
from redis_sessions.session.serving import serving  # noqa: E402
from tests.support.served import served  # noqa: E402


class Worker:
    """One manager, and the session that it has loaded."""

    manager: SessionManager
    session: Session

    async def begin(self, seconds: float, url: str, prefix: str, key: str) -> None:
        """As a process that has just been started, whose clock is ahead by so much."""
        global ahead  # noqa: PLW0603 - the clock is the process's
        ahead = seconds
        self.manager = SessionManager(RedisStore(url, prefix=prefix), Keyring(key))
        serving.set(())

    async def end(self) -> None:
        await self.manager.close()

    async def load(self, token: str | None) -> dict[str, Any]:
        self.session = await self.manager.load(token)
        serving.set(served(self.session))  # as in a request
        return dict(self.session)

    async def commit(self, data: dict[str, Any]) -> list[Any]:
        self.session.update(data)
        try:
            answer = await self.manager.commit(self.session)
        except StoreUnavailableError:
            return ["REFUSED", None]
        return [answer.outcome.name, None if answer.token is None else answer.token.value]

    async def rotate(self) -> list[Any]:
        self.session.rotate()
        return await self.commit({})

    async def revoke_all(self, user: str) -> int:
        return await self.manager.revoke_all(user)

    async def listed(self, user: str) -> list[str]:
        return [info.id for info in await self.manager.sessions_of(user)]

    async def step(self, seconds: float) -> None:
        global ahead  # noqa: PLW0603 - the clock is the process's
        ahead += seconds

    async def since(self) -> float:
        """As `fresh()` judges it: seconds since the session's user signed in."""
        at = self.session.authenticated_at
        assert at is not None
        return backend_of(self.manager).clock() - at.timestamp()


async def main() -> None:
    worker = Worker()
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        command, *arguments = json.loads(line)
        print(json.dumps(await getattr(worker, command)(*arguments)), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
