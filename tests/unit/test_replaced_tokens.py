"""A token that a sign-out or a rotation has replaced: for how long it begins no new session."""

from __future__ import annotations

import pytest

from redis_sessions import Answer, Keyring, SessionManager
from tests.unit.setting import KEY, Setting, token_of

WINDOW = 30
"""Seconds after which a replaced token is like one that was never known."""


async def written_with(at: Setting, token: str) -> Answer:
    """A request with this token that changes its session."""
    session = await at.load(token)
    session["late"] = 1
    return await at.commit(session)


async def replace(at: Setting, token: str, how: str) -> None:
    session = await at.load(token)
    if how == "rotation":
        session.rotate()
    else:
        session.clear()
    await at.commit(session)


@pytest.mark.parametrize("how", ["sign-out", "rotation"])
async def test_a_replaced_token_begins_nothing(at: Setting, how: str) -> None:
    """A late request with it gets no token for as long as other requests may be under way."""
    token = await at.begin({"user_id": "alice"})
    await replace(at, token, how)
    at.clock.advance(WINDOW - 1)
    assert (await written_with(at, token)).token is None
    assert at.reported("dropped") == ["superseded token"]


@pytest.mark.parametrize("how", ["sign-out", "rotation"])
async def test_an_old_token_begins_anew(at: Setting, how: str) -> None:
    """After that, a browser that still holds it isn't shut out: it gets a session of its own."""
    token = await at.begin({"user_id": "alice"})
    await replace(at, token, how)
    at.clock.advance(WINDOW + 1)
    new = token_of(await written_with(at, token))
    assert new[:20] != token[:20]
    assert await at.data(new) == {"late": 1}


@pytest.mark.parametrize(("ahead", "begins"), [(60, False), (3500, False), (7200, True)])
async def test_a_rotation_by_a_clock_that_is_ahead(at: Setting, ahead: int, begins: bool) -> None:
    """Clocks may differ by up to an hour; a time further ahead says nothing about now."""
    token = await at.begin({"x": 1})
    other = SessionManager(at.store, Keyring(KEY), clock=lambda: at.clock() + ahead)
    session = await other.load(token)
    session.rotate()
    await other.commit(session)
    assert ((await written_with(at, token)).token is not None) is begins
