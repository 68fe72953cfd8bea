"""The commit of one request's session.

It has three steps. `PendingCommit` gathers the facts. `outcome.decide` finds the row of the table.
The function of this row, in `in_place`, `new_id` or `ending`, carries it out.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace
from typing import Final

from redis_sessions.errors import (
    SessionError,
    SessionGoneError,
    StoreUnavailableError,
    raise_if_short,
)
from redis_sessions.events import logger
from redis_sessions.lifecycle import accepting, ending, in_place, new_id
from redis_sessions.lifecycle.backend import Backend
from redis_sessions.lifecycle.merging import rotating_keys
from redis_sessions.lifecycle.pending import PendingCommit, is_unchanged, pending_commit
from redis_sessions.lifecycle.sharing import carry_out_shared
from redis_sessions.session.outcome import NOTHING, Answer, Outcome
from redis_sessions.session.placeholder import Unloaded
from redis_sessions.session.session import Session, state_of
from redis_sessions.session.state import NOTHING_WANTED, Status
from redis_sessions.session.values import EMPTY
from redis_sessions.tracebacks import strip

__all__ = ["commit", "save"]

# If too few replicas have a write, the answer is sent all the same in these rows. A touch may be
# lost. After a rotation the old token opens nothing, so the browser has to get the new one. Of a
# sign-in only the end of the anonymous session can be on too few. In all other rows the answer is a
# 503 that leaves the cookie as it is, so that for example a sign-out can be tried again.
_SENT_ALL_THE_SAME: Final = (
    Outcome.TOUCH,
    Outcome.ROTATE,
    Outcome.REAUTHENTICATE,
    Outcome.GAIN,
)

_STORES_NO_DATA: Final = (Outcome.NOTHING, Outcome.TOUCH)

_SIGN_INS: Final = (Outcome.GAIN, Outcome.SWITCH, Outcome.REAUTHENTICATE)


async def commit(backend: Backend, session: Session, http_status: int, may_create: bool) -> Answer:
    """What `SessionManager.commit()` does."""
    try:
        state = state_of(session)
        request = state.request
        if request.compared:
            request.compared = False
        elif is_unchanged(backend, session):
            return NOTHING
        if state.turn:
            await state.others()
        state.turn = True
        try:
            pending = pending_commit(backend, session, http_status, may_create)
            answer = _conclude(pending, await _begin(pending))
        finally:
            state.end_turn()
        # Not after each change: others come as often as a touch is due.
        if http_status < 500 and (answer is not in_place.CHANGED or pending.facts.touch_due):
            await backend.afterwards()
    except BaseException as exc:
        strip(exc)
        raise
    return answer


async def save(backend: Backend, session: Session) -> None:
    """What `await session.save()` does."""
    state = state_of(session)
    if isinstance(session, Unloaded):
        raise state.missing()
    if state.turn:
        await state.others()
    state.turn = True
    deferred = None
    try:
        if not state.request.late:
            # What needs a new token waits for the response. The rest is stored now.
            deferred, state.wanted = state.wanted.deferred()
        pending = pending_commit(backend, session, 200, True)
        if deferred is not None and pending.needs_response:
            return
        answer = _conclude(pending, await _begin(pending))
    except StoreUnavailableError:  # the data may be stored in spite of it
        backend.hold_all(session)
        raise
    finally:
        if deferred is not None:
            state.want_again(deferred)
        state.end_turn()
    if answer.outcome is Outcome.DROP:
        raise SessionGoneError("the session ended or was rotated elsewhere; nothing was saved")


def _begin(pending: PendingCommit) -> Awaitable[Answer]:
    """Check what is to be stored, and begin the row of the table. It waits nowhere."""
    state, writer, outcome = pending.state, pending.writer, pending.outcome
    if pending.facts.http_status < 500 and outcome not in _STORES_NO_DATA:
        before = EMPTY if state.stored is None else state.stored.data
        pending.backend.values.check(writer.encoded, before)
        if "principal" not in pending.backend.reporter.warned:
            pending.backend.warn_of_suspects(writer.session, writer.principal)
    if not pending.backend.accepts:  # no other libraries' sessions
        return _clear(pending) if pending.facts.cleared else _carry_out(pending, outcome)
    sources = pending.state.sources
    if sources is not None and sources.sharing is not None:
        return carry_out_shared(pending, _begin_alone)
    return _begin_alone(pending)


def _begin_alone(pending: PendingCommit) -> Awaitable[Answer]:
    """Begin the row. Of other libraries' sessions it knows which are accepted, and which end."""
    if pending.state.accepted is not None:
        return accepting.begin(pending, _cleared_or_carried_out)
    return accepting.end_others(pending, _cleared_or_carried_out)


