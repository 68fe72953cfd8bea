"""Another session middleware around ours: both use `scope["session"]`."""

from __future__ import annotations

from typing import Any

from starlette.types import Message, Scope, Send

__all__ = ["restore", "send_outside"]


def send_outside(scope: Scope, before: Any, send: Send) -> Send:
    """A `send` through which another session middleware around ours finds its own session.

    Both use `scope["session"]`. So its session is there while a message passes through it.
    """

    async def send_with_theirs(message: Message) -> None:
        inside = scope.get("session")
        restore(scope, before)
        try:
            await send(message)
        finally:
            restore(scope, inside)

    return send_with_theirs


def restore(scope: Scope, session: Any) -> None:
    """Put another middleware's session back, or none."""
    if session is None:
        scope.pop("session", None)
    else:
        scope["session"] = session
