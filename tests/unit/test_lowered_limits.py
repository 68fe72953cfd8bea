"""Sessions that were stored when a limit was higher, or wasn't there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from redis_sessions import Session, SessionEncodeError
from redis_sessions.lifecycle.manager import backend_of
from tests.unit.setting import Setting, token_of

DATA: dict[str, Any] = {"user_id": "alice", "many": [[]] * 50, "text": "x" * 100}

ACTS: dict[str, Callable[[Session], Any]] = {
    "change": lambda s: s.__setitem__("text", "y" * 100),
    "shrink": lambda s: s["many"].pop(),
    "sign_in": lambda s: s.sign_in("alice"),
    "rotate": lambda s: s.rotate(),
    "sign_out": lambda s: s.sign_out(),
    "clear": lambda s: s.clear(),
}


class Site(Setting):
    """Where a session was stored before both limits fell below it."""

    async def lowered(self, monkeypatch: pytest.MonkeyPatch) -> str:
        token = await self.begin(DATA)
        monkeypatch.setattr("redis_sessions.session.values.MAX_CONTAINERS", 10)
        monkeypatch.setattr("redis_sessions.session.values.MAX_DEPTH", 10)
        backend_of(self.manager).values.max_size = 100
        return token


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
async def test_everything_but_growth_goes_on(
    act: Callable[[Session], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signing out above all."""
    at = Site()
    session = await at.load(token := await at.lowered(monkeypatch))
    act(session)
    answer = await at.commit(session)
    expected = dict(session)
    newest = token if answer.token is None else token_of(answer)
    assert await at.data(None if answer.expire else newest) == expected


async def test_crossing_changes_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what the other stored, too, only growth counts."""
    at = Site()
    token = await at.lowered(monkeypatch)
    one, other = await at.load(token), await at.load(token)
    one["text"], other["many"] = "short", [[]] * 40
    await at.commit(one)
    await at.commit(other)
    assert await at.data(token) == {"user_id": "alice", "many": [[]] * 40, "text": "short"}
    assert at.reported("merged") == [None]


async def test_an_update_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """`manager.update()` of one key."""
    at = Site()
    token = await at.lowered(monkeypatch)
    await at.manager.update(await at.load(token), lambda data: data.update(text="short"))
    assert (await at.data(token))["text"] == "short"


async def test_growth_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing of it is stored."""
    at = Site()
    token = await at.lowered(monkeypatch)
    session = await at.load(token)
    session["many"].append([])
    session["text"] = ""
    with pytest.raises(SessionEncodeError, match="the session has 52 dicts and lists"):
        await at.commit(session)
    assert await at.data(token) == DATA
