"""The rows of the table in which a session keeps its id: a change, a touch, a rotation."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from redis_sessions.errors import SessionConflictError, StoreError
from redis_sessions.events import logger
from redis_sessions.lifecycle.aliases import enter_aliases
from redis_sessions.lifecycle.copies import keep_opened
from redis_sessions.lifecycle.merging import CROSSING
from redis_sessions.lifecycle.new_id import enter_again
from redis_sessions.lifecycle.pending import PLAIN, PendingCommit
from redis_sessions.lifecycle.writer import Value, Writer
from redis_sessions.session import values
from redis_sessions.session.outcome import NOTHING, Answer, Outcome
from redis_sessions.session.record import Alias, Record, Stored
from redis_sessions.session.state import NEVER
from redis_sessions.session.token import SessionToken
from redis_sessions.stores.protocols import STORED, Commit
from redis_sessions.tracebacks import no_fields, silent_repr

__all__ = ["CHANGED", "change", "rotate", "touch"]

CHANGED: Final = Answer(Outcome.CHANGE)
"""The answer to every plain change. It tells the browser nothing."""

_TOUCHED: Final = Answer(Outcome.TOUCH)


async def change(pending: PendingCommit) -> Answer:
    """CHANGE: store the data under the same token."""
    writer = pending.writer
    at = writer.at
    if pending.facts.touch_due:
        if await writer.renew_entry() is None:
            return pending.dropped("revoked", at.token.id)
        writer.check_time()
    change = _Change(pending, at, at, at)
    # Nearly always this is all: a coroutine of `compare_and_set` less waits for the store.
    written = await writer.attempt(at, change.on_top_of(at))
    if written is not STORED and (
        await writer.compare_and_set(at, change.on_top_of, None, written) is None
    ):
        pending.state.gone()
        return pending.dropped("ended elsewhere", at.token.id)
    change.adopt()
    return CHANGED


async def touch(pending: PendingCommit) -> Answer:
    """TOUCH: renew the session's time. If that fails, it is logged, and the request goes on."""
    state, writer, touched = pending.state, pending.writer, False
    try:
        if await writer.renew_entry() is None:
            return NOTHING
        at = writer.at
        new = writer.seal(at, seen_at=writer.now)
        written = await writer.store(at.version, new)
        if written is Commit.STORED:
            touched, state.stored, state.touch_at = True, new, new.touch_at
            if pending.backend.copies is not None:
                keep_opened(pending.backend, pending.backend.copies, new, state.principal)
        else:
            state.touch_at = NEVER
            touched = written is Commit.CONFLICT and await _renew_newest(writer, at)
    except StoreError as exc:
        logger.warning("a session's time was not renewed: %s", exc)
        state.touch_at = NEVER
    if not touched:
        return NOTHING
    pending.backend.report("touched", None, writer.at.token.id)
    return _TOUCHED


async def _renew_newest(writer: Writer, at: Stored) -> bool:
    """Renew the time of what another request has stored since, unless that one has renewed it.

    It hasn't if it changed data and doesn't count as use.
    """
    newest = await writer.newest(at)
    if newest is None or writer.backend.clock() <= newest.touch_at:
        return False
    new = writer.seal(newest, seen_at=writer.now)
    return await writer.store(newest.version, new) is Commit.STORED


async def rotate(pending: PendingCommit, outcome: Outcome) -> Answer:
    """ROTATE and REAUTHENTICATE: store the data under a new token of the same id.

    REAUTHENTICATE restarts the lifetime as well.
    """
    state, writer, at = pending.state, pending.writer, pending.writer.at
    lives, principal, wish = state.live is not None, state.principal, state.wanted.lifetime
    authenticated_at: int | None = None
    aliases: tuple[Alias, ...] | None = None
    if lives and outcome is Outcome.REAUTHENTICATE:
        length = wish[0] if wish else _length(pending, at.record)
        clock = await writer.renew_entry(length)
        lives = clock is not None
        if lives and pending.aliases is not None:
            had = at.record.aliases
            aliases = await enter_aliases(pending, at.token.id, ttl=length * 1000, here=had)
        authenticated_at = _authenticated_at(pending, clock or 0, at, principal)
    elif lives and (wish is not None or pending.facts.touch_due):
        lives = await writer.renew_entry(wish[0] if wish else None) is not None
    token = SessionToken.generate(at.token.id)
    rotated = max(writer.now, at.rotated_at + 1)  # each differs: a store may go by it
    change = _Change(pending, at, at, at, (token, rotated), authenticated_at, aliases)
    if lives and await writer.compare_and_set(at, change.on_top_of) is not None:
        change.adopt()
        await writer.note_rotation(at, change.new, authenticated_at)
        if aliases is not None:
            await writer.forget(token.id, set(change.newest.record.aliases).difference(aliases))
        pending.backend.report("rotated", outcome.name.lower(), token.id)
        return pending.answer(outcome)
    state.gone()
    if outcome is Outcome.ROTATE:
        return pending.dropped("ended elsewhere", token.id)
    # The session ended or was rotated, but the principal has just proved who they are.
    return await enter_again(pending)


