"""Events: what happened to sessions, by ids and reasons. No token and no data is in them."""

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
    """What happened (`name`), why (`reason`), and to which session (`id`, if it is known).

    The names:

    - `created`, `rotated`, `touched`, `ended`: a session was
    - `revoked`: all sessions of a principal were ended; the id is that of the one that was kept
    - `rejected`: a token or a record is no session
    - `bound_elsewhere`: a session is bound to another place, and was let through all the same
    - `refused`: a sign-in was, since all sessions of the principal were revoked meanwhile
    - `merged`: two requests changed a session at once, and both changes were stored
    - `dropped`: a change wasn't stored
    - `disconnected`: an open WebSocket or event stream was ended, since its session has ended
    - `cache_control_replaced`: a response's `Cache-Control` would have let caches keep a token
    - `unavailable`: a request needed the store, which couldn't be used

    `docs/events.md` has the reasons of each.
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


def _is_sync(function: object) -> bool:
    return callable(function) and not iscoroutinefunction(function)
