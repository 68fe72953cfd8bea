"""The rows of the table in which a session begins under a new id: first visits and sign-ins.

The index is written first, the record second, and the response goes out last.
"""

from __future__ import annotations

from redis_sessions.errors import SessionError, StoreUnavailableError
from redis_sessions.lifecycle.pending import PendingCommit
from redis_sessions.lifecycle.revocation import make_room
from redis_sessions.session import values
from redis_sessions.session.carryover import carried_over
from redis_sessions.session.outcome import Answer, Outcome
from redis_sessions.session.record import Record, Stored
from redis_sessions.session.token import SessionToken
from redis_sessions.session.values import Changes
from redis_sessions.stores.protocols import Commit, EntryStatus

__all__ = ["assigned_data", "create", "enter", "enter_again", "gain", "switch"]


async def create(
    c: PendingCommit,
    outcome: Outcome,
    data: bytes,
    owner: bytes | None = None,
    *,
    token: SessionToken | None = None,
    authenticated_at: int | None = None,
) -> Answer:
    """A new session with these data, under a new id. `owner`: whose data they are."""
    token = SessionToken.generate() if token is None else token
    state, writer, backend = c.state, c.writer, c.backend
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
    )
    new = backend.sealer.seal(token, record, 0)
    if await writer.store(None, new) is not Commit.STORED:
        raise StoreUnavailableError("the new session was ended before it began")
    state.forget()
    state.remember(new)
    state.principal = None if authenticated_at is None else writer.principal
    c.adopt(data)
    backend.hold_all(writer.session)
    backend.report("created", outcome.name.lower(), token.id)
    return c.answer(outcome)


async def enter(c: PendingCommit, outcome: Outcome, data: bytes) -> Answer:
    """A new session of the principal, with these data: entered in the index, then created."""
    backend, writer, request = c.backend, c.writer, c.state.request
    principal, token = writer.principal or "", SessionToken.generate()
    writer.check_time()
    status, at, size = await backend.index.enter(
        principal,
        token.id,
        began=request.began,
        own=request.revocations.get(principal),
        ttl=(writer.lifetime(True)[0] - writer.now) * 1000,
        descriptor=writer.descriptor(token.id, writer.now),
    )
    if status is not EntryStatus.LIVE:
        backend.report("refused", "revoked meanwhile", token.id)
        raise StoreUnavailableError(
            "all sessions of this principal were ended while this sign-in was under way",
            reason="server",
        )
    owner = backend.keyring.primary.owner(principal)
    answer = await create(c, outcome, data, owner, token=token, authenticated_at=at)
    most = backend.policy.max_sessions
    rolling_out = len(backend.keyring.keys) > 1  # the size is of one key's index
    if most is not None and (rolling_out or size > most):
        await make_room(backend, principal, most, keep=token.id)
    return answer


async def gain(c: PendingCommit) -> Answer:
    """Signed in: all that the anonymous session holds goes along."""
    old, mine = c.state.stored, set(c.state.changes(c.writer.encoded))
    answer = await enter(c, Outcome.GAIN, c.carried)
    if old is not None:

        async def merge(before: Stored, newest: Stored) -> None:
            theirs = values.changes(values.split(before.data), values.split(newest.data))
            await _merge_into_new(c, {k: v for k, v in theirs.items() if k not in mine})

        # If it was rotated or ended meanwhile, it is left alone.
        await c.writer.end_if_unchanged(old, "signed in", merge)
    return answer


async def _merge_into_new(c: PendingCommit, theirs: Changes) -> None:
    """What others changed in the anonymous session, into the one that took its place."""
    if not theirs:
        return
    writer, backend, at = c.writer, c.backend, c.writer.at
    data = values.apply(at.data, theirs)
    fits = len(data) <= backend.policy.max_size
    if not fits or backend.principal.of(data) != writer.principal:
        c.dropped("no place after the sign-in")
        return
    new = writer.seal(at, data=data)
    if await writer.store(at.version, new) is not Commit.STORED:
        c.dropped("ended elsewhere")
        return
    c.state.remember(new)
    c.adopt(data)
    backend.report("merged", None, at.token.id)


async def switch(c: PendingCommit) -> Answer:
    """Signed in over another's data: only what this request assigned goes along."""
    state, writer, old, was = c.state, c.writer, c.state.stored, c.facts.was
    if old is None:
        return await enter(c, Outcome.SWITCH, c.carried)
    ends, written = state.live is not None or was is not None, assigned_data(c)
    answer = await enter(c, Outcome.SWITCH, written)
    if ends:
        await writer.end(old.token.id, "switched")
        await writer.mark(old, was)
    return answer


def assigned_data(c: PendingCommit) -> bytes:
    """Only what this request assigned: what else is there belongs to somebody else."""
    state, backend, writer = c.state, c.backend, c.writer
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
        backend.report("dropped", "another's data", writer.at.token.id)
    return data


async def enter_again(c: PendingCommit) -> Answer:
    """A session that ended, of a principal who has just proved who they are, begins again.

    Only the keys that this request set go along, and those that say who is signed in.
    """
    encoded, principal = c.writer.encoded, c.backend.principal
    changed, now = c.state.changes(encoded), values.split(encoded)
    keys = {key for key, value in changed.items() if value is not None}
    keys |= principal.keys(changed)
    written = values.join({key: value for key, value in now.items() if key in keys})
    if principal.of(written) != c.writer.principal:
        written = encoded  # a callable's keys aren't known; the data are their own
    return await enter(c, Outcome.GAIN, written)
