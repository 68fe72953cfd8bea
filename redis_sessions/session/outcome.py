"""What is done about the session of a request: one pure function from facts to an outcome.

For example, if nobody was signed in and now somebody is, the outcome is GAIN. `decide` goes through
the rows of a table, and the first row that applies decides. `docs/concepts.md` has this table as a
user sees it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

import msgspec
from msgspec.structs import replace

from redis_sessions.session.state import LIVE, UNAVAILABLE, Status
from redis_sessions.session.token import SessionToken
from redis_sessions.tracebacks import no_fields, silent_repr

__all__ = ["NOTHING", "Answer", "Facts", "Outcome", "decide"]


class Outcome(Enum):
    """What is done about the session of one request. Error messages show the values."""

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
    REFUSE = "a change that can't be stored: the store is away, or another origin caused it"

    @property
    def needs_token(self) -> bool:
        """Whether the browser has to get a new token."""
        return self in _NEED_TOKEN


_NEED_TOKEN = frozenset(
    {Outcome.CREATE, Outcome.ROTATE, Outcome.REAUTHENTICATE, Outcome.GAIN, Outcome.SWITCH}
)


_END_SESSION = (Outcome.LOSE, Outcome.SWITCH)


class Facts(msgspec.Struct, kw_only=True, gc=False):
    """All that the decision depends on. `lifecycle/pending.py` gathers it."""

    __repr__ = silent_repr
    __rich_repr__ = no_fields

    status: Status
    """The status of the session."""
    http_status: int
    """The status code of the response."""
    was: str | None = None
    """The principal by the data that are stored. None is nobody."""
    now: str | None = None
    """The principal by the data as they are now. None is nobody."""
    owned: bool = True
    """Whether the stored data belong to nobody, or to the principal `now`."""
    cleared: bool = False
    """Whether `clear()` was called."""
    changed: bool = False
    """Whether there is something to store.

    If nothing is stored yet, these are any data. Otherwise they are data that differ from the
    stored ones, a `mark_modified()`, or an `expire_in()` of which the cookie needn't know. From
    status 500 on there is nothing to store.
    """
    rotates: bool = False
    """Whether `rotate()` was called, an `expire_in()` of which the cookie has to know, or a key of
    `rotate_on=` changed."""
    authenticates: bool = False
    """Whether `authenticated()` or `sign_in()` was called, and a session is stored."""
    touch_due: bool = False
    """Whether the session's time is to be renewed."""
    may_create: bool = True
    """Whether an anonymous session may begin. An unsafe request of another site begins none."""


def decide(facts: Facts) -> Outcome:
    """The outcome for these facts.

    A session that was cleared ends in any case. The outcome is then for what was written after
    `clear()`.
    """
    return _judge(_as_new(facts) if facts.cleared else facts)


def _as_new(facts: Facts) -> Facts:
    """The same facts, for what was written after `clear()`: it is judged as a new session."""
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
    """The table: each `return` is a row, and the first one that applies decides."""
    if f.status is UNAVAILABLE or f.status is Status.FOREIGN:
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
"""The browser's token names no session, so that a new one may begin."""
_NOT_OURS = (Status.SUPERSEDED, Status.ROTATED, Status.UNAVAILABLE, Status.FOREIGN)
"""No session may begin: another request decided what the browser holds, the store is away, or
another origin caused the request."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request's session, and what the browser is told about its token."""

    outcome: Outcome
    token: SessionToken | None = None
    """The new token. None: the browser gets none."""
    max_age: int | None = None
    """For how many seconds the browser keeps the token. None: until it is closed."""
    expire: bool = False
    """Whether the browser forgets its token. If this is False, and `token` None, it keeps it."""
    cleared: bool = False
    """Whether the token is that of what began after a `clear()`, which had ended another session.

    It is False if nobody was signed in and somebody is now, or if it is the same user."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """What the response has besides: another library's cookie expires."""

    @property
    def ends_session(self) -> bool:
        """Whether what the browser keeps of the session that ended is no longer for its user."""
        return self.expire or self.cleared or self.outcome in _END_SESSION


NOTHING: Final = Answer(Outcome.NOTHING)
