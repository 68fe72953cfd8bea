"""The values of each option with which journeys are made: each one that means something else.

A new option needs a line here (`test_every_option_has_a_value`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from starlette.applications import Starlette
from starlette.middleware.sessions import SessionMiddleware as StarlettesOwn
from starlette.requests import HTTPConnection
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from redis_sessions import (
    CookieTransport,
    HeaderTransport,
    Keyring,
    Session,
    SessionManager,
    SessionMiddleware,
    client_ip,
)
from redis_sessions.accept import StarletteCookie
from redis_sessions.connect.options import KNOWN
from tests.combinations.browser import OTHER
from tests.combinations.sources import OLD_KEY, Legacy
from tests.combinations.world import KEYS, Plan, World, whose


class Value(NamedTuple):
    """One value of one option."""

    option: str
    """The option's name. A shape of the application has a name of two words."""
    name: str
    change: Callable[[Plan], object]
    only_on: str | None = None
    """The ground that has it: "memory" or "redis". None: both."""

    def __str__(self) -> str:
        return f"{self.option}={self.name}"


# -- how a plan gets an option


def door(option: str, value: Any, name: str = "") -> Value:
    """A value of an option that only the middleware has."""

    def change(plan: Plan) -> None:
        plan.middleware[option] = value

    return Value(option, name or repr(value), change)


def managers(option: str, value: Any, name: str = "") -> Value:
    """A value of an option that managers have, too."""

    def change(plan: Plan) -> None:
        plan.manager[option] = value

    return Value(option, name or repr(value), change)


def workers(option: str, value: Any, name: str = "") -> Value:
    """A value of an option that only managers have."""

    def change(plan: Plan) -> None:
        plan.only_manager[option] = value

    return Value(option, name or repr(value), change)


def stores(option: str, value: Any, *, only_on: str | None = "redis", **more: Any) -> Value:
    """A value of an argument of `RedisStore`, or of its URL's query; `more` is what it needs."""

    def change(plan: Plan) -> None:
        plan.store.update({option: value, **more})

    return Value(option, repr(value), change, only_on)


def shape(option: str, change: Callable[[Plan], object]) -> Value:
    """How the application is built."""
    return Value(option, "yes", change)


# -- values that are functions or classes


def _anonymous_or_error(connection: HTTPConnection) -> Any:
    return "anonymous" if connection.scope.get("method") == "GET" else "error"


def _is_use(connection: HTTPConnection) -> bool:
    return connection.scope.get("method") == "POST"


def _by_browser(connection: HTTPConnection) -> str | None:
    return connection.headers.get("user-agent")


def _raises(event: object) -> None:
    raise RuntimeError("a bug in on_event=")


async def _tell_later(expired: object) -> None:
    """An `on_expired=` that is async."""


def _tell(expired: object) -> None:
    """An `on_expired=` that isn't."""


def _encode(value: Any) -> Any:
    raise TypeError


def _decode(kind: type, value: Any) -> Any:
    raise TypeError


class Refusing(SessionManager):
    """A manager with a `load()` of its own, which refuses a user."""

    async def load(self, *args: Any, **named: Any) -> Session:
        session = await super().load(*args, **named)
        return await super().load(None) if session.principal == "mallory" else session


# -- shapes of an application


def _mount(world: World, app: ASGIApp) -> ASGIApp:
    """It is mounted in an application of its own, and may be so twice."""
    inner = Starlette(routes=[Mount("/", app)])
    return Starlette(routes=[Mount("/app", inner), Mount("/", inner)])


def _same_inside(world: World, app: ASGIApp) -> ASGIApp:
    transport = world.plan.middleware.get("transport")
    cookie = {
        name: value
        for name, value in world.plan.middleware.items()
        if name in ("session_cookie", "path", "https_only", "domain", "lazy")
    }
    if transport is not None:
        cookie = {"transport": transport}
    inner: list[ASGIApp] = []

    async def later(scope: Scope, receive: Receive, send: Send) -> None:
        if not inner:  # the outer one may make the manager
            inner.append(SessionMiddleware(app, manager=world.manager, **cookie))
        await inner[0](scope, receive, send)

    return later


def _realm_around(world: World, app: ASGIApp) -> ASGIApp:
    store = world.ground.beside("outer:", world.clock)
    manager = SessionManager(store, Keyring(KEYS[0]), clock=world.clock)
    return SessionMiddleware(app, manager=manager, session_cookie="outer")


def _starlettes_around(world: World, app: ASGIApp) -> ASGIApp:
    return StarlettesOwn(app, secret_key=KEYS[0], session_cookie="plain")


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """An application."""


def _second_middleware(world: World) -> object:
    source = world.legacy["older"].as_option(
        once=False, follow=True, principal=world.plan.manager.get("principal", "user_id")
    )
    return SessionMiddleware(
        _nothing, manager=world.manager, session_cookie="second", accept=[source]
    )


