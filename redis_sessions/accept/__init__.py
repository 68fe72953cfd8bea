"""Sources for `SessionMiddleware(accept=[…])`: the sessions of other libraries."""

from __future__ import annotations

from redis_sessions.accept.records import RedisSdk, Starsessions
from redis_sessions.accept.starlette import StarletteCookie
from redis_sessions.http.sources import Found, Source

__all__ = ["Found", "RedisSdk", "Source", "StarletteCookie", "Starsessions"]
