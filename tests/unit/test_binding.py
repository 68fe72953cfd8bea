"""What a session is bound to: an address, a network, a browser, or what an application says."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from redis_sessions import (
    ConfigurationError,
    Keyring,
    MemoryStore,
    SessionManager,
    StoreUnavailableError,
    client_ip,
    get_session,
)
from redis_sessions.http.binding import BindingOption, bind_to
from tests.support.apps import Events, doing
from tests.support.asgi import KEY, ask

Binding = Callable[[HTTPConnection], "str | None"]


def connection(host: str | None, **headers: str) -> HTTPConnection:
    raw = [(k.replace("_", "-").encode(), v.encode("latin-1")) for k, v in headers.items()]
    client = None if host is None else (host, 1)
    return HTTPConnection({"type": "http", "headers": raw, "client": client})


@pytest.mark.parametrize(
    ("binding", "one", "other", "same"),
    [
        (client_ip(), "192.0.2.1", "192.0.2.1", True),
        (client_ip(), "192.0.2.1", "192.0.2.2", False),
        (client_ip(v4=24), "192.0.2.1", "192.0.2.254", True),
        (client_ip(v4=24), "192.0.2.1", "192.0.3.1", False),
        (client_ip(v4=24), "2001:db8::1", "2001:db8::2", False),
        (client_ip(v6=56), "2001:db8:0:ff::1", "2001:db8:0:1::2", True),
        (client_ip(v6=56), "2001:db8:0:ff::1", "2001:db8:0:100::1", False),
        (client_ip(v4=24, v6=56), "::ffff:192.0.2.1", "192.0.2.9", True),
        (client_ip(v4=24, v6=56), "::ffff:192.0.2.1", "::ffff:192.0.3.1", False),
        (client_ip(), "2001:DB8:0::1", "2001:db8::1", True),
        (client_ip(), "testclient", "testclient", True),
        (client_ip(), "testclient", "192.0.2.1", False),
    ],
)
def test_networks(binding: Binding, one: str, other: str, same: bool) -> None:
    """Two addresses are of one network, or they aren't."""
    assert (binding(connection(one)) == binding(connection(other))) is same


def test_a_server_that_knows_no_client() -> None:
    """Without a client's address there is nothing to bind to."""
    assert client_ip()(connection(None)) is None


def test_user_agents() -> None:
    """The header as it is; none at all is one as well."""
    binding = bind_to("user_agent")
    assert binding is not None
    assert binding(connection("192.0.2.1", user_agent="Firefox")) == "Firefox"
    assert binding(connection("192.0.2.1")) == ""


@pytest.mark.parametrize("bits", [{"v4": 0}, {"v4": 33}, {"v6": 0}, {"v6": 129}, {"v4": -1}])
def test_bits_that_no_address_has(bits: dict[str, int]) -> None:
    """client_ip() says how many bits there are."""
    with pytest.raises(ConfigurationError, match="up to 32"):
        client_ip(**bits)


async def _late(_: HTTPConnection) -> str | None:
    return None


@pytest.mark.parametrize("option", ["IP", "country", 24, ["ip"], _late])
def test_options_that_are_none(option: Any) -> None:
    """An unknown binding is refused where it is written."""
    with pytest.raises(ConfigurationError, match="client_ip"):
        bind_to(option)


# -- in an application


class Site:
    """An application whose sessions are bound, and what it reported."""

    def __init__(self, binding: BindingOption, *, lazy: bool = False, **policy: Any) -> None:
        self.events = Events()
        self.store = MemoryStore()
        self.manager = SessionManager(self.store, Keyring(KEY), on_event=self.events, **policy)
        self.app: Starlette = doing(
            Route("/loaded", self.loaded), manager=self.manager, binding=binding, lazy=lazy
        )
        self.body: Any = None

    async def loaded(self, request: Request) -> JSONResponse:
        session = get_session(request)
        await session.refresh()
        self.body = dict(session)
        return JSONResponse(self.body)

    async def get(
        self, path: str, host: str = "192.0.2.1", agent: str = "Firefox", token: str | None = None
    ) -> str | None:
        """The token that the response sends."""
        headers = [(b"user-agent", agent.encode())]
        if token is not None:
            headers.append((b"cookie", f"__Host-session={token}".encode()))
        reply = (await ask(self.app, headers, path=path, client=(host, 1))).checked()
        cookie = "".join(reply.cookies)
        return cookie.partition("=")[2].partition(";")[0] or None

    async def shows(self, token: str, host: str = "192.0.2.1", agent: str = "Firefox") -> bool:
        await self.get("/loaded", host, agent, token)
        return bool(self.body)


