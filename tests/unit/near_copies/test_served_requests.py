"""Which requests are served from a near copy, and which ask the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redis_sessions import (
    CookieTransport,
    HeaderTransport,
    Keyring,
    Session,
    SessionManager,
    SessionMiddleware,
    SessionToken,
)
from redis_sessions.fastapi import SessionDep, fresh
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.testing import Clock, store_session
from tests.support.asgi import COOKIE, Reply, ask, cookie, scope_of
from tests.support.stores import NearStore
from tests.unit.near_copies.near import HINT, Processes, adding, hint_in, hints
from tests.unit.setting import DUE, KEY, START


async def test_the_store_is_not_asked(at: Processes) -> None:
    """A request is served from the copy, without a load."""
    token = await at.begin(n=1)
    assert await at.here.asked(at.here.visit(token)) == ({"n": 1}, 0)


async def test_without_a_copy_the_store_is_asked(at: Processes) -> None:
    """The first request asks the store, and the next one finds what it has read."""
    token = await at.begin(n=1)
    at.here.store.copies.clear()
    assert await at.here.asked(at.here.visit(token)) == ({"n": 1}, 1)
    assert await at.here.asked(at.here.visit(token)) == ({"n": 1}, 0)


async def test_each_request_has_data_of_its_own(at: Processes) -> None:
    """What a request changes in a nested value and doesn't store, no other request sees."""
    token = await at.begin(cart=[1])

    async def fails(session: Session) -> None:
        session["cart"].append(2)
        raise ValueError("says the test")

    with pytest.raises(ValueError, match="says the test"):
        await at.here.visit(token, fails)
    assert await at.here.asked(at.here.visit(token)) == ({"cart": [1]}, 0)


async def test_a_request_does_not_wait(at: Processes) -> None:
    """A reader that is served from a copy never suspends: its coroutine ends at the first step."""
    token = await at.begin(n=1)
    sent = list[Message]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["session"] == {"n": 1}
        await send(START)
        await send({"type": "http.response.body"})

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    middleware = SessionMiddleware(app, manager=at.here.manager)
    request = middleware(scope_of(headers=[(b"cookie", cookie(token))]), receive, send)
    with pytest.raises(StopIteration):
        request.__await__().send(None)
    assert len(sent) == 2


async def test_whoever_changes_a_session_is_hinted(at: Processes) -> None:
    """A response that stored something has the cookie, and no other response has it."""
    token = await at.begin(n=1)
    _, reply = await at.here.visit(token, adding(n=2))
    assert len(hints(reply)) == 1
    _, reply = await at.here.visit(token)
    assert hints(reply) == []


async def test_what_was_saved_before_a_touch_is_hinted(at: Processes) -> None:
    """A response that only touches the session has no hint, unless its request has saved data."""
    token = await at.begin(n=1)

    async def save(session: Session) -> None:
        session["n"] = 2
        await session.save()
        at.clock.advance(DUE)

    at.clock.advance(DUE)
    _, touching = await at.here.visit(token)
    _, saving = await at.here.visit(token, save)
    assert at.here.manager.counts["touched"] == 2
    assert hints(touching) == []
    assert await at.there.asked(at.there.visit(token, hint=hint_in(saving))) == ({"n": 2}, 1)


async def test_a_hinted_browser_sees_what_it_stored(at: Processes) -> None:
    """After its change in another process, a browser isn't served from an older copy."""
    token = await at.begin(n=1)
    _, reply = await at.there.visit(token, adding(n=2))
    assert await at.here.asked(at.here.visit(token)) == ({"n": 1}, 0)  # the copy is old
    hinted = at.here.visit(token, hint=hint_in(reply))
    assert await at.here.asked(hinted) == ({"n": 2}, 1)


async def test_a_hinted_browser_and_the_version_that_it_stored(at: Processes) -> None:
    """A copy of that version serves it, in the process that has written it and in others."""
    token = await at.begin(n=1)
    _, reply = await at.here.visit(token, adding(n=2))
    hint = hint_in(reply)
    assert await at.here.asked(at.here.visit(token, hint=hint)) == ({"n": 2}, 0)
    assert await at.there.asked(at.there.visit(token, hint=hint)) == ({"n": 2}, 1)
    assert await at.there.asked(at.there.visit(token, hint=hint)) == ({"n": 2}, 0)


async def test_a_hinted_browser_and_what_a_process_wrote_before(at: Processes) -> None:
    """A process that wrote, and hasn't heard of the browser's later change, serves no copy."""
    token = await at.begin(n=1)
    _, first = await at.here.visit(token, adding(n=2))
    _, second = await at.there.visit(token, adding(n=3), hint=hint_in(first))
    assert await at.here.asked(at.here.visit(token)) == ({"n": 2}, 0)  # the copy is old
    hinted = at.here.visit(token, hint=hint_in(second))
    assert await at.here.asked(hinted) == ({"n": 3}, 1)


