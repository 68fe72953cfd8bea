"""Sessions that are shared with another library's: what changes here is stored there, too.

A source says which keys are shared (`State.shared` has their values as they are there). If the
principal's key is one of them, a sign-in here begins a session there, under a new id.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final

from redis_sessions.errors import StoreError, StoreUnavailableError
from redis_sessions.lifecycle import accepting
from redis_sessions.lifecycle.pending import PendingCommit
from redis_sessions.session.accepted import Origin
from redis_sessions.session.outcome import Answer, Outcome
from redis_sessions.session.values import changes, split

__all__ = ["carry_out_shared"]

_SIGN_INS: Final = (Outcome.GAIN, Outcome.SWITCH)
_CHANGE_NOTHING: Final = (Outcome.NOTHING, Outcome.DROP, Outcome.REFUSE)
_STORE_NOTHING: Final = (*_CHANGE_NOTHING, Outcome.CLEAR)

CarryOut = Callable[[PendingCommit], Awaitable[Answer]]


async def carry_out_shared(pending: PendingCommit, carry_out: CarryOut) -> Answer:
    """Carry out a commit. Then store at the source which shared keys the request has changed.

    If that fails, the error is raised: the request fails, although its session is stored here. The
    next request reads what the source has.
    """
    state, facts = pending.state, pending.facts
    sharing = None if state.sources is None else state.sources.sharing
    assert sharing is not None
    old = _followed(pending)
    before, mine = state.shared, pending.writer.encoded
    came = state.accepted
    accepted = None if came is None else came.principal
    signs_in = facts.now is not None and facts.now not in (facts.was, accepted)
    begins = pending.outcome in _SIGN_INS if signs_in else _begins_alone(pending)
    if begins and not state.request.late:
        pending.origin = sharing.new(mine, facts.now)
    answer = await carry_out(pending)
    stored = state.live
    origin = None if stored is None else stored.record.origin
    if answer.outcome in _STORE_NOTHING or facts.http_status >= 500:
        pass
    elif stored is not None and origin is not None and origin == pending.origin:
        anonymous = old if pending.outcome is Outcome.GAIN else None
        try:
            headers = await sharing.begin(origin, stored, anonymous)
            if came is not None and await accepting.was_ended(pending.backend, stored.token.id):
                # Another request has signed out meanwhile.
                await accepting.end_at_source(pending, origin)
                raise StoreUnavailableError("the new session was ended before it began")
        except BaseException:
            with suppress(StoreError):  # nobody gets its token
                await pending.writer.end(stored.token.id, "not shared")
            raise
        answer = replace(answer, headers=(*answer.headers, *headers))
        if old is not None:
            await accepting.end_at_source(pending, old)
        return answer
    elif stored is not None and origin is not None and origin.id and before is not None:
        try:
            whose = pending.backend.principal.of(mine)
            await sharing.write(origin, changes(split(before), split(mine)), whose)
        except BaseException:
            if came is not None:  # nobody gets its token, so it may be accepted again
                with suppress(StoreError):
                    await pending.writer.end(stored.token.id, "not shared")
                    await accepting.forget(pending.backend, [came.context], stored.token.id)
            raise
        state.shared = sharing.shared_data(origin.source, mine)
    # A request that has stored nothing ends nothing at the source. For example, of a page's first
    # requests only one stores a session.
    goes_on = state.accepted is not None or (
        came is None and answer.outcome in _CHANGE_NOTHING and not facts.cleared
    )
    if old is not None and not goes_on and (origin is None or origin.id != old.id):
        answer = replace(answer, headers=(*answer.headers, *sharing.expiry(old)))
    return answer


def _begins_alone(pending: PendingCommit) -> bool:
    """Whether a session begins that is nobody's, and the browser has none elsewhere."""
    state = pending.state
    return pending.outcome is Outcome.CREATE and state.accepted is None and state.shared is None


def _followed(pending: PendingCommit) -> Origin | None:
    """The foreign session that the loaded one follows, or whose data it holds."""
    state = pending.state
    if state.accepted is not None:
        return state.accepted.origin(None)
    for each in (state, *state.opened):
        if each.stored is not None and each.stored.record.origin is not None:
            return each.stored.record.origin
    return None