def _agent(connection: HTTPConnection) -> str | None:
    return connection.headers.get("user-agent")


def _certificate(connection: HTTPConnection) -> str | None:
    """As if a proxy had checked a client's certificate, and said so in a header."""
    return connection.headers.get("user-agent") or None


ELSEWHERE: list[tuple[BindingOption, dict[str, str]]] = [
    ("ip", {"host": "192.0.2.2"}),
    (client_ip(v4=24, v6=56), {"host": "192.0.3.1"}),
    ("user_agent", {"agent": "Safari"}),
    (_agent, {"agent": "Safari"}),
]
BINDINGS = pytest.mark.parametrize(
    ("binding", "elsewhere"), ELSEWHERE, ids=["ip", "network", "user agent", "callable"]
)


@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
@BINDINGS
async def test_elsewhere_it_reads_as_none(
    binding: BindingOption, elsewhere: dict[str, str], lazy: bool
) -> None:
    """From elsewhere the session is absent; it is left alive, and an event says so."""
    site = Site(binding, lazy=lazy)
    token = await site.get("/do?set=user_id:alice")
    assert token is not None
    assert await site.shows(token)
    assert not await site.shows(token, **elsewhere)
    assert site.events.named("rejected") == ["bound elsewhere"]
    assert [e.id for e in site.events if e.name == "rejected"] == [token[:20]]
    assert await site.shows(token)


async def test_what_is_written_elsewhere_is_another_session() -> None:
    """A thief's writes go under an id of their own, and the owner's session isn't changed."""
    site = Site("ip")
    token = await site.get("/do?set=user_id:alice")
    new = await site.get("/do?set=a:1", "192.0.2.2", token=token)
    assert new is not None
    assert token is not None
    assert new[:20] != token[:20]
    assert dict(await site.manager.load(token, bound="192.0.2.1/32")) == {"user_id": "alice"}
    assert dict(await site.manager.load(new, bound="192.0.2.2/32")) == {"a": "1"}


async def test_clearing_from_elsewhere_ends_nothing() -> None:
    """Whoever isn't let in can't sign the owner out either."""
    site = Site("ip")
    token = await site.get("/do?set=user_id:alice")
    assert token is not None
    await site.get("/do?clear=", "192.0.2.2", token=token)
    assert await site.shows(token)


@BINDINGS
async def test_only_reported(binding: BindingOption, elsewhere: dict[str, str]) -> None:
    """on_binding_mismatch="report": let through, with an event."""
    site = Site(binding, on_binding_mismatch="report")
    token = await site.get("/do?set=user_id:alice")
    assert token is not None
    assert await site.shows(token, **elsewhere)
    assert {e.id for e in site.events if e.name == "bound_elsewhere"} == {token[:20]}
    assert site.events.named("rejected") == []


async def test_signing_in_binds_again() -> None:
    """Under the id of a sign-in the session is bound to where the sign-in came from."""
    site = Site("ip", on_binding_mismatch="report")
    first = await site.get("/do?set=cart:tea")
    token = await site.get("/do?set=user_id:alice", "192.0.2.2", token=first)
    assert token is not None
    site.events.clear()
    assert await site.shows(token, "192.0.2.2")
    assert site.events.named("bound_elsewhere") == []
    assert await site.shows(token, "192.0.2.1")
    assert "bound_elsewhere" in {event.name for event in site.events}


@pytest.mark.parametrize("what", ["set=a:1", "rotate=", "authenticated=", "expire_in=2600000"])
async def test_the_binding_stays(what: str) -> None:
    """Changes and rotations in place keep the session bound."""
    site = Site("ip")
    token = await site.get("/do?set=user_id:alice")
    token = await site.get(f"/do?{what}", token=token) or token
    assert token is not None
    assert await site.shows(token)
    assert not await site.shows(token, "192.0.2.2")


