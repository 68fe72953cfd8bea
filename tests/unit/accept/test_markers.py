"""What says that a foreign session was accepted: who may be faster, and what may fail."""

from __future__ import annotations

import asyncio
import sys
from base64 import b64encode
from collections.abc import Callable
from contextvars import Context
from json import dumps
from typing import Any, cast

import pytest
from itsdangerous import TimestampSigner
from starlette.applications import Starlette

from redis_sessions import (
    Commit,
    ConfigurationError,
    CookieTransport,
    HeaderTransport,
    Keyring,
    MemoryStore,
    Session,
    SessionError,
    SessionManager,
    SessionMiddleware,
    generate_key,
)
from redis_sessions.accept import RedisSdk, StarletteCookie, Starsessions
from tests.support.asgi import COOKIE
from tests.unit.accept.elsewhere import THEIRS, Elsewhere, Place, names_in, token_in
from tests.unit.setting import KEY

ALICES = {"user_id": "alice", "cart": ["tea"]}


async def test_a_marker_is_no_session() -> None:
    """It isn't counted, and isn't listed."""
    at = Place()
    await at.visit()
    assert await at.manager.count() == 1
    assert len([info async for info in at.manager.sessions()]) == 1


async def test_another_secret_key_finds_the_marker() -> None:
    """The key was replaced, and the former one removed: what ended stays ended."""
    at = Place(Elsewhere(once=False))
    token = token_in(await at.visit())
    await at.manager.revoke_all("alice")
    at.manager = SessionManager(at.store, Keyring(generate_key()), clock=at.clock)
    assert (await at.visit(ours=token)).seen == {}
    assert (await at.visit()).seen == {}


async def test_a_signature_that_is_written_in_another_way() -> None:
    """It is still the same cookie. Otherwise it would open what was signed out here, again."""
    signed = TimestampSigner("key").sign(b64encode(dumps(ALICES).encode())).decode()
    source = StarletteCookie("key", session_cookie=THEIRS, once=False)
    at = Place([source])
    token = token_in(await at.visit(theirs=signed))
    await at.visit(lambda s: s.clear(), theirs=signed, ours=token)
    assert (await at.visit(theirs=signed + "=")).seen == {}  # base64's padding


@pytest.mark.parametrize("after", [0, 1, 2])
async def test_a_store_that_fails_meanwhile(after: int) -> None:
    """The answer is 503. Nobody is signed out by it: half a minute later it is tried again.

    Until then the data may be read. There is no time in between in which the user is nobody.
    """
    at = Place()
    commits = 0

    async def fail(expected: bytes | None, result: Commit) -> None:
        nonlocal commits
        commits += 1
        if commits == after:
            at.store.failing = {"commit"}

    at.store.committed = fail
    if after == 0:
        at.store.failing = {"commit"}
    reply = await at.visit()
    assert (reply.status, reply.cookies) == (503, [])
    assert await at.manager.count() == 0
    at.store.failing, at.store.committed = set(), None
    if after < 2:  # the third one ends what was stored
        for _ in range(29):
            assert (await at.visit(status=404)).seen == ALICES
            at.clock.advance(1)
    else:
        at.clock.advance(29)
    reply = (await at.visit()).checked()
    assert reply.seen == ALICES
    assert names_in(reply) == [THEIRS, COOKIE]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_open_connection_has_a_session_of_its_own(stream: bool) -> None:
    """A WebSocket or event stream ends with its session. So it has ours, or none."""
    at, fields = Place(), dict[str, Any]()
    if stream:
        fields["headers"] = [(b"accept", b"text/event-stream")]
    else:
        fields["kind"] = "websocket"

    async def act(_: Session) -> None:
        await at.visit()

    slower = await at.visit(act, **fields)
    assert slower.error is None
    assert slower.status == (409 if stream else 0)
    assert COOKIE not in names_in(slower)
    assert (await at.visit(**fields)).seen == {}


async def test_a_revocation_ends_what_others_may_read_for_a_moment() -> None:
    """Neither the sign-in that was refused nor a later request shows her data again."""
    at = Place()

    async def revoke() -> None:
        await at.manager.revoke_all("alice")

    await at.visit(lambda _: asyncio.create_task(revoke(), context=Context()))
    assert (await at.visit()).seen == {}
    assert at.reported("rejected") == ["Elsewhere theirs: accepted before"]


async def test_a_failed_sign_in_of_another_user_signs_nobody_out() -> None:
    """As with a session of ours, a response of 400 or more changes nothing but by a sign-out."""
    at = Place()
    await at.visit(lambda s: s.sign_in("bob"), status=403)
    assert (await at.visit()).seen == ALICES


async def test_a_visitor_s_session_that_ended_a_moment_ago() -> None:
    """Others that have the foreign cookie alone don't see it any more."""
    at = Place(Elsewhere({"v": {"cart": ["tea"]}}, once=False))
    token = token_in(await at.visit(theirs="v"))
    assert (await at.visit(theirs="v")).seen == {"cart": ["tea"]}
    (await at.visit(lambda s: s.clear(), theirs="v", ours=token)).checked()
    assert (await at.visit(theirs="v")).seen == {}


