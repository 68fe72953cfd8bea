"""The sessions of PHP applications, as a source for `SessionMiddleware(accept=[…])`."""

from __future__ import annotations

from redis_sessions.php.data import PhpObject
from redis_sessions.php.sessions import PhpSessions

__all__ = ["PhpObject", "PhpSessions"]
