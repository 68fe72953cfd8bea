"""Ids and records for the tests of writes that wait."""

from __future__ import annotations

from secrets import token_bytes

from redis_sessions.session.record import tombstone
from redis_sessions.session.token import SessionToken

MINUTE = 60_000


def new_id() -> str:
    return SessionToken.generate().id


def record(rotated_at: int = 0) -> bytes:
    return tombstone(rotated_at) + token_bytes(50)
