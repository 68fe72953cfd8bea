"""Which requests may be served from a copy: a replica's, or one that this process keeps near.

No browser is to see less than it has stored. So a cookie says for 10 seconds that it has changed
its session. A client that sends the token in a header keeps no such cookie, and gets no copies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from starlette.types import Scope

from redis_sessions.http.headers import RawHeader
from redis_sessions.http.setup import Setup
from redis_sessions.http.transports import CookieTransport, Transport
from redis_sessions.lifecycle.copies import from_near_copy, load_from_replica
from redis_sessions.lifecycle.loading import Load
from redis_sessions.session.record import Stored
from redis_sessions.session.session import Session
from redis_sessions.session.state import Bound

__all__ = ["hint", "load_near", "replica_loader"]


def load_near(
    setup: Setup,
    scope: Scope,
    tokens: Sequence[str],
    transport: Transport,
    bound: Callable[[], Bound],
) -> Session | None:
    """The session from a near copy. None: there is none for this request."""
    if setup.copies is None or len(tokens) != 1:
        return None
    text = tokens[0]
    copy = setup.copies.near_copy(text[:20])
    if copy is None or not isinstance(transport, CookieTransport):
        return None
    if not copy.own and transport.hinted(scope):  # what this process stored isn't older
        return None
    return from_near_copy(setup.backend, copy, text, bound())


def replica_loader(setup: Setup, scope: Scope, transport: Transport) -> Load:
    """The function to load with: from a replica, unless the session has changed just now."""
    load = setup.manager.load
    if not isinstance(transport, CookieTransport) or transport.hinted(scope):
        return load
    return partial(load_from_replica, setup.backend, load)


def hint(
    before: Stored | None, now: Stored | None, transport: Transport, headers: list[RawHeader]
) -> None:
    """Have the browser say that it has changed its session, since a copy may be older than that."""
    changed = now is not None and (before is None or before.sealed != now.sealed)
    if changed and isinstance(transport, CookieTransport):
        headers.append(transport.hint())
