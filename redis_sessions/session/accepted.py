"""What a request knows of another library's session whose data it was given."""

from __future__ import annotations

import msgspec

from redis_sessions.tracebacks import no_fields, silent_repr

__all__ = ["Accepted", "Origin"]


class Origin(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """Where the data of a session come from, as its record remembers it.

    `source`: the name of the source. `id`: what names the session there, if it is followed; else
    "". `at`: the record's `authenticated_at` as it was accepted, and 0 from then on when the user
    has proved here who they are. -1: the session began on both sides at once. `signed_for`: as
    `Found.signed_for`, if somebody was signed in by the cookie; else 0.
    """

    __repr__ = silent_repr
    __rich_repr__ = no_fields

    source: str
    id: str
    at: int
    signed_for: int = 0


class Accepted(msgspec.Struct, eq=False):
    """A session of another library whose data are in ours, and aren't stored yet."""

    __repr__ = silent_repr
    __rich_repr__ = no_fields

    source: str
    """The name of the source."""
    context: str
    """What the marker is sealed for. It has the foreign session's id in it, which is secret."""
    name: str
    """The id under which the marker is stored."""
    id: str
    """What names the session at its source, if it is followed; else ""."""
    ttl: int
    """For how many milliseconds the marker is kept."""
    principal: str | None
    """Who is signed in by the data."""
    data: bytes
    """The data, encoded."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """What the response has when they are stored: the foreign cookie expires."""
    taken: str | None = None
    """The id of the session that another request has made of the data. Then this one makes none."""
    replaces: bytes | None = None
    """The version of a marker that doesn't count any more, to be replaced. None: there is none."""
    stays_open: bool = False
    """Whether it is a WebSocket or event stream, which has to end with its session."""
    signed_for: int = 0
    """For how many seconds other cookies of this login are valid, each with an id of its own."""
    follows_end: bool = False
    """Whether our session ended at its source, and so is cleared, though not by the application."""

    def origin(self, at: int | None) -> Origin:
        """What the record remembers. `at`: its `authenticated_at`."""
        return Origin(self.source, self.id, at or 0, self.signed_for)
