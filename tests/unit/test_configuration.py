"""Configuration that can't work: refused where it is written, with what to write instead."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.datastructures import Secret
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from redis_sessions import (
    ConfigurationError,
    CookieTransport,
    HeaderTransport,
    Keyring,
    MemoryStore,
    RedisStore,
    SessionManager,
    SessionMiddleware,
)

# Fixed, since they are in the names of tests, which all processes of a run have to agree on.
KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
OTHER = "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXphYmNkZWY="
GOOD: dict[str, Any] = {"store": "memory://", "secret_key": KEY}


DURATION = "write seconds or a timedelta, from 1 second to 400 days"

COOKIE_OPTIONS: dict[str, dict[str, Any]] = {
    "session_cookie": {"session_cookie": "a"},
    "path": {"path": "/app"},
    "same_site": {"same_site": "strict"},
    "https_only": {"https_only": False},
    "domain": {"domain": "example.com"},
    "partitioned": {"partitioned": True},
    "path, domain": {"path": "/app", "domain": "example.com"},
}

# Each case: options beyond the good ones, and what the message says.
CASES: list[tuple[dict[str, Any], str]] = [
    # the cookie
    ({"same_site": "none", "https_only": False}, "same_site='none' needs https_only=True"),
    ({"same_site": "None", "https_only": False}, "needs https_only=True"),
    ({"partitioned": True, "https_only": False}, "partitioned=True needs https_only=True"),
    ({"same_site": "sloppy"}, "write 'lax', 'strict' or 'none'"),
    ({"same_site": ""}, "write 'lax', 'strict' or 'none'"),
    ({"same_site": None}, "write 'lax', 'strict' or 'none'"),
    ({"session_cookie": "__Host-a", "domain": "example.com"}, "no domain; write those, or another"),
    ({"session_cookie": "__Host-a", "path": "/app"}, "path='/'"),
    ({"session_cookie": "__Host-a", "https_only": False}, "https_only=True"),
    ({"session_cookie": "__host-a", "https_only": False}, "https_only=True"),
    ({"session_cookie": "__HOST-session", "path": "/a"}, "or another name"),
    ({"session_cookie": "__Secure-a", "https_only": False}, "https_only=True; write that, or"),
    ({"session_cookie": "__HTTP-a", "https_only": False}, "a __Http- cookie only with https_only"),
    ({"session_cookie": "__Host-Http-a", "path": "/app"}, "a __Host-Http- cookie only with"),
    ({"session_cookie": "__host-http-a", "domain": "example.com"}, "no domain"),
    ({"session_cookie": "__secure-a", "https_only": False}, "https_only=True; write that, or"),
    *(
        ({"session_cookie": name}, "write a name of ASCII letters, digits, '-' or '_'")
        for name in ("", "a b", "a=b", "a;b", "a,b", "a\n", "a\tb", "a\0", "ключ", "a\ud800", '"a"')
    ),
    *(
        ({"path": path}, "write a path such as '/' or '/app'")
        for path in ("", "app", "/a;b", "/a\n", "/é", "/\0", "/\ud800", "http://a/", "/a\r\nX: y")
    ),
    *(
        ({"domain": domain}, "write a host name such as 'example.com'")
        for domain in ("", ".", "a b", "a;b", "a/b", "a:80", "é.com", "a\n", "a.com; secure", "-")
    ),
    # keys
    ({"secret_key": None}, "secret_key=os.environ['SESSION_SECRET_KEY']"),
    ({"secret_key": ""}, "make one with `redis-sessions key`"),
    ({"secret_key": "short"}, "write at least 32: make one with `redis-sessions key`"),
    ({"secret_key": Secret("short")}, "make one with `redis-sessions key`"),
    ({"secret_key": [KEY, "short"]}, "make one with `redis-sessions key`"),
    ({"secret_key": [KEY, None]}, "make one with `redis-sessions key`"),
    ({"secret_key": []}, "write [new, old], or one key"),
    ({"secret_key": [KEY, OTHER, KEY]}, "write each key once"),
    ({"secret_key": [KEY, KEY.encode()]}, "write each key once"),
    ({"secret_key": 5}, "write [new, old], or one key"),
    # lifetimes
    *(
        ({name: duration}, DURATION)
        for name in ("max_age", "idle_timeout")
        for duration in (
            *(0, -1, 0.5, True, False, float("nan"), float("inf"), "3600", 400 * 24 * 3600 + 1),
            *(dt.timedelta(0), dt.timedelta(days=-1), dt.timedelta(days=401)),
        )
    ),
    *(
        ({"idle_timeout": idle, "max_age": age}, f"{told}, at which a session ends however")
        for idle, age, told in (
            (3601, 3600, "idle_timeout (3601 seconds) is longer than max_age (1 hour)"),
            (
                dt.timedelta(days=15),
                None,
                "idle_timeout (15 days) is longer than max_age (14 days)",
            ),
            (5400, 1, "idle_timeout (90 minutes) is longer than max_age (1 second)"),
        )
    ),
    ({"idle_timeout": dt.timedelta(days=15)}, "lower idle_timeout=, or raise max_age="),
    # limits and choices
    *(
        ({"max_size": size}, "write bytes, such as 65536")
        for size in (0, -1, True, "64k", None, float("nan"))
    ),
    *(
        ({"principal": option}, "write a key, a dotted path such as 'user.sub', or a callable")
        for option in ("", ".", "a.", ".a", "a..b", None, 5, ["user_id"])
    ),
    *(
        ({"on_unavailable": choice}, "write 'error', 'anonymous' or a callable")
        for choice in ("", "ignore", None, True)
    ),
    ({"on_event": "print"}, "callable"),
    *(
        ({"touch": option}, "write a bool, or a callable that isn't async")
        for option in (None, "no", 1)
    ),
    # stores
    ({"store": None}, "write store='redis://localhost:6379/0'"),
    ({"store": ""}, "such as redis://localhost:6379/0"),
    ({"store": "localhost:6379"}, "write one of redis://, rediss://, unix://"),
    ({"store": "http://localhost"}, "write one of redis://, rediss://, unix://"),
    ({"store": "memcached://localhost"}, "embedded://, memory://"),
    ({"store": "redis://localhost/0?timeuot=3"}, "timeuot= is no option"),
    ({"store": "unix:///run/redis.sock?timeuot=3"}, "timeuot= is no option"),
    ({"store": "memory://?timeuot=3"}, "write memory://, and no more"),
    ({"store": "memory://u:sesame@h"}, "store='memory:…': write"),
    ({"store": "embedded://?timeuot=3"}, "timeuot"),
    ({"store": "redis://localhost/0?socket_connect_timeout=soon"}, "socket_connect_timeout"),
    ({"store": "redis://localhost:port/0"}, "can't be read"),
    *(
        ({"store": url}, "the database, after the last /, is a number: write redis")
        for url in (
            *("redis://localhost/abc", "redis://localhost/0/abc", "redis://localhost/-1"),
            *("rediss://u:p@localhost:6379/db0", "redis+sentinel://localhost/mymaster/abc"),
        )
    ),
    ({"store": "redis://localhost:70000/0"}, "can't be read"),
    ({"store": "redis://[::1/0"}, "can't be read"),
    ({"store": 5}, "pass a URL, a redis.asyncio.Redis, or"),
    ({"store": object}, "pass a URL, a redis.asyncio.Redis, or"),
    ({"store": MemoryStore(prefix="a:"), "prefix": "b:"}, "give it to the store"),
    *(
        ({"store": store, "prefix": prefix}, "write printable ASCII, such as 'session:'")
        for store in ("memory://", "redis://localhost")
        for prefix in ("", "é:", "a\n", "a\0", "\ud800")
    ),
    # transports
    *(
        ({"transport": option}, "write CookieTransport(…), HeaderTransport(…), or a list")
        for option in ("cookie", CookieTransport, [], [HeaderTransport(), "cookie"])
    ),
    ({"transport": [CookieTransport("a"), CookieTransport("a")]}, "write each name once"),
    *(
        ({"clear_site_data": option}, "browsers would also remove the cookies of all other")
        for option in ("cookies", "*", ["cache", "cookies"], ("*",))
    ),
    *(
        ({"clear_site_data": option}, "write a list of names, such as ['cache', 'storage']")
        for option in ("cache", None, ["caches"], ('"cache"',), [1], True, [["cache"]])
    ),
    (
        {"clear_site_data": ["cache"], "transport": HeaderTransport()},
        "is for browsers, and they get the token in a cookie",
    ),
    # one thing said twice
    *(
        ({"transport": HeaderTransport(), **cookie}, f"transport= already decides {name}")
        for name, cookie in COOKIE_OPTIONS.items()
    ),
]


def name_of(options: dict[str, Any]) -> str:
    return " ".join(f"{key}={value!r}"[:50] for key, value in options.items())


IDS = [ascii(f"{number} {name_of(options)}") for number, (options, _) in enumerate(CASES)]


@pytest.mark.standard(18, "ASVS 3.3.2")
@pytest.mark.standard(25)
@pytest.mark.parametrize(("options", "advice"), CASES, ids=IDS)
def test_what_cannot_work_is_refused(options: dict[str, Any], advice: str) -> None:
    """The application doesn't start, and the error says what to write instead."""
    told = refusal(**{**GOOD, **options})
    assert advice in told
    assert KEY not in told


