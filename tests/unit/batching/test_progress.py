"""Whoever asks a batcher is answered within a few steps of the event loop."""

from __future__ import annotations

import asyncio
from typing import Final

import pytest

from redis_sessions import StoreUnavailableError
from tests.unit.batching.sending import Sending

TICKS: Final = 50
"""Steps of the loop: a batch needs three."""


async def answers(*futures: asyncio.Future[str]) -> list[object]:
    """Each one's reply, or exception; None if it has none yet."""
    for _ in range(TICKS):
        await asyncio.sleep(0)
    return [(f.exception() or f.result()) if f.done() else None for f in futures]


async def test_replies(at: Sending) -> None:
    """One by one, together, and behind a batch that is under way."""
    assert await answers(at.batcher.submit("a", 1)) == ["a"]
    assert await answers(*(at.batcher.submit(each, 1) for each in "bcd")) == ["b", "c", "d"]
    first = await at.hold_up("e")
    later = [at.batcher.submit(each, 1) for each in "fg"]
    assert await answers(first, *later) == [None] * 3
    at.go_on.set()
    assert await answers(first, *later) == ["e", "f", "g"]


@pytest.mark.parametrize("error", [StoreUnavailableError("away"), KeyError("bug")])
async def test_failures(at: Sending, error: Exception) -> None:
    """They are everybody's in the batch, and the next one has replies again."""
    at.fails = error
    assert await answers(*(at.batcher.submit(each, 1) for each in "ab")) == [error] * 2
    at.fails = None
    assert await answers(at.batcher.submit("c", 1)) == ["c"]
    assert await answers(*(at.batcher.submit(each, 1) for each in "de")) == ["d", "e"]


async def test_who_waits_behind_a_failure(at: Sending) -> None:
    """A batch that finds the store away answers for those as well who would have been next."""
    first = await at.hold_up("a")
    behind = [at.batcher.submit(each, 1) for each in "bc"]
    at.fails = away = StoreUnavailableError("away")
    at.go_on.set()
    assert await answers(first, *behind) == [away] * 3


async def test_who_has_waited_too_long() -> None:
    """What isn't sent any more is answered, too."""
    at = Sending(patience=0)
    (answer,) = await answers(at.batcher.submit("a", 1))
    assert isinstance(answer, StoreUnavailableError)
    assert answer.reason == "full"
    assert at.batches == []
