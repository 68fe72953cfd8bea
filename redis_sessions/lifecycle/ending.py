"""The rows of the table in which a session ends: a sign-out, and `clear()`."""

from __future__ import annotations

from redis_sessions.lifecycle.new_id import assigned_data, create
from redis_sessions.lifecycle.pending import PendingCommit, storable_data
from redis_sessions.session import values
from redis_sessions.session.carryover import holds_recorded
from redis_sessions.session.outcome import Answer, Outcome
from redis_sessions.session.state import Status
from redis_sessions.session.values import EMPTY

__all__ = ["end_what_was_loaded", "lose", "prepare_new_session"]


async def lose(pending: PendingCommit) -> Answer:
    """LOSE: the principal signed out. The session ends, and its other data go on under a new id."""
    state, writer = pending.state, pending.writer
    old, late = writer.at, state.request.late
    await writer.refuse_signed(old, state.principal)
    last = await writer.end_if_unchanged(old, "signed out")
    # A session that was rotated meanwhile ends, too.
    if last is None and await writer.end(old.token.id, "signed out"):
        last = old
    if last is not None:
        writer.signed_out("signed out", old.token.id, state.principal)
    await writer.mark(old, state.principal)
    if last is None:
        state.gone()
        return pending.dropped("ended elsewhere")
    left = _left(pending, last.data)
    state.forget()
    if pending.facts.http_status < 500 and not late:
        pending.adopt(left)
    if left == EMPTY:
        return Answer(Outcome.LOSE, expire=not late)
    if late:  # the browser can't learn the id under which it would go on
        pending.adopt(EMPTY)
        pending.dropped("signed out late")
        return Answer(Outcome.LOSE)
    return await create(pending, Outcome.LOSE, left, old.record.owner)


def _left(pending: PendingCommit, stored: bytes) -> bytes:
    """The data that go on without the principal.

    `stored`: the last data that were stored. From status 500 on, only the removal of the principal
    counts, and none of the request's other changes.
    """
    state, principal = pending.state, pending.backend.principal
    if pending.facts.http_status < 500:
        changed = state.changes(pending.writer.encoded)
    else:
        changed = state.changes(storable_data(pending.backend, pending.writer.session))
        keys = principal.keys(changed)
        changed = {key: value for key, value in changed.items() if key in keys}
    left = values.apply(stored, changed)
    return EMPTY if principal.of(left) is not None else left


def prepare_new_session(pending: PendingCommit) -> None:
    """Decide which data go along if a new session begins after `clear()`.

    For example, a handler clears the session and puts all of Alice's data back. They stay Alice's:
    if Bob signs in, now or later, he gets none of them.
    """
    state, writer = pending.state, pending.writer
    if pending.outcome is Outcome.GAIN and state.is_anothers(
        writer.principal, pending.backend.keyring
    ):
        pending.carried = assigned_data(pending)
    elif pending.outcome is Outcome.CREATE and state.stored is not None:
        theirs = holds_recorded(writer.session, state, pending.backend.values)
        pending.owner = state.stored.record.owner if theirs else None


async def end_what_was_loaded(pending: PendingCommit) -> bool | None:
    """End the session that was loaded. Returns whether the cookie expires.

    It returns None if another request had ended the session before.

    There are five cases:

    1. A revocation by this request has ended it. The cookie expires.
    2. A session was loaded. It ends, also if it was rotated since, because the browser had its
       token. The record ends first, and the index gets the mark second. In the other order, later
       marks could push this one out while the session lives, and no list would show it.
    3. The token's session had ended when the request came. The end is repeated, since perhaps not
       all replicas have it. The cookie stays.
    4. Several tokens each opened a session. All of these end, since the client has each token, and
       nobody knows which one was meant. The cookie expires.
    5. Nothing was loaded. If a rotation has replaced the token, the cookie expires, since the user
       asked to be signed out of this browser. Otherwise it stays.
    """
    state, writer = pending.state, pending.writer
    if state.status is Status.ENDED:
        state.forget()
        return True
    if state.stored is not None:
        await writer.refuse_signed(state.stored, state.principal)
        alive = await writer.end(state.stored.token.id, "cleared")
        if alive:
            writer.signed_out("cleared", state.stored.token.id, state.principal)
        await writer.mark(state.stored, state.principal)
        state.forget()
        return True if alive else None
    if state.tombstone_of is not None:
        await writer.end(state.tombstone_of, "cleared")
    elif state.opened:
        for each in state.opened:
            if each.stored is not None:
                await writer.refuse_signed(each.stored, each.principal)
                if await writer.end(each.stored.token.id, "cleared"):
                    writer.signed_out("cleared", each.stored.token.id, each.principal)
                await writer.mark(each.stored, each.principal)
        state.opened = ()
        return True
    return state.status is Status.ROTATED
