"""What `serving` has in a request: for tests of a session without a middleware."""

from __future__ import annotations

from dataclasses import dataclass

from redis_sessions import Session, SessionError

__all__ = ["Served", "served"]


@dataclass
class Served:
    """A request that is being served, and its session."""

    session: Session
    over: bool = False

    def answer_to(self, error: SessionError) -> SessionError:
        return error


def served(*sessions: Session) -> tuple[Served, ...]:
    """Requests that are being served, one for each session."""
    return tuple(map(Served, sessions))
