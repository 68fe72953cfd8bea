"""`safe_next`: what stays on the site is kept, and what an open redirect would use isn't."""

from __future__ import annotations

import re
from urllib.parse import urlencode

import pytest
from starlette.datastructures import UploadFile
from starlette.requests import HTTPConnection

from redis_sessions import safe_next
from tests.support.asgi import scope_of

LOCAL = re.compile(r"/(?![/\\])[!-~]*")

KEPT = {
    "/": "/",
    "/cart": "/cart",
    "/cart?id=1&sort=up#end": "/cart?id=1&sort=up#end",
    "/search?q=https://other.example/": "/search?q=https://other.example/",
    "/search?q=//other.example": "/search?q=//other.example",
    "/a//b": "/a//b",
    "/me@other.example": "/me@other.example",
    "/:443": "/:443",
    "/caf%C3%A9?q=%0D%0A": "/caf%C3%A9?q=%0D%0A",
    "/100%": "/100%",
    "/search?q=a%2Fb%5Cc&next=https%3A%2F%2Fx": "/search?q=a%2Fb%5Cc&next=https%3A%2F%2Fx",
    "/search?q=%5C..%5C%5Cother.example#%2F..%2F": "/search?q=%5C..%5C%5Cother.example#%2F..%2F",
    "/login?next=%252Fa%253Fb%25253D%2525252Fc": "/login?next=%252Fa%253Fb%25253D%2525252Fc",
    "/a%00%0B%C2%85": "/a%00%0B%C2%85",
    "/a%2Fb%5Cc%252Fd%253Fe%2523f%20g": "/a%2Fb%5Cc%252Fd%253Fe%2523f%20g",
    "/.well-known/a..b/...?to=/../": "/.well-known/a..b/...?to=/../",
    # What isn't ASCII, and what a browser or a template takes for something else, is encoded.
    "/café": "/caf%C3%A9",
    "/a b": "/a%20b",
    "/a\\b": "/a%5Cb",
    "/'\"<>`{|}": "/%27%22%3C%3E%60%7B%7C%7D",
    "/\uff0fother.example": "/%EF%BC%8Fother.example",
    # An absolute URL, as @requires and HX-Current-URL have it.
    "https://shop.example:8443/cart?a=1": "/cart?a=1",
    "HTTP://Shop.Example:8443/cart": "/cart",
    "https://shop.example:8443": "/",
    "https://shop.example:8443?a=1": "/?a=1",
    "https://shop.example:8443#end": "/#end",
}

