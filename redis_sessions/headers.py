"""Response headers, as ASGI has them: lists of pairs of bytes."""

from __future__ import annotations

__all__ = ["RawHeader", "add_vary", "forbid_storing", "is_event_stream"]

RawHeader = tuple[bytes, bytes]


def is_event_stream(headers: list[RawHeader]) -> bool:
    """Whether these announce server-sent events, whose headers must go out at once."""
    for name, value in headers:
        if len(name) == 12 and name.lower() == b"content-type":
            return value[:17].lower() == b"text/event-stream"
    return False


def add_vary(headers: list[RawHeader], name: str) -> None:
    """Name a request header that the response depends on."""
    for index, (header, value) in enumerate(headers):
        if len(header) == 4 and header.lower() == b"vary":
            names = [part.strip().lower() for part in value.decode("latin-1").split(",")]
            if "*" not in names and name.lower() not in names:
                headers[index] = (header, value + b", " + name.encode())
            return
    headers.append((b"vary", name.encode()))


def forbid_storing(headers: list[RawHeader]) -> bool:
    """`Cache-Control: no-store`; whether that replaced a weaker policy."""
    old = [value for header, value in headers if header.lower() == b"cache-control"]
    if any(b"no-store" in value.lower() for value in old):
        return False
    headers[:] = [item for item in headers if item[0].lower() != b"cache-control"]
    headers.append((b"cache-control", b"no-store"))
    return bool(old)
