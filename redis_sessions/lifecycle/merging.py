"""What several requests did to one session, together: key by key, the later one wins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from redis_sessions.errors import (
    SessionConflictError,
    SessionError,
    SessionGoneError,
    raise_if_short,
)
from redis_sessions.lifecycle.backend import Backend
from redis_sessions.lifecycle.loading import refuse, unseal
from redis_sessions.lifecycle.writer import Value, Writer
from redis_sessions.session import values
from redis_sessions.session.record import Reject, Stored
from redis_sessions.session.session import Session, replace_data, state_of
from redis_sessions.session.state import State, Status

__all__ = ["adopt", "reload", "update"]

T = TypeVar("T")

CROSSING = "crossing changes would change who is signed in"
GONE = "the session ended or was rotated elsewhere"


def adopt(
    backend: Backend,
    session: Session,
    encoded: bytes,
    data: bytes,
    before: Mapping[Any, bytes] | None = None,
    rebased: Mapping[Any, bytes] | None = None,
) -> bytes:
    """Make the session's dict these data, keeping the objects whose values are the same.

    `encoded` is what it was. `before` and `rebased` are what its keys were compared with so far:
    a value that `get_as` converted is the same as long as others left what it was converted from.
    Returns what the session's dict is from now on, encoded.
    """
    state = state_of(session)
    if data == encoded or state.wanted.cleared:  # cleared by another task since
        return encoded
    mine, stored = values.split(encoded), values.split(data)
    here = backend.values.keyed(dict(session))  # which a thread may change meanwhile
    before, converted = before or {}, rebased or {}
    adopted, came, bases = dict[Any, Any](), dict[Any, Any](), dict[Any, bytes]()
    for key, raw in stored.items():
        if key not in here and mine.get(key) == raw:
            continue  # it was removed since it was encoded
        if key in here and mine.get(key) == raw:
            adopted[key] = here[key]
        elif key in here and key in converted and before.get(key) == raw:
            adopted[key], bases[key] = here[key], converted[key]
        else:
            adopted[key] = came[key] = values.decode_value(raw)
    since = {key: value for key, value in here.items() if key not in mine}
    replace_data(session, {**adopted, **since})
    state.hold(came)
    assigned = backend.values.keyed(dict.fromkeys(state.origins.assigned or ()))
    state.origins.assigned = assigned.keys() - came.keys()
    state.rebased = bases or None
    kept = {key: mine[key] for key in bases}
    return values.join({**stored, **kept}) if kept else data


async def reload(backend: Backend, session: Session) -> None:
    """Take what others stored; what was changed here stays changed."""
    state, encoded = state_of(session), backend.values.encode(session)
    at = state.live
    if at is None:
        if state.status is Status.GONE:
            raise SessionGoneError(GONE)
        return  # there is nothing to load
    principal = backend.principal.of(encoded)
    if state.is_anothers(principal, backend.keyring):
        return  # whoever signs in over it isn't to see it
    sealed = await backend.store.load(at.token.id)
    newest, _ = unseal(backend, at.token, sealed, state.request.bound)
    if isinstance(newest, Reject):
        refuse(backend, newest, at.token, sealed)
        state.gone()
        raise SessionGoneError(GONE)
    mine, before, rebased = state.changes(encoded), values.split(state.base), state.rebased
    data = values.apply(newest.data, mine)
    if backend.principal.of(data) != principal:
        raise SessionConflictError(CROSSING)
    state.remember(newest)
    adopt(backend, session, encoded, data, before, rebased)


async def update(backend: Backend, session: Session, function: Callable[[dict[str, Any]], T]) -> T:
    """Apply the function to the newest data, and store them, until nobody was faster."""
    state, encoded = state_of(session), backend.values.encode(session)
    at = state.live
    if at is None:
        if state.stored is not None and not state.wanted.cleared:
            raise SessionGoneError(GONE)
        return function(session)  # it is stored with the response, and nobody else has it
    if state.is_anothers(backend.principal.of(encoded), backend.keyring):
        return function(session)  # of a session that is still to come, too
    writer = Writer(backend, session, encoded, None)
    due = backend.touch_due(state)
    if due and await writer.renew_entry() is None:
        raise SessionGoneError("the session was revoked")
    mine, before, rebased = state.changes(encoded), values.split(state.base), state.rebased
    attempts = list[tuple[T, Stored]]()

    def updated(newest: Stored) -> Value:
        result, data = _applied(backend, state, newest, function)
        seen_at = writer.now if due else newest.record.seen_at
        new = writer.seal(newest, data=data, seen_at=seen_at)
        attempts.append((result, new))
        return new.sealed, backend.ttl(new)

    if await writer.compare_and_set(at, updated) is None:
        state.gone()
        raise SessionGoneError(GONE)
    result, new = attempts[-1]
    state.remember(new)
    adopt(backend, session, encoded, values.apply(new.data, mine), before, rebased)
    raise_if_short(writer.shortfall)
    return result


def _applied(
    backend: Backend, state: State, newest: Stored, function: Callable[[dict[str, Any]], T]
) -> tuple[T, bytes]:
    """What the function returns for the newest data, and what it makes of them, encoded."""
    data = values.decode(newest.data)
    state.hold(data)  # what the function takes out of them, and returns, is the record's
    result = function(data)
    state.hold(data)
    encoded = backend.values.encode(data)
    backend.values.check(encoded, newest.data)
    if backend.principal.of(encoded) != state.principal:
        raise SessionError("update() can't sign in or out: call session.sign_in() or sign_out()")
    return result, encoded
