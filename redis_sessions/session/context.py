"""What a session asks of the connection that it serves."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from redis_sessions.errors import SessionError

__all__ = ["Peer", "RequestContext"]


class Peer(NamedTuple):
    """The client of a request, as a list of sessions shows it."""

    address: str | None = None
    user_agent: str | None = None


class RequestContext(Protocol):
    """What a session asks of the connection that it serves."""

    def peer(self) -> Peer:
        """The client's address and user agent."""
        ...

    def as_seen(self, error: SessionError) -> SessionError:
        """The error that the application gets in place of this one."""
        ...

    def until_over(self, stop: Callable[[], None]) -> Callable[[], None]:
        """Have `stop` called when the connection is over. What is returned undoes this."""
        ...

    def loaded_late(self) -> None:
        """The session was loaded after the response had started."""
        ...
