"""Tracebacks with local variables, of a configuration that can't work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.applications import Starlette

from redis_sessions import (
    ConfigurationError,
    Keyring,
    RedisStore,
    SessionManager,
    SessionMiddleware,
    generate_key,
)
from tests.support.asgi import ask
from tests.unit.tracebacks.shown import ours, shown

KEY, SHORT = generate_key(), "short-and-secret"
BAD: list[Any] = [KEY, 7]
UNKNOWN: Any = {"ttl": 5}

CASES: dict[str, Callable[[], Any]] = {
    "a short one": lambda: Keyring(SHORT),
    "a dull one": lambda: Keyring("dull" * 9),
    "one of two": lambda: Keyring(KEY, SHORT),
    "the same": lambda: Keyring(KEY, KEY),
    "a dropped one": lambda: Keyring(KEY, dropped=[SHORT]),
    "a dropped one in use": lambda: Keyring(KEY, dropped=[KEY]),
    "no list": lambda: Keyring(KEY, dropped=SHORT),
    "a store's password": lambda: RedisStore(f"redis://:{SHORT}@localhost/x"),
    "a manager's": lambda: SessionManager("memory://", SHORT),
    "a manager's, with a bad option": lambda: SessionManager("memory://", KEY, max_age=-1),
    "a manager's, with no such option": lambda: SessionManager("memory://", KEY, **UNKNOWN),
    "a manager's, one of two": lambda: SessionManager("memory://", BAD),
    "a manager's store": lambda: SessionManager(f"redis://:{SHORT}@localhost/x", KEY),
}

MIDDLEWARES: dict[str, dict[str, Any]] = {
    "a short one": {"secret_key": SHORT},
    "one of two": {"secret_key": [KEY, SHORT]},
    "no key": {"secret_key": BAD},
    "another option": {"max_age": 0},
    "another store": {"store": "nothing://"},
}


def check(exc: BaseException) -> None:
    """No key shows, and no frame is ours."""
    told = shown(exc)
    assert not any(key in told for key in (KEY, SHORT, "dulldull"))
    assert not ours(exc)


@pytest.mark.parametrize("case", CASES)
def test_no_key_shows(case: str) -> None:
    """Whichever of them is bad, and a store's password neither."""
    with pytest.raises(ConfigurationError) as caught:
        CASES[case]()
    check(caught.value)


@pytest.mark.parametrize("case", MIDDLEWARES)
async def test_no_key_of_a_middleware_shows(case: str) -> None:
    """What can't work is raised by the requests, where no lifespan has told."""
    options: dict[str, Any] = {"store": "memory://", "secret_key": KEY, **MIDDLEWARES[case]}

    reply = await ask(SessionMiddleware(Starlette(), **options))
    assert isinstance(reply.error, ConfigurationError)
    check(reply.error)


def test_no_key_shows_in_what_an_application_s_own_object_raises() -> None:
    """Such as a transport, which the middleware's constructor asks for its key."""

    class Broken:
        read = None

        @property
        def key(self) -> Any:
            raise ZeroDivisionError

    broken: Any = Broken()
    with pytest.raises(ZeroDivisionError) as caught:
        SessionMiddleware(Starlette(), store="memory://", secret_key=KEY, transport=broken)
    check(caught.value)
