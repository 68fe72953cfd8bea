"""`max_sessions` and sign-ins that came to nothing."""

from __future__ import annotations

import pytest

from redis_sessions import StoreUnavailableError
from redis_sessions.testing import store_session
from tests.unit.crossings.crossed import Crossed


async def test_sign_ins_that_failed_cost_nobody_their_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They entered the index and never came into being: no device is signed out for them."""
    at = Crossed(max_sessions=3)
    devices = [await store_session(at.manager, {"user_id": "ada"}) for _ in range(2)]

    async def fails(*_: object) -> None:
        raise StoreUnavailableError("away")

    for _ in range(3):
        session = await at.load(None)
        session["user_id"] = "ada"
        with monkeypatch.context() as patched, pytest.raises(StoreUnavailableError):
            patched.setattr(at.delayed, "commit", fails)
            await at.commit(session)
    newest = await store_session(at.manager, {"user_id": "ada"})
    assert [await at.data(token) for token in (*devices, newest)] == [{"user_id": "ada"}] * 3
    fourth = await store_session(at.manager, {"user_id": "ada"})
    assert [bool(await at.data(token)) for token in (*devices, newest, fourth)] == [
        *(False, True, True, True)
    ]
