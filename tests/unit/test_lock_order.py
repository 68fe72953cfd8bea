"""A lock that is asked for is answered before it is given back, whoever was cancelled meanwhile."""

from __future__ import annotations

import asyncio

from redis_sessions.stores.locks import Locks


async def test_a_cancelled_question_is_answered_first() -> None:
    """Else the lock could be taken after it was given back, and nobody would give it back again."""
    asked, go_on = list[str](), asyncio.Event()

    async def ask(name: str, value: str, milliseconds: int) -> bool:
        asked.append("take" if milliseconds else "give back")
        await go_on.wait()
        return True

    locks = Locks(ask)

    async def hold() -> None:
        async with locks.lock("session", wait=5, hold=5):
            raise AssertionError("it was cancelled before")

    async def some_steps() -> None:
        for _ in range(50):
            await asyncio.sleep(0)

    holding = asyncio.create_task(hold())
    await some_steps()
    holding.cancel()
    await some_steps()
    assert asked == ["take"]
    go_on.set()
    await some_steps()
    assert asked == ["take", "give back"]
    assert holding.cancelled()
