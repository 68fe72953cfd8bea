"""Two tabs on two workers: what is changed in one arrives in the other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, Final

from tests.torture.sockets.clients import PATIENCE
from tests.torture.sockets.figures import Fact, Times
from tests.torture.sockets.fleet import Worker
from tests.torture.sockets.places import Place

_KEYS: Final = 50


async def changed(place: Place, workers: Sequence[Worker], trials: int) -> list[Times | Fact]:
    """Each change is made when the one before has been answered. None may be lost."""
    here, there = workers[:2]
    token = await there.sign_in("two-tabs")
    tab = await here.open("/tab", token)
    answered = list[float]()
    for number in range(trials):
        answer = await there.ask("POST", f"/change/key-{number % _KEYS}/{number}", token)
        assert answer.status == 200, answer
        answered.append(answer.at)
    stored = (await there.ask("GET", "/read", token)).body
    try:
        async with asyncio.timeout(PATIENCE):
            while _shown(tab.messages) != stored:
                tab.told.clear()
                await tab.told.wait()
    except TimeoutError:
        lost = stored.items() - _shown(tab.messages).items()
        raise AssertionError(f"changes were lost: {lost}") from None
    seen, newest = list[float](), -1
    for at, text in tab.messages:
        values = [v for v in json.loads(text).values() if isinstance(v, int)]
        for number in range(newest + 1, max(values, default=-1) + 1):
            seen.append(at - answered[number])
            newest = number
    assert len(seen) == trials
    tab.close()
    return [
        Times("`changes()`, from the answer to the change", place.name, seen),
        Fact(
            f"`changes()`: messages for {trials} changes, none lost",
            place.name,
            str(len(tab.messages) - 1),
        ),
    ]


def _shown(messages: Sequence[tuple[float, bytes]]) -> dict[str, Any]:
    """What a page shows that has put all messages together."""
    shown = dict[str, Any]()
    for _, text in messages:
        shown.update(json.loads(text))
    return shown
