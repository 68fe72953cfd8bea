"""Response headers, as ASGI has them: lists of pairs of bytes, their names in lower case."""

from __future__ import annotations

__all__ = ["RawHeader", "add_vary", "forbid_storing", "is_event_stream"]

RawHeader = tuple[bytes, bytes]


def is_event_stream(headers: list[RawHeader]) -> bool:
    """Whether these announce server-sent events, whose headers must go out at once."""
    for name, value in headers:
        if name == b"content-type":
            return value[:17].lower() == b"text/event-stream"
    return False


def add_vary(headers: list[RawHeader], vary: RawHeader) -> None:
    """Name a request header that the response depends on."""
    for item in headers:
        if item[0] == b"vary":
            names = [name.strip().lower() for name in item[1].split(b",")]
            if b"*" not in names and vary[1].lower() not in names:
                headers[headers.index(item)] = (b"vary", item[1] + b", " + vary[1])
            return
    headers.append(vary)


def forbid_storing(headers: list[RawHeader]) -> bool:
    """`Cache-Control: no-store`; whether that replaced a weaker policy."""
    old = [value for header, value in headers if header.lower() == b"cache-control"]
    if any(b"no-store" in value.lower() for value in old):
        return False
    headers[:] = [item for item in headers if item[0].lower() != b"cache-control"]
    headers.append((b"cache-control", b"no-store"))
    return bool(old)
