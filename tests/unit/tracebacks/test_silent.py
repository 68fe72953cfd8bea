"""What holds a token or data says nothing of it, to tools that look into containers as well."""

from __future__ import annotations

from typing import Any

from rich.pretty import pretty_repr
from sentry_sdk.serializer import serialize

from redis_sessions import StoreUnavailableError
from redis_sessions.lifecycle.loading import unloaded
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.lifecycle.pending import pending_commit
from redis_sessions.session.session import state_of
from tests.unit.setting import Setting
from tests.unit.tracebacks.troubled_request import MARK


async def test_silent_to_every_tool() -> None:
    """A session, a placeholder, their states, what is stored, a token, and a commit."""
    at = Setting()
    token = await at.begin({"mark": MARK})
    session = await at.load(token)
    away = unloaded(backend_of(at.manager), [token], StoreUnavailableError("away"))
    stored = state_of(session).stored
    assert stored is not None
    secrets = [token[20:], MARK, repr(stored.sealed[33:50])[2:-1]]
    backend, state = backend_of(at.manager), state_of(session)
    session["more"] = MARK
    pending = pending_commit(backend, session, 200, True)
    parts = (state.request, state_of(away).request, state.origins, stored.record)
    for thing in (
        *(session, away, state, state_of(away), stored, stored.token),
        *(*parts, pending, pending.writer, pending.facts),
    ):
        serialized: Any = serialize({"vars": {"thing": thing}}, is_vars=True)
        for told in (repr(thing), str(thing), f"{thing}", pretty_repr(thing), repr(serialized)):
            assert not any(secret in told for secret in secrets)


async def test_a_session_s_repr_is_what_tools_show() -> None:
    """And not that of an empty dict."""
    at = Setting()
    session = await at.load(await at.begin({"a": 1}))
    assert repr(session) == f"<Session id={session.id} keys=1>"

    for each in (session, unloaded(backend_of(at.manager), [], StoreUnavailableError("away"))):
        assert repr(each) in pretty_repr(each)
        serialized: Any = serialize({"vars": {"thing": each}}, is_vars=True)
        assert serialized["vars"]["thing"] == repr(each)
