"""A session of another library becomes one of ours. This happens once, even if ours ends later.

A marker says that the foreign session was accepted. Without a marker, a user who signed out here
would be signed in again by the foreign cookie, which may live on. The marker is stored under
`{prefix}accepted:{32 hex}`, and before our session is. If several requests come at once, the one
that stores the marker goes on. The marker holds the id of our session, sealed. If the user has
signed out of the foreign session, it holds no id. If the request signs in, and a session began at
a source together with ours, the marker names it, too. So a sign-out by another request ends both.

The marker's name is a digest of the foreign session's id. The digest uses no key, so that the
marker is found also when the secret key has been replaced. The foreign id is random or signed, so
nobody guesses it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from hashlib import blake2b
from typing import Final, NamedTuple

from redis_sessions.errors import SessionGoneError, StoreUnavailableError
from redis_sessions.lifecycle.backend import Backend
from redis_sessions.lifecycle.pending import PendingCommit
from redis_sessions.session.accepted import Accepted, Origin
from redis_sessions.session.context import Headers
from redis_sessions.session.outcome import NOTHING, Answer, Outcome
from redis_sessions.session.record import TOMBSTONE_TTL, is_tombstone, version
from redis_sessions.session.state import LONGEST, Status
from redis_sessions.session.token import SessionToken
from redis_sessions.session.values import EMPTY
from redis_sessions.stores.protocols import Commit

__all__ = [
    "Marker",
    "begin",
    "end_at_source",
    "end_others",
    "forget",
    "has_ended",
    "is_under_way",
    "marker",
    "marker_name",
    "note",
    "was_ended",
]

_PURPOSE: Final = b"rs-accepted"
_CLAIM: Final = 1000 * (TOMBSTONE_TTL - 1)
"""How many milliseconds a marker lives while our session isn't stored yet.

If our session can't be stored, a later request may try again when the marker has expired. Until
then other requests read the foreign session (`is_under_way`), which they may for a second longer.
So no request in between finds the user signed out.
"""
_ATTEMPTS: Final = 5
_FREE: Final = "-"
"""Stands in the place of our session's id. The foreign session may be accepted again."""

_BEGINS: Final = (Outcome.GAIN, Outcome.CREATE, Outcome.SWITCH)

CarryOut = Callable[[PendingCommit], Awaitable[Answer]]


class Marker(NamedTuple):
    """What is stored about a foreign session that was accepted."""

    id: str
    """The id of our session. Empty: the user signed out before there was one."""
    at: int
    """When it was stored, in seconds since the epoch. 0: the key that sealed it was removed."""
    begun: Origin | None = None
    """The session that began at a source together with ours, since the request signed in."""


def marker_name(context: str) -> str:
    """The id under which the marker of this foreign session is stored."""
    digest = blake2b(context.encode("utf-8", "surrogatepass"), digest_size=16, person=_PURPOSE)
    return f"accepted:{digest.hexdigest()}"


async def marker(backend: Backend, accepted: Accepted) -> Marker | None:
    """The marker, if there is one."""
    stored = await backend.store.load(accepted.name)
    found = None if stored is None else _opened(backend, accepted, stored)
    if found is not None and stored is not None and found.id == _FREE:
        accepted.replaces, found = version(stored), None
    return found


async def has_ended(backend: Backend, found: Marker, whose: str | None) -> bool:
    """Whether the session that was made of it was signed out, or revoked."""
    if not found.at:  # no key opens the marker, so nobody knows
        return False
    return not found.id or (
        whose is not None and await backend.index.has_ended(whose, found.id, found.at * 1000)
    )


async def is_under_way(backend: Backend, found: Marker, whose: str | None) -> bool:
    """Whether another request has accepted it a moment ago, so that this one may read it, too.

    A page's first requests come together, and only the response to one of them has our cookie.
    """
    if backend.clock() - found.at > TOMBSTONE_TTL or await has_ended(backend, found, whose):
        return False
    return not await was_ended(backend, found.id)  # True also if it isn't stored yet


