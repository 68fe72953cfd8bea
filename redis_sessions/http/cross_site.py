"""Which requests may begin an anonymous session: not those that another site has sent."""

from __future__ import annotations

from typing import Final, cast

from starlette.types import Scope

from redis_sessions.http.headers import RawHeader
from redis_sessions.http.transports import Transport

__all__ = ["may_create"]

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


def may_create(scope: Scope, transport: Transport) -> bool:
    """Whether a new anonymous session may come of this request.

    It may not for a cross-site POST, as the browser says by `Sec-Fetch-Site` (Fetch Metadata),
    unless the cookie is meant for other sites. A sign-in isn't asked.
    """
    if scope.get("method", "GET") in _SAFE or transport.cross_site:
        return True
    headers = cast("list[RawHeader]", scope["headers"])
    return not any(name == b"sec-fetch-site" and site == b"cross-site" for name, site in headers)
