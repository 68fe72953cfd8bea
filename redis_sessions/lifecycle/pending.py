"""What is known of a session and a response when it is committed: the facts, and the outcome."""

from __future__ import annotations

from typing import Final

import msgspec

from redis_sessions.errors import ConfigurationError, SessionEncodeError
from redis_sessions.lifecycle.backend import Backend
from redis_sessions.lifecycle.merging import adopt, rotating_keys
from redis_sessions.lifecycle.writer import Writer, deadline
from redis_sessions.session.accepted import Origin
from redis_sessions.session.carryover import storable
from redis_sessions.session.outcome import Answer, Facts, Outcome, decide
from redis_sessions.session.placeholder import Unloaded
from redis_sessions.session.session import Session, state_of
from redis_sessions.session.state import LIVE, NOTHING_WANTED, State, Status, Wanted
from redis_sessions.session.token import SessionToken
from redis_sessions.session.values import EMPTY, pack
from redis_sessions.tracebacks import no_fields, silent_repr

__all__ = ["PLAIN", "PendingCommit", "is_unchanged", "pending_commit", "storable_data"]


def is_unchanged(backend: Backend, session: Session) -> bool:
    """Whether nothing is asked, changed or due, as in most requests.

    It is the first row of the table. Without it, `decide` would answer NOTHING, too; but it needs
    all facts, and to gather them takes longer.
    """
    if session.__class__ is Unloaded:
        return True
    state = state_of(session)
    if state.wanted is not NOTHING_WANTED:
        return False
    try:
        encoded = pack(session)
    except Exception:  # noqa: BLE001 - such as for a type that a hook knows
        try:
            encoded = backend.values.encode(session)
        except SessionEncodeError:
            return False  # the commit raises it, and names the value
    same = encoded == state.base or encoded == state.settled  # noqa: PLR1714 - on each request
    return same and backend.clock() <= state.touch_at


class PendingCommit(msgspec.Struct, eq=False, gc=False):
    """One commit: its facts, its outcome, and the `Writer` that writes it.

    The function of a row takes it, and returns the `Answer`.
    """

    __repr__ = silent_repr
    __rich_repr__ = no_fields

    # Unknown to the collector, as a `Writer`.

    backend: Backend
    state: State
    writer: Writer
    facts: Facts
    outcome: Outcome
    met: Wanted
    """What the application wanted when the commit began. Its tasks may want more meanwhile."""
    carried: bytes
    """The data that go along to a new id, encoded."""
    owner: bytes | None = None
    """Whose data a new anonymous session holds (`Record.owner`). None is nobody's."""
    token: SessionToken | None = None
    """The token of the session that begins with another library's data."""
    origin: Origin | None = None
    """What the session follows that begins here and at a source at once."""
    proves: bool = False
    """Whether the user has signed in here, too, by the same request."""

    @property
    def needs_response(self) -> bool:
        """Whether the browser's token changes. Then `save()` leaves the commit to the response."""
        return self.facts.cleared or self.outcome is Outcome.LOSE or self.outcome.needs_token

    @property
    def methods(self) -> tuple[str, ...]:
        """How the principal proved who they are. What another one has proved doesn't count."""
        met = self.met
        return met.methods if met.whose in (None, self.writer.principal) else ()

    @property
    def aliases(self) -> tuple[str, ...] | None:
        """What `sign_in()` named, unless another one has taken the principal's place since."""
        met = self.met
        return met.aliases if met.whose in (None, self.writer.principal) else None

    def adopt(self, data: bytes, was: bytes = EMPTY, base: bytes = EMPTY) -> None:
        """Make the session's dict these data, as `merging.adopt` explains."""
        writer = self.writer
        writer.encoded = adopt(self.backend, writer.session, writer.encoded, data, was, base)

    def answer(self, outcome: Outcome) -> Answer:
        """The answer with the token that is stored now, and how long the browser keeps it."""
        at = self.writer.at
        left = max(1, at.record.expires_at - self.writer.now)
        return Answer(outcome, at.token, left if at.record.persistent else None)

    def dropped(self, reason: str, id: str | None = None) -> Answer:
        """Report a change that isn't stored. Returns the answer."""
        self.backend.report("dropped", reason, id)
        return Answer(Outcome.DROP)


def pending_commit(
    backend: Backend, session: Session, http_status: int, may_create: bool
) -> PendingCommit:
    """Find the facts about a session, and decide what is to be done."""
    state = state_of(session)
    # From 500 on no change of data is stored.
    encoded = state.base if http_status >= 500 else backend.values.encode(session)
    principal = _principal(backend, session, state, encoded, http_status)
    now = backend.clock()
    writer = Writer(backend, session, state, encoded, principal, int(now), deadline(backend))
    if _is_plain(writer, now):
        facts, outcome = PLAIN, _CHANGE
    else:
        facts = _gather(writer, http_status, may_create)
        outcome = decide(facts)
    return PendingCommit(backend, state, writer, facts, outcome, state.wanted, encoded)


_CHANGE: Final = Outcome.CHANGE
PLAIN: Final = Facts(status=LIVE, http_status=200, changed=True)
"""The facts if data changed, and nothing else."""


def _is_plain(writer: Writer, now: float) -> bool:
    """Whether data changed and nothing else, as in most commits.

    It is the second row of the table, as `is_unchanged` is the first.
    """
    state, stored = writer.state, writer.state.stored
    return (
        state.wanted is NOTHING_WANTED
        and stored is not None
        and state.status is LIVE
        and writer.principal == state.principal
        and writer.encoded != state.base
        and not writer.backend.policy.rotate_on
        and now <= stored.touch_at
    )


def _gather(writer: Writer, http_status: int, may_create: bool) -> Facts:
    """The facts of one commit."""
    state, backend, encoded = writer.state, writer.backend, writer.encoded
    wanted, stored = state.wanted, state.live
    rotates = False
    if stored is None:
        changed = encoded != EMPTY
    else:
        changed = encoded != state.base or wanted.modified
        rotates = changed and bool(rotating_keys(backend.policy, state.base, encoded))
        if wanted.lifetime is not None:
            record = stored.record
            expires_at, _, persistent = writer.lifetime(record.persistent)
            outlives = expires_at > record.expires_at or persistent != record.persistent
            rotates = rotates or outlives
            changed = changed or not outlives
    asks = wanted is not NOTHING_WANTED and state.status is Status.UNAVAILABLE
    return Facts(
        status=state.status,
        http_status=http_status,
        was=state.principal,
        now=writer.principal,
        owned=writer.principal == state.principal
        or not state.is_anothers(writer.principal, backend.keyring),
        cleared=wanted.cleared,
        changed=(changed or asks) and http_status < 500,
        rotates=rotates or (wanted.rotate and stored is not None),
        authenticates=wanted.authenticated and state.stored is not None,
        touch_due=backend.touch_due(state),
        may_create=may_create,
    )


def _principal(
    backend: Backend, session: Session, state: State, encoded: bytes, http_status: int
) -> str | None:
    """Who is signed in by the data that are committed.

    From status 500 on no change is stored but a sign-out. So the data are asked as they are now,
    without the values that can't be encoded.
    """
    if http_status >= 500:
        try:
            return backend.principal.of(storable_data(backend, session))
        except ConfigurationError:
            return state.principal
    stored = EMPTY if state.stored is None else state.stored.data
    if encoded == stored and not state.wanted.cleared:
        return state.principal
    return backend.principal.of(encoded)


def storable_data(backend: Backend, session: Session) -> bytes:
    """The data of a request that failed, encoded. Values that can't be stored are as before."""
    return storable(session, state_of(session).base, backend.values)
