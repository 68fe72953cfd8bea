"""What a response owes the session: one pure function from facts to a named outcome.

The rows of the table, the first that applies decides; `docs/concepts.md` explains them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

import msgspec
from msgspec.structs import replace

from redis_sessions.session.state import LIVE, UNAVAILABLE, Status
from redis_sessions.session.token import SessionToken

__all__ = ["NOTHING", "Answer", "Facts", "Outcome", "decide"]


class Outcome(Enum):
    """What is done about the session of one request."""

    NOTHING = "nothing"
    CLEAR = "ended, and nothing came after"
    TOUCH = "its time is renewed"
    CHANGE = "committed in place; no cookie"
    CREATE = "a new anonymous session, under a new id"
    ROTATE = "in place: same id, new secret"
    REAUTHENTICATE = "in place: same id, new secret, the lifetime restarts"
    LOSE = "signed out: ended, what is left goes on under a new id"
    GAIN = "signed in: under a new id with all the data, then the anonymous id is ended"
    SWITCH = "signed in over another's data: a new id with this request's keys, the old one ended"
    DROP = "a change that is not stored, and reported"
    REFUSE = "a change that can't be stored: the store is away"

    @property
    def needs_token(self) -> bool:
        """Whether the browser has to learn a new token for this to make sense."""
        return self in _NEED_TOKEN


_NEED_TOKEN = frozenset(
    {Outcome.CREATE, Outcome.ROTATE, Outcome.REAUTHENTICATE, Outcome.GAIN, Outcome.SWITCH}
)


class Facts(msgspec.Struct, kw_only=True):
    """All that the decision depends on."""

    status: Status
    """The session's."""
    http_status: int
    """The response's."""
    was: str | None = None
    """The principal that was loaded."""
    now: str | None = None
    """The principal that is set now."""
    owned: bool = True
    """Whether what the session holds belongs to nobody, or to `now`."""
    cleared: bool = False
    changed: bool = False
    """Whether the data changed; of a session that isn't stored, whether there are any."""
    rotates: bool = False
    """`rotate()`, or an `expire_in()` whose cookie has to go out."""
    authenticates: bool = False
    touch_due: bool = False
    may_create: bool = True
    """False for a cross-site unsafe request."""


def decide(facts: Facts) -> Outcome:
    """What is done about a session; if it was cleared, about what was written after `clear()`."""
    return _judge(_as_new(facts) if facts.cleared else facts)


def _as_new(facts: Facts) -> Facts:
    """What was written after `clear()` is judged as a new session."""
    return replace(
        facts,
        status=facts.status if facts.status in _NOT_OURS else Status.NEW,
        was=None,
        owned=True,
        rotates=False,
        authenticates=False,
        touch_due=False,
    )


def _judge(f: Facts) -> Outcome:
    if f.status is UNAVAILABLE:
        wanted = f.changed or f.cleared or f.rotates or f.authenticates
        return Outcome.REFUSE if wanted and f.http_status < 500 else Outcome.NOTHING
    loaded = f.status is LIVE or f.status is Status.GONE
    if f.was is not None and f.now is None and loaded:
        return Outcome.LOSE
    if f.now is not None and f.now != f.was:
        if f.http_status >= 400:
            return Outcome.NOTHING
        return Outcome.GAIN if f.was is None and f.owned else Outcome.SWITCH
    if loaded and f.authenticates and f.now is not None and f.http_status < 400:
        return Outcome.REAUTHENTICATE
    if f.status is not LIVE:
        if not f.changed or f.http_status >= 500:
            return Outcome.NOTHING
        return Outcome.CREATE if f.status in _NOBODYS and f.may_create else Outcome.DROP
    if (f.rotates or (f.authenticates and f.now is None)) and f.http_status < 500:
        return Outcome.ROTATE
    if f.changed and f.http_status < 500:
        return Outcome.CHANGE
    return Outcome.TOUCH if f.touch_due else Outcome.NOTHING


_NOBODYS = (Status.NEW, Status.STALE)
_NOT_OURS = (Status.SUPERSEDED, Status.ROTATED, Status.UNAVAILABLE)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request's session, and what the browser is told about its token."""

    outcome: Outcome
    token: SessionToken | None = None
    """To be sent; None: the browser keeps what it has, unless `expire`."""
    max_age: int | None = None
    """Seconds; None: until the browser is closed."""
    expire: bool = False


NOTHING: Final = Answer(Outcome.NOTHING)
