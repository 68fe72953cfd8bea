"""Sealed, revocable, server-side sessions in Redis for Starlette and FastAPI."""

from redis_sessions.authentication import SessionAuthBackend
from redis_sessions.cache import Cache
from redis_sessions.errors import (
    AliasError,
    ConfigurationError,
    CrossSiteError,
    LeadershipLostError,
    ReplicationError,
    SessionConflictError,
    SessionEncodeError,
    SessionError,
    SessionGoneError,
    StoreError,
    StoreUnavailableError,
)
from redis_sessions.events import Event, log_events
from redis_sessions.http.binding import client_ip
from redis_sessions.http.login import safe_next
from redis_sessions.http.readiness import readiness
from redis_sessions.http.transports import CookieTransport, HeaderTransport, Transport
from redis_sessions.lifecycle.enumeration import StoredSession
from redis_sessions.lifecycle.expiry import Expired
from redis_sessions.lifecycle.manager import Answer, SessionManager
from redis_sessions.lifecycle.revocation import SessionInfo
from redis_sessions.middleware import SessionMiddleware, get_session
from redis_sessions.session.keyring import Keyring, generate_key
from redis_sessions.session.session import Session
from redis_sessions.session.token import SessionToken
from redis_sessions.stores import (
    Commit,
    MemoryStore,
    RedisStore,
    SessionIndex,
    SessionStore,
    Store,
    Written,
)

__all__ = [
    "AliasError",
    "Answer",
    "Cache",
    "Commit",
    "ConfigurationError",
    "CookieTransport",
    "CrossSiteError",
    "Event",
    "Expired",
    "HeaderTransport",
    "Keyring",
    "LeadershipLostError",
    "MemoryStore",
    "RedisStore",
    "ReplicationError",
    "Session",
    "SessionAuthBackend",
    "SessionConflictError",
    "SessionEncodeError",
    "SessionError",
    "SessionGoneError",
    "SessionIndex",
    "SessionInfo",
    "SessionManager",
    "SessionMiddleware",
    "SessionStore",
    "SessionToken",
    "Store",
    "StoreError",
    "StoreUnavailableError",
    "StoredSession",
    "Transport",
    "Written",
    "client_ip",
    "generate_key",
    "get_session",
    "log_events",
    "readiness",
    "safe_next",
]

__version__ = "0.1.0"