def _legacy(name: str, *, once: bool, follow: bool) -> Callable[[Plan], object]:
    def make(world: World) -> Any:
        principal = world.plan.manager.get("principal", "user_id")
        return world.legacy[name].as_option(once=once, follow=follow, principal=principal)

    return lambda plan: plan.sources.append(make)


def _accept_signed(plan: Plan) -> None:
    def make(world: World) -> Any:
        ours = Legacy("any").as_option(
            once=True, follow=False, principal=world.plan.manager.get("principal", "user_id")
        )
        return StarletteCookie(OLD_KEY, session_cookie="signed", map=ours.map)

    plan.sources.append(make)


def _ring(plan: Plan) -> None:
    plan.keys = KEYS


def _prefix(plan: Plan) -> None:
    plan.prefix = "shop:"


def _own_load(plan: Plan) -> None:
    plan.kind = Refusing


def _by_the_middleware(plan: Plan) -> None:
    plan.given_to = "middleware"


def _headers(plan: Plan) -> None:
    plan.middleware["transport"] = HeaderTransport()
    plan.header = True


def _both(plan: Plan) -> None:
    plan.middleware["transport"] = [CookieTransport(), HeaderTransport()]


def _header_first(plan: Plan) -> None:
    plan.middleware["transport"] = [HeaderTransport(), CookieTransport()]


VALUES: Final[tuple[Value, ...]] = (
    door("session_cookie", "id"),
    door("path", "/app"),
    door("same_site", "strict"),
    door("same_site", "none"),
    door("https_only", value=False),
    door("domain", "shop.example"),
    door("partitioned", value=True),
    Value("transport", "header", _headers),
    Value("transport", "cookie and header", _both),
    Value("transport", "header and cookie", _header_first),
    door("binding", "ip"),
    door("binding", "user_agent"),
    door("binding", client_ip(v4=24), "client_ip(v4=24)"),
    door("binding", _by_browser, "callable"),
    door("on_unavailable", "anonymous"),
    door("on_unavailable", _anonymous_or_error, "callable"),
    door("touch", value=False),
    door("touch", _is_use, "callable"),
    door("lazy", value=True),
    door("end_sockets", value=False),
    door("cross_site", "refuse"),
    door("cross_site", "allow"),
    door("trusted_origins", (OTHER,)),
    door("clear_site_data", ("cache",)),
    Value("accept", "one that is followed", _legacy("legacy", once=False, follow=True)),
    Value("accept", "one that isn't followed", _legacy("legacy", once=True, follow=False)),
    Value("accept", "StarletteCookie", _accept_signed),
    managers("max_age", None),
    managers("max_age", 3600),
    managers("idle_timeout", 3600),
    managers("principal", "user.id"),
    managers("principal", whose, "callable"),
    managers("rotate_on", ("role",)),
    managers("on_binding_mismatch", "report"),
    managers("max_sessions", 1),
    managers("max_sessions", 2),
    managers("on_conflict", "error"),
    managers("max_size", 4096),
    managers("on_event", _raises, "raises"),
    managers("personal_events", value=True),
    managers("on_expired", _tell, "callable"),
    managers("on_expired", _tell_later, "async"),
    workers("deadline", 1.0),
    workers("enc_hook", _encode, "callable"),
    workers("dec_hook", _decode, "callable"),
    Value("prefix", "'shop:'", _prefix),
    Value("secret_key", "a ring of two", _ring),
    # On Redis such a manager goes by the server's clock, which nobody can move on.
    Value("manager", "made by the middleware", _by_the_middleware, only_on="memory"),
    Value("manager", "a load() of its own", _own_load),
    shape("a mounted application", lambda plan: plan.inside.append(_mount)),
    shape("a middleware inside a mounted application", lambda plan: plan.around.append(_mount)),
    shape("the same middleware inside", lambda plan: plan.inside.append(_same_inside)),
    shape("another realm around", lambda plan: plan.around.append(_realm_around)),
    shape("starlette's sessions around", lambda plan: plan.around.append(_starlettes_around)),
    shape("a second middleware beside", lambda plan: plan.beside.append(_second_middleware)),
    stores("client_cache", 1.0, only_on=None),
    stores("url", "?replicas=read"),
    stores("timeout", 1.0),
    stores("wait_replicas", 1),
    stores("wait_timeout", 0.5, wait_replicas=1),
    stores("wait_for", "all", wait_replicas=1),
    stores("on_too_few", "warn", wait_replicas=1),
)

ELSEWHERE: Final[dict[str, str]] = {
    **dict.fromkeys(("app", "store", "url_or_client"), "every journey has one"),
    **dict.fromkeys(("clock",), "every journey moves it"),
    "keyring": "the values of secret_key",
    **dict.fromkeys(KNOWN, "how servers are reached, before there is a session: tests/integration"),
}
"""Arguments without a value of their own here, and why."""


def combined(*values: Value) -> Plan:
    """A plan with all of these."""
    plan = Plan()
    for value in values:
        value.change(plan)
    return plan
