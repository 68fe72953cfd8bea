"""Response headers as in ASGI: a list of pairs of bytes. The names are in lower case."""

from __future__ import annotations

import re
from typing import Final

from starlette.types import Scope

__all__ = [
    "RawHeader",
    "add_vary",
    "clear_site_data",
    "forbid_storing",
    "is_event_stream",
    "stays_open",
]

RawHeader = tuple[bytes, bytes]

# Other headers that caches obey, and often prefer to Cache-Control: those of RFC 9213, such as
# CDN-Cache-Control, and the older ones of CDNs and of nginx.
_TARGETED: Final = (b"-cache-control", b"surrogate-control", b"edge-control", b"x-accel-expires")
_QUOTED: Final = re.compile(rb'"[^"]*"')


def is_event_stream(headers: list[RawHeader]) -> bool:
    """Whether the body is a stream of server-sent events. Such headers have to go out at once."""
    for name, value in headers:
        if name == b"content-type":
            return value[:17].lower() == b"text/event-stream"
    return False


def add_vary(headers: list[RawHeader], vary: RawHeader) -> None:
    """Add the names of request headers to `Vary`, unless they are there already."""
    for index, (header, value) in enumerate(headers):
        if header == b"vary":
            names = [name.strip().lower() for name in value.split(b",")]
            if b"*" not in names:
                more = [name for name in vary[1].split(b", ") if name.lower() not in names]
                headers[index] = (header, b", ".join((value, *more)))
            return
    headers.append(vary)


def clear_site_data(headers: list[RawHeader], ours: RawHeader) -> None:
    """Add what the browser is to clear to `Clear-Site-Data`, unless it is there already."""
    for index, (header, value) in enumerate(headers):
        if header.lower() == ours[0]:
            named = [name.strip() for name in value.split(b",")]
            if b'"*"' not in named:
                more = [name for name in ours[1].split(b", ") if name not in named]
                headers[index] = (header, b", ".join((value, *more)))
            return
    headers.append(ours)


def forbid_storing(headers: list[RawHeader]) -> bool:
    """Set `Cache-Control: no-store`. Returns whether that replaced a weaker policy."""
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


def stays_open(scope: Scope) -> bool:
    """Whether a request is a WebSocket, or asks for an event stream."""
    headers: list[RawHeader] = scope["headers"]
    return scope["type"] == "websocket" or any(
        name == b"accept" and b"text/event-stream" in value for name, value in headers
    )
