"""From a copy to a session: from what a replica has, or from what this process keeps near.

A copy may be a little older than what is stored. So it serves reading only where it opens a live
session; otherwise the store is asked, so that no copy signs anybody out. A change compares itself
with what is stored, as always.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from redis_sessions.errors import StoreError
from redis_sessions.lifecycle.backend import Backend
from redis_sessions.lifecycle.loading import Load, belongs, live_session, opened, stored_principal
from redis_sessions.session.record import Sealer, Stored
from redis_sessions.session.session import Session
from redis_sessions.session.state import Bound, Request
from redis_sessions.session.token import SessionToken
from redis_sessions.session.values import decode
from redis_sessions.stores.protocols import NearCopies, NearCopy, ReplicaReads
from redis_sessions.tracebacks import no_fields, silent_repr

__all__ = ["from_near_copy", "keep_opened", "load_from_replica", "reads_replicas"]


class _Opened(msgspec.Struct, frozen=True, gc=False):
    """What a manager has made of a near copy's bytes. They opened by one token."""

    __repr__ = silent_repr
    __rich_repr__ = no_fields

    sealer: Sealer
    """What opened them. Another manager of the same store may have other keys."""
    stored: Stored
    principal: str | None


def from_near_copy(backend: Backend, copy: NearCopy, text: str, bound: Bound) -> Session | None:
    """The live session that this token opens in a near copy, or None. It waits for nothing."""
    # A dict compares hashes first, which nobody outside can compute. So the time that this takes
    # tells nothing of the token by which the bytes were opened.
    kept: dict[str, _Opened] | None = copy.opened
    known = None if kept is None else kept.get(text)
    if known is None or known.sealer is not backend.sealer:
        known = _opened(backend, copy, text)
    if known is None or not _serves(backend, known.stored, bound):
        return None
    try:
        data = decode(known.stored.data)
    except ValueError:  # they could be decoded before, but not so deep in the stack
        return None
    request = Request(backend.timer(), bound)
    return live_session(backend, known.stored, data, known.principal, request)


def _opened(backend: Backend, copy: NearCopy, text: str) -> _Opened | None:
    """What this token opens in the bytes of the copy. It is kept there."""
    token = SessionToken.parse(text)
    stored = None if token is None else backend.sealer.open(token, copy.value)
    if not isinstance(stored, Stored):
        return None
    try:
        principal = stored_principal(backend, decode(stored.data))
    except ValueError:
        return None
    return _keep(backend, copy, stored, principal)


def _keep(backend: Backend, copy: NearCopy, stored: Stored, principal: str | None) -> _Opened:
    known = _Opened(backend.sealer, stored, principal)
    copy.opened = {stored.token.value: known}
    return known


def keep_opened(
    backend: Backend, copies: NearCopies, stored: Stored, principal: str | None
) -> None:
    """Note with the near copy of what was just stored what is in it, so that nobody opens it."""
    copy = copies.near_copy(stored.token.id)
    if copy is not None and copy.value == stored.sealed:
        _keep(backend, copy, stored, principal)


def reads_replicas(backend: Backend) -> bool:
    """Whether `load_from_replica` may save the primary a read."""
    return isinstance(backend.store, ReplicaReads) and backend.store.reads_replicas


async def load_from_replica(
    backend: Backend, load: Load, texts: Sequence[str], *, bound: Bound = None
) -> Session:
    """Load from a replica, where what was stored in the last 5 seconds may be missing.

    Only a live session is taken from there. Otherwise `load` asks the primary.
    """
    token = SessionToken.parse(texts[0]) if len(texts) == 1 else None
    if token is not None and isinstance(backend.store, ReplicaReads):
        copy = backend.store.load_from_replica(token.id)
        try:
            sealed = None if copy is None else await copy
        except StoreError:
            sealed = None
        stored = None if sealed is None else backend.sealer.open(token, sealed)
        if isinstance(stored, Stored) and _serves(backend, stored, bound):
            return opened(backend, token, stored.sealed, bound)
    return await load(texts, bound=bound)


def _serves(backend: Backend, stored: Stored, bound: Bound) -> bool:
    """Whether what was opened in a copy is a live session for this request. It reports nothing."""
    if backend.clock() >= stored.ends:
        return False
    mark = stored.record.binding
    return mark is None or belongs(backend, mark, bound)
