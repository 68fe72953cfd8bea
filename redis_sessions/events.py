"""What happened to sessions, for an application's log: ids and reasons, never tokens or data."""

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
    """One thing that happened: `name`, why (`reason`), and to which session (`id`, if known).

    Names: `created`, `rotated`, `touched`, `ended`, `revoked` (all of a principal's sessions; the
    id is the one that was kept), `rejected` (a token or record that reads as no session),
    `bound_elsewhere` (one that was let through all the same), `refused` (a sign-in that a
    revocation overtook), `merged` (a conflict was resolved), `dropped` (a change that wasn't
    stored), `cache_control_replaced`, `unavailable` (a request needed the store, and got none).
    `docs/events.md` has their reasons.
    """

    name: str
    reason: str | None = None
    id: str | None = None


EventHandler = Callable[[Event], None]


def log_events(logger: logging.Logger | None = None) -> EventHandler:
    """An `on_event` that writes one log record per event, with fields for structured logs.

    `logger`: `redis_sessions.events` if None. The fields are the record's `session_event`,
    `session_reason` and `session_id`. `rejected`, `dropped` and `refused` are WARNING, all others
    INFO.
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
