"""Response headers as applications send them: pairs that are tuples, or lists."""

from __future__ import annotations

from typing import Any

import pytest

from redis_sessions import Session
from redis_sessions.headers import add_vary

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


def test_nobody_makes_a_session_by_hand() -> None:
    """It is refused where it happens, not where it is first used."""
    make: Any = Session
    for act in (make, lambda: make({"a": 1}), lambda: make.fromkeys(["a"])):
        with pytest.raises(TypeError, match=r"SessionManager\.load"):
            act()
