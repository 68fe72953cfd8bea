"""The options of a middleware, checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, cast, get_args

from starlette.datastructures import Secret
from starlette.requests import HTTPConnection

from redis_sessions.errors import ConfigurationError
from redis_sessions.events import is_sync
from redis_sessions.http.headers import RawHeader
from redis_sessions.http.transports import CookieTransport, Transport, Transports
from redis_sessions.lifecycle.manager import SessionManager
from redis_sessions.session.keyring import Keyring
from redis_sessions.session.keywords import listed
from redis_sessions.stores import open_store

__all__ = [
    "Options",
    "SecretKeys",
    "SiteData",
    "Touch",
    "checked_choice",
    "clearing",
    "manager_of",
    "touch_by",
    "transports_of",
]

SecretKeys = str | bytes | Secret | Sequence[str | bytes | Secret] | Keyring

SiteData = Literal[
    "cache", "storage", "executionContexts", "clientHints", "prefetchCache", "prerenderCache"
]
"""What browsers can be told to clear, but not `"cookies"`, nor `"*"`, which includes them."""

Touch = bool | Callable[[HTTPConnection], bool]
"""Which requests count as use of their session: all, none, or those of which a callable says so."""

Options = dict[str, tuple[Any, Any]]
"""The value and the default of each option."""


def manager_of(
    ready: SessionManager | None,
    store: Any,
    secret_key: SecretKeys | None,
    prefix: str | None,
    policy: Options,
) -> SessionManager:
    """The manager that is given, or one that is made of the other options."""
    if ready is None:
        options: dict[str, Any] = {name: value for name, (value, _) in policy.items()}
        return SessionManager(open_store(store, prefix=prefix), _keyring(secret_key), **options)
    if not isinstance(ready, SessionManager):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"manager={ready!r}: write a SessionManager")
    parts = {"store": (store, None), "secret_key": (secret_key, None), "prefix": (prefix, None)}
    if given := _given({**policy, **parts}):
        raise ConfigurationError(
            f"manager= already decides {given}: give them to the SessionManager, or leave "
            "manager= out"
        )
    return ready


def transports_of(ready: Transport | Sequence[Transport] | None, cookie: Options) -> Transports:
    """The transports that are given, or a cookie with these options."""
    if ready is None:
        options: dict[str, Any] = {name: value for name, (value, _) in cookie.items()}
        return Transports([CookieTransport(options.pop("session_cookie"), **options)])
    several: list[Any] = [*ready] if isinstance(ready, (list, tuple)) else [ready]
    if not several or any(isinstance(t, type) or not hasattr(t, "read") for t in several):
        raise ConfigurationError(
            f"transport={ready!r}: write CookieTransport(…), HeaderTransport(…), or a list of such"
        )
    if given := _given(cookie):
        raise ConfigurationError(
            f"transport= already decides {given}: give them to the transport, or leave "
            "transport= out"
        )
    transports = Transports(several)
    if len(set(transports.keys)) < len(several):
        raise ConfigurationError(f"transport={ready!r}: write each name once")
    return transports


def _given(options: Options) -> str:
    return ", ".join(name for name, (value, default) in options.items() if value != default)


def check_own_load(loads: bool) -> None:
    """Refuse `accept=` beside a manager's own `load()`. `loads`: it has the library's."""
    if not loads:
        raise ConfigurationError(
            "accept= and a manager with a load() of its own can't be used together, because a "
            "session that is accepted has no token yet that load() could be asked about: refuse "
            "users in the map= of the sources instead"
        )


def checked_choice(option: Any) -> Any:
    """What `on_unavailable=` says."""
    if option in ("error", "anonymous") or is_sync(option):
        return option
    raise ConfigurationError(
        f"on_unavailable={option!r}: write 'error', 'anonymous' or a callable that isn't async"
    )


def touch_by(option: Any) -> Callable[[HTTPConnection], bool] | None:
    """What `touch=` says, as a callable. None: all requests count."""
    if isinstance(option, bool):
        return None if option else lambda _: False
    if is_sync(option):
        return cast("Callable[[HTTPConnection], bool]", option)
    raise ConfigurationError(f"touch={option!r}: write a bool, or a callable that isn't async")


def clearing(option: Any, transports: Transports) -> RawHeader | None:
    """The header that `clear_site_data=` asks for."""
    known, names = get_args(SiteData), listed(option)
    if not names:
        return None
    if "cookies" in names or "*" in names or option in ("cookies", "*"):
        raise ConfigurationError(
            f"clear_site_data={option!r}: browsers would also remove the cookies of all other "
            "subdomains, which signs their users out. The session's own cookie expires without "
            "it: leave it out, such as in ['cache', 'storage']"
        )
    if any(name not in known for name in names):
        raise ConfigurationError(
            f"clear_site_data={option!r}: write a list of names, such as ['cache', 'storage']. "
            f"There are {', '.join(known)}"
        )
    if not any(isinstance(each, CookieTransport) for each in transports.all):
        raise ConfigurationError(
            "clear_site_data= is for browsers, and they get the token in a cookie: remove it, or "
            "add a CookieTransport"
        )
    return b"clear-site-data", ", ".join(f'"{name}"' for name in known if name in names).encode()


def _keyring(secret_key: SecretKeys | None) -> Keyring:
    if isinstance(secret_key, Keyring):
        return secret_key
    if secret_key is None:
        raise ConfigurationError(
            "no secret_key is given: make one with `redis-sessions key` and write "
            "secret_key=os.environ['SESSION_SECRET_KEY']"
        )
    keys: list[Any] = [secret_key]
    if isinstance(secret_key, (list, tuple)):
        keys = list(secret_key)
    if not keys or not all(isinstance(key, (str, bytes, Secret)) for key in keys):
        raise ConfigurationError(
            "secret_key= holds something else than keys: write [new, old], or one key; "
            "make one with `redis-sessions key`"
        )
    return Keyring(*(key if isinstance(key, bytes) else str(key) for key in keys))