def refusal(**options: Any) -> str:
    """Why an application with these options doesn't start."""
    app = Starlette(middleware=[Middleware(SessionMiddleware, **options)])
    with pytest.raises(ConfigurationError) as caught, TestClient(app):
        pass
    return str(caught.value)


def manager() -> SessionManager:
    return SessionManager(MemoryStore(), Keyring(KEY))


@pytest.mark.parametrize(
    "options",
    [
        {"store": "memory://"},
        {"secret_key": KEY},
        {"prefix": "a:"},
        {"max_age": 60},
        {"max_age": None},
        {"idle_timeout": 60},
        {"principal": "user"},
        {"max_size": 1},
        {"on_event": print},
        {"store": "memory://", "secret_key": KEY},
    ],
    ids=repr,
)
def test_a_manager_decides_alone(options: dict[str, Any]) -> None:
    """`manager=` together with what it decides is refused, by the options' names."""
    told = refusal(manager=manager(), **options)
    assert f"manager= already decides {', '.join(options)}" in told
    assert "give them to the SessionManager, or leave manager= out" in told


@pytest.mark.parametrize("deadline", [0, -1, 10.5, float("nan"), True, "5", None], ids=repr)
def test_a_bad_deadline(deadline: Any) -> None:
    """A deadline is seconds, and well below a tombstone's life."""
    with pytest.raises(ConfigurationError, match="write seconds, above 0 and up to 10"):
        SessionManager(MemoryStore(), Keyring(KEY), deadline=deadline)


