"""Whatever a client writes into the headers that tell who caused a request."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from redis_sessions.http.cross_site import BY_DEFAULT, Guard, normalised

ORIGIN = "https://shop.example"
HOST = b"shop.example"

VALUES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"same-origin", b"none", b"cross-site", b"null", ORIGIN.encode(), HOST]),
)
HEADERS = st.lists(
    st.tuples(st.sampled_from([b"sec-fetch-site", b"origin", b"host", b"cookie"]), VALUES),
    max_size=6,
)


@given(headers=HEADERS, trusted=st.booleans())
@example(headers=[(b"origin", b"https://\xc4\xb0")], trusted=False)
def test_nothing_raises_and_little_passes(
    headers: list[tuple[bytes, bytes]], trusted: bool
) -> None:
    """What passes is what a browser says of our page, or of a trusted one, or no browser."""
    guard = Guard(trusted=frozenset({ORIGIN})) if trusted else BY_DEFAULT
    told = guard.objection({"type": "http", "headers": headers})
    sites = [value for name, value in headers if name == b"sec-fetch-site"]
    origins = [value for name, value in headers if name == b"origin"]
    if told is None:
        assert (
            (sites and set(sites) <= {b"same-origin", b"none"})
            or (not sites and not origins)
            or (len(origins) == 1 and normalised(origins[0].decode("latin-1")) is not None)
        )
    else:
        assert told.isprintable()
        assert len(told) < 1000


def go_passes(site: str, origin: str, host: str, trusted: str) -> bool:
    """Go's `http.CrossOriginProtection.Check`, by its documentation, for an unsafe method."""
    if site in ("same-origin", "none"):
        return True
    if site == "" and (origin == "" or origin.partition("://")[2] == host):
        return True
    return origin == trusted


NAMES = [
    *("shop.example", "shop.example:8443", "blog.shop.example", "evil.example", "127.0.0.1:8000"),
    *("[::1]", "[::1]:8000", "localhost:8000", "xn--bcher-kva.example"),
]
ORIGINS = ["", "null", *(f"{scheme}://{name}" for scheme in ("http", "https") for name in NAMES)]


@pytest.mark.parametrize("site", ["", "same-origin", "none", "same-site", "cross-site"])
def test_it_decides_as_go_does(site: str) -> None:
    """For each origin, host and trusted origin that browsers and applications write."""
    for origin in ORIGINS:
        for host in NAMES:
            for trusted in ("https://blog.shop.example", "http://localhost:8000"):
                given = {b"host": host, b"origin": origin, b"sec-fetch-site": site}
                headers = [(name, value.encode()) for name, value in given.items() if value]
                objection = Guard(trusted=frozenset({trusted})).objection({"headers": headers})
                assert (objection is None) is go_passes(site, origin, host, trusted)


@given(headers=HEADERS)
def test_what_passes_passes_go(headers: list[tuple[bytes, bytes]]) -> None:
    """Go lets through all that passes here, but for case and a default port."""
    if BY_DEFAULT.objection({"headers": headers}) is not None:
        return
    first = {name.decode(): value.decode("latin-1") for name, value in reversed(headers)}
    scheme, _, name = first.get("origin", "").lower().partition("://")
    port = {"http": "80", "https": "443"}.get(scheme, "")
    origin, host = (
        re.sub(rf":0*{port}$", "", each) for each in (name, first.get("host", "").lower())
    )
    site = first.get("sec-fetch-site", "")
    assert go_passes(site, origin and f"{scheme}://{origin}", host, "-")


@given(st.from_regex(r"(?i)\Ahttps?://[a-z0-9.-]{1,20}(:[0-9]{1,5})?\Z"))
def test_an_origin_stays_so(text: str) -> None:
    """Its name and its port are what they were, but for case, zeros, and a default port."""
    origin = normalised(text)
    scheme, _, rest = text.lower().partition("://")
    host, _, port = rest.partition(":")
    number = int(port or {"http": 80, "https": 443}[scheme])
    if number > 65535:
        assert origin is None
        return
    assert origin is not None
    assert normalised(origin) == origin
    assert origin.startswith(f"{scheme}://{host}")
    assert origin.endswith(f":{number}") is (number != {"http": 80, "https": 443}[scheme])
