"""Headers besides the cookie, cross-site requests, and what is warned of."""

from __future__ import annotations

import logging
from contextlib import suppress

import httpx2
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from redis_sessions import (
    HeaderTransport,
    Keyring,
    MemoryStore,
    SessionGoneError,
    SessionManager,
    get_session,
)
from tests.support.apps import (
    BASE,
    Events,
    app_of,
    client_of,
    doing,
    manager_on,
    serve,
    signed_in,
    token_in,
)
from tests.support.asgi import COOKIE, KEY, ask

# -- headers


@pytest.mark.standard(26, "ASVS 14.3.2")
async def test_vary_where_the_session_may_have_been_used(redis_url: str, prefix: str) -> None:
    """`Vary: Cookie` goes with whatever a token opened, with request.session and get_session."""

    async def by_starlette(request: Request) -> Response:
        return JSONResponse(request.session)

    async def varies(request: Request) -> Response:
        return JSONResponse(request.session, headers={"Vary": "Accept"})

    app = doing(
        Route("/by-starlette", by_starlette),
        Route("/varies", varies),
        store=redis_url,
        prefix=prefix,
        secret_key=KEY,
    )
    async with client_of(app) as browser:
        for expected in (None, "Cookie"):  # without a session, and with one
            assert (await browser.get("/plain")).headers.get("vary") == expected
            assert (await browser.get("/by-starlette")).headers["vary"] == "Cookie"
            assert (await browser.get("/do")).headers["vary"] == "Cookie"
            assert (await browser.get("/varies")).headers["vary"] == "Accept, Cookie"
            await browser.get("/do?set=a:1")


async def test_vary_also_where_a_session_was_loaded_late(redis_url: str, prefix: str) -> None:
    """lazy=True and `await get_session(request).refresh()`: the response depends on the cookie."""

    async def show(request: Request) -> Response:
        session = get_session(request)
        await session.refresh()
        return JSONResponse(dict(session))

    manager = manager_on(redis_url, prefix)
    eager = doing(manager=manager)
    async with client_of(eager) as browser:
        token = await signed_in(browser)
    async with client_of(app_of(Route("/", show), lazy=True, manager=manager), token) as browser:
        response = await browser.get("/")
        assert response.json() == {"user_id": "alice"}
        assert response.headers.get("vary") == "Cookie"


async def test_vary_goes_with_a_token_that_opened(redis_url: str, prefix: str) -> None:
    """Not with a token that opens nothing, nor with lazy=True, where nobody has loaded it."""
    manager = manager_on(redis_url, prefix)
    async with client_of(doing(manager=manager)) as browser:
        token = await signed_in(browser)
        for cookie, lazy, expected in (
            (token, False, "Cookie"),
            (token, True, None),
            ("A" * len(token), False, None),
        ):
            async with client_of(doing(manager=manager, lazy=lazy), cookie) as other:
                assert (await other.get("/plain")).headers.get("vary") == expected


async def test_vary_although_the_session_ended_meanwhile(redis_url: str, prefix: str) -> None:
    """The page may show what was loaded, although another request has signed out since."""

    async def show(request: Request) -> Response:
        text = str(dict(request.scope["session"]))
        async with client_of(app, request.cookies[COOKIE]) as other:
            await other.get("/do?clear=")
        with suppress(SessionGoneError):
            await request.scope["session"].save()
        return Response(text)

    app = doing(Route("/show", show), store=redis_url, prefix=prefix, secret_key=KEY)
    async with client_of(app) as browser:
        await signed_in(browser)
        response = await browser.get("/show")
        assert "alice" in response.text
        assert response.headers.get("vary") == "Cookie"


@pytest.mark.standard(26, "ASVS 14.3.2")
async def test_no_store_goes_with_a_token(redis_url: str, prefix: str) -> None:
    """A response with a token isn't stored; a weaker policy is replaced, and reported."""
    events = Events()

    async def cached(request: Request) -> Response:
        request.session["n"] = request.session.get("n", 0) + 1
        return JSONResponse("x", headers={"Cache-Control": "public, max-age=60"})

    app = doing(
        Route("/cached", cached), store=redis_url, prefix=prefix, secret_key=KEY, on_event=events
    )
    async with client_of(app) as browser:
        response = await browser.get("/cached")
        assert response.headers.get_list("cache-control") == ["no-store"]
        assert events.named("cache_control_replaced") == [None]
        response = await browser.get("/cached")  # no token this time
        assert response.headers["cache-control"] == "public, max-age=60"
        assert (await browser.get("/do?clear=")).headers["cache-control"] == "no-store"
        assert len(events.named("cache_control_replaced")) == 1


@pytest.mark.parametrize(
    "name",
    [
        *("CDN-Cache-Control", "Cloudflare-CDN-Cache-Control", "Vercel-CDN-Cache-Control"),
        *("X-LiteSpeed-Cache-Control", "Surrogate-Control", "Edge-Control", "X-Accel-Expires"),
    ],
)
async def test_no_cache_is_told_to_store_a_token(redis_url: str, prefix: str, name: str) -> None:
    """What a CDN or proxy obeys rather than Cache-Control goes, whatever Cache-Control says."""
    events = Events()

    async def cached(request: Request) -> Response:
        request.session["n"] = request.session.get("n", 0) + 1
        return JSONResponse("x", headers={name: "max-age=60", "Cache-Control": "no-store"})

    app = doing(
        Route("/cached", cached), store=redis_url, prefix=prefix, secret_key=KEY, on_event=events
    )
    async with client_of(app) as browser:
        response = await browser.get("/cached")
        assert response.headers.get_list("cache-control") == ["no-store"]
        assert name not in response.headers
        assert events.named("cache_control_replaced") == [None]
        assert (await browser.get("/cached")).headers[name] == "max-age=60"  # without a token