async def test_sessions_from_before_the_option() -> None:
    """A session that is bound to nothing is opened from everywhere."""
    site = Site("ip")
    session = await site.manager.load()
    session["user_id"] = "alice"
    token = (await site.manager.commit(session)).token
    assert token is not None
    assert await site.shows(token.value, "192.0.2.7")


async def test_a_manager_without_a_request_says_that_it_asks_for_nothing() -> None:
    """In a worker there is nobody to be bound to: a bound session opens if that is said."""
    site = Site("ip")
    token = await site.get("/do?set=user_id:alice")
    assert dict(await site.manager.load(token)) == {}
    assert site.events.named("rejected") == ["bound elsewhere"]
    session = await site.manager.load(token, check_binding=False)
    assert session.principal == "alice"
    await session.refresh()
    assert session.principal == "alice"
    with pytest.raises(TypeError, match="one of them"):
        await site.manager.load(token, bound="192.0.2.1", check_binding=False)


@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
async def test_a_request_with_nothing_to_be_bound_to(lazy: bool) -> None:
    """A request without the header that the session is bound to, such as a proxy's, has none."""
    site = Site(_certificate, lazy=lazy)
    token = await site.get("/do?set=user_id:alice", agent="certificate")
    assert token is not None
    assert not await site.shows(token, agent="")
    assert site.events.named("rejected") == ["bound elsewhere"]
    assert await site.shows(token, agent="certificate")


async def test_a_request_with_nothing_to_be_bound_to_is_reported() -> None:
    """on_binding_mismatch="report": this one as well is let through, with an event."""
    site = Site(_certificate, on_binding_mismatch="report")
    token = await site.get("/do?set=user_id:alice", agent="certificate")
    assert token is not None
    site.events.clear()
    assert await site.shows(token, agent="")
    assert {e.id for e in site.events if e.name == "bound_elsewhere"} == {token[:20]}


async def test_a_request_with_nothing_to_be_bound_to_begins_a_session() -> None:
    """Which isn't bound: it opens with and without the header."""
    site = Site(_certificate)
    token = await site.get("/do?set=user_id:alice", agent="")
    assert token is not None
    assert await site.shows(token, agent="")
    assert await site.shows(token, agent="certificate")


async def test_without_the_option_nothing_is_asked() -> None:
    """An application that takes `binding=` out again signs nobody out."""
    site = Site("ip")
    token = await site.get("/do?set=user_id:alice")
    assert token is not None
    site.app = doing(Route("/loaded", site.loaded), manager=site.manager)  # pyright: ignore[reportPrivateUsage]
    assert await site.shows(token, "192.0.2.2")


@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
@pytest.mark.parametrize("error", [RuntimeError("oops"), StoreUnavailableError("oops")], ids=repr)
async def test_a_callable_that_raises_opens_nothing(lazy: bool, error: Exception) -> None:
    """Neither where its error is the request's, nor where `on_unavailable` goes on."""
    site = Site(_agent)
    token = await site.get("/do?set=user_id:alice")
    assert token is not None

    def raises(_: HTTPConnection) -> str | None:
        raise error

    site.app = doing(
        Route("/loaded", site.loaded),  # pyright: ignore[reportPrivateUsage]
        manager=site.manager,
        binding=raises,
        on_unavailable="anonymous",
        lazy=lazy,
    )
    with suppress(type(error)):
        await site.shows(token)
    assert not site.body


@pytest.mark.parametrize("made", [5, b"text", False], ids=repr)
async def test_a_callable_that_makes_no_text(made: Any) -> None:
    """What is neither text nor None is an error in the first request, and says what to return."""
    site = Site(lambda _: made)
    with pytest.raises(ConfigurationError, match="return text, or None"):
        await site.get("/do")


async def test_a_new_key_keeps_the_binding() -> None:
    """A session that was bound under the retired key is bound under [new, old]."""
    site = Site("ip")
    token = await site.get("/do?set=user_id:alice")
    assert token is not None
    manager = SessionManager(site.store, Keyring("the new key of the tests, also long", KEY))
    site.app = doing(Route("/loaded", site.loaded), manager=manager, binding="ip")
    assert await site.shows(token)
    assert not await site.shows(token, "192.0.2.2")
