"""From a token and stored bytes to a session, or to the reason why there is none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from redis_sessions.errors import ConfigurationError, CrossSiteError, SessionError, StoreError
from redis_sessions.events import Client, client
from redis_sessions.lifecycle.backend import Backend
from redis_sessions.session.placeholder import ReadOnly, Unloaded, load_into
from redis_sessions.session.record import TOMBSTONE_TTL, Reject, Stored, key_id, rotated_at
from redis_sessions.session.session import Session, new_session, state_of
from redis_sessions.session.state import (
    ANYWHERE,
    LIVE,
    Bound,
    Request,
    State,
    Status,
)
from redis_sessions.session.token import SessionToken, is_token
from redis_sessions.session.values import decode

__all__ = [
    "MAX_TOKENS",
    "Load",
    "Opened",
    "anonymous",
    "belongs",
    "chosen",
    "foreign",
    "is_one",
    "live_session",
    "load_in_turn",
    "new",
    "opened",
    "stored_principal",
    "take_place",
    "telling",
    "tokens_in",
    "unloaded",
    "unseal",
]

MAX_TOKENS: Final = 3
"""How many tokens of one request are tried."""

CLOCKS_DIFFER: Final = 3600
"""By how many seconds a token may seem to be rotated in the future."""

Opened = tuple[Stored | Reject, dict[Any, Any]]
"""The record and its decoded data; or the reason why the token opens nothing, and no data."""

Load = Callable[..., Awaitable[Session]]
"""`SessionManager.load`, which a subclass may have replaced."""


def tokens_in(backend: Backend, texts: Sequence[str]) -> Sequence[SessionToken]:
    """The well-formed tokens among what a client sent, each one once. Others are reported."""
    tokens: list[SessionToken] = []
    for text in texts:
        token = SessionToken.parse(text)
        if token is not None:
            tokens.append(token)
    if len(tokens) < len(texts):
        backend.report("rejected", "malformed token", by=client.get())
    return list(dict.fromkeys(tokens))[:MAX_TOKENS] if len(tokens) > 1 else tokens


def is_one(texts: Sequence[str]) -> bool:
    """Whether a client has sent a well-formed token, and nothing besides."""
    return len(texts) == 1 and is_token(texts[0]) is not None


def chosen(backend: Backend, found: Sequence[Session], bound: Bound) -> Session:
    """The session of a request that brought no token, or several.

    `found` has a session for each well-formed token: an empty one if the token opens nothing.

    There are four cases:

    1. No token is well-formed. The session is new.
    2. One token opens a session. It is this one.
    3. More than one opens a session. None counts, since nobody knows which is meant.
    4. None opens one. The session is new, and its status is that of a token that was replaced
       or ended a moment ago, if there is one.
    """
    if not found:
        return new(backend, bound)
    live = [session for session in found if state_of(session).status is LIVE]
    if len(live) > 1:
        backend.report("rejected", "several tokens open a session", by=client.get())
        none = new(backend, bound, Status.STALE)
        state_of(none).opened = tuple(map(state_of, live))
        return none
    if live:
        state = state_of(live[0])
        if state.stored is not None:
            state.request.tokens = (state.stored.token.value,)
        return live[0]
    crossed = (Status.SUPERSEDED, Status.ROTATED)
    return next((s for s in found if state_of(s).status in crossed), found[0])


def opened(backend: Backend, token: SessionToken, sealed: bytes | None, bound: Bound) -> Session:
    """The session that the token opens in these stored bytes, or a new, empty one."""
    stored, data = unseal(backend, token, sealed, bound)
    request = Request(backend.timer(), bound)
    if not isinstance(stored, Stored):
        state = State(refuse(backend, stored, token, sealed), request)
        if stored is Reject.TOMBSTONE:
            state.tombstone_of = token.id
        return new_session(data, state, backend.services)
    return live_session(backend, stored, data, stored_principal(backend, data), request)


def stored_principal(backend: Backend, data: dict[Any, Any]) -> str | None:
    """Who is signed in by these data, which were stored."""
    try:
        principal = backend.principal.find(data)
    except ConfigurationError as exc:  # the next commit raises it, a read doesn't
        backend.reporter.warn_once("stored principal", "a stored session has no principal: %s", exc)
        principal = None
    if principal is not None:
        backend.reporter.warned.add("principal")
    return principal


def live_session(
    backend: Backend, stored: Stored, data: dict[Any, Any], principal: str | None, request: Request
) -> Session:
    """The session of a record that was opened."""
    state = State(
        LIVE,
        request,
        data,
        stored=stored,
        base=stored.data,
        principal=principal,
        touch_at=stored.touch_at,
    )
    return new_session(data, state, backend.services)


def unseal(backend: Backend, token: SessionToken, sealed: bytes | None, bound: Bound) -> Opened:
    """The record that the token opens, with its data, or the reason why it opens none.

    It checks the seal, the time and the binding.
    """
    if sealed is None:
        return Reject.UNKNOWN, {}
    stored = backend.sealer.open(token, sealed)
    if not isinstance(stored, Stored):
        return stored, {}
    if backend.clock() >= stored.ends:
        return Reject.EXPIRED, {}
    mark = stored.record.binding
    if mark is not None and not belongs(backend, mark, bound):
        if backend.policy.on_binding_mismatch == "reject":
            return Reject.BOUND, {}
        whose = _whose(backend, token, sealed) if backend.reporter.personal else None
        backend.report("bound_elsewhere", None, token.id, whose, client.get())
    try:
        return stored, decode(stored.data)
    except ValueError:
        return Reject.CONTENT, {}


def refuse(
    backend: Backend,
    why: Reject,
    token: SessionToken,
    sealed: bytes | None,
    by: Client | None = None,
) -> Status:
    """Report why a token opens nothing. Returns the status of the empty session."""
    whose = _whose(backend, token, sealed) if backend.reporter.personal else None
    backend.report("rejected", why, token.id, whose, by or client.get())
    status = _status(backend, why, sealed or b"")
    if why in (Reject.KEY, Reject.FORMAT) and status is Status.SUPERSEDED:  # not a dropped key's
        backend.reporter.warn_once(
            "foreign",
            "sessions: a browser sent the token of a session that is stored under %r with "
            "another secret key. Does another application on this host use the same cookie? "
            "Cookies ignore ports: give one of them its own session_cookie= and prefix=. If "
            "there is no other, give all processes of this one the same secret_key=",
            backend.store.prefix,
        )
    return status


def _whose(backend: Backend, token: SessionToken, sealed: bytes | None) -> str | None:
    """Whose session this is, if the token opens it: it has expired, or is bound elsewhere."""
    stored = None if sealed is None else backend.sealer.open(token, sealed)
    if not isinstance(stored, Stored):
        return None
    try:
        return stored_principal(backend, decode(stored.data))
    except ValueError:
        return None


def _status(backend: Backend, why: Reject, sealed: bytes) -> Status:
    """The status of the empty session for a token that opens nothing.

    There are four cases:

    1. The record was sealed with a key that was dropped. The session may be replaced: STALE.
    2. It was sealed by another deployment, with an unknown key or in an unknown format; or there
       is a tombstone, and the browser was told of the end. Nothing may replace it: SUPERSEDED.
    3. The secret is another one, and the record was rotated a moment ago: ROTATED.
    4. Anything else: STALE.
    """
    rotated = rotated_at(sealed)
    if why is Reject.KEY and backend.keyring.is_dropped(key_id(sealed)):
        return Status.STALE
    # A tombstone is recent, since it is there. One with zero says that the browser wasn't told.
    if why in (Reject.KEY, Reject.FORMAT) or (why is Reject.TOMBSTONE and rotated != 0):
        return Status.SUPERSEDED
    recent = -CLOCKS_DIFFER <= backend.clock() - rotated <= TOMBSTONE_TTL
    return Status.ROTATED if why is Reject.SEAL and recent else Status.STALE


def belongs(backend: Backend, mark: bytes, bound: Bound) -> bool:
    """Whether a request that is bound to this may open a session with this mark."""
    return bound is ANYWHERE or (isinstance(bound, str) and backend.keyring.bound(mark, bound))


# -- what stands in for a session


def new(backend: Backend, bound: Bound, status: Status = Status.NEW) -> Session:
    """A new, empty session."""
    state = State(status, Request(backend.timer(), bound))
    return new_session({}, state, backend.services)


def unloaded(
    backend: Backend, tokens: Sequence[str], why: SessionError, bound: Bound = None
) -> Session:
    """A placeholder that raises `why` when it is used. Its `refresh()` loads the session."""
    status = Status.UNAVAILABLE if isinstance(why, StoreError) else Status.UNLOADED
    request = Request(backend.timer(), bound, tokens)
    return Unloaded(State(status, request, why=why), backend.services)


def anonymous(backend: Backend, why: StoreError) -> Session:
    """An empty session for when the store is away. It can be read, but not stored."""
    state = State(Status.UNAVAILABLE, Request(backend.timer()), why=why)
    return new_session({}, state, backend.services)


def foreign(backend: Backend, why: CrossSiteError) -> Session:
    """An empty session for a request that another origin caused. To write it raises `why`."""
    state = State(Status.FOREIGN, Request(backend.timer()), why=why)
    return ReadOnly(state, backend.services)


def telling(load: Load, by: Client) -> Load:
    """`load`, with the client in the events of what it rejects."""

    async def load_for(*arguments: Any, **named: Any) -> Session:
        before = client.set(by)
        try:
            return await load(*arguments, **named)
        finally:
            client.reset(before)

    return load_for


async def load_in_turn(session: Session, load: Load) -> None:
    """Turn a placeholder into the session that it stands for, unless another task has done so."""
    state = state_of(session)
    if state.turn:
        await state.others()
        if session.__class__ is not Unloaded:
            return
    state.turn = True
    try:
        await _load_unloaded(session, state, load)
    finally:
        state.end_turn()


async def _load_unloaded(session: Session, state: State, load: Load) -> None:
    try:
        loaded = await load(state.request.tokens, bound=state.request.bound)
    except StoreError as exc:
        state.why, state.status = exc, Status.UNAVAILABLE
        raise
    take_place(session, loaded)


def take_place(session: Session, loaded: Session) -> None:
    """Turn a placeholder into the session that was loaded for it."""
    fresh = state_of(loaded)
    before, request = state_of(session).request, fresh.request
    request.context, request.late, request.began = before.context, before.late, before.began
    request.revocations = before.revocations
    load_into(session, loaded, fresh)
    if before.untouched:
        fresh.leave_untouched()
    if request.context is not None:
        request.context.loaded(fresh.stored)
        if request.late:
            request.context.opened().loaded()
