"""Response headers, as ASGI has them: lists of pairs of bytes, their names in lower case."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["RawHeader", "add_vary", "forbid_storing", "is_event_stream"]

RawHeader = tuple[bytes, bytes]

# What else caches obey, many of them rather than Cache-Control: besides the fields of RFC 9213,
# such as CDN-Cache-Control, those that CDNs and nginx had before.
_TARGETED: Final = (b"-cache-control", b"surrogate-control", b"edge-control", b"x-accel-expires")
_QUOTED: Final = re.compile(rb'"[^"]*"')


def is_event_stream(headers: list[RawHeader]) -> bool:
    """Whether these announce server-sent events, whose headers must go out at once."""
    for name, value in headers:
        if name == b"content-type":
            return value[:17].lower() == b"text/event-stream"
    return False


def add_vary(headers: list[RawHeader], vary: RawHeader) -> None:
    """Name the request headers that the response depends on."""
    for index, (header, value) in enumerate(headers):
        if header == b"vary":
            names = [name.strip().lower() for name in value.split(b",")]
            if b"*" not in names:
                more = [name for name in vary[1].split(b", ") if name.lower() not in names]
                headers[index] = (header, b", ".join((value, *more)))
            return
    headers.append(vary)


def forbid_storing(headers: list[RawHeader]) -> bool:
    """`Cache-Control: no-store`, for every cache; whether that replaced a weaker policy."""
    kept: list[RawHeader] = []
    weaker = forbidden = False
    for item in headers:
        name, value = item[0].lower(), item[1].lower()
        if name == b"cache-control" or name.endswith(_TARGETED):
            forbids = _forbids_storing(value)
            weaker = weaker or not forbids
            if not forbids or name != b"cache-control":
                continue
            forbidden = True
        kept.append(item)
    if not forbidden:
        kept.append((b"cache-control", b"no-store"))
    headers[:] = kept
    return weaker


def _forbids_storing(value: bytes) -> bool:
    directives = _QUOTED.sub(b"", value).split(b",")
    return any(directive.strip() == b"no-store" for directive in directives)
