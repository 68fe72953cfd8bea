"""The aliases that a sign-in gives a session: each is entered in an index of its own.

They are entered before the principal's index and the record are written. So no browser has the
token of a session that `revoke_by` doesn't find. The index of an alias may be on another server
than the principal's, with another clock. So the record holds a time for each alias, and each time
is compared with those of its own index alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from redis_sessions.errors import StoreUnavailableError
from redis_sessions.lifecycle.pending import PendingCommit
from redis_sessions.session.record import Alias
from redis_sessions.stores.protocols import EntryStatus

__all__ = ["enter_aliases", "kept_aliases"]


def kept_aliases(pending: PendingCommit) -> Sequence[Alias]:
    """The aliases of the session that was loaded, if it is of the user who signs in."""
    state = pending.state
    same = state.stored is not None and state.principal == pending.writer.principal
    return state.stored.record.aliases if state.stored is not None and same else ()


async def enter_aliases(
    pending: PendingCommit, id: str, *, ttl: int, here: Sequence[Alias] = ()
) -> tuple[Alias, ...]:
    """The aliases that the session with this id has after a sign-in, entered for `ttl` ms.

    They are what `sign_in(aliases=...)` names, or those of before if it names none. `here`: those
    that this id has already. They stay entered as they are. `StoreUnavailableError` if all
    sessions with one of them were ended since the request began.
    """
    backend, request, wanted = pending.backend, pending.state.request, pending.aliases
    texts = wanted if wanted is not None else [each.text for each in kept_aliases(pending)]
    entered = {each.text: each for each in here}
    for text in texts:
        if text in entered:
            continue
        pending.writer.check_time()
        status, at, _ = await backend.aliases.enter(
            text,
            id,
            began=request.began,
            own=request.revocations.get(backend.aliases.name(text)),
            ttl=ttl,
            descriptor=b"",
        )
        if status is not EntryStatus.LIVE:
            backend.report("refused", "revoked meanwhile", id)
            raise StoreUnavailableError(
                "all sessions with an alias of this one were ended while this sign-in was under "
                "way",
                reason="server",
            )
        entered[text] = Alias(text, at)
    return tuple(entered[text] for text in texts)
