"""The rows of the table in which a session keeps its id: a change, a touch, a rotation."""

from __future__ import annotations

from typing import Final

from redis_sessions.errors import SessionConflictError, StoreError
from redis_sessions.events import logger
from redis_sessions.lifecycle.merging import CROSSING
from redis_sessions.lifecycle.new_id import enter_again
from redis_sessions.lifecycle.pending import PendingCommit
from redis_sessions.lifecycle.writer import Value
from redis_sessions.session import values
from redis_sessions.session.outcome import NOTHING, Answer, Outcome
from redis_sessions.session.record import Record, Stored
from redis_sessions.session.state import NEVER
from redis_sessions.session.token import SessionToken
from redis_sessions.stores.protocols import Commit

__all__ = ["CHANGED", "change", "rotate", "touch"]

CHANGED: Final = Answer(Outcome.CHANGE)
"""The answer to every plain change. It tells the browser nothing."""

_TOUCHED: Final = Answer(Outcome.TOUCH)


async def change(c: PendingCommit) -> Answer:
    """The data changed."""
    at = c.writer.at
    if c.facts.touch_due and await c.writer.renew_entry() is None:
        return c.dropped("revoked", at.token.id)
    if await _in_place(c, at.token, at.rotated_at):
        return CHANGED
    return c.dropped("ended elsewhere", at.token.id)


async def touch(c: PendingCommit) -> Answer:
    """Its time is renewed. Whatever comes of it, no request fails by it."""
    state, writer = c.state, c.writer
    try:
        if await writer.renew_entry() is None:
            return NOTHING
        at = writer.at
        new = writer.seal(at, seen_at=writer.now)
        if await writer.store(at.version, new) is Commit.STORED:
            state.stored, state.touch_at = new, new.touch_at
            c.backend.report("touched", None, at.token.id)
            return _TOUCHED
    except StoreError as exc:
        logger.warning("a session's time was not renewed: %s", exc)
    state.touch_at = NEVER
    return NOTHING


async def rotate(c: PendingCommit, outcome: Outcome) -> Answer:
    """A new token, and for REAUTHENTICATE a new lifetime."""
    state, writer, at = c.state, c.writer, c.writer.at
    lives, principal, wish = state.live is not None, state.principal, state.wanted.lifetime
    authenticated_at: int | None = None
    if lives and outcome is Outcome.REAUTHENTICATE:
        clock = await writer.renew_entry(wish[0] if wish else _length(c, at.record))
        lives = clock is not None
        authenticated_at = _authenticated_at(c, clock or 0, at, principal)
    elif lives and (wish is not None or c.facts.touch_due):
        lives = await writer.renew_entry(wish[0] if wish else None) is not None
    token = SessionToken.generate(at.token.id)
    rotated = max(writer.now, at.rotated_at + 1)  # each differs: a store may go by it
    if lives and await _in_place(c, token, rotated, authenticated_at):
        if principal is not None and authenticated_at is not None:
            await writer.note_authentication(token.id, authenticated_at)
        c.backend.report("rotated", outcome.name.lower(), token.id)
        return c.answer(outcome)
    if outcome is Outcome.ROTATE:
        return c.dropped("ended elsewhere", token.id)
    # It ended, or was rotated, under a principal who has just proved who they are.
    return await enter_again(c)


def _authenticated_at(c: PendingCommit, clock: float, at: Stored, principal: str | None) -> int:
    """When the principal proved again who they are, by the index's clock."""
    request = c.state.request
    own = request.revocations.get(principal or "")
    return max(
        int(clock - c.backend.index.age(request.began)),
        int(max(own.values())) if own else 0,  # it excepted this one; what comes next ends it
        at.record.authenticated_at or 0,
    )


async def _in_place(
    c: PendingCommit, token: SessionToken, rotated: int, authenticated_at: int | None = None
) -> bool:
    """Commit this request's changes under the session's id; False if it is gone.

    `authenticated_at`: the principal proved again who they are, and the lifetime restarts.
    """
    state, writer, backend = c.state, c.writer, c.backend
    at = writer.at
    new, merged = at, False

    def changed(newest: Stored) -> Value:
        nonlocal new, merged
        merged = newest is not at
        data = _merged(c, newest, at) if merged else writer.encoded
        record = newest.record.amended(data=data, **_amendments(c, newest.record, authenticated_at))
        new = backend.sealer.seal(token, record, rotated)
        return new.sealed, backend.ttl(new)

    if await writer.compare_and_set(at, changed) is None:
        state.gone()
        return False
    was, base = at.data, state.base
    state.remember(new)
    if merged:
        c.adopt(new.data, was, base)
        backend.report("merged", None, token.id)
    backend.hold_all(writer.session)
    return True


def _merged(c: PendingCommit, newest: Stored, at: Stored) -> bytes:
    """What this request changed, on top of what another one has stored since."""
    backend, writer = c.backend, c.writer
    if backend.policy.on_conflict == "error" and newest.data != at.data:
        raise SessionConflictError("the session was changed by another request")
    data = values.apply(newest.data, c.state.changes(writer.encoded))
    backend.values.check(data, newest.data)
    if backend.principal.of(data) != writer.principal:
        # Each was right for itself; together they would change who an id belongs to.
        raise SessionConflictError(CROSSING)
    return data


def _amendments(
    c: PendingCommit, record: Record, authenticated_at: int | None
) -> dict[str, int | bool]:
    """The fields of the record that change besides the data."""
    now = c.writer.now
    fields: dict[str, int | bool] = {}
    if authenticated_at is not None:
        fields.update(authenticated_at=authenticated_at, expires_at=now + _length(c, record))
    if c.state.wanted.lifetime is not None:
        expires_at, idle, persistent = c.writer.lifetime(record.persistent)
        fields.update(expires_at=expires_at, idle=idle, persistent=persistent)
    if fields or c.facts.touch_due:
        fields["seen_at"] = now
    return fields


def _length(c: PendingCommit, record: Record) -> int:
    """The lifetime that a renewed sign-in gets, in seconds: the policy's, or "remember me"."""
    return max(c.backend.policy.max_age, record.idle)