@pytest.mark.parametrize("timeout", [0, -1, 5.5, float("nan"), True, "2"], ids=repr)
def test_a_bad_timeout(timeout: Any) -> None:
    """So is a store's timeout."""
    with pytest.raises(ConfigurationError, match="write seconds, above 0 and up to"):
        RedisStore("redis://localhost", timeout=timeout)


def test_where_a_timeout_comes_from() -> None:
    """The argument, else the URL, else 2 seconds."""
    url = "redis://localhost?socket_timeout=0.5"
    assert RedisStore("redis://localhost").timeout == 2
    assert RedisStore(url).timeout == 0.5
    assert RedisStore(url, timeout=1.5).timeout == 1.5


@pytest.mark.parametrize("prefix", ["", "é:", "a\n", "a\0", "\ud800", "a\x7f"], ids=ascii)
@pytest.mark.parametrize(
    "make", [partial(RedisStore, "redis://localhost"), MemoryStore], ids=["redis", "memory"]
)
def test_a_bad_prefix(make: Callable[..., object], prefix: str) -> None:
    """A prefix is printable ASCII, in every store: what works in tests works in production."""
    with pytest.raises(ConfigurationError, match="write printable ASCII"):
        make(prefix=prefix)


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:hunter2@localhost/0?timeuot=3",
        "http://user:hunter2@localhost",
        "redis://user:hunter2@localhost:port/0",
        "redis://user:hunter2@localhost:70000",
        "redis://user:hunter2/x@localhost:6379/0",  # characters that a URL needs quoted
        "redis://:hunter2#x@localhost:6379/0",
        "redis://:hunter2?x@localhost:6379/0",
        "redis://user:hunter2@[::1",
    ],
)
def test_errors_show_no_password(url: str) -> None:
    """Nor does the repr of a store, whatever is wrong with its URL."""
    assert "hunter2" not in refusal(store=url, secret_key=KEY)


