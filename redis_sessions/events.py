"""Events: what happened to sessions, by ids and reasons. No token and no data is in them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["Event", "EventHandler", "log_events", "logger"]

logger: Final = logging.getLogger("redis_sessions")

_WARNINGS: Final = frozenset({"rejected", "dropped", "refused"})


@dataclass(frozen=True, slots=True)
class Event:
    """What happened (`name`), why (`reason`), and to which session (`id`, if it is known).

    The names:

    - `created`, `rotated`, `touched`, `ended`: a session was
    - `revoked`: all sessions of a principal were ended; the id is that of the one that was kept
    - `rejected`: a token or a record is no session
    - `bound_elsewhere`: a session is bound to another place, and was let through all the same
    - `refused`: a sign-in was, since all sessions of the principal were revoked meanwhile
    - `merged`: two requests changed a session at once, and both changes were stored
    - `dropped`: a change wasn't stored
    - `cache_control_replaced`: a response's `Cache-Control` would have let caches keep a token
    - `unavailable`: a request needed the store, which couldn't be used

    `docs/events.md` has the reasons of each.
    """

    name: str
    reason: str | None = None
    id: str | None = None


EventHandler = Callable[[Event], None]


def log_events(logger: logging.Logger | None = None) -> EventHandler:
    """A handler for `on_event=` that writes a log record for each event.

    `logger`: by default the logger named `redis_sessions.events`. `rejected`, `dropped` and
    `refused` are logged as WARNING, all others as INFO. For structured logs, the record has the
    attributes `session_event`, `session_reason` and `session_id`.
    """
    target = logging.getLogger("redis_sessions.events") if logger is None else logger

    def log(event: Event) -> None:
        target.log(
            logging.WARNING if event.name in _WARNINGS else logging.INFO,
            "session event %s: reason=%s id=%s",
            event.name,
            event.reason,
            event.id,
            extra={
                "session_event": event.name,
                "session_reason": event.reason,
                "session_id": event.id,
            },
        )

    return log
