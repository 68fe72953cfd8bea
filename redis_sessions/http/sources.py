"""What a source of another library's sessions is, and what it finds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from redis_sessions.tracebacks import no_fields, silent_repr

__all__ = ["Found", "Source"]


class Found(NamedTuple):
    """A session that a source has found."""

    data: dict[str, Any]
    """What it holds: plain data, decoded."""
    id: str
    """What names it at its source. It is secret, and is never logged."""
    ttl: int | None
    """For how many seconds it can still live, however much it is used. None: nobody knows."""
    since: float | None = None
    """When it was the same session already, in seconds since the epoch. If all sessions of its user
    were revoked since, it isn't accepted. None: nobody knows, and it counts as begun just now."""
    signed_for: int = 0
    """For how many seconds a cookie is valid from `since` on, if one login has many cookies, since
    it is signed anew with each response. `id` is then this cookie's alone, and a sign-out refuses
    all that were signed before. 0: the session has one id."""

    def __repr__(self) -> str:
        return silent_repr(self)

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return no_fields(self)


class Source(Protocol):
    """Where sessions of another library are, and what becomes of them here.

    Each method takes a bounded time: requests wait for it. `find`, `read` and `end` raise nothing
    but `StoreError`, whatever the cookie or the stored bytes hold. They build no object of any
    class by what they read.
    """

    @property
    def cookie(self) -> str:
        """The name of the cookie whose value `find` is given."""
        ...

    @property
    def path(self) -> str:
        """The path of that cookie, to have it expire."""
        ...

    @property
    def domain(self) -> str | None:
        """The domain of that cookie, to have it expire."""
        ...

    @property
    def once(self) -> bool:
        """Whether that cookie expires with the response that stores our session."""
        ...

    @property
    def follow(self) -> bool:
        """Whether its end ends our session, and ours ends it."""
        ...

    def map(self, data: dict[str, Any]) -> Mapping[str, Any] | None:
        """What our session holds. None: this session isn't accepted."""
        ...

    async def find(self, value: str) -> Found | str | None:
        """The session that a cookie's value names. None: there is none.

        A str says in a few words why it is rejected, such as "expired". It is counted by this text,
        so there are few texts, and none has a part of the value in it.
        """
        ...

    async def read(self, id: str) -> dict[str, Any] | None:
        """What this session holds now. None: it isn't there.

        With `follow`, each request calls it.
        """
        ...

    async def end(self, id: str) -> None:
        """End this session (`follow`)."""
        ...

    async def close(self) -> None:
        """Close the connections of this event loop."""
        ...