REFUSED = [
    "",
    " ",
    "\n",
    "cart",
    "./cart",
    "../cart",
    "?a=1",
    "#end",
    # other hosts
    "https://other.example",
    "http://other.example/",
    "https:other.example",
    "https:/other.example",
    "https:///other.example",
    "https:////other.example",
    "http:999999999",
    "ftp://shop.example:8443/",
    "//other.example",
    "///other.example",
    "////other.example",
    "//",
    "//shop.example:8443/cart",
    # a backslash is a slash
    "/\\other.example",
    "\\/other.example",
    "\\\\other.example",
    "\\\\\\other.example",
    "/\\/other.example",
    "/\\\\/other.example",
    "\\other.example",
    "http:\\\\other.example",
    "http:/\\other.example",
    "http:\\/other.example",
    "https://shop.example:8443\\@other.example",
    "https:\\\\shop.example:8443\\@other.example",
    # what browsers leave out
    "/\t/other.example",
    "/\n/other.example",
    "/\r\n/other.example",
    "\t//other.example",
    " //other.example",
    "\x08//other.example",
    "\x00//other.example",
    "/\x0b/other.example",
    "/\u2028/other.example",
    "/ /other.example",
    "java\nscript:alert(1)",
    "\njavascript:alert(1)",
    # with one level of percent-encoding, which a proxy may remove
    "/%2Fother.example",
    "/%2fother.example",
    "/%5Cother.example",
    "/%09/other.example",
    "/%0A/other.example",
    "/%20/other.example",
    "%2Fcart",
    # with several levels of it
    "%252Fcart",
    "/%252Fother.example",
    "/%25252Fother.example",
    "/%255Cother.example",
    "/%2525252525252Fother.example",
    "/a%" + "25" * 5 + "62",
    # with dots that somebody removes who has removed the encoding
    "/a%5C..%5C%5Cother.example",
    "/a\\..\\\\other.example",
    "/a%5C..%2F%2Fother.example",
    "/a/..%5C%5Cother.example",
    "/a%2F..%2F%2Fother.example",
    "/a%252F%252e%252E%255C%255Cother.example",
    "/a%5C%2E./other.example",
    "/a%2F.%2E",
    "/a/..%20",
    "/a/..%3Fb",
    "/a%3F/..//other.example",
    "/a%23%5C..%5C%5Cother.example",
    "https://shop.example:8443/a%5C..%5C%5Cother.example",
    # and what browsers leave out of it then
    "/a%5C.%09.%5C%5Cother.example",
    "/a/.%0A.//other.example",
    "/a/..%00%20",
    # what begins with two slashes as soon as a browser, or a script, has removed the dots
    "/.//other.example",
    "/..//other.example",
    "/%2e//other.example",
    "/cart/%2E.//other.example",
    "/cart/..\\/other.example",
    "/..",
    "/.?a=1",
    "https://shop.example:8443/.//other.example",
    # the host of this site as something else
    "https://shop.example:8443@other.example/",
    "https://user:pass@shop.example:8443/",
    "https://shop.example:8443.other.example/",
    "https://other.example?https://shop.example:8443/",
    "https://other.example#https://shop.example:8443/",
    "https://other.example/shop.example:8443",
    "https://shop.example/",
    "https://shop.example:443/",
    "https://[2001:db8::1/",
    "https://2001:db8::1]/",
    # the host, and then one that a browser finds in the path
    "https://shop.example:8443//other.example",
    "https://shop.example:8443/\\other.example",
    "https://shop.example:8443/%5Cother.example",
    # other schemes
    "javascript:alert(1)",
    "javascript://shop.example:8443/%0Aalert(1)",
    "data:text/html,<script>alert(1)</script>",
    "vbscript:x",
    # a header's end
    "/cart\r\nSet-Cookie: a=b",
    "/cart\nX: y",
    "/cart\x00",
    "/cart\x7f",
    "/cart\x85",
    # half of a character
    "/cart\ud800",
    # too long, as it is or encoded
    "/" + 2000 * "a",
    "/" + 400 * "é",
    "https://shop.example:8443/" + 2000 * "a",
]


def asked(query: str = "", host: bytes | None = b"shop.example:8443") -> HTTPConnection:
    headers = [] if host is None else [(b"host", host)]
    return HTTPConnection(scope_of(f"/login?{query}", headers))


@pytest.mark.parametrize("url", KEPT)
def test_on_this_site(url: str) -> None:
    """A path stays, percent-encoded where it has to be, and is kept again as it was returned."""
    kept = safe_next(asked(), url)
    assert kept == KEPT[url]
    assert LOCAL.fullmatch(kept)
    assert safe_next(asked(), kept) == kept


@pytest.mark.parametrize("url", REFUSED)
def test_elsewhere(url: str) -> None:
    """The default takes the place of what names another host, or nothing."""
    assert safe_next(asked(), url) == "/"
    assert safe_next(asked(), url, default="/home") == "/home"


def test_of_the_query() -> None:
    """Without a text it is the query's `next`, decoded once; of several the last."""
    assert safe_next(asked()) == "/"
    assert safe_next(asked("next=")) == "/"
    assert safe_next(asked(urlencode({"next": "/a?b=c%20d&e=f"}))) == "/a?b=c%20d&e=f"
    assert safe_next(asked("next=/a&next=/b")) == "/b"
    assert safe_next(asked("next=/a&next=//other.example")) == "/"
    assert safe_next(asked("next=%2F%2Fother.example")) == "/"
    assert safe_next(asked("next=%ff%fe/")) == "/"
    assert safe_next(asked("next=/a"), "/b") == "/b"


def test_of_a_form() -> None:
    """A form's field may be missing, or be a file."""
    assert safe_next(asked("next=/a"), None) == "/a"
    assert safe_next(asked("next=/a"), UploadFile(file=None)) == "/"  # type: ignore[arg-type]
    assert safe_next(asked("next=/a"), ["/b"]) == "/"


def test_without_a_host() -> None:
    """No absolute URL is on this site, if the request doesn't say which one it is."""
    for host in (None, b""):
        assert safe_next(asked(host=host), "/a") == "/a"
        assert safe_next(asked(host=host), "https:///a") == "/"
        assert safe_next(asked(host=host), "https://testserver/a") == "/"
