"""Browsers that never stop, each with its own user, and what they were answered."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Self

from starlette.types import ASGIApp

from tests.support.apps import client_of, signed_in


class Visitor:
    """One browser, signed in as `user`. It writes and reads in turn, as fast as it is answered."""

    def __init__(self, app: ASGIApp, user: str) -> None:
        self.user = user
        self.token = ""
        self.statuses = Counter[int]()
        self.wrong: list[str] = []
        """Answers that somebody else should have got, or nobody."""
        self.served = asyncio.Event()
        """Set by each answer of 200: clear it, and wait for the next one."""
        self._app = app
        self._stopping = False

    async def run(self, ready: asyncio.Event) -> None:
        async with client_of(self._app) as browser:
            self.token = await signed_in(browser, self.user)
            ready.set()
            number = 0
            while not self._stopping:
                number += 1
                answer = await browser.get(f"/do?set=n:{number}" if number % 2 else "/do")
                self.statuses[answer.status_code] += 1
                if answer.status_code == 200:
                    if answer.json().get("user_id") != self.user:
                        self.wrong.append(answer.text)
                    self.served.set()
                elif answer.status_code == 503:
                    await asyncio.sleep(0.01)

    def stop(self) -> Self:
        self._stopping = True
        return self


@asynccontextmanager
async def visitors(app: ASGIApp, users: Sequence[str]) -> AsyncGenerator[list[Visitor], None]:
    """All of them, signed in and busy for as long as the block lasts."""
    everybody = [Visitor(app, user) for user in users]
    ready = [asyncio.Event() for _ in everybody]
    async with asyncio.TaskGroup() as group:
        for visitor, event in zip(everybody, ready, strict=True):
            group.create_task(visitor.run(event))
        for event in ready:
            await event.wait()
        try:
            yield everybody
        finally:
            for visitor in everybody:
                visitor.stop()


async def all_served(everybody: Sequence[Visitor]) -> None:
    """Each of them is answered once more."""
    async with asyncio.timeout(30):
        for visitor in everybody:
            visitor.served.clear()
        for visitor in everybody:
            await visitor.served.wait()


def statuses(everybody: Sequence[Visitor]) -> set[int]:
    return {status for visitor in everybody for status in visitor.statuses}


def wrong(everybody: Sequence[Visitor]) -> list[str]:
    return [text for visitor in everybody for text in visitor.wrong]
