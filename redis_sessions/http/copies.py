"""Which requests may be served from a copy: a replica's, or one that this process keeps near.

No browser is to see less than it has stored. So a cookie says for 10 seconds that it has changed
its session. A client that sends the token in a header keeps no such cookie, and gets no copies.
"""

from __future__ import annotations

from functools import partial

from starlette.types import Scope

from redis_sessions.http.headers import RawHeader
from redis_sessions.http.setup import Setup
from redis_sessions.http.transports import CookieTransport, Transport
from redis_sessions.lifecycle.copies import load_from_replica
from redis_sessions.lifecycle.loading import Load
from redis_sessions.session.record import Stored

__all__ = ["hint", "replica_loader", "takes_near_copies"]


def takes_near_copies(transport: Transport, scope: Scope, *, own: bool) -> bool:
    """Whether a near copy may serve a request. `own`: this process has stored what is in it."""
    return isinstance(transport, CookieTransport) and (own or not transport.hinted(scope))


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