def test_a_store_shows_no_password() -> None:
    """Its repr names the server."""
    shown = repr(RedisStore("redis://user:hunter2@example.com:6380/1"))

    assert "example.com:6380/1" in shown
    assert "hunter2" not in shown


TAKEN: list[dict[str, Any]] = [
    {},
    {"secret_key": "abcdefgh" * 4},
    {"secret_key": KEY.encode()},
    {"secret_key": Secret(KEY)},
    {"secret_key": [KEY, Secret(OTHER), b"abcdefgh" * 4]},
    {"secret_key": Keyring(KEY, dropped=[OTHER])},
    {"max_age": None},
    {"max_age": 1, "idle_timeout": 1},
    {"max_age": dt.timedelta(days=400), "idle_timeout": dt.timedelta(days=400)},
    {"same_site": "none"},
    {"same_site": "strict", "partitioned": True},
    {"https_only": False},
    {"domain": "example.com"},
    {"domain": ".example.com"},
    {"domain": "localhost"},
    {"path": "/a/b c"},
    {"session_cookie": "__Host-a"},
    {"session_cookie": "__Host-Http-a"},
    {"session_cookie": "__Http-a", "domain": "example.com", "path": "/app"},
    {"session_cookie": "__Secure-a", "domain": "example.com"},
    {"principal": "user.sub"},
    {"principal": len},
    {"on_unavailable": "anonymous"},
    {"on_unavailable": str},
    {"prefix": "my-app:session:"},
    {"lazy": True},
    {"touch": False},
    {"touch": bool},
    {"clear_site_data": ["cache", "storage", "executionContexts"]},
    {"clear_site_data": ("clientHints", "prefetchCache", "prerenderCache")},
    {"transport": CookieTransport("a", domain="example.com")},
    {"transport": [CookieTransport(), HeaderTransport()]},
    {"transport": (CookieTransport("new"), CookieTransport("old"))},
    {"store": MemoryStore(prefix="a:"), "prefix": "a:"},
    {"store": "redis://user:password@localhost:6379/0"},
    {"store": "rediss://localhost?ssl_cert_reqs=none"},
    {"store": "unix:///run/redis.sock?db=1"},
    {"store": "embedded://"},
]


@pytest.mark.parametrize("options", TAKEN, ids=[repr(options)[:60] for options in TAKEN])
def test_what_works_is_taken(options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is connected to, nor started, to find out."""
    SessionMiddleware(Starlette(), **{**GOOD, **options})
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize(
    "options",
    [
        {"transport": HeaderTransport(), "lazy": True},
        {"session_cookie": "a", "on_unavailable": "anonymous"},
    ],
    ids=repr,
)
def test_a_manager_and_a_transport_are_taken(options: dict[str, Any]) -> None:
    """With what they leave open."""
    with TestClient(SessionMiddleware(Starlette(), manager=manager(), **options)):
        pass
