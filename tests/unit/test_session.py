"""The session as a handler meets it, and durations."""

from __future__ import annotations

import copy
import datetime as dt
import json
import pickle
import traceback
from typing import Any

import pytest
from rich.pretty import pretty_repr
from starlette.responses import JSONResponse

from redis_sessions import ConfigurationError, SessionError, SessionManager
from redis_sessions.lifecycle.loading import unloaded
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.session.session import state_of
from redis_sessions.session.state import seconds
from tests.unit.setting import WHY, stored

# -- the loaded one


async def test_a_session_is_a_dict(manager: SessionManager) -> None:
    """Whatever reads a dict reads it; copies are plain dicts, which belong to no request."""
    session = await manager.load(await stored(manager, n=[1], user_id="ann"))
    data = {"n": [1], "user_id": "ann"}

    assert session == dict(session) == {**session} == json.loads(json.dumps(session)) == data
    twins: list[Any] = [
        copy.copy(session),
        copy.deepcopy(session),
        session.copy(),
        pickle.loads(pickle.dumps(session)),  # noqa: S301  # our own
        session | {"n": [1]},
    ]
    for twin in twins:
        assert type(twin) is dict
        assert twin == data
    assert json.loads(bytes(JSONResponse(session).body)) == data


async def test_what_it_knows_of_itself(manager: SessionManager) -> None:
    """Times in UTC, the id, the principal; and nothing of what isn't stored yet."""
    session = await manager.load()
    assert (session.id, session.is_new, session.principal) == (None, True, None)
    assert session.created_at is session.expires_at is session.authenticated_at is None

    token = await stored(manager, user_id=7)
    session = await manager.load(token)

    assert (session.id, session.is_new, session.principal) == (token[:20], False, "7")
    assert session.created_at is not None
    assert session.expires_at is not None
    assert session.authenticated_at is not None
    assert session.created_at.tzinfo is dt.UTC
    assert session.expires_at - session.created_at == dt.timedelta(days=14)
    assert abs(session.authenticated_at - session.created_at) < dt.timedelta(seconds=2)

    session.clear()
    assert (session.id, session.is_new, session.principal, dict(session)) == (None, True, None, {})
    assert session.created_at is None


async def test_nothing_shows_secrets_or_data(manager: SessionManager) -> None:
    """Not the reprs of a session, its state, what is stored, the answer, the manager."""
    session = await manager.load()
    session.update(user_id="the principal", name="a secret name")
    answer = await manager.commit(session)
    assert answer.token is not None
    state, backend = state_of(session), backend_of(manager)

    shown = " ".join(
        f"{thing!r} {thing!s} {thing} {pretty_repr(thing)}"
        for thing in (
            *(session, state, state.stored, answer, answer.token, manager, backend.sealer),
            *(backend.keyring, backend.keyring.primary, manager.store, backend.values),
            *(backend.principal, manager.counts, unloaded(backend, [], SessionError(WHY))),
        )
    )

    assert session.id is not None
    assert session.id in shown
    for secret in (answer.token.value[20:], "a secret name", "the principal", "user_id"):
        assert secret not in shown.replace("principal='user_id'", "")


async def test_errors_show_no_secrets_or_data(manager: SessionManager) -> None:
    """Of what can't be stored, an error names the key and the type, not the value."""
    session = await manager.load(await stored(manager, user_id="ann"))
    session["card"] = ["4111 1111 \ud800"]

    with pytest.raises(SessionError) as caught:
        await manager.commit(session)

    assert "4111" not in "".join(traceback.format_exception(caught.value)) + repr(caught.value)


# -- durations


@pytest.mark.parametrize(
    ("duration", "whole"),
    [(1, 1), (90.7, 90), (dt.timedelta(days=14), 1_209_600), (dt.timedelta(days=400), 34_560_000)],
    ids=repr,
)
def test_durations(duration: float | dt.timedelta, whole: int) -> None:
    """Seconds or a timedelta, the whole of it (14 days aren't 0 seconds)."""
    assert seconds(duration, "x") == whole


BAD_DURATIONS: list[Any] = [
    *(0, -1, 0.5, True, False, float("nan"), float("inf"), 400 * 24 * 3600 + 1),
    *(dt.timedelta(0), dt.timedelta(days=-1), dt.timedelta(days=401), "3600", None, [1]),
]


@pytest.mark.standard(21, "RFC 6265bis")
@pytest.mark.parametrize("duration", BAD_DURATIONS, ids=repr)
async def test_bad_durations(duration: Any, manager: SessionManager) -> None:
    """They are refused where they are written, with what to write instead."""
    session = await manager.load()

    with pytest.raises(ConfigurationError, match=r"expire_in=.*write seconds or a timedelta"):
        session.expire_in(duration)
