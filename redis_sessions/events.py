"""Events: what happened to sessions, by ids and reasons. No token and no data is in them.

Who it happened to, and from where, is in some of them if the application asks for it
(`personal_events=True`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any, Final, TypeGuard

from redis_sessions.errors import ConfigurationError
from redis_sessions.tracebacks import strip

__all__ = [
    "Client",
    "Event",
    "EventHandler",
    "Reporter",
    "client",
    "is_sync",
    "log_events",
    "logger",
]

logger: Final = logging.getLogger("redis_sessions")

_WARNINGS: Final = frozenset(
    {"rejected", "dropped", "refused", "message_rejected", "expiry_failed"}
)
_PERSONAL: Final = {
    "session_principal": "principal",
    "session_address": "address",
    "session_user_agent": "user_agent",
}


@dataclass(frozen=True, slots=True)
class Event:
    """What happened (`name`), why (`reason`), and to which session (`id`, if it is known).

    With `personal_events=True`, some events have the `principal` in its canonical form, as
    `sessions_of()` takes it, and the `address` and `user_agent` of the client whose request it was.
    They are None if they aren't known, and always without `personal_events=True`.

    The names:

    - `signed_in`, `signed_out`: somebody was, and it is stored
    - `accepted`: another library's session became one of this one's, and the reason is its source
    - `created`, `rotated`, `touched`, `ended`: a session was
    - `revoked`: one session of a principal was ended, and the id is its; or all were, and the id
      is that of the one that was kept
    - `rejected`: a token or a record is no session, or an entry of the cache doesn't open
    - `bound_elsewhere`: a session is bound to another place, and was let through all the same
    - `refused`: a sign-in was, since all sessions of the principal were revoked meanwhile
    - `merged`: two requests changed a session at once, and both changes were stored
    - `dropped`: a change wasn't stored
    - `message_rejected`: what was published in a channel of messages isn't one for it
    - `expiry_failed`: a call of `on_expired=` failed, and is made again later
    - `disconnected`: an open WebSocket or event stream was ended, since its session has ended
    - `cache_control_replaced`: a response's `Cache-Control` would have let caches keep a token
    - `unavailable`: a request needed the store, which couldn't be used

    `docs/events.md` has the reasons of each.
    """

    name: str
    reason: str | None = None
    id: str | None = None
    principal: str | None = None
    address: str | None = None
    user_agent: str | None = None


EventHandler = Callable[[Event], None]

Client = Callable[[], tuple[str | None, str | None]]
"""Gives the address and the user agent of a request's client."""

client: ContextVar[Client | None] = ContextVar("redis_sessions_client", default=None)
"""The client whose token is being loaded, while no session knows its request yet."""

_LONGEST: Final = 256
"""How many characters of an address or a user agent are told. Clients may make both up."""


class Reporter:
    """Counts events, hands them to the application's `on_event`, and logs warnings once.

    `personal`: whether events tell the principal, the address and the user agent.
    """

    def __init__(self, on_event: EventHandler | None, personal: bool = False) -> None:
        if on_event is not None and not is_sync(on_event):
            raise ConfigurationError(
                f"on_event={on_event!r}: write a callable, not async, that takes one Event"
            )
        self.counts: Counter[str] = Counter()
        """How often each event happened, by name, and by `name: reason`."""
        self.warned: set[str] = set()
        """The topics of warnings that are logged, or that nobody needs any more."""
        self._on_event = on_event
        self.personal = personal and on_event is not None

    def report(
        self,
        name: str,
        reason: str | None = None,
        id: str | None = None,
        principal: str | None = None,
        by: Client | None = None,
    ) -> None:
        """Count an event, and hand it to `on_event`. A failure of `on_event` is logged.

        `principal` and `by`, the client, are told only if the application wants to know.
        """
        self.counts[name] += 1
        if reason is not None:
            self.counts[f"{name}: {reason}"] += 1
        if self._on_event is not None:
            event = Event(name, None if reason is None else str(reason), id)
            if self.personal and (principal is not None or by is not None):
                address, agent = (None, None) if by is None else by()
                address, agent = address and address[:_LONGEST], agent and agent[:_LONGEST]
                event = Event(event.name, event.reason, id, principal, address, agent)
            try:
                self._on_event(event)
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

    `logger`: by default the logger named `redis_sessions.events`. `rejected`, `dropped`, `refused`,
    `message_rejected` and `expiry_failed` are logged as WARNING, all others as INFO. For structured
    logs, the record has the attributes `session_event`, `session_reason` and `session_id`; and, of
    events that tell them, `session_principal`, `session_address` and `session_user_agent`, which
    the text doesn't have.
    """
    target = logging.getLogger("redis_sessions.events") if logger is None else logger

    def log(event: Event) -> None:
        extra = {
            "session_event": event.name,
            "session_reason": event.reason,
            "session_id": event.id,
        }
        for field, name in _PERSONAL.items():
            if (value := getattr(event, name)) is not None:
                extra[field] = value
        target.log(
            logging.WARNING if event.name in _WARNINGS else logging.INFO,
            "session event %s: reason=%s id=%s",
            event.name,
            event.reason,
            event.id,
            extra=extra,
        )

    return log


def is_sync(function: object) -> TypeGuard[Callable[..., Any]]:
    """Whether this is a callable that needn't be awaited."""
    return callable(function) and not iscoroutinefunction(function)
