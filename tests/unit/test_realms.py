"""Middlewares side by side in one process: whose tokens open whose sessions."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from redis_sessions import (
    ConfigurationError,
    CookieTransport,
    HeaderTransport,
    MemoryStore,
    RedisStore,
    SessionManager,
    SessionMiddleware,
    generate_key,
)
from tests.unit.setting import KEY

URL = "redis://localhost:6399/3"
OTHER = generate_key()
BOTH = [CookieTransport("a"), HeaderTransport()]


def unique() -> str:
    """A prefix: middlewares of other tests may still be there."""
    return f"{uuid4()}:"


def make(**options: Any) -> SessionMiddleware:
    given: dict[str, Any] = {"secret_key": KEY, **options}
    return SessionMiddleware(Starlette(), **given)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The warnings so far about middlewares side by side."""

    def messages() -> list[str]:
        said = [record.getMessage() for record in caplog.records]
        return [each for each in said if "opens as one of the other" in each]

    return messages


SAME: dict[str, Callable[[], tuple[dict[str, Any], dict[str, Any]]]] = {
    "one store": lambda: ({"store": (store := MemoryStore())}, {"store": store}),
    "one manager": lambda: (
        {"manager": (manager := SessionManager(MemoryStore(), KEY)), "secret_key": None},
        {"manager": manager, "secret_key": None},
    ),
    "one URL": lambda: (
        {"store": URL, "prefix": (prefix := unique())},
        {"store": URL, "prefix": prefix},
    ),
    "one server": lambda: (
        {"store": RedisStore(f"{URL}?socket_timeout=1", prefix=(prefix := unique()))},
        {"store": URL, "prefix": prefix},
    ),
    "a key that both have": lambda: (
        {"store": (store := MemoryStore()), "secret_key": [OTHER, KEY]},
        {"store": store},
    ),
}


@pytest.mark.parametrize("case", SAME)
@pytest.mark.parametrize(
    "other",
    [{"session_cookie": "b"}, {"transport": HeaderTransport()}],
    ids=["a cookie", "a header"],
)
def test_another_name_over_the_same_records_is_told(
    case: str, other: dict[str, Any], told: Callable[[], list[str]]
) -> None:
    """Once, with both names, the prefix, and what to write instead."""
    first, second = SAME[case]()
    kept = [make(**first, session_cookie="a")]
    assert told() == []
    kept += [make(**second, **other), make(**second, session_cookie="c")]
    (message,) = told()
    assert "the cookie 'a'" in message
    assert ("the cookie 'b'" in message) == ("session_cookie" in other)
    assert repr(kept[0].manager.store.prefix) in message
    assert "another prefix=" in message
    assert "transport=[…]" in message


DIFFERENT: dict[str, Callable[[], tuple[dict[str, Any], dict[str, Any]]]] = {
    "another store": lambda: ({"store": MemoryStore()}, {"store": MemoryStore()}),
    "another database": lambda: (
        {"store": URL, "prefix": (prefix := unique())},
        {"store": URL.replace("/3", "/4"), "prefix": prefix},
    ),
    "another server": lambda: (
        {"store": URL, "prefix": (prefix := unique())},
        {"store": URL.replace("6399", "6398"), "prefix": prefix},
    ),
    "another prefix": lambda: (
        {"store": URL, "prefix": unique()},
        {"store": URL, "prefix": unique()},
    ),
    "another key": lambda: (
        {"store": (store := MemoryStore())},
        {"store": store, "secret_key": OTHER},
    ),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_other_records_are_fine(case: str, told: Callable[[], list[str]]) -> None:
    """No token of one opens as one of the other."""
    first, second = DIFFERENT[case]()
    kept = [make(**first, session_cookie="a"), make(**second, session_cookie="b")]
    assert kept
    assert told() == []


@pytest.mark.parametrize(
    "other", [{"session_cookie": "a"}, {"transport": BOTH}], ids=["the same", "one more"]
)
def test_a_name_in_common_is_one_realm(
    other: dict[str, Any], told: Callable[[], list[str]]
) -> None:
    """Browsers send that cookie to both: nothing is kept apart, and nothing is told."""
    store = MemoryStore()
    kept = [make(store=store, session_cookie="a"), make(store=store, **other)]
    assert kept
    assert told() == []


def test_a_middleware_that_is_gone_is_forgotten(told: Callable[[], list[str]]) -> None:
    """No manager is kept alive by this."""
    store = MemoryStore()
    make(store=store, session_cookie="a")
    gc.collect()
    make(store=store, session_cookie="b")
    assert told() == []


@pytest.mark.parametrize("case", [case for case in DIFFERENT if case != "another prefix"])
def test_nested_over_other_records_with_one_prefix(case: str) -> None:
    """The error advises another prefix, and claims nothing that isn't so."""
    options: list[dict[str, Any]] = [{"secret_key": KEY, **each} for each in DIFFERENT[case]()]
    stack = [
        Middleware(SessionMiddleware, **each, session_cookie=name)
        for each, name in zip(options, "ab", strict=True)
    ]
    with pytest.raises(ConfigurationError) as caught, TestClient(Starlette(middleware=stack)):
        pass
    message = str(caught.value)
    assert message.endswith("give one of them another prefix=")
    assert "so that a token of one opens" not in message