def _cleared_or_carried_out(pending: PendingCommit) -> Awaitable[Answer]:
    return _clear(pending) if pending.facts.cleared else _carry_out(pending, pending.outcome)


def _conclude(pending: PendingCommit, answer: Answer) -> Answer:
    """It is carried out; from now on the session is like one that was just loaded."""
    state, writer, met = pending.state, pending.writer, pending.met
    state.settled = writer.encoded
    if state.wanted is not NOTHING_WANTED or met is not NOTHING_WANTED:
        lifetime = state.wanted.lifetime
        state.wanted = state.wanted.without(met)
        if lifetime is not None and state.status in (Status.NEW, Status.STALE):
            state.want(lifetime=lifetime)  # for the session that may begin later
    if writer.shortfall is not None:
        if pending.facts.cleared or pending.outcome not in _SENT_ALL_THE_SAME:
            raise_if_short(writer.shortfall)
        logger.warning("sessions: %s", writer.shortfall)
        pending.backend.report("unavailable", "replication", writer.at.token.id)
    if answer.token is not None and answer.outcome in _SIGN_INS:
        outcome, id = answer.outcome.name.lower(), answer.token.id
        pending.backend.report("signed_in", outcome, id, writer.principal, state.peer)
    if pending.backend.observer is not None:
        pending.backend.observer.on_commit(answer.outcome)
    return answer


def _carry_out(pending: PendingCommit, outcome: Outcome) -> Awaitable[Answer]:
    """Call the function of this row of the table."""
    if pending.state.request.late and outcome.needs_token:
        keys = rotating_keys(pending.backend.policy, pending.state.base, pending.writer.encoded)
        rotates = f"; rotate_on= rotates for a change of {keys[0]!r}" if keys else ""
        raise SessionError(
            "the response has started, so the browser can't learn a new token "
            f"({outcome.value}): sign in, rotate or begin a session before it starts{rotates}"
        )
    match outcome:
        case Outcome.CHANGE:
            return in_place.change(pending)
        case Outcome.TOUCH:
            return in_place.touch(pending)
        case Outcome.ROTATE | Outcome.REAUTHENTICATE:
            return in_place.rotate(pending, outcome)
        case Outcome.CREATE:
            return new_id.create(pending, outcome, pending.writer.encoded, pending.owner)
        case Outcome.GAIN:
            return new_id.gain(pending)
        case Outcome.SWITCH:
            return new_id.switch(pending)
        case Outcome.LOSE:
            return ending.lose(pending)
        case Outcome.REFUSE:
            return _refuse(pending)
        case Outcome.DROP:
            return _drop(pending)
        case Outcome.NOTHING | Outcome.CLEAR:
            return _do_nothing()


async def _refuse(pending: PendingCommit) -> Answer:
    state = pending.state
    why = state.why
    if state.status is Status.FOREIGN:
        state.raise_as_seen(state.missing())
    reason = why.reason if isinstance(why, StoreUnavailableError) else "connection"
    raise StoreUnavailableError(f"the session can't be stored: {why}", reason=reason) from why


async def _drop(pending: PendingCommit) -> Answer:
    anybodys = pending.state.status in (Status.NEW, Status.STALE)
    return pending.dropped("no session begins here" if anybodys else "superseded token")


async def _do_nothing() -> Answer:
    return NOTHING


async def _clear(pending: PendingCommit) -> Answer:
    """Carry out `clear()`: end the session, and then the outcome for what was written after it."""
    outcome = pending.outcome
    ending.prepare_new_session(pending)
    expire = await ending.end_what_was_loaded(pending)
    if expire is None and outcome is not Outcome.GAIN:
        # Another request ended it, and its answer decides what the browser holds.
        pending.state.status = Status.SUPERSEDED
        outcome = Outcome.NOTHING if outcome is Outcome.NOTHING else Outcome.DROP
    answer = await _carry_out(pending, outcome)
    if answer.token is not None:
        was, now = pending.facts.was, pending.facts.now
        ended = expire if now is None else was not in (None, now)
        return replace(answer, cleared=True) if ended else answer
    if not expire or pending.state.request.late:
        return answer
    return Answer(Outcome.CLEAR if outcome is Outcome.NOTHING else outcome, expire=True)
