"""Which requests may be served from a copy: a replica's, or one that this process keeps near.

No browser is to see less than it has stored. So a cookie says for 10 seconds that it has changed
its session, and which version it has stored. A near copy of this very version may serve it. A
client that sends the token in a header keeps no such cookie, and gets no copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from starlette.types import Scope

from redis_sessions.http.binding import bound_by
from redis_sessions.http.headers import RawHeader
from redis_sessions.http.setup import Setup
from redis_sessions.http.transports import CookieTransport, Transport
from redis_sessions.lifecycle.copies import from_near_copy, load_from_replica
from redis_sessions.lifecycle.loading import Load
from redis_sessions.session.outcome import Answer, Outcome
from redis_sessions.session.record import Stored, version
from redis_sessions.session.session import Session
from redis_sessions.session.state import ANYWHERE
from redis_sessions.session.token import ID
from redis_sessions.stores.protocols import NearCopy

__all__ = ["hint", "near_session", "replica_loader", "takes_near_copy"]


def near_session(
    setup: Setup, scope: Scope, tokens: Sequence[str], hint: str | None
) -> Session | None:
    """The session of a request, from a near copy. None: the store has to be asked.

    `hint`: what `Setup.read_with_hint` has found. It waits for nothing.
    """
    if setup.copies is None or len(tokens) != 1:
        return None
    copy = setup.copies.near_copy(tokens[0][ID])
    if copy is None:
        return None
    if setup.read_with_hint is None:
        transport = setup.transport or setup.transports.answering(scope, tokens)
        if not takes_near_copy(transport, scope, copy):
            return None
    elif hint is not None and hint != _hint_of(copy.value):
        return None
    bound = ANYWHERE if setup.binding is None else bound_by(setup.binding, scope)
    return from_near_copy(setup.backend, copy, tokens[0], bound)


def takes_near_copy(transport: Transport, scope: Scope, copy: NearCopy) -> bool:
    """Whether this near copy is what the browser has stored, if it has stored anything lately."""
    if not isinstance(transport, CookieTransport):
        return False
    hint = transport.read_with_hint(scope)[1]
    return hint is None or hint == _hint_of(copy.value)


def replica_loader(setup: Setup, scope: Scope, transport: Transport) -> Load:
    """The function to load with: from a replica, unless the session has changed just now."""
    load = setup.manager.load
    if not isinstance(transport, CookieTransport) or transport.hinted(scope):
        return load
    return partial(load_from_replica, setup.backend, load)


def hint(
    before: Stored | None,
    now: Stored | None,
    transport: Transport,
    headers: list[RawHeader],
    answer: Answer,
) -> None:
    """Have the browser say that it has changed its session, since a copy may be older than that.

    A touch isn't worth it, unless the request has saved data before.
    """
    if now is None or not isinstance(transport, CookieTransport):
        return
    touched = answer.outcome is Outcome.TOUCH
    if before is None or (before.data != now.data if touched else before.sealed != now.sealed):
        headers.append(transport.hint(_hint_of(now.sealed)))


def _hint_of(sealed: bytes) -> str:
    """The end of the version, which is a part of the nonce: neither secret nor ever the same."""
    return version(sealed)[-6:].hex()