@pytest.mark.parametrize("value", ["", "1", "x" * 4000, '"'])
async def test_a_hint_of_another_value(at: Processes, value: str) -> None:
    """Whatever a client writes into it, or which hints it has besides, it gets the newest."""
    token = await at.begin(n=1)
    _, reply = await at.here.visit(token, adding(n=2))
    for hint in (f"{HINT}={value}", f"{hint_in(reply)}; {HINT}={value}"):
        assert await at.here.asked(at.here.visit(token, hint=hint)) == ({"n": 2}, 1)


def showing(seen: list[Any]) -> ASGIApp:
    """An application that puts the data of each session there."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(dict(scope["session"]))
        await send(START)
        await send({"type": "http.response.body"})

    return app


async def test_what_another_origin_causes(at: Processes) -> None:
    """It has no session, neither from a copy nor from the store."""
    token = await at.begin(n=1)
    seen = list[Any]()
    app = showing(seen)
    middleware, before = SessionMiddleware(app, manager=at.here.manager), at.here.store.loads
    headers = [(b"cookie", cookie(token)), (b"sec-fetch-site", b"cross-site")]
    for method in ("GET", "POST"):
        (await ask(middleware, headers, method=method)).checked()
    assert (seen, at.here.store.loads) == ([{"n": 1}, {}], before)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("refuse", [False, True])
async def test_what_another_origin_causes_signs_nobody_in(
    at: Processes, lazy: bool, refuse: bool
) -> None:
    """It is 403, as without near copies: no page of another origin may sign a browser in."""
    token = await at.begin(n=1)
    ran = list[str]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        ran.append(scope["method"])
        scope["session"].sign_in("mallory")
        await send(START)
        await send({"type": "http.response.body"})

    choice: Any = "refuse" if refuse else "anonymous"
    middleware = SessionMiddleware(app, manager=at.here.manager, lazy=lazy, cross_site=choice)
    for cookies in ([], [(b"cookie", cookie(token))]):
        headers = [*cookies, (b"sec-fetch-site", b"cross-site")]
        reply = (await ask(middleware, headers, method="POST")).checked()
        assert (reply.status, reply.cookies) == (403, [])
    assert ran == ([] if refuse else ["POST", "POST"])


async def test_clients_with_headers_ask_the_store(at: Processes) -> None:
    """A token in a header is never served from a copy, since such a client has no hint."""
    token = await at.begin(n=1)
    seen = list[Any]()
    app = showing(seen)

    async def visit(header: tuple[bytes, bytes], *transports: Any) -> int:
        middleware = SessionMiddleware(app, manager=at.here.manager, transport=[*transports])
        before = at.here.store.loads
        (await ask(middleware, [header])).checked()
        return at.here.store.loads - before

    header, cookies = HeaderTransport(), CookieTransport()
    in_header = (b"x-session-token", token.encode())
    assert await visit(in_header, header) == 1
    assert await visit(in_header, cookies, header) == 1
    assert await visit((b"cookie", cookie(token)), cookies, header) == 0
    assert seen == [{"n": 1}] * 3


async def test_several_cookies_ask_the_store(at: Processes) -> None:
    """With two tokens nobody knows which is meant, so both are asked for."""
    first, second = await at.begin(n=1), await at.begin(n=2)
    text = f"{first}; {COOKIE}={second}"
    assert await at.here.asked(at.here.visit(text)) == ({}, 2)


async def test_refresh_and_update_and_exclusive_ask_the_store(at: Processes) -> None:
    """What wants the newest data gets them, although the session came from an old copy."""
    manager, store = at.here.manager, at.here.store

    def count(data: dict[str, Any]) -> int:
        data["n"] += 1
        return int(data["n"])

    async def refreshed(session: Session) -> int:
        await session.refresh()
        return int(session["n"])

    async def updated(session: Session) -> int:
        return await manager.update(session, count)

    async def exclusive(session: Session) -> int:
        async with session.exclusive():
            session["n"] += 1
        return int(session["n"])

    for act, result in ((refreshed, 10), (updated, 11), (exclusive, 11)):
        token = await at.begin(n=1)
        old = store.copies[token[:20]]
        await at.there.visit(token, adding(n=10))
        assert store.copies[token[:20]] is old
        assert (await at.here.visit(token, act))[0] == result


async def test_refresh_loads_what_is_not_loaded(at: Processes) -> None:
    """With lazy=True, `refresh()` asks the store, and a dependency is served from the copy."""
    token = await at.begin(n=1)

    async def act(session: Session) -> dict[str, Any]:
        await session.refresh()
        return dict(session)

    data, reply = await at.here.visit(token, act, lazy=True)
    assert (data, hints(reply)) == ({"n": 1}, [])
    assert await at.here.asked(at.here.visit(token, act, lazy=True)) == ({"n": 1}, 1)
    app = FastAPI()
    app.add_middleware(SessionMiddleware, manager=at.here.manager, lazy=True)

    @app.get("/")
    async def read(session: SessionDep) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction] - a route
        return dict(session)

    loads = at.here.store.loads
    assert (await ask(app, [(b"cookie", cookie(token))])).checked().body == b'{"n":1}'
    assert at.here.store.loads == loads


@pytest.mark.parametrize("lazy", [False, True])
async def test_fresh_asks_the_store(at: Processes, lazy: bool) -> None:
    """A step-up isn't judged by a copy: whoever signed out elsewhere gets 401, and not 200."""
    token = await at.begin(user_id="alice")
    app = FastAPI()
    app.add_middleware(SessionMiddleware, manager=at.here.manager, lazy=lazy)

    @app.get("/")
    async def pay(user: Annotated[str, Depends(fresh(within=300))]) -> str:  # pyright: ignore[reportUnusedFunction] - a route
        return user

    async def visit() -> Reply:
        return (await ask(app, [(b"cookie", cookie(token))])).checked()

    loads = at.here.store.loads
    reply = await visit()
    assert (reply.status, reply.body, hints(reply)) == (200, b'"alice"', [])
    assert at.here.store.loads == loads + 1
    copy = at.here.store.copies[token[:20]]
    await at.there.visit(token, Session.clear)
    at.here.store.copies[token[:20]] = copy
    assert (await visit()).status == 401


