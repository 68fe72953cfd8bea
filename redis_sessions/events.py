"""What happened to sessions, for an application's log: ids and reasons, never tokens or data."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Final

from redis_sessions.errors import ConfigurationError
from redis_sessions.tracebacks import strip

__all__ = ["Event", "EventHandler", "Reporter", "log_events", "logger"]

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


class Reporter:
    """Counts events, hands them to the application's `on_event`, and logs warnings once."""

    def __init__(self, on_event: EventHandler | None) -> None:
        if on_event is not None and not _is_sync(on_event):
            raise ConfigurationError(
                f"on_event={on_event!r}: write a callable, not async, that takes one Event"
            )
        self.counts: Counter[str] = Counter()
        """How often each event happened, by name, and by `name: reason`."""
        self.warned: set[str] = set()
        """The topics of warnings that are logged, or that nobody needs any more."""
        self._on_event = on_event

    def report(self, name: str, reason: str | None = None, id: str | None = None) -> None:
        """Count an event, and hand it to `on_event`. A failure of `on_event` is logged."""
        self.counts[name] += 1
        if reason is not None:
            self.counts[f"{name}: {reason}"] += 1
        if self._on_event is not None:
            try:
                self._on_event(Event(name, None if reason is None else str(reason), id))
            except Exception as exc:
                strip(exc)
                logger.exception("on_event failed")

    def warn_once(self, topic: str, message: str, *args: object) -> None:
        """Log something that works but surprises, the first time that it happens."""
        if topic not in self.warned:
            self.warned.add(topic)
            logger.warning(message, *args)


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


def _is_sync(function: object) -> bool:
    return callable(function) and not iscoroutinefunction(function)
