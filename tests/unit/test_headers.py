"""Response headers as applications send them: pairs that are tuples, or lists."""

from __future__ import annotations

from typing import Any

import pytest

from redis_sessions import Session
from redis_sessions.http.headers import add_vary, clear_site_data, forbid_storing

OURS = (b"vary", b"Cookie")


@pytest.mark.parametrize("pair", [tuple, list])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], b"Cookie"),
        ([b"Accept"], b"Accept, Cookie"),
        ([b"Accept, cookie"], b"Accept, cookie"),
        ([b"*"], b"*"),
    ],
)
def test_vary(pair: type[Any], before: list[bytes], after: bytes) -> None:
    """Our header is named once, beside the application's own."""
    headers: Any = [pair((b"x", b"y")), *(pair((b"vary", value)) for value in before)]
    add_vary(headers, OURS)
    assert [tuple(header) for header in headers] == [(b"x", b"y"), (b"vary", after)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], b'"cache", "storage"'),
        ([b'"cache"'], b'"cache", "storage"'),
        ([b'"cookies","storage"'], b'"cookies","storage", "cache"'),
        ([b'"*"'], b'"*"'),
    ],
)
def test_clear_site_data(before: list[bytes], after: bytes) -> None:
    """What we ask for is named once, beside what the application asks for."""
    headers: Any = [(b"x", b"y"), *([b"Clear-Site-Data", value] for value in before)]
    clear_site_data(headers, (b"clear-site-data", b'"cache", "storage"'))
    assert [(name.lower(), value) for name, value in headers] == [
        (b"x", b"y"),
        (b"clear-site-data", after),
    ]


NO_STORE = (b"cache-control", b"no-store")


@pytest.mark.parametrize(
    ("before", "after", "weaker"),
    [
        ([], [NO_STORE], False),
        ([(b"cache-control", b"no-store")], [NO_STORE], False),
        *(
            ([(b"cache-control", value)], [(b"cache-control", value)], False)
            for value in (b"private, no-store", b"max-age=0,No-Store ,private")
        ),
        *(
            ([(b"cache-control", value)], [NO_STORE], True)
            for value in (
                *(b"public, max-age=60", b"no-store-x", b"x-no-store", b"no-store=?0"),
                b'private="no-store", max-age=5',
                b'private="set-cookie, no-store, x", max-age=5',
            )
        ),
        ([(b"cdn-cache-control", b"no-store")], [NO_STORE], False),
        ([(b"cdn-cache-control", b"no-store-x")], [NO_STORE], True),
        ([(b"Cache-Control", b"public")], [NO_STORE], True),
        ([(b"Cache-Control", b"No-Store")], [(b"Cache-Control", b"No-Store")], False),
    ],
)
def test_forbid_storing(
    before: list[tuple[bytes, bytes]], after: list[tuple[bytes, bytes]], weaker: bool
) -> None:
    """`no-store` counts as a directive of its own, and not inside of another one."""
    headers = list(before)
    assert forbid_storing(headers) is weaker
    assert headers == after


def test_nobody_makes_a_session_by_hand() -> None:
    """It is refused where it happens, not where it is first used."""
    make: Any = Session
    for act in (make, lambda: make({"a": 1}), lambda: make.fromkeys(["a"])):
        with pytest.raises(TypeError, match=r"SessionManager\.load"):
            act()
