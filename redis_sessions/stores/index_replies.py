"""What the replies to an index's commands mean. `StoreUnavailableError` if no Redis gives such."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from math import inf
from typing import Any, Final, TypeVar

from redis_sessions.connect.resp import UNEXPECTED_REPLY
from redis_sessions.errors import StoreUnavailableError
from redis_sessions.session.token import is_id
from redis_sessions.stores.protocols import Entered, Entry, EntryStatus, Touched

__all__ = [
    "checked",
    "entered",
    "entries",
    "fields",
    "flag",
    "moment",
    "nothing",
    "status",
    "touched",
]

T = TypeVar("T")

_LIVE: Final = re.compile(rb"L (\d{1,15}) (\d{1,15}\.?\d{0,3}) (\d{1,15}) (?:@(\d{10}) )?")
_STATUSES: Final = {status.value.encode(): status for status in EntryStatus}


def checked(read: Callable[[Any], T]) -> Callable[[Any], T]:
    """Decorate what reads a reply: `StoreUnavailableError` if no Redis gives such a reply."""

    @wraps(read)
    def read_reply(reply: Any) -> T:
        try:
            return read(reply)
        except UNEXPECTED_REPLY as exc:
            raise StoreUnavailableError(
                "the store answered what no Redis does: see whether something else listens at "
                "its address",
                reason="protocol",
            ) from exc

    return read_reply


@checked
def fields(reply: Any) -> dict[bytes, bytes]:
    """What a page of HSCAN holds."""
    _, found = reply
    return {name + b"": value + b"" for name, value in zip(found[::2], found[1::2], strict=True)}


@checked
def flag(reply: Any) -> bool:
    """Whether the script says 1, of 0 and 1."""
    return {0: False, 1: True}[reply]


def nothing(_: Any) -> None:
    """The result of a write that only reports its errors."""


@checked
def moment(reply: Any) -> float:
    """A time in milliseconds."""
    return float(reply)


@checked
def status(reply: Any) -> EntryStatus:
    """What the index says of a session."""
    return _STATUSES[reply]


@checked
def entered(reply: Any) -> Entered:
    """What became of a sign-in."""
    status, at, size, since = reply
    ago = float(since)
    return Entered(_STATUSES[status], int(at), int(size), inf if ago < 0 else ago)


@checked
def touched(reply: Any) -> Touched:
    """What became of a touch."""
    status, clock = reply
    return Touched(_STATUSES[status], float(clock))


@checked
def entries(reply: Any) -> tuple[int, list[Entry]]:
    """The next cursor, and some entries."""
    after, fields = reply
    pairs = zip(fields[::2], fields[1::2], strict=True)
    return int(after), [entry for pair in pairs if (entry := _entry(*pair)) is not None]


def _entry(id: bytes, value: bytes) -> Entry | None:
    form = _LIVE.match(value)
    name = id.decode("latin-1")
    if form is None or not is_id(name):
        return None  # the field of the marks or of the times, or one that isn't ours
    authenticated, seen, expires, rotated = form.groups()
    descriptor = value[form.end() :]
    return Entry(name, int(authenticated), float(seen), int(expires), descriptor, int(rotated or 0))