async def begin(pending: PendingCommit, carry_out: CarryOut) -> Answer:
    """Carry out the commit of a session whose data come from another library's.

    There are five cases:

    1. The data still belong to the same user, or to nobody, and a session of ours begins with
       them. No other request begins one with them.
    2. As in case 1, but another request was faster. Nothing is stored.
    3. As in case 2, but the user has signed in here. That is carried out as any other sign-in.
    4. The request signs out, or signs somebody else in. Nobody is signed in by the foreign session
       from now on. What else the request does is carried out.
    5. No session begins, since the response is a failure, or has started. The next request tries
       again.
    """
    state, accepted, facts = pending.state, pending.state.accepted, pending.facts
    if accepted is None:
        raise RuntimeError("nothing is accepted")
    whose = accepted.principal
    signs_out = facts.now is None or (facts.now != whose and facts.http_status < 400)
    if (whose is not None and signs_out) or (facts.cleared and not accepted.follows_end):
        return await _sign_out(pending, accepted, carry_out)
    begins = pending.outcome in _BEGINS and not state.request.late
    proves = pending.proves = _signs_in(pending)
    if accepted.taken is None and not begins:
        if state.request.late:  # the application has changed data, and learns that it is too late
            reports = pending.writer.encoded != accepted.data
        else:  # another site's unsafe request begins no anonymous session; or ours has ended
            reports = pending.outcome is Outcome.DROP or facts.cleared
        return await carry_out(pending) if reports else NOTHING
    if accepted.taken is None:
        pending.token = token = SessionToken.generate()
        answer = await _accept(pending, accepted, token, carry_out)
        if answer is not None:
            state.accepted = None
            pending.backend.report("accepted", accepted.source, token.id, whose, state.peer)
            return replace(answer, headers=accepted.headers)
        pending.token = None
    if proves and begins:
        answer = await carry_out(pending)
        state.accepted = None
        return answer
    state.status = Status.SUPERSEDED
    if accepted.stays_open:
        raise SessionGoneError("another request has accepted this session: connect again")
    if pending.writer.encoded == accepted.data or facts.http_status >= 500:
        return NOTHING
    return pending.dropped("accepted meanwhile")


def _signs_in(pending: PendingCommit) -> bool:
    """Whether the application has said itself who is signed in, and hasn't only found it."""
    if pending.met.authenticated:
        return True
    assigned = pending.state.origins.assigned
    return bool(assigned and pending.backend.principal.keys(assigned).intersection(assigned))


async def _accept(
    pending: PendingCommit, accepted: Accepted, token: SessionToken, carry_out: CarryOut
) -> Answer | None:
    """Store the marker for a short time, then the session, then the marker for a long time.

    Returns None if another request was faster.
    """
    writer, name = pending.writer, accepted.name
    value = _sealed(pending, accepted, token.id)
    if await writer.commit(name, accepted.replaces, value, _CLAIM) is not Commit.STORED:
        found = await marker(pending.backend, accepted)
        accepted.taken = "" if found is None else found.id
        return None
    answer = await carry_out(pending)
    kept = Commit.CONFLICT
    try:
        kept = await writer.commit(name, version(value), value, accepted.ttl)
    finally:
        if kept is not Commit.STORED:  # it was signed out of, or no later request could know that
            await writer.end(token.id, "signed out")
    if kept is not Commit.STORED:  # another request has signed out meanwhile
        raise StoreUnavailableError("the new session was ended before it began")
    return answer


async def _sign_out(pending: PendingCommit, accepted: Accepted, carry_out: CarryOut) -> Answer:
    """Note that the foreign session was signed out of, and carry out what the request does."""
    state, whose = pending.state, accepted.principal
    await _sign_out_of(pending, accepted)
    if whose is not None and pending.outcome is Outcome.CREATE:
        pending.owner = pending.backend.keyring.primary.owner(whose)
    if state.request.late and pending.outcome.needs_token:
        answer = pending.dropped("signed out late")
    else:
        answer = await carry_out(pending)
    state.accepted = None
    if state.stored is None:
        state.base = EMPTY
    if accepted.id:
        await end_at_source(pending, accepted.origin(None))
    return replace(answer, headers=accepted.headers)


async def _sign_out_of(pending: PendingCommit, accepted: Accepted) -> None:
    """End the session that another request has made of a foreign one, and note it in the marker.

    In the other order, a sign-out that fails in between couldn't be tried again: nothing would name
    the session any more.
    """
    name, value = accepted.name, _sealed(pending, accepted, "")
    writer, whose = pending.writer, accepted.principal
    if whose is not None and accepted.signed_for:
        writer.check_time()
        short = await pending.backend.refuse_signed(whose, accepted.signed_for)
        writer.shortfall = writer.shortfall or short
    for _ in range(_ATTEMPTS):
        writer.check_time()
        stored = await pending.backend.store.load(name)
        found = None if stored is None else _opened(pending.backend, accepted, stored)
        taken = accepted.taken if found is None or found.id in ("", _FREE) else found.id
        if taken:
            await _end_ours(pending, taken, whose)
        if found is not None and found.begun is not None:
            await end_at_source(pending, found.begun)
        expected = None if stored is None else version(stored)
        if await writer.commit(name, expected, value, accepted.ttl) is Commit.STORED:
            return
    raise StoreUnavailableError("another request accepts this session again and again")


