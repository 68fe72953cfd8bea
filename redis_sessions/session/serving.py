"""Which request is being served."""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import Protocol

from redis_sessions.errors import SessionError
from redis_sessions.session import threads
from redis_sessions.session.session import Session

__all__ = ["Served", "Serving", "serving"]


class Serving(Protocol):
    """A connection that is served, and its session."""

    session: Session
    over: bool
    """Whether it was served, and is over."""

    def answer_to(self, error: SessionError) -> SessionError:
        """The error of a manager's method, as this connection answers it."""
        ...


serving: ContextVar[tuple[Serving, ...]] = threads.serving
"""The connections of the request that is being served, the innermost last.

Its tasks and threads see them, too, and may outlast it.
"""

Served = Token[tuple[Serving, ...]]
"""What `serving.set` returns, and `serving.reset` takes."""
