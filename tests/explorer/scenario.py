"""Who does what at once, and how what is stored looks to the explorer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from msgspec.msgpack import encode

from redis_sessions.session import values
from redis_sessions.session.record import HEADER_SIZE, Alias, Record, Sealer, Stored, rotated_at
from redis_sessions.session.token import SessionToken
from tests.explorer.actors import KEYRING, tag, tagged

__all__ = [
    "ALIASES",
    "BEHIND",
    "DAY",
    "EVERYTHING",
    "INDEXES",
    "LOST_RECORD",
    "PRINCIPALS",
    "SIGNED_IN",
    "Action",
    "Footprint",
    "Rec",
    "Scenario",
    "Tomb",
    "browsers_of",
    "first_aliases",
    "first_record",
    "view",
]

DAY: Final = 24 * 3600
BEHIND: Final = 800
"""Seconds: more than the sessions that a scenario starts from are old."""
SIGNED_IN: Final = ("A", "A2", "A3", "S", "S2")
"""The starts in which A is signed in, and in A's index."""
PRINCIPALS: Final = ("A", "B")
ALIASES: Final = {"S": "sid\0S", "T": "sid\0T"}
"""Two values of one alias, and their texts."""
INDEXES: Final = {
    **{name: KEYRING.primary.index(name) for name in PRINCIPALS},
    **{name: KEYRING.primary.alias(text) for name, text in ALIASES.items()},
}
EVERYTHING: Final = "*"
LOST_RECORD: Final = ("failover record", "failover repeated")
"""A failover takes a record's last write back; and who answered it repeats it at once."""
Footprint = Mapping[str, bool]
"""What an action reads (False) or writes (True)."""


class Rec(NamedTuple):
    """A record, opened."""

    token: SessionToken
    principal: str | None
    owner: str | None
    data: Mapping[str, str]
    """The tagged values."""
    auth: int
    version: bytes
    aliases: Mapping[str, int] = {}
    """When it was entered under each alias."""


class Tomb(NamedTuple):
    """A tombstone. `recent`: it says that a session ended, to its browser too."""

    recent: bool


class Action(NamedTuple):
    """What may happen next. `nth`: which of a request's waiting operations; or an id's label."""

    what: str
    who: int = 0
    nth: int | str = 0


@dataclass(frozen=True)
class Scenario:
    """Requests that are under way at once, what they start from, and what may go wrong."""

    start: str
    specs: tuple[str, ...]
    fault: str | None = None
    transit: bool = False
    procs: tuple[int, ...] = ()
    """In which process each request runs, if processes keep near copies."""
    warm: bool = False
    """Whether each process has a copy in the beginning."""
    bounds: int = 1
    """How often the time that a copy may be old passes."""
    waits: bool = False
    """Whether writes leave over a link of their own, since they wait for replicas."""

    @property
    def indexes(self) -> Sequence[str]:
        """Whose indexes there are: those of aliases cost time."""
        aliased = self.start in _FIRST_ALIASES or any("S" in spec for spec in self.specs)
        return (*PRINCIPALS, *ALIASES) if aliased else PRINCIPALS

    @property
    def faults(self) -> Sequence[str]:
        """What goes wrong, in this order: `fault` may be several, with "then" between them."""
        return self.fault.split(" then ") if self.fault else ()

    def __str__(self) -> str:
        where = f" in {','.join(map(str, self.procs))}" if self.procs else ""
        where += " warm" * self.warm + " waits" * self.waits
        return f"{self.start}: {' || '.join(self.specs)}{where}" + (
            f" +{self.fault}" if self.fault else ""
        )


def view(sealer: Sealer, tokens: Sequence[SessionToken], raw: bytes) -> Rec | Tomb | None:
    """Stored bytes, opened by one of these tokens. AssertionError if two open it (I1)."""
    if len(raw) == HEADER_SIZE:
        return Tomb(rotated_at(raw) != 0)
    opened = [sealer.open(token, raw) for token in tokens]
    fits = [stored for stored in opened if isinstance(stored, Stored)]
    if len(fits) != 1:
        raise AssertionError(f"I1: {len(fits)} tokens open a record")
    token, record = fits[0].token, fits[0].record
    data = values.decode(bytes(record.data))
    owner = None
    if record.owner is not None:
        owner = next(p for p in PRINCIPALS if KEYRING.primary.owner(p) == record.owner)
    return Rec(
        token,
        data.get("user_id"),
        owner,
        tagged(data),
        record.authenticated_at or 0,
        raw[:HEADER_SIZE],
        {alias.text[-1]: alias.entered_at for alias in record.aliases},
    )


def browsers_of(start: str) -> Sequence[str]:
    """Who has a session in the beginning: "", and of A2, A3 and S2 others of A's browsers, too."""
    return {"none": (), "A2": ("", "9"), "A3": ("", "9", "8"), "S2": ("", "9")}.get(start, ("",))


_FIRST_ALIASES: Final = {"S": {"": "S"}, "S2": {"": "S", "9": "T"}}
"""The alias of each browser in the beginning."""


def first_aliases(start: str, browser: str) -> Sequence[str]:
    """The aliases that a browser's session has in the beginning."""
    return tuple(_FIRST_ALIASES.get(start, {}).get(browser, ""))


def first_record(start: str, now: int, aliases: Sequence[str] = ()) -> Record:
    """What a scenario starts from: 400 seconds old, so that a touch is due."""
    data = {"x": tag(None if start == "anon" else "A", 0)}
    who = "A" if start in SIGNED_IN or start == "Alost" else None
    return Record(
        created_at=now - 400,
        authenticated_at=(now - 400) * 1000 if who else None,
        seen_at=now - 400,
        expires_at=now - 400 + 14 * DAY,
        idle=7 * DAY,
        persistent=True,
        owner=None if start == "anon" else KEYRING.primary.owner("A"),
        binding=None,
        data=values.raw(encode(data | ({"user_id": who} if who else {}))),
        aliases=tuple(Alias(ALIASES[name], (now - 400) * 1000) for name in aliases),
    )
