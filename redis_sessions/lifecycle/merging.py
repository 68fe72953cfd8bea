"""Several requests change one session at once: `refresh()`, `update()`, and how dicts are merged.

It is merged by top-level keys. If two requests change the same key, the later commit wins.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeVar

from redis_sessions.errors import (
    SessionConflictError,
    SessionError,
    SessionGoneError,
    raise_if_short,
)
from redis_sessions.lifecycle.backend import Backend
from redis_sessions.lifecycle.loading import refuse, unseal
from redis_sessions.lifecycle.writer import Value, Writer, deadline
from redis_sessions.session import values
from redis_sessions.session.carryover import set_data
from redis_sessions.session.outcome import Outcome
from redis_sessions.session.policy import Policy
from redis_sessions.session.record import Reject, Stored
from redis_sessions.session.session import Session, state_of
from redis_sessions.session.state import State, Status
from redis_sessions.session.values import EMPTY

__all__ = ["adopt", "reload", "rotating_keys", "update"]

T = TypeVar("T")

CROSSING = "crossing changes would change who is signed in"
GONE = "the session ended or was rotated elsewhere"


def adopt(
    backend: Backend,
    session: Session,
    encoded: bytes,
    data: bytes,
    was: bytes = EMPTY,
    base: bytes = EMPTY,
    own: Collection[Any] = (),
) -> bytes:
    """Make the session's dict these data, keeping the objects whose values are the same.

    `encoded`: what the dict was. `was`: what was stored. `base`: what the dict was compared with,
    to find changes. `was` and `base` differ in each value that `get_as` has converted. A converted
    object is kept as long as no other request has changed the stored value. `own`: the keys that
    no other request has changed. Returns what the dict is from now on, encoded.
    """
    state = state_of(session)
    if data == encoded or state.wanted.cleared:  # cleared by another task since
        return encoded
    mine, stored = values.split(encoded), values.split(data)
    here = backend.values.keyed(dict(session))  # which a thread may change meanwhile
    before, compared = values.split(was), values.split(base)
    adopted, came, converted = dict[Any, Any](), dict[Any, Any](), dict[Any, bytes]()
    for key, raw in stored.items():
        if key not in here and mine.get(key) == raw:
            continue  # it was removed since it was encoded
        if key in here and mine.get(key) == raw:
            adopted[key] = here[key]
        elif key in here and before.get(key) == raw != compared[key]:
            adopted[key], converted[key] = here[key], compared[key]
        else:
            adopted[key] = came[key] = values.decode_value(raw)
    since = {key: value for key, value in here.items() if key not in mine}
    set_data(session, {**adopted, **since})
    state.hold(came)
    for listener in backend.listening.get(state, ()):
        removed = (mine.keys() & here.keys()) - stored.keys()
        listener((came.keys() | removed).difference(own))
    assigned = backend.values.keyed(state.origins.assigned or {})
    state.origins.assigned = dict.fromkeys(assigned.keys() - came.keys())
    if not converted:
        return data
    # On top of what is stored now, and not of `data`, which may hold what isn't stored yet.
    state.base = values.join({**values.split(state.base), **converted})
    return values.join({**stored, **{key: mine[key] for key in converted}})


def rotating_keys(policy: Policy, before: bytes, now: bytes) -> list[str]:
    """The keys of `rotate_on` in which these data differ."""
    if not policy.rotate_on:
        return []
    changed = values.changes(values.split(before), values.split(now))
    return sorted(policy.rotate_on.intersection(changed))


async def reload(backend: Backend, session: Session) -> None:
    """What `await session.refresh()` does: take what others stored, and keep what changed here."""
    state, encoded = state_of(session), backend.values.encode(session)
    at = state.live
    if at is None:
        if state.status is Status.GONE:
            raise SessionGoneError(GONE)
        return  # there is nothing to load
    principal = backend.principal.of(encoded)
    if state.is_anothers(principal, backend.keyring):
        return  # who signs in over it may not see it
    sealed = await backend.store.load(at.token.id)
    newest, _ = unseal(backend, at.token, sealed, state.request.bound)
    if isinstance(newest, Reject):
        refuse(backend, newest, at.token, sealed, state.peer)
        state.gone()
        raise SessionGoneError(GONE)
    mine, base = state.changes(encoded), state.base
    data = values.apply(newest.data, mine)
    if backend.principal.of(data) != principal:
        raise SessionConflictError(CROSSING)
    state.remember(newest)
    adopt(backend, session, encoded, data, at.data, base)


async def update(backend: Backend, session: Session, function: Callable[[dict[str, Any]], T]) -> T:
    """What `SessionManager.update()` does: apply a function to the newest data, and store them."""
    state, encoded = state_of(session), backend.values.encode(session)
    at = state.live
    if at is None:
        if state.stored is not None and not state.wanted.cleared:
            raise SessionGoneError(GONE)
        return function(session)  # nobody else has it, and the response stores it
    if state.is_anothers(backend.principal.of(encoded), backend.keyring):
        return function(session)  # a sign-in over it is to come, which the response stores
    writer = Writer(backend, session, state, encoded, None, backend.now(), deadline(backend))
    due = backend.touch_due(state)
    if due and await writer.renew_entry() is None:
        raise SessionGoneError("the session was revoked")
    mine, base = state.changes(encoded), state.base
    attempts = list[tuple[T, Stored, Stored]]()

    def updated(newest: Stored) -> Value:
        result, data = _applied(backend, state, newest, function)
        seen_at = writer.now if due else newest.record.seen_at
        new = writer.seal(newest, data=data, seen_at=seen_at)
        attempts.append((result, newest, new))
        return new.sealed, backend.ttl(new)

    if await writer.compare_and_set(at, updated) is None:
        state.gone()
        raise SessionGoneError(GONE)
    result, newest, new = attempts[-1]
    state.remember(new)
    own: Collection[Any] = ()
    if backend.listening:
        own = values.changes(values.split(newest.data), values.split(new.data))
    adopt(backend, session, encoded, values.apply(new.data, mine), at.data, base, own)
    if backend.observer is not None:
        backend.observer.on_commit(Outcome.CHANGE)
    raise_if_short(writer.shortfall)
    return result


def _applied(
    backend: Backend, state: State, newest: Stored, function: Callable[[dict[str, Any]], T]
) -> tuple[T, bytes]:
    """What the function returns for the newest data, and the data after it, encoded."""
    data = values.decode(newest.data)
    state.hold(data)  # the function may return objects out of them, which are the record's
    result = function(data)
    state.hold(data)
    encoded = backend.values.encode(data)
    backend.values.check(encoded, newest.data)
    if backend.principal.of(encoded) != state.principal:
        raise SessionError("update() can't sign in or out: call session.sign_in() or sign_out()")
    if keys := rotating_keys(backend.policy, newest.data, encoded):
        raise SessionError(f"update() can't rotate (rotate_on=): set session[{keys[0]!r}] instead")
    return result, encoded