async def test_a_cross_site_post_begins_no_session(redis_url: str, prefix: str) -> None:
    """No anonymous session for a cross-site unsafe request; signing in is possible."""
    events = Events()
    app = doing(store=redis_url, prefix=prefix, secret_key=KEY, on_event=events, cross_site="allow")
    cross = {"Sec-Fetch-Site": "cross-site"}
    async with client_of(app) as browser:
        response = await browser.post("/do?set=a:1", headers=cross)
        assert response.status_code == 200
        assert token_in(response) is None
        assert len(events.named("dropped")) == 1
        assert token_in(await browser.post("/do?set=user_id:alice", headers=cross))
    async with client_of(app) as browser:
        assert token_in(await browser.get("/do?set=a:1", headers=cross))
    async with client_of(app) as browser:
        same = {"Sec-Fetch-Site": "same-site"}
        assert token_in(await browser.post("/do?set=a:1", headers=same))


async def test_cross_site_posts_are_meant_with_samesite_none(redis_url: str, prefix: str) -> None:
    """With same_site="none" a cross-site POST may begin a session."""
    options = {"same_site": "none", "cross_site": "allow"}
    app = doing(store=redis_url, prefix=prefix, secret_key=KEY, **options)
    async with client_of(app) as browser:
        response = await browser.post("/do?set=a:1", headers={"Sec-Fetch-Site": "cross-site"})
        assert token_in(response)


async def test_a_header_transport_begins_no_session_for_another_site(
    redis_url: str, prefix: str
) -> None:
    """As with a cookie; a client that isn't a browser names no site, and may begin one."""
    transport = HeaderTransport()
    app = doing(store=redis_url, prefix=prefix, secret_key=KEY, transport=transport)
    cross = {"Sec-Fetch-Site": "cross-site"}
    async with client_of(app) as client:
        assert transport.name not in (await client.post("/do?set=a:1", headers=cross)).headers
        assert transport.name in (await client.post("/do?set=user_id:a", headers=cross)).headers
        assert transport.name in (await client.post("/do?set=a:1")).headers


async def test_headers_may_be_lists(redis_url: str, prefix: str) -> None:
    """Daphne and Mangum give headers as lists of two: the cross-site rule holds there too."""
    app = doing(store=redis_url, prefix=prefix, secret_key=KEY)
    for site, begins in ((b"same-origin", True), (b"cross-site", False)):
        reply = await ask(app, [[b"sec-fetch-site", site]], path="/do?set=a:1", method="POST")
        assert bool(reply.checked().cookies) is begins


# -- the client's address


async def test_behind_a_proxy() -> None:
    """uvicorn --proxy-headers: the client that the trusted proxy names is the one that counts."""
    manager = SessionManager(MemoryStore(), Keyring(KEY))
    app = doing(manager=manager, binding="ip", https_only=False)
    with serve(app, proxy_headers=True, forwarded_allow_ips="127.0.0.1") as address:
        async with httpx2.AsyncClient(base_url=f"http://{address}") as browser:
            here, there = ({"X-Forwarded-For": host} for host in ("192.0.2.1", "192.0.2.2"))
            await browser.get("/do?set=user_id:alice", headers=here)
            assert (await browser.get("/do", headers=here)).json() == {"user_id": "alice"}
            assert (await browser.get("/do", headers=there)).json() == {}
            assert (await browser.get("/do")).json() == {}
    (info,) = await manager.sessions_of("alice")
    assert info.address == "192.0.2.1"


# -- warnings


async def test_a_secure_cookie_over_http_is_warned_of_once(
    redis_url: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A Secure cookie over plain http: one line, naming what to write."""
    app = doing(store=redis_url, prefix=prefix, secret_key=KEY)
    transport = httpx2.ASGITransport(app)
    for base, warned in ((BASE, 0), ("http://testserver", 1), ("http://127.0.0.1", 1)):
        async with httpx2.AsyncClient(transport=transport, base_url=base) as browser:
            await browser.get("/do?set=a:1")
        assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == warned
    assert "https_only=False" in caplog.text
    assert "https://testserver" in caplog.text


async def test_data_that_look_like_a_sign_in_are_warned_of_once(
    redis_url: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """`username` without a principal: one line that names both."""
    app = doing(store=redis_url, prefix=prefix, secret_key=KEY)
    async with client_of(app) as browser:
        await browser.get("/do?set=username:alice")
        await browser.get("/do?set=email:alice@example.com")
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "'username'" in record.getMessage()
    assert "principal='user_id'" in record.getMessage()


async def test_no_warning_where_the_principal_is_set(
    redis_url: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Once somebody signed in, an `email` in an anonymous session is no reason to warn."""
    app = doing(store=redis_url, prefix=prefix, secret_key=KEY)
    async with client_of(app) as browser:
        await browser.get("/do?set=user_id:alice&set=email:alice@example.com")
        await browser.get("/do?clear=")
        await browser.get("/do?set=email:bob@example.com")
    assert not [r for r in caplog.records if r.levelno == logging.WARNING]