async def test_a_token_with_another_secret_asks_the_store(at: Processes) -> None:
    """Who knows the id alone isn't served from the copy, and it is reported as without copies."""
    token = await at.begin(n=1)
    forged = SessionToken.generate(token[:20]).value
    assert await at.here.asked(at.here.visit(token)) == ({"n": 1}, 0)
    assert await at.here.asked(at.here.visit(forged)) == ({}, 1)
    assert [event.reason for event in at.here.events] == ["create", "authentication failed"]
    assert await at.here.asked(at.here.visit(token)) == ({"n": 1}, 0)


@pytest.mark.parametrize("text", ["", "ü" * 64, "x" * 64 + "y", "x" * 20])
async def test_malformed_tokens_are_reported(at: Processes, text: str) -> None:
    """What is no token is rejected as without copies, even if there is a copy of its first part."""
    token = await at.begin(n=1)
    copies = at.here.store.copies
    copies[text[:20]] = copies[token[:20]]
    assert await at.here.asked(at.here.visit(text)) == ({}, 0)
    assert [event.reason for event in at.here.events] == ["create", "malformed token"]


async def test_a_load_of_ones_own_is_called(at: Processes) -> None:
    """A manager whose class has a `load` of its own is asked for each session."""
    calls = list[Sequence[str]]()

    class Own(SessionManager):
        async def load(self, token: Any = None, **options: Any) -> Session:
            calls.append(token)
            return await super().load(token, **options)

    store = NearStore(clock=at.clock)
    at.here.manager, at.here.store = Own(store, Keyring(KEY), clock=at.clock), store
    token = await store_session(at.here.manager, {"n": 1})
    calls.clear()
    assert await at.here.asked(at.here.visit(token)) == ({"n": 1}, 1)
    assert calls == [[token]]


async def test_a_store_without_copies() -> None:
    """With `client_cache=0` no copy is looked for."""

    class Off(NearStore):
        client_cache = 0.0

    manager = SessionManager(Off(), Keyring(KEY), clock=Clock())
    assert backend_of(manager).copies is None


@pytest.mark.parametrize(
    ("cookies", "hint"),
    [
        ([f"{HINT}=1"], "1"),
        ([f"a=b; \t{HINT}=", "c=d"], ""),
        (["a=b", f"c=d;{HINT}=1"], "1"),
        ([f"{HINT}=1; a=b;{HINT}=2", f"{HINT}=3"], "1,2,3"),
        ([f"a={HINT}=1"], None),
        ([f"x{HINT}=1; {COOKIE}=t"], None),
        ([f"{HINT}er=1"], None),
        ([], None),
    ],
)
def test_the_hint_is_found_as_a_cookie_is(cookies: list[str], hint: str | None) -> None:
    """The hint counts as a cookie of its own, and not within another's name or value."""
    transport = CookieTransport()
    scope = scope_of(headers=[(b"cookie", text.encode()) for text in cookies])
    assert transport.hinted(scope) is (hint is not None)
    assert transport.read_with_hint(scope) == (transport.read(scope), hint)


async def test_the_hint_among_several_transports(at: Processes) -> None:
    """With a cookie and a header, too, a hinted browser isn't served from an older copy."""
    token = await at.begin(n=1)
    _, reply = await at.there.visit(token, adding(n=2))
    both = [CookieTransport(), HeaderTransport()]
    assert await at.here.asked(at.here.visit(token, transport=both)) == ({"n": 1}, 0)
    for loads in (1, 0):
        hinted = at.here.visit(token, hint=hint_in(reply), transport=both)
        assert await at.here.asked(hinted) == ({"n": 2}, loads)


async def test_a_transport_of_ones_own_reads_the_token(at: Processes) -> None:
    """A class on top of CookieTransport with a `read` of its own is asked for the token."""

    class Own(CookieTransport):
        def read(self, scope: Scope) -> list[str]:
            return [text.removeprefix("v1.") for text in super().read(scope)]

    token = await at.begin(n=1)
    visit = at.here.visit(f"v1.{token}", transport=Own())
    assert await at.here.asked(visit) == ({"n": 1}, 0)
