"""What the demo shows: a session as the application sees it, and its record as Redis has it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from redis_sessions import Keyring, Session, SessionInfo
from redis_sessions.session.record import Reject, Sealer, layout, version
from redis_sessions.session.token import SessionToken
from redis_sessions.session.values import decode

__all__ = ["ago", "device_view", "dump", "opened", "record_view", "session_view"]

_PER_LINE = 8  # fits a phone


def session_view(session: Session) -> dict[str, Any]:
    """What the application sees, ready for JSON."""
    return {
        "id": session.id,
        "principal": session.principal,
        "created_at": _text(session.created_at),
        "authenticated_at": _text(session.authenticated_at),
        "expires_at": _text(session.expires_at),
        "data": dict(session),
    }


def device_view(info: SessionInfo) -> dict[str, Any]:
    """What the list of devices shows of one session, ready for JSON."""
    return {
        "id": info.id,
        "current": info.current,
        "browser": info.browser or info.user_agent,  # in words with the extra `devices`
        "system": info.system,
        "address": info.address,
        "authenticated_at": _text(info.authenticated_at),
        "last_seen_at": _text(info.last_seen_at),
    }


def record_view(key: str, stored: bytes) -> dict[str, Any]:
    """What Redis has under `key`, ready for JSON: the header's fields, and the rest in hex."""
    parts = layout(stored)
    rotated = datetime.fromtimestamp(parts.rotated_at, UTC) if parts.rotated_at else None
    return {
        "key": key,
        "size": len(stored),
        "format": parts.format,
        "key_id": parts.key_id.hex(),
        "rotated_at": _text(rotated),
        "nonce": parts.nonce.hex(),
        "sealed": parts.box.hex(),
    }


def dump(stored: bytes) -> Iterator[str]:
    """Lines of what follows the header: offset, hex, and whatever of it is printable ASCII."""
    header = len(version(stored))
    for start in range(header, len(stored), _PER_LINE):
        part = stored[start : start + _PER_LINE]
        printable = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in part)
        yield f"{start:04x}  {part.hex(' '):<{3 * _PER_LINE - 1}}  {printable}"


def opened(stored: bytes, *, keyring: Keyring, token: str, prefix: str) -> dict[str, Any] | str:
    """What the record contains, or why it doesn't open with these three."""
    found = Sealer(keyring, prefix).open(SessionToken(token), stored)
    if isinstance(found, Reject):
        return found.value
    return decode(found.data)


def ago(text: str, now: datetime | None = None) -> str:
    """A moment in words, such as `2 min ago`."""
    seconds = int(((now or datetime.now(UTC)) - datetime.fromisoformat(text)).total_seconds())
    if seconds < 45:
        return "just now"
    for unit, size, until in (("min", 60, 90 * 60), ("h", 3600, 36 * 3600)):
        if seconds < until:
            return f"{round(seconds / size)} {unit} ago"
    return f"{round(seconds / 86400)} days ago"


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(sep=" ", timespec="seconds")