async def test_methods_that_read_the_session_again() -> None:
    """There is nothing to read yet. The data stay, and `save()` waits for the response."""
    at = Place()

    async def act(session: Session) -> None:
        await session.refresh()
        await session.save()
        assert dict(session) == ALICES
        session["n"] = 1

    reply = (await at.visit(act)).checked()
    assert await at.data(token_in(reply)) == {**ALICES, "n": 1}


async def test_what_is_saved_after_a_failed_response() -> None:
    """Nobody was signed in by it, and nobody is when it has gone out. Only what changed is told."""
    at = Place()
    told = list[str]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await scope["session"].save()
        scope["session"]["n"] = 1
        try:
            await scope["session"].save()
        except SessionError as exc:
            told.append(str(exc))
        await send({"type": "http.response.body", "body": b""})

    assert (await at.visit(app=app)).checked().cookies == []
    assert [text.partition(",")[0] for text in told] == ["the response has started"]
    assert (await at.visit()).seen == ALICES


async def test_the_same_middleware_twice() -> None:
    """The outer one accepts, and the inner one has the same session."""
    at = Place()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def inner(scope: Any, receive: Any, send: Any) -> None:
            assert scope["session"] == ALICES
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        await SessionMiddleware(inner, manager=at.manager)(scope, receive, send)

    assert names_in((await at.visit(app=app)).checked()) == [THEIRS, COOKIE]


@pytest.mark.parametrize("outer", [[], [StarletteCookie("key", session_cookie="other")]])
async def test_an_inner_middleware_can_not_accept_by_itself(outer: list[Any]) -> None:
    """The outer one has loaded the session, so the option of the inner one would do nothing."""
    at = Place(outer)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        inner = SessionMiddleware(app, manager=at.manager, accept=[Elsewhere()])
        await inner(scope, receive, send)

    error = (await at.visit(app=app)).error
    assert isinstance(error, ConfigurationError)
    assert str(error).startswith("accept= of the inner one of two SessionMiddlewares")


async def test_two_realms_accept_each_for_itself() -> None:
    """Another prefix is another realm, with sessions and markers of its own."""
    at, other = Place(), Place()
    other.store.prefix = "other:"
    other.manager = SessionManager(MemoryStore(prefix="other:", clock=at.clock), KEY)
    for place in (at, other):
        assert COOKIE in names_in(await place.visit())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accept": StarletteCookie}, "takes a list of sources"),
        ({"accept": ["redis://"]}, "takes a list of sources"),
        ({"accept": [Elsewhere(), Elsewhere()]}, "write each source once"),
        ({"accept": [Elsewhere()], "session_cookie": THEIRS}, "is also the one of this middleware"),
        ({"accept": [Elsewhere()], "transport": HeaderTransport()}, "add a CookieTransport"),
        ({"accept": [Starsessions("redis://h", follow=True)]}, "write once=True or follow=True"),
    ],
)
def test_options_that_can_not_work(
    options: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The application doesn't start, and the message says what to write."""
    SessionMiddleware(Starlette(), secret_key=KEY, store=MemoryStore(), **options)
    (record,) = (each for each in caplog.records if each.levelname == "ERROR")
    assert "accept" in record.getMessage()
    assert message in record.getMessage()


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "no key": (
        lambda: StarletteCookie(cast("Any", None)),
        "secret_key= of StarletteCookie is empty",
    ),
    "an empty key": (lambda: StarletteCookie(["k", ""]), "secret_key= of StarletteCookie is empty"),
    "no keys": (lambda: StarletteCookie([]), "secret_key= of StarletteCookie is empty"),
    "max_age": (lambda: StarletteCookie("k", max_age=0), "max_age=0: write seconds"),
    "map": (lambda: StarletteCookie("k", map=cast("Any", 3)), "map=3: write a dict"),
    "encryptor": (
        lambda: RedisSdk("redis://h", encryptor=cast("Any", 3)),
        "encryptor= of RedisSdk has no decrypt()",
    ),
    "url": (lambda: Starsessions("nonsense://h"), "is no URL of a store"),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_sources_that_can_not_work(make: Any, message: str) -> None:
    """A source says so when it is made."""
    with pytest.raises(ConfigurationError) as raised:
        make()
    assert message in str(raised.value)


def test_without_itsdangerous(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what is missing, and the others don't need it."""
    monkeypatch.setitem(sys.modules, "itsdangerous", None)
    with pytest.raises(ConfigurationError, match="pip install itsdangerous"):
        StarletteCookie("a key")
    Starsessions("redis://localhost")


def test_a_list_of_transports_with_a_cookie_accepts() -> None:
    """Only a middleware without any cookie can't."""
    SessionMiddleware(
        Starlette(),
        secret_key=KEY,
        store=MemoryStore(),
        accept=[Elsewhere()],
        transport=[HeaderTransport(), CookieTransport()],
    )
