"""Messages that another process sends, and what a listener here gets of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from itertools import count
from typing import Final

from redis_sessions import StoreError
from redis_sessions.messages import Message, Messages, Missed
from tests.support.open import PATIENCE

Heard = AsyncGenerator[Message | Missed]
_numbers: Final = count(1)


async def said(messages: Messages, user: str | None = None) -> int:
    """The number that was sent to this user, or to all, as soon as something can be sent."""
    n = next(_numbers)
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                if user is None:
                    await messages.to_all({"n": n})
                else:
                    await messages.to_principal(user, {"n": n})
            except StoreError:
                await asyncio.sleep(0.05)
            else:
                return n


async def until(heard: Heard, n: int) -> list[int | None]:
    """What comes until this number does. None stands for a `Missed`."""
    items = list[int | None]()
    async with asyncio.timeout(PATIENCE):
        while n not in items:
            message = await anext(heard)
            items.append(None if isinstance(message, Missed) else message["n"])
    return items


async def until_heard(heard: Heard, messages: Messages) -> list[int | None]:
    """Have it sent again and again until something arrives, and what has come by then."""
    items = list[int | None]()

    async def listen() -> None:
        async for message in heard:
            items.append(None if isinstance(message, Missed) else message["n"])
            if items[-1] is not None:
                return

    listening = asyncio.ensure_future(listen())
    async with asyncio.timeout(PATIENCE):
        while not listening.done():
            await said(messages)
            await asyncio.wait([listening], timeout=0.1)
        await listening
    return items
