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


async def lose(c: PendingCommit) -> Answer:
    """Signed out: what is left goes on under a new id."""
    state, writer = c.state, c.writer
    old, late = writer.at, state.request.late
    last = await writer.end_if_unchanged(old, "signed out")
    # Where it was rotated meanwhile, a sign-out holds all the same.
    if last is None and await writer.end(old.token.id, "signed out"):
        last = old
    await writer.mark(old, state.principal)
    if last is None:
        state.gone()
        return c.dropped("ended elsewhere")
    left = _left(c, last.data)
    state.forget()
    if c.facts.http_status < 500 and not late:
        c.adopt(left)
    if left == EMPTY:
        return Answer(Outcome.LOSE, expire=not late)
    if late:  # the browser can't learn the id under which it would go on
        c.adopt(EMPTY)
        c.dropped("signed out late")
        return Answer(Outcome.LOSE)
    return await create(c, Outcome.LOSE, left, old.record.owner)


def _left(c: PendingCommit, stored: bytes) -> bytes:
    """What goes on without the principal: from 500 on, only its removal counts."""
    state, principal = c.state, c.backend.principal
    if c.facts.http_status < 500:
        changed = state.changes(c.writer.encoded)
    else:
        changed = state.changes(storable_data(c.backend, c.writer.session))
        keys = principal.keys(changed)
        changed = {key: value for key, value in changed.items() if key in keys}
    left = values.apply(stored, changed)
    return EMPTY if principal.of(left) is not None else left


def prepare_new_session(c: PendingCommit) -> None:
    """Decide what of the data goes along if a new session comes after `clear()`.

    What was put back is still whose it was: it isn't for anybody else, now or later.
    """
    state, writer = c.state, c.writer
    if c.outcome is Outcome.GAIN and state.is_anothers(writer.principal, c.backend.keyring):
        c.carried = assigned_data(c)
    elif c.outcome is Outcome.CREATE and state.stored is not None:
        theirs = holds_recorded(writer.session, state, c.backend.values)
        c.owner = state.stored.record.owner if theirs else None


async def end_what_was_loaded(c: PendingCommit) -> bool | None:
    """End it; whether the cookie expires. None: another request had ended it.

    There are five cases:

    1. A revocation by this very request ended it. The cookie expires.
    2. A session was loaded. It ends, rotated since or not: its token was the browser's. (An id
       ends first, and is marked second: a mark may have to make room for others, and a session
       that still lived then would be found by nothing.)
    3. The token's session had ended when the request came. Nobody knows whether all replicas
       have that end, so that it is repeated.
    4. Several tokens each opened a session. Nobody knows which was meant, and the client holds
       each of them: all end.
    5. Nothing was loaded. The cookie expires if a rotation superseded its token, since the
       user asked to be signed out of this browser.
    """
    state, writer = c.state, c.writer
    if state.status is Status.ENDED:
        state.forget()
        return True
    if state.stored is not None:
        alive = await writer.end(state.stored.token.id, "cleared")
        await writer.mark(state.stored, state.principal)
        state.forget()
        return True if alive else None
    if state.tombstone_of is not None:
        await writer.end(state.tombstone_of, "cleared")
    elif state.opened:
        for each in state.opened:
            if each.stored is not None:
                await writer.end(each.stored.token.id, "cleared")
                await writer.mark(each.stored, each.principal)
        state.opened = ()
        return True
    return state.status is Status.ROTATED
