"""Options under other names: the error says what ours is called."""

from __future__ import annotations

from inspect import signature
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from redis_sessions import ConfigurationError, SessionManager, SessionMiddleware, generate_key
from tests.unit.setting import KEY


def start(**options: Any) -> None:
    """The application's start, by which a server learns that it can't work."""
    app = Starlette(middleware=[Middleware(SessionMiddleware, **options)])
    with TestClient(app):
        pass


OPTIONS: dict[str, Any] = {"store": "memory://", "secret_key": KEY}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        *(("cookie_name", "session_cookie"), ("redis_url", "store"), ("url", "store")),
        *(("secret", "secret_key"), ("secure", "https_only"), ("samesite", "same_site")),
        *(("lifetime", "max_age"), ("key_prefix", "prefix"), ("user_key", "principal")),
        *(("idle_timout", "idle_timeout"), ("max_session", "max_sessions")),  # slips of the pen
        *(("allowed_origins", "trusted_origins"), ("csrf", "cross_site")),
        ("session_coockie", "session_cookie"),
    ],
)
def test_a_name_of_elsewhere(name: str, meant: str) -> None:
    """What another library calls it, or nearly our own name: the error has ours."""
    given: Any = {**OPTIONS, name: "x"}
    with pytest.raises(ConfigurationError, match=f"has no option {name}=: write {meant}=") as told:
        start(**given)
    assert KEY not in str(told.value)


def test_a_name_that_nobody_knows() -> None:
    """All that there are."""
    given: Any = {**OPTIONS, "qqq": 1}
    with pytest.raises(ConfigurationError, match=r"qqq=: it takes app, secret_key, .*, store, .*"):
        start(**given)


def test_all_names_at_once() -> None:
    """Several that aren't known are told in one error, in the order in which they were given."""
    given: Any = {**OPTIONS, "redis_url": "x", "cookie_name": "x"}
    told = "no option redis_url=: write store=; no option cookie_name=: write session_cookie="
    with pytest.raises(ConfigurationError, match=told):
        start(**given)


@pytest.mark.parametrize(
    ("args", "options", "why"),
    [
        ([KEY, None, 60, "/", "lax", True, None, False, "memory://"], {}, "too many positional"),
        ([KEY], OPTIONS, "multiple values for argument 'secret_key'"),
    ],
    ids=["too many", "twice"],
)
def test_positional_arguments_that_do_not_fit(
    args: list[Any], options: dict[str, Any], why: str
) -> None:
    """As every other mistake: the application doesn't start, and says why."""
    app = Starlette(middleware=[Middleware(SessionMiddleware, *args, **options)])
    refused = pytest.raises(ConfigurationError, match="all others by name: .*" + why)
    with refused as told, TestClient(app):
        pass
    assert "takes app, secret_key, session_cookie, max_age, path, " in str(told.value)
    assert KEY not in str(told.value)


@pytest.mark.parametrize("args", [["memory://"], ["memory://", KEY, 60]], ids=len)
def test_positional_arguments_of_a_manager(args: list[Any]) -> None:
    """A store and a key, and all others by name."""
    with pytest.raises(ConfigurationError, match="takes store, keyring, and all others by name"):
        SessionManager(*args)


def test_a_managers_names() -> None:
    """SessionManager calls the key a keyring."""
    given: Any = {"secret_key": KEY}
    with pytest.raises(TypeError, match="SessionManager has no option secret_key=: write keyring="):
        SessionManager("memory://", **given)


def test_the_signature_stays() -> None:
    """Editors, and whoever wraps the middleware, see each option and its default."""
    parameters = signature(SessionMiddleware).parameters
    assert parameters["session_cookie"].default is None
    assert parameters["https_only"].default is True
    assert "options" not in parameters
    assert list(signature(SessionManager).parameters)[:2] == ["store", "keyring"]


@pytest.mark.parametrize(
    "keys",
    [KEY, KEY.encode(), [KEY, generate_key()], (KEY,)],
    ids=["text", "bytes", "list", "tuple"],
)
async def test_a_manager_of_a_url_and_a_key(keys: Any) -> None:
    """As the middleware has them; no Keyring is needed."""
    manager = SessionManager("memory://", keys)
    session = await manager.load()
    session["a"] = 1
    token = (await manager.commit(session)).token
    assert token is not None
    assert (await manager.load(token.value))["a"] == 1


@pytest.mark.parametrize("keys", [None, 5, [], [KEY, None], object()])
def test_a_manager_without_a_key(keys: Any) -> None:
    """The error says what is taken, and not what was given."""
    with pytest.raises(ConfigurationError, match=r"write a secret key, \[new, old\], or a Keyring"):
        SessionManager("memory://", keys)


@pytest.mark.parametrize("store", [None, 5, "localhost"])
def test_a_manager_without_a_store(store: Any) -> None:
    """As the middleware says it."""
    with pytest.raises(ConfigurationError, match=r"URL|redis://"):
        SessionManager(store, KEY)
