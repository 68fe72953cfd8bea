"""Whatever a client writes into the headers that tell who caused a request."""

from __future__ import annotations

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
