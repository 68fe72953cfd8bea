"""What a session asks of the connection that it serves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol

from redis_sessions.errors import SessionError, StoreError
from redis_sessions.session.accepted import Accepted, Origin
from redis_sessions.session.record import Reject, Stored
from redis_sessions.session.values import Changes

__all__ = ["Headers", "OpenConnection", "Peer", "RequestContext", "Sharing", "Sources"]

Headers = tuple[tuple[bytes, bytes], ...]

Load = Callable[..., Awaitable[Any]]
"""`lifecycle.loading.Load`, which gives a `Session`. This module doesn't know that class."""


class Peer(NamedTuple):
    """The client of a request, as a list of sessions shows it."""

    address: str | None = None
    user_agent: str | None = None


class OpenConnection(Protocol):
    """A connection that may stay open for long."""

    def until_over(self, stop: Callable[[], None]) -> Callable[[], None]:
        """Have `stop` called when it is over. What is returned undoes this."""
        ...

    def session_ended(self, why: Reject) -> None:
        """The session has ended, or its token doesn't open it any more."""
        ...

    def loaded(self) -> None:
        """The session was loaded after the response had started."""
        ...


class RequestContext(Protocol):
    """What a session asks of the connection that it serves."""

    def peer(self) -> Peer:
        """The client's address and user agent."""
        ...

    def as_seen(self, error: SessionError) -> SessionError:
        """The error that the application gets in place of this one."""
        ...

    def loaded(self, stored: Stored | None) -> None:
        """Its placeholder has become the session, of which this is stored."""
        ...

    def go_on_without(self, why: StoreError) -> None:
        """Make of a placeholder what `on_unavailable` says, since the store is away."""
        ...

    def opened(self) -> OpenConnection:
        """The connection, as far as it stays open."""
        ...

    def asking_sources(self, load: Load) -> Load:
        """`load`, which then asks sources of other libraries' sessions, too, if there are any."""
        ...

    async def brought(self) -> list[Accepted]:
        """The sessions of other libraries that it brings, whether they may be accepted or not."""
        ...


class Sharing(Protocol):
    """What a commit tells sources whose sessions are shared with ours."""

    def new(self, data: bytes, principal: str | None, /) -> Origin | None: ...

    async def begin(self, origin: Origin, stored: Stored, old: Origin | None, /) -> Headers: ...

    def shared_data(self, name: str, data: bytes, /) -> bytes | None: ...

    async def write(self, origin: Origin, changed: Changes, whose: str | None, /) -> None: ...

    def expiry(self, origin: Origin, /) -> Headers: ...


class Sources(Protocol):
    """What a commit tells the sources of the middleware that has loaded the session."""

    @property
    def sharing(self) -> Sharing | None:
        """Stores at a source what a session shares with one there. None: none shares any."""
        ...

    async def end(self, origin: Origin, /) -> bool:
        """End a session at its source, since ours has ended that follows it.

        False: it is at none of these.
        """
        ...
