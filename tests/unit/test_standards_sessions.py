"""What standards require of sessions, where no other test shows it (docs/security.md)."""

from __future__ import annotations

import asyncio
import inspect
import re
from typing import Any, Final

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from redis_sessions import (
    CookieTransport,
    Event,
    Keyring,
    MemoryStore,
    RedisStore,
    Session,
    SessionManager,
    SessionMiddleware,
    SessionToken,
    get_session,
)
from redis_sessions.testing import Clock, read_session, store_session
from tests.support import ROOT
from tests.support.asgi import COOKIE, KEY
from tests.support.site import Site

DAY: Final = 24 * 3600


def site(clock: Clock | None = None, **options: Any) -> Site:
    clock = clock or Clock()
    return Site(MemoryStore(clock=clock), clock=clock, **options)


def sign_in(session: Session) -> None:
    session["user_id"] = "alice@example.com"


async def signed_in(at: Site, who: str = "A") -> str:
    return await store_session(at.manager, {"user_id": who})


async def alive(at: Site, *tokens: str) -> list[bool]:
    return [bool(await read_session(at.manager, token)) for token in tokens]


@pytest.mark.standard(2)
async def test_a_token_says_nothing() -> None:
    """The same user twice: two tokens with nothing in common, and nothing of the user in them."""
    at = site()
    one, other = (await at.visit(act=sign_in)).token, (await at.visit(act=sign_in)).token
    same = sum(a == b for a, b in zip(one.value, other.value, strict=True))
    assert same < 12
    assert re.fullmatch(r"[\w-]{64}", one.value)
    assert "alice" not in one.value


@pytest.mark.standard(4)
async def test_an_expired_id_is_never_adopted() -> None:
    """A write with an expired token goes under an id drawn for it."""
    clock = Clock()
    at = site(clock)
    token = (await at.visit(act=lambda s: s.update(x=1))).token
    clock.advance(15 * DAY)
    reply = await at.visit(token, act=lambda s: s.update(x=2))
    assert reply.seen == {}
    assert reply.token.id != token.id
    assert await read_session(at.manager, token.value) == {}


@pytest.mark.standard(6, "ASVS 14.2.1")
def test_a_token_is_read_from_nowhere_else() -> None:
    """Neither the URL, nor a form, nor JSON, nor another header opens a session."""

    async def look(request: Request) -> JSONResponse:
        await request.body()
        return JSONResponse(get_session(request))

    manager = SessionManager(MemoryStore(), Keyring(KEY))
    app = Starlette(
        routes=[Route("/{rest:path}", look, methods=["GET", "POST"])],
        middleware=[Middleware(SessionMiddleware, manager=manager)],
    )
    token = asyncio.run(store_session(manager, {"x": 1}))
    client = TestClient(app, base_url="https://testserver")
    named = {COOKIE: token, "sid": token, "session": token}
    assert client.get("/", headers={"cookie": f"{COOKIE}={token}"}).json() == {"x": 1}
    assert client.get("/", params=named).json() == {}
    assert client.get(f"/;{COOKIE}={token}").json() == {}
    assert client.post("/", data=named).json() == {}
    assert client.post("/", json=named).json() == {}
    for header in ("authorization", "x-session", "referer", COOKIE):
        assert client.get("/", headers={header: token}).json() == {}


@pytest.mark.standard(14, "ASVS 7.4.2", "ASVS 7.4.3", "ASVS 7.4.5", "ASVS 7.5.2")
async def test_an_administrator_ends_all_of_a_user() -> None:
    """Without a request, by who it is: all end at once, and nobody else's."""
    at = site()
    tokens = [await signed_in(at) for _ in range(3)]
    other = await signed_in(at, "B")
    assert await at.manager.revoke_all("A") == 3
    assert await alive(at, *tokens, other) == [False, False, False, True]


@pytest.mark.standard(14, "ASVS 7.4.2", "ASVS 7.4.3", "ASVS 7.4.5", "ASVS 7.5.2")
async def test_all_others_end_when_a_factor_changes() -> None:
    """In a request: the others end, and this session goes on."""
    at = site()
    mine, other = await signed_in(at), await signed_in(at)
    token = SessionToken.parse(mine)
    assert token is not None
    await at.visit(token, act=lambda s: at.manager.revoke_all("A", keep=s.id))
    assert await alive(at, mine, other) == [True, False]


@pytest.mark.standard(14, "ASVS 7.4.2", "ASVS 7.4.3", "ASVS 7.4.5", "ASVS 7.5.2")
async def test_a_user_sees_and_ends_sessions() -> None:
    """The list has each session that lives; any one of it can be ended, and nobody else's."""
    at = site()
    tokens = [await signed_in(at) for _ in range(3)]
    other = await signed_in(at, "B")
    listed = {info.id for info in await at.manager.sessions_of("A")}
    assert listed == {token[:20] for token in tokens}
    assert await at.manager.revoke(tokens[1][:20], principal="A")
    assert not await at.manager.revoke(other[:20], principal="A")
    assert await alive(at, *tokens, other) == [True, False, True, True]


@pytest.mark.standard(15, "ASVS 7.1.2")
async def test_concurrent_sessions_are_limited() -> None:
    """max_sessions: the sign-in over the limit ends the session that was seen first."""
    clock = Clock()
    at = site(clock, max_sessions=2)
    tokens = list[str]()
    for _ in range(3):
        tokens.append(await signed_in(at))
        clock.advance(60)
    assert await alive(at, *tokens) == [False, True, True]