async def _end_ours(pending: PendingCommit, id: str, whose: str | None) -> None:
    writer = pending.writer
    if await writer.end(id, "signed out"):
        writer.signed_out("signed out", id, whose)
    if whose is not None:
        marked = await pending.backend.index.mark(whose, id)
        writer.shortfall = writer.shortfall or marked.shortfall


async def note(backend: Backend, context: str, id: str) -> None:
    """Note that a session which begins at its source is ours of this id already."""
    value = backend.markers.seal(context, _plain(backend.now(), id))
    await backend.store.commit(marker_name(context), None, value, LONGEST * 1000)


async def forget(backend: Backend, contexts: Iterable[str], of: str | None = None) -> None:
    """Forget that sessions were accepted, since they have ended at their source.

    `of`: the id of a session of ours. Then a marker that doesn't name it stays: for example, the
    user has signed out of the foreign session meanwhile.
    """
    for context in contexts:
        free = backend.markers.seal(context, _plain(backend.now(), _FREE))
        name = marker_name(context)
        stored = await backend.store.load(name)
        plain = None if stored is None else backend.markers.open(context, stored)
        if stored is not None and (of is None or (plain or b"")[8:].split(b"\0")[0] == of.encode()):
            await backend.store.commit(name, version(stored), free, _CLAIM)


def _sealed(pending: PendingCommit, accepted: Accepted, id: str) -> bytes:
    begun = pending.origin if id else None
    return pending.backend.markers.seal(accepted.context, _plain(pending.writer.now, id, begun))


def _plain(now: int, id: str, begun: Origin | None = None) -> bytes:
    parts = [id] if begun is None else [id, begun.source, begun.id]
    return now.to_bytes(8, "big") + "\0".join(parts).encode()


def _opened(backend: Backend, accepted: Accepted, stored: bytes) -> Marker:
    plain = backend.markers.open(accepted.context, stored)
    if plain is None:  # that there is a marker says that it was accepted, and no more
        return Marker("", 0)
    id, _, begun = plain[8:].decode("ascii", "replace").partition("\0")
    source, _, theirs = begun.partition("\0")
    at = int.from_bytes(plain[:8], "big")
    return Marker(id, at, Origin(source, theirs, 0) if theirs else None)


async def was_ended(backend: Backend, id: str) -> bool:
    """Whether a session of ours was ended a moment ago."""
    stored = await backend.store.load(id)
    return stored is not None and is_tombstone(stored)


async def end_others(pending: PendingCommit, carry_out: CarryOut) -> Answer:
    """Carry out a commit. If it signs out, sessions of other libraries end, too.

    These are the session that ours follows, and each session that the request brings and that would
    sign somebody in at the next request.
    """
    state, facts = pending.state, pending.facts
    if not facts.cleared and pending.outcome not in (Outcome.LOSE, Outcome.SWITCH):
        return await carry_out(pending)
    stored = (state.stored, *(each.stored for each in state.opened))
    origins = (each.record.origin for each in stored if each is not None)
    followed = [origin for origin in origins if origin is not None and origin.id]
    headers: Headers = ()
    # One that `opened` has alone ended at its source: nobody has signed out. And of a session that
    # was rotated a moment ago, the browser is signed out.
    loaded = state.stored is not None or len(state.opened) > 1 or state.status is Status.ROTATED
    if loaded and not followed:  # first, so that it can be tried again
        headers = await _sign_out_of_brought(pending)
    answer = await carry_out(pending)
    for origin in followed:
        await end_at_source(pending, origin)
    if loaded and followed:
        headers = await _sign_out_of_brought(pending)
    return replace(answer, headers=headers) if headers else answer


async def _sign_out_of_brought(pending: PendingCommit) -> Headers:
    """Sign out of each other foreign session that the request brings, so that none is accepted.

    Returns the headers that remove their cookies.
    """
    headers: Headers = ()
    context = pending.state.request.context
    found = [] if context is None else await context.brought()
    for each in found:
        if each.principal not in (None, pending.facts.now):
            await _sign_out_of(pending, each)
            if each.id:
                await end_at_source(pending, each.origin(None))
            headers += each.headers
    return headers


async def end_at_source(pending: PendingCommit, origin: Origin) -> None:
    """End a session at its source, if it is followed.

    The middleware that has loaded ours knows the source. If it doesn't, since another middleware
    has accepted the session, or there was none, those of all middlewares are asked.
    """
    own = pending.state.sources
    if not origin.id or (own is not None and await own.end(origin)):
        return
    for each in list(pending.backend.sources):
        await each.end(origin)
