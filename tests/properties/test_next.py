"""Whatever a client sends as `next`, or asks for: what becomes of it is a path of this site."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.requests import HTTPConnection

from redis_sessions import safe_next
from redis_sessions.http.login import not_signed_in
from tests.support.asgi import scope_of

PATH = re.compile(r"/(?![/\\])[!-~]*")

HOSTILE = st.lists(
    st.sampled_from(
        [
            *"/\\:@?#%. \t\n\r\0;&=[]",
            "https:",
            "//",
            "shop.example",
            "other.example",
            "%2F",
            "%5c",
            "%2e",
            "%25",
            "%09",
            "%3f",
            "%20",
            "/..",
            "%5C..%5C",
        ]
    )
    | st.text(max_size=2),
    max_size=8,
).map("".join)
HEADER = HOSTILE.map(lambda text: text.encode("utf-8", "replace"))


def as_a_browser(url: str) -> tuple[str, str]:
    """Host and path of a URL, resolved against `https://shop.example/login` as the WHATWG says."""
    url = re.sub(r"[\t\n\r]", "", url.strip("".join(map(chr, range(33)))))
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", url)
    host = "shop.example"
    if scheme is not None:
        special = scheme[0].lower() in ("https:", "http:", "ws:", "wss:", "ftp:", "file:")
        if not special:
            return scheme[0], ""
        url = url[scheme.end() :]
    # A backslash is a slash, and any number of slashes comes before a host. One is enough after
    # the scheme of another site.
    if re.match(r"[/\\]{2}", url) or (scheme is not None and scheme[0].lower() != "https:"):
        host, url = re.fullmatch(r"[/\\]*([^/\\?#]*)(.*)", url, re.DOTALL).groups()  # type: ignore[union-attr]  # it matches everything
        host = host.rpartition("@")[2].lower()
    segments: list[str] = []
    for segment in re.split(r"[?#]", url)[0].replace("\\", "/").split("/")[1:]:
        plain = re.sub("%2e", ".", segment, flags=re.IGNORECASE)
        if plain == "..":
            segments = segments[:-1]
        elif plain != ".":
            segments.append(segment)
    return host, "/" + "/".join(segments)


@pytest.mark.parametrize(
    ("url", "host", "path"),
    [
        ("/cart?to=//a#//b", "shop.example", "/cart"),
        ("//a/b", "a", "/b"),
        ("/\\a\\b", "a", "/b"),
        (" /\t/a", "a", "/"),
        ("HTTPS:///u@A:1?b", "a:1", "/"),
        ("http:a", "a", "/"),
        ("https:/cart", "shop.example", "/cart"),
        ("/.//a/%2E%2e/b", "shop.example", "//b"),
        ("javascript:a", "javascript:", ""),
    ],
)
def test_the_browser(url: str, host: str, path: str) -> None:
    """What the other tests compare with resolves these URLs as browsers do."""
    assert as_a_browser(url) == (host, path)


@example("/a%5C..%5C%5Cother.example")
@example("/a%252F..%252F%252Fother.example")
@given(HOSTILE | HOSTILE.map("https://shop.example".__add__))
def test_safe_next(url: str) -> None:
    """It leads a browser to a path of this site, in ASCII, and stays what it is when it is read."""
    request = HTTPConnection(scope_of("/login", [(b"host", b"shop.example")]))
    kept = safe_next(request, url)
    assert PATH.fullmatch(kept)
    form, before = kept, ""
    while form != before:  # whoever reads it may decode it once more
        host, path = as_a_browser(form)
        assert host == "shop.example"
        assert not path.startswith("//")
        form, before = unquote(form), form
    assert safe_next(request, kept) == kept


@example("/a%5C..%5C%5Cother.example", {"5c"})
@given(HOSTILE.map("/".__add__), st.sets(st.sampled_from(["2f", "5c", "2e", "25", "09", "3f"])))
def test_half_decoded(url: str, some: set[str]) -> None:
    """It stays on our origin also if somebody decodes only some of its characters, and again."""
    form, before = safe_next(HTTPConnection(scope_of("/login")), url), ""
    decoded = re.compile("%(?:" + "|".join([*sorted(some), "5c"]) + ")", re.IGNORECASE)
    while form != before:
        host, path = as_a_browser(form)
        assert host == "shop.example"
        assert not path.startswith("//")
        form, before = decoded.sub(lambda found: unquote(found[0]), form), form


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