@pytest.mark.standard(20, "ASVS 3.3.5")
async def test_a_cookie_is_small() -> None:
    """However much a session holds, and with every attribute, it is far below 4096 bytes."""
    transport = CookieTransport(same_site="none", partitioned=True)
    at = site(transport=transport)
    reply = await at.visit(act=lambda s: s.update(x="x" * 60_000))
    (cookie,) = reply.cookies
    assert len(cookie) < 256


@pytest.mark.standard(22)
@pytest.mark.parametrize(
    "options",
    [{}, {"path": "/app"}, {"domain": "example.com"}, {"same_site": "none", "partitioned": True}],
    ids=str,
)
async def test_a_cookie_is_deleted_as_it_was_set(options: dict[str, Any]) -> None:
    """The same name with its prefix, path, domain and flags; only value and time differ."""
    at = site(transport=CookieTransport(**options))
    reply = await at.visit(act=lambda s: s.update(x=1))
    token, (sent,) = reply.token, reply.cookies
    name = sent.split("=", 1)[0]
    reply = await at.visit(f"{name}={token.value}".encode(), act=lambda s: s.clear())
    (deleted,) = reply.cookies
    assert _attributes(deleted) == _attributes(sent)
    assert "Thu, 01 Jan 1970 00:00:00 GMT" in deleted


def _attributes(cookie: str) -> tuple[str, set[str]]:
    value, *attributes = (part.strip().lower() for part in cookie.split(";"))
    return value.split("=")[0], {
        a for a in attributes if not a.startswith(("max-age=", "expires="))
    }


@pytest.mark.standard(23)
async def test_one_set_cookie() -> None:
    """Whatever one request does to its session, the answer has one `Set-Cookie`."""

    def everything(session: Session) -> None:
        session["x"] = 1
        session.rotate()
        session.expire_in(30 * DAY)
        session["user_id"] = "B"
        session.clear()
        session["user_id"] = "C"
        session.authenticated()

    at = site()
    token = (await at.visit(act=sign_in)).token
    reply = await at.visit(token, act=everything)
    assert reply.status == 200
    assert len(reply.cookies) == 1


@pytest.mark.standard(34, "ASVS 16.2.5")
async def test_a_life_is_reported() -> None:
    """Creation, rotation, end, expiry and invalid use are events that hold ids alone."""
    clock = Clock()
    at = site(clock)
    first = (await at.visit(act=sign_in)).token
    second = (await at.visit(first, act=lambda s: s.rotate())).token
    await at.visit(first)
    await at.visit(second, act=lambda s: s.clear())
    late = (await at.visit(act=lambda s: s.update(x="a secret"))).token
    clock.advance(15 * DAY)
    await at.visit(late)
    await at.visit(b"%s=made-up" % COOKIE.encode())
    assert at.events == [
        Event("created", "gain", first.id),
        Event("signed_in", "gain", first.id),
        Event("rotated", "rotate", first.id),
        Event("rejected", "authentication failed", first.id),
        Event("ended", "cleared", first.id),
        Event("signed_out", "cleared", first.id),
        Event("created", "create", late.id),
        at.events[7],
        Event("rejected", "malformed token"),
    ]
    assert at.events[7].name == "rejected"
    assert at.events[7].reason in ("expired", "unknown id")
    told = repr(at.events)
    for secret in (first.value, second.value, late.value, "alice", "a secret"):
        assert secret not in told
        assert secret[-20:] not in told


@pytest.mark.standard(35)
async def test_guessing_is_counted() -> None:
    """Malformed, unknown and wrong tokens are counted, each by its reason."""
    at = site()
    token = (await at.visit(act=sign_in)).token
    for _ in range(3):
        await at.visit(b"%s=%s" % (COOKIE.encode(), b"x" * 63))
        await at.visit(SessionToken.generate())
        await at.visit(SessionToken.generate(token.id))
    counts = at.manager.counts
    assert counts["rejected"] == 9
    assert counts["rejected: malformed token"] == 3
    assert counts["rejected: unknown id"] == 3
    assert counts["rejected: authentication failed"] == 3


@pytest.mark.standard(36)
@pytest.mark.parametrize("mode", ["reject", "report"])
async def test_a_bound_session_elsewhere(mode: str) -> None:
    """Where it is bound to, it opens; elsewhere it doesn't, or is reported; a token it needs."""
    at = site(on_binding_mismatch=mode)
    session = await at.manager.load(bound="here")
    session["x"] = 1
    answer = await at.manager.commit(session)
    assert answer.token is not None
    token = answer.token.value
    assert dict(await at.manager.load(token, bound="here")) == {"x": 1}
    seen = dict(await at.manager.load(token, bound="there"))
    assert seen == ({} if mode == "reject" else {"x": 1})
    reported = [(event.name, event.reason) for event in at.events if event.name != "created"]
    assert reported == [
        ("rejected", "bound elsewhere") if mode == "reject" else ("bound_elsewhere", None)
    ]
    another = SessionToken.generate(answer.token.id).value
    assert dict(await at.manager.load(another, bound="here")) == {}


@pytest.mark.standard(38, "ASVS 13.1.2", "ASVS 13.1.3")
def test_limits_are_documented() -> None:
    """Pools, timeouts, retries: docs/unavailable.md has each, with the default of the code."""
    page = (ROOT / "docs" / "unavailable.md").read_text()
    timeout = RedisStore("redis://localhost").timeout
    deadline = inspect.signature(SessionManager).parameters["deadline"].default
    assert f"| {timeout:g} s | `RedisStore(…, timeout=)`" in page
    assert re.search(rf"\| {deadline:g} s \| [^|]*deadline=", page)
    assert "max_connections" in page
    assert "one retry" in page