def _authenticated_at(
    pending: PendingCommit, clock: float, at: Stored, principal: str | None
) -> int:
    """When the principal proved again who they are, by the index's clock."""
    request = pending.state.request
    own = request.revocations.get(pending.backend.index.name(principal or ""))
    return max(
        int(clock - pending.backend.index.age(request.began)),
        int(max(own.values())) if own else 0,  # it spared this session; a later one doesn't
        (at.record.authenticated_at or 0) + (at.record.origin is not None),  # later than accepted
    )


class _Change(msgspec.Struct, eq=False, gc=False):
    """What this request changed, as it is stored under the same id, on top of the newest version.

    `authenticated_at`: when the principal proved again who they are. The lifetime restarts then.
    """

    __repr__ = silent_repr
    __rich_repr__ = no_fields

    pending: PendingCommit
    at: Stored
    newest: Stored
    """The version on top of which it was tried last."""
    new: Stored
    """What was sealed last."""
    rotation: tuple[SessionToken, int] | None = None
    """The new token, and when it takes the place of the other one. None: it stays."""
    authenticated_at: int | None = None
    aliases: tuple[Alias, ...] | None = None
    """What the session can be ended by from now on. None: what it could be before."""

    def on_top_of(self, newest: Stored) -> Value:
        """The record, sealed, and for how long."""
        pending, at = self.pending, self.at
        backend = pending.backend
        data = pending.writer.encoded if newest is at else _merged(pending, newest, at)
        record = newest.record.with_data(data)
        if pending.facts is not PLAIN:
            record = record.amended(**_amendments(self, record))
        if self.rotation is None:
            new = backend.sealer.seal_again(newest, record, data)
        else:
            new = backend.sealer.seal(self.rotation[0], record, self.rotation[1], data)
        self.newest, self.new = newest, new
        return new.sealed, backend.ttl(new)

    def adopt(self) -> None:
        """It is stored: the session is as if it was loaded just now."""
        pending, new = self.pending, self.new
        backend, state = pending.backend, pending.state
        base = state.base
        state.remember(new)
        if backend.copies is not None:
            keep_opened(backend, backend.copies, new, state.principal)
        if self.newest is not self.at:
            pending.adopt(new.data, self.at.data, base)
            backend.report("merged", None, new.token.id)
        backend.hold_all(pending.writer.session)


def _merged(pending: PendingCommit, newest: Stored, at: Stored) -> bytes:
    """The data that another request has stored since, with this request's changes on top.

    A key that both have changed has this request's value, since it is stored later.
    """
    backend, writer = pending.backend, pending.writer
    if backend.policy.on_conflict == "error" and newest.data != at.data:
        raise SessionConflictError("the session was changed by another request")
    data = values.apply(newest.data, pending.state.changes(writer.encoded))
    backend.values.check(data, newest.data)
    if backend.principal.of(data) != writer.principal:
        # Each change is allowed alone. Together they would change whose session this id is.
        raise SessionConflictError(CROSSING)
    return data


def _amendments(change: _Change, record: Record) -> dict[str, Any]:
    """The fields of the record that change besides the data."""
    pending, authenticated_at = change.pending, change.authenticated_at
    now = pending.writer.now
    fields: dict[str, Any] = {}
    if authenticated_at is not None:
        fields.update(authenticated_at=authenticated_at, expires_at=now + _length(pending, record))
        fields.update(methods=pending.methods)
    if change.aliases is not None:
        fields["aliases"] = change.aliases
    if pending.state.wanted.lifetime is not None:
        expires_at, idle, persistent = pending.writer.lifetime(record.persistent)
        fields.update(expires_at=expires_at, idle=idle, persistent=persistent)
    if fields or pending.facts.touch_due:
        fields["seen_at"] = now
    return fields


def _length(pending: PendingCommit, record: Record) -> int:
    """The lifetime after a repeated sign-in, in seconds: the policy's, or an `expire_in()`'s."""
    return max(pending.backend.policy.max_age, record.idle)
