"""The rows of the table in which a session begins under a new id: a first visit or a sign-in.

A sign-in writes the indexes first and the record second. The response is sent last. So
no browser has the token of a session that the index doesn't know.
"""

from __future__ import annotations

from msgspec.structs import replace

from redis_sessions.errors import SessionError, StoreUnavailableError
from redis_sessions.lifecycle.aliases import enter_aliases
from redis_sessions.lifecycle.pending import PendingCommit
from redis_sessions.lifecycle.revocation import make_room
from redis_sessions.session import values
from redis_sessions.session.accepted import Origin
from redis_sessions.session.carryover import carried_over
from redis_sessions.session.outcome import Answer, Outcome
from redis_sessions.session.record import Alias, Record, Stored
from redis_sessions.session.token import SessionToken
from redis_sessions.session.values import Changes
from redis_sessions.stores.protocols import Commit, EntryStatus

__all__ = ["assigned_data", "create", "enter", "enter_again", "gain", "switch"]


async def create(
    pending: PendingCommit,
    outcome: Outcome,
    data: bytes,
    owner: bytes | None = None,
    *,
    token: SessionToken | None = None,
    authenticated_at: int | None = None,
    aliases: tuple[Alias, ...] = (),
) -> Answer:
    """Store a new session with these data, under a new id.

    `owner`: whose data they are. `token`, `authenticated_at` and `aliases`: for a sign-in, what the
    indexes have.
    """
    token = token or pending.token or SessionToken.generate()
    state, writer, backend = pending.state, pending.writer, pending.backend
    expires_at, idle, persistent = writer.lifetime(backend.policy.persistent)
    bound = state.request.bound
    record = Record(
        created_at=writer.now,
        authenticated_at=authenticated_at,
        seen_at=writer.now,
        expires_at=expires_at,
        idle=idle,
        persistent=persistent,
        owner=owner,
        binding=backend.keyring.primary.binding(bound) if isinstance(bound, str) else None,
        data=values.raw(data),
        methods=() if authenticated_at is None else pending.methods,
        aliases=aliases,
        origin=_origin(pending, outcome, authenticated_at),
    )
    new = backend.sealer.seal(token, record, 0)
    if await writer.store(None, new) is not Commit.STORED:
        raise StoreUnavailableError("the new session was ended before it began")
    state.forget()
    state.remember(new)
    state.principal = None if authenticated_at is None else writer.principal
    pending.adopt(data)
    backend.hold_all(writer.session)
    backend.report("created", outcome.name.lower(), token.id)
    return pending.answer(outcome)


def _origin(pending: PendingCommit, outcome: Outcome, at: int | None) -> Origin | None:
    """Where the data of a new session come from."""
    accepted, old = pending.state.accepted, pending.state.stored
    if pending.origin is not None:
        return pending.origin
    if accepted is not None:
        return None if pending.token is None else accepted.origin(None if pending.proves else at)
    if outcome is Outcome.GAIN and old is not None and old.record.origin is not None:
        return replace(old.record.origin, at=0)
    return None


async def enter(pending: PendingCommit, outcome: Outcome, data: bytes) -> Answer:
    """Begin a new session of the principal, with these data.

    It is entered in the principal's index, and then created. If the principal has too many
    sessions, others end.
    """
    backend, writer, request = pending.backend, pending.writer, pending.state.request
    principal, token = writer.principal or "", pending.token or SessionToken.generate()
    ttl = (writer.lifetime(True)[0] - writer.now) * 1000
    aliases = await enter_aliases(pending, token.id, ttl=ttl)
    origin = _origin(pending, outcome, None)
    signed_for = 0 if origin is None else origin.signed_for
    writer.check_time()
    status, at, size = await backend.index.enter(
        principal,
        token.id,
        began=request.began,
        own=request.revocations.get(backend.index.name(principal)),
        ttl=ttl,
        descriptor=writer.descriptor(token.id, writer.now, pending.methods, signed_for, True),
    )
    if status is not EntryStatus.LIVE:
        backend.report("refused", "revoked meanwhile", token.id)
        raise StoreUnavailableError(
            "all sessions of this principal were ended while this sign-in was under way",
            reason="server",
        )
    owner = backend.keyring.primary.owner(principal)
    answer = await create(
        pending, outcome, data, owner, token=token, authenticated_at=at, aliases=aliases
    )
    most = backend.policy.max_sessions
    rolling_out = len(backend.keyring.keys) > 1  # the size is of one key's index
    if most is not None and (rolling_out or size > most):
        await make_room(backend, principal, most, keep=token.id)
    return answer


