"""Which requests may begin an anonymous session: all but unsafe ones that another site sent."""

from __future__ import annotations

from typing import Final, cast

from starlette.types import Scope

from redis_sessions.http.headers import RawHeader

__all__ = ["is_same_site"]

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


def is_same_site(scope: Scope) -> bool:
    """Whether a request has a safe method, or no other site has sent it.

    Browsers say so in the header `Sec-Fetch-Site` (Fetch Metadata). Other clients don't send it.
    """
    if scope.get("method", "GET") in _SAFE:
        return True
    headers = cast("list[RawHeader]", scope["headers"])
    return not any(name == b"sec-fetch-site" and site == b"cross-site" for name, site in headers)
