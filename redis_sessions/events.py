"""What happened to sessions, for an application's log: ids and reasons, never tokens or data."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["Event", "EventHandler", "logger"]

logger: Final = logging.getLogger("redis_sessions")


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened: `name`, why (`reason`), and to which session (`id`, if known).

    Names: `created`, `rotated`, `ended`, `rejected` (a token or record that reads as no
    session), `merged` (a conflict was resolved), `dropped` (a change that wasn't stored),
    `cache_control_replaced`, `unavailable` (a request needed the store, and got none).
    """

    name: str
    reason: str | None = None
    id: str | None = None


EventHandler = Callable[[Event], None]
