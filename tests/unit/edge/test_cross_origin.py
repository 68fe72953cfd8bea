"""What another origin causes has no session: by which headers it is told."""

from __future__ import annotations

from typing import Any, Final

import pytest

from redis_sessions import ConfigurationError
from tests.unit.edge.edge import Edge, responding
from tests.unit.edge.foreign import CROSS, EVIL, HOST, POST, SOCKET, caused, sees

# -- how it is told


# OWASP's cheat sheet "Cross-Site Request Forgery Prevention", the sections on Fetch Metadata and on
# verifying the origin with standard headers; and Go's http.CrossOriginProtection.
TABLE: Final[dict[str, tuple[list[tuple[bytes, bytes]], bool]]] = {
    "a page of our own": (caused("https://shop.example", "same-origin"), True),
    "the user, by the address bar": (caused(site="none"), True),
    "a sibling domain": (caused("https://blog.shop.example", "same-site"), False),
    "another port": (caused("https://shop.example:8443", "same-site"), False),
    "another site": (CROSS, False),
    "another site without Origin": (caused(site="cross-site"), False),
    "Sec-Fetch-Site decides, whatever Host is": (
        [*caused("https://shop.example", "same-origin")[1:], (b"host", b"10.0.0.7:8000")],
        True,
    ),
    "Sec-Fetch-Site decides, whatever Origin is": (
        caused("https://shop.example", "cross-site"),
        False,
    ),
    "our page, with Referrer-Policy: no-referrer": (caused("null", "same-origin"), True),
    "no browser": (caused(), True),
    "no browser, and no Host": ([], True),
    "an older browser, our own page": (caused("https://shop.example"), True),
    "an older browser, another site": (caused(EVIL), False),
    "an older browser, a sibling domain": (caused("https://blog.shop.example"), False),
    "an older browser, another port": (caused("https://shop.example:8443"), False),
    "an older browser, a longer name": (caused("https://shop.example.evil.example"), False),
    "an older browser, a longer name in front": (caused("https://evilshop.example"), False),
    "an older browser, a sandboxed frame": (caused("null"), False),
    "an extension named as our host": (caused("chrome-extension://shop.example"), False),
    # Host doesn't tell the scheme, and behind a proxy the server doesn't know it, either.
    "the same host by plain http": (caused("http://shop.example"), True),
    "nobody we know: the word is new": (caused("https://shop.example", "same-party"), False),
    "nobody we know: the word is empty": (caused("https://shop.example", ""), False),
    "nobody we know: in capitals": (caused("https://shop.example", "Same-Origin"), False),
    "two words": (
        [*caused("https://shop.example", "same-origin"), (b"sec-fetch-site", b"cross-site")],
        False,
    ),
    "two origins": (
        [*caused("https://shop.example"), (b"origin", b"https://shop.example")],
        False,
    ),
    "a list of origins": (caused("https://shop.example https://shop.example"), False),
    "two hosts": ([*caused("https://shop.example"), HOST], False),
    "no host": (caused("https://shop.example")[1:], False),
    "an empty origin": (caused(""), False),
    **{
        f"garbage: {origin!r}": (caused(origin), False)
        for origin in (
            *("shop.example", "//shop.example", "https:shop.example", "https://shop.example/"),
            *("https://shop.example?", "https://a@shop.example", "https://shop.example:https"),
            *("https://shop.example:65536", "https://shop.example\0", "\xff\xfe", "https://"),
            *(" https://shop.example", "https://shop.example#", "https://[::1", "https://*"),
        )
    },
}


@pytest.mark.standard(39, "ASVS 3.5.1")
@pytest.mark.parametrize(("headers", "passes"), TABLE.values(), ids=TABLE)
async def test_an_unsafe_request(
    at: Edge, headers: list[tuple[bytes, bytes]], passes: bool
) -> None:
    """It sees its session unless another origin caused it; what isn't understood is another's."""
    assert await sees(at, headers) is passes
    assert at.reported("rejected") == ([] if passes else ["cross-site"])


@pytest.mark.standard(40, "ASVS 4.4.2")
@pytest.mark.parametrize(("headers", "passes"), TABLE.values(), ids=TABLE)
async def test_a_handshake(at: Edge, headers: list[tuple[bytes, bytes]], passes: bool) -> None:
    """A WebSocket's is a GET, but any page may open one and read what comes."""
    assert await sees(at, headers, SOCKET) is passes


async def test_a_handshake_with_a_method(at: Edge) -> None:
    """Some servers, such as socketify, give it in the scope, and GET is no safe one here."""
    for method in ("GET", "CONNECT"):
        assert not await sees(at, CROSS, {**SOCKET, "method": method})


