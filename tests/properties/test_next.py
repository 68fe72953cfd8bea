"""Whatever a client sends as `next`, or asks for: what becomes of it is a path of this site."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, unquote

from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import HTTPConnection

from redis_sessions import safe_next
from redis_sessions.http.login import not_signed_in
from tests.support.asgi import scope_of

PATH = re.compile(r"/(?![/\\])[!-~]*")

HOSTILE = st.lists(
    st.sampled_from(
        [*"/\\:@?#%. \t\n\r\0;&=[]", "https:", "//", "shop.example", "other.example", "%2F", "%5c"]
    )
    | st.text(max_size=2),
    max_size=8,
).map("".join)
HEADER = HOSTILE.map(lambda text: text.encode("utf-8", "replace"))


def as_a_browser(url: str) -> str:
    """What the WHATWG's URL parser does before it looks for a host."""
    return re.sub(r"[\t\n\r]", "", url.strip("".join(map(chr, range(33))))).replace("\\", "/")


@given(HOSTILE | HOSTILE.map("https://shop.example".__add__))
def test_safe_next(url: str) -> None:
    """It is one slash and no second, in printable ASCII, and stays what it is when it is read."""
    request = HTTPConnection(scope_of("/login", [(b"host", b"shop.example")]))
    kept = safe_next(request, url)
    assert PATH.fullmatch(kept)
    for form in (kept, unquote(kept)):
        assert not as_a_browser(form).startswith("//")
    assert safe_next(request, kept) == kept


@given(
    HOSTILE.map("/".__add__),
    HEADER,
    HEADER,
    st.sampled_from(["GET", "POST"]),
    st.sampled_from([b"true", b"false"]),
)
def test_login_required(path: str, query: bytes, url: bytes, method: str, htmx: bytes) -> None:
    """The answer's headers are ASCII, and its `next` is one that safe_next() takes as it is."""
    headers = [
        (b"host", b"shop.example"),
        (b"accept", b"text/html"),
        (b"hx-request", htmx),
        (b"hx-current-url", url),
        (b"referer", url),
    ]
    scope = scope_of("/", headers, method=method)
    connection = HTTPConnection({**scope, "path": path, "query_string": query})
    _, answer = not_signed_in(connection, "/login?lang=en", "Session")
    way = answer.get("Location") or answer["HX-Redirect"]
    assert re.fullmatch(r"/login\?lang=en(&next=/[!-~]*)?", way)
    for back in parse_qs(way.partition("?")[2]).get("next", []):
        assert PATH.fullmatch(back)
        assert safe_next(connection, back) == back