async def gain(pending: PendingCommit) -> Answer:
    """GAIN: somebody signed in. All that the anonymous session holds goes along, and it ends."""
    old, mine = pending.state.stored, set(pending.state.changes(pending.writer.encoded))
    answer = await enter(pending, Outcome.GAIN, pending.carried)
    if old is not None:

        async def merge(before: Stored, newest: Stored) -> None:
            theirs = values.changes(values.split(before.data), values.split(newest.data))
            await _merge_into_new(pending, {k: v for k, v in theirs.items() if k not in mine})

        # An anonymous session that was rotated or ended meanwhile is left alone.
        await pending.writer.end_if_unchanged(old, "signed in", merge)
    return answer


async def _merge_into_new(pending: PendingCommit, theirs: Changes) -> None:
    """Store what others changed in the anonymous session in the one that takes its place."""
    if not theirs:
        return
    writer, backend, at = pending.writer, pending.backend, pending.writer.at
    data = values.apply(at.data, theirs)
    fits = len(data) <= backend.policy.max_size
    if not fits or backend.principal.of(data) != writer.principal:
        pending.dropped("no place after the sign-in")
        return
    new = writer.seal(at, data=data)
    if await writer.store(at.version, new) is not Commit.STORED:
        pending.dropped("ended elsewhere")
        return
    pending.state.remember(new)
    pending.adopt(data)
    backend.report("merged", None, at.token.id)


async def switch(pending: PendingCommit) -> Answer:
    """SWITCH: somebody signed in over another's data. Only what this request assigned goes along.

    The old session ends.
    """
    state, writer, old, was = pending.state, pending.writer, pending.state.stored, pending.facts.was
    ends, written = state.live is not None or was is not None, assigned_data(pending)
    if old is not None and ends:
        await writer.refuse_signed(old, was)
    answer = await enter(pending, Outcome.SWITCH, written)
    if old is not None and ends:
        if await writer.end(old.token.id, "switched"):
            writer.signed_out("switched", old.token.id, was)
        await writer.mark(old, was)
    return answer


def assigned_data(pending: PendingCommit) -> bytes:
    """The data that this request assigned, encoded. All other data belong to another user."""
    state, backend, writer = pending.state, pending.backend, pending.writer
    principal = backend.principal
    data = carried_over(writer.session, writer.encoded, state, backend.values, principal.path)
    if principal.of(data) != writer.principal:
        raise SessionError(
            "the keys that this request set don't say who signs in: with a callable "
            "principal, set every key that it looks at to a new object, or clear() the "
            "session first"
        )
    changed, kept = state.changes(writer.encoded), values.split(data)
    left = any(raw is not None and key not in kept for key, raw in changed.items())
    if left or state.origins.left_changes:
        old = state.stored
        backend.report("dropped", "another's data", None if old is None else old.token.id)
    return data


async def enter_again(pending: PendingCommit) -> Answer:
    """Begin a new session in the place of one that ended while its principal signed in again.

    Only the keys that this request set go along, and those that say who is signed in.
    """
    encoded, principal = pending.writer.encoded, pending.backend.principal
    changed, now = pending.state.changes(encoded), values.split(encoded)
    keys = {key for key, value in changed.items() if value is not None}
    keys |= principal.keys(changed)
    written = values.join({key: value for key, value in now.items() if key in keys})
    if principal.of(written) != pending.writer.principal:
        written = encoded  # a callable's keys aren't known, and all data are this principal's
    return await enter(pending, Outcome.GAIN, written)