@pytest.mark.parametrize(
    ("method", "passes"),
    [
        *((method, True) for method in ("GET", "HEAD", "OPTIONS", "QUERY")),
        *(
            (method, False)
            for method in ("POST", "PUT", "PATCH", "DELETE", "TRACE", "get", "X", "")
        ),
    ],
)
async def test_methods(at: Edge, method: str, passes: bool) -> None:
    """A link, an image or a preflight leads here from anywhere; whatever else isn't known safe."""
    assert await sees(at, CROSS, {"method": method}) is passes


@pytest.mark.parametrize(
    ("origin", "host", "passes"),
    [
        ("https://shop.example", "shop.example:443", True),
        ("http://shop.example", "shop.example:80", True),
        ("https://shop.example", "shop.example:80", False),
        ("https://shop.example", "SHOP.Example", True),
        ("HTTPS://Shop.EXAMPLE:0443", "shop.example", True),
        ("http://127.0.0.1:8000", "127.0.0.1:8000", True),
        ("http://localhost:8000", "127.0.0.1:8000", False),
        ("http://localhost:8000", "localhost:8001", False),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("http://[::1]", "[::1]:80", True),
        ("https://xn--bcher-kva.example", "xn--bcher-kva.example", True),
        ("https://shop.example", "shop.example.", False),
        ("https://shop.example", "", False),
        ("https://shop.example", "shop.example, shop.example", False),
        ("https://shop.example", "shop.example/\xff", False),
    ],
)
async def test_origin_and_host(at: Edge, origin: str, host: str, passes: bool) -> None:
    """Case and the scheme's own port don't matter; everything else does."""
    headers = [(b"origin", origin.encode()), (b"host", host.encode("latin-1"))]
    assert await sees(at, headers) is passes


# -- trusted origins


@pytest.mark.parametrize(
    ("trusted", "origin", "passes"),
    [
        ("https://app.example.com", "https://app.example.com", True),
        ("HTTPS://App.Example.COM:443", "https://app.example.com", True),
        ("http://localhost:5173", "http://localhost:5173", True),
        ("http://localhost:5173", "http://localhost:5174", False),
        ("http://[::1]:5173", "http://[::1]:5173", True),
        ("https://app.example.com", "http://app.example.com", False),
        ("https://app.example.com", "https://a.app.example.com", False),
        ("https://app.example.com", "null", False),
        ("https://bücher.example", "https://xn--bcher-kva.example", True),
        ("https://BÜCHER.example:8443", "https://xn--bcher-kva.example:8443", True),
        ("https://пример.рф", "https://xn--e1afmkfd.xn--p1ai", True),
        ("capacitor://localhost", "capacitor://localhost", True),
    ],
)
async def test_a_trusted_origin(at: Edge, trusted: str, origin: str, passes: bool) -> None:
    """Its requests are as our own, whether the browser sends Sec-Fetch-Site or not."""
    for site in (None, "cross-site", "same-site"):
        for scope in (POST, SOCKET):
            headers = caused(origin, site)
            assert await sees(at, headers, scope, trusted_origins=[EVIL, trusted]) is passes


@pytest.mark.parametrize(
    "wrong",
    [
        *("", "*", "null", "app.example.com", "https://", "https://app.example.com/", "https://*"),
        *("https://*.example.com", "https://a/b", "https://u@a", "https://a?b", "https://a#b"),
        *("https://a:0x50", "https://a:99999", "https://a b", "https://a..b", "https://[::1"),
        *("wss://app.example.com", "https://stra\N{LATIN SMALL LETTER SHARP S}e.example"),
        *("https://\ud800", "https://" + "ä" * 64, None, 5, b"https://a", ["https://a"]),
    ],
    ids=ascii,
)
async def test_what_is_no_origin(at: Edge, wrong: Any) -> None:
    """It is refused where it is written: it would never match, or trust too much."""
    with pytest.raises(ConfigurationError, match=r"write scheme://host\[:port\]"):
        await at.serve(responding(), trusted_origins=["https://a", wrong])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"trusted_origins": "https://a"}, "write a list"),
        ({"trusted_origins": b"https://a"}, "write a list"),
        ({"trusted_origins": None}, "write a list"),
        ({"cross_site": "deny"}, "write 'anonymous', 'refuse' or 'allow'"),
        ({"cross_site": None}, "write 'anonymous', 'refuse' or 'allow'"),
        ({"cross_site": "allow", "trusted_origins": ["a"]}, "no origin"),
    ],
    ids=str,
)
async def test_wrong_options(at: Edge, options: dict[str, Any], told: str) -> None:
    """Each is refused with what to write."""
    with pytest.raises(ConfigurationError, match=told):
        await at.serve(responding(), **options)
