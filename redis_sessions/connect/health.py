"""Whether a server is away, and what the log says of it."""

from __future__ import annotations

from typing import Final

from redis_sessions.errors import StoreError, StoreUnavailableError
from redis_sessions.events import logger

__all__ = ["AWAY", "Health"]

AWAY: Final = frozenset({"connection", "timeout", "protocol"})
"""Reasons of `StoreUnavailableError` that mean that Redis is away. With others it is there."""


class Health:
    """Whether the store is away, as the queues of one event loop saw it last."""

    __slots__ = ("_reported_by", "away", "probing", "quiet", "trouble")

    def __init__(self) -> None:
        self.away: StoreError | None = None
        """The last failure, if it means that Redis is away."""
        self.trouble: str | None = None
        """The last failure's reason. A success of the queue that failed last removes it."""
        self.probing = False
        """Whether a batch is under way that shows whether Redis is back."""
        self.quiet = False
        """Whether new trouble stays out of the log, since somebody else reports it."""
        self._reported_by: object = None

    def note(self, trouble: StoreError | None, by: object = None) -> None:
        """Note what became of a batch. Trouble is logged when it begins, changes and ends.

        `by` is the queue that sent the batch. Any answer shows that the store isn't away. But
        reading may go on while all writes are refused: so only an answer to the queue that was
        refused last shows that the refusals are over.
        """
        reason = trouble.reason if isinstance(trouble, StoreUnavailableError) else None
        if reason is None and self.away is None and by is not self._reported_by:
            return
        self._reported_by = by
        self.away = trouble if reason in AWAY else None
        before, self.trouble = self.trouble, reason
        if reason is not None and reason != before:
            if not self.quiet:
                self.log_trouble(trouble)
        elif reason is None and before is not None:
            self.log_recovery()

    def log_trouble(self, trouble: StoreError | None) -> None:
        """Log that there is trouble, or another one."""
        logger.error("sessions: %s; requests that need one get 503", trouble)

    def log_recovery(self) -> None:
        """Log that there is none any more."""
        logger.warning("sessions: the store serves again")
