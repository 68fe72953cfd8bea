"""A response's start is held until its body begins, and goes out after the commit."""

from __future__ import annotations

import pytest
from starlette.types import Message, Receive, Scope, Send

from redis_sessions import StoreUnavailableError
from tests.unit.edge.edge import BODY, Act, Edge, responding, setting, start

EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")


async def test_the_start_is_held_until_the_body_begins(at: Edge) -> None:
    """What changes in between is stored, and its token goes out."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start((b"x-of", b"app"), status=201))
        assert at.sent == []
        scope["session"]["x"] = 1
        await send({**BODY, "more_body": True})
        assert at.types == ["start", "body"]
        await send(BODY)

    await at.serve(app)
    assert at.types == ["start", "body", "body"]
    assert (at.status, at.header("x-of")) == (201, ["app"])
    assert at.sent[1:] == [{**BODY, "more_body": True}, BODY]
    assert await at.data(at.token) == {"x": 1}


async def test_a_start_without_a_body(at: Edge) -> None:
    """It goes out when the application returns, with the token."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        scope["session"]["x"] = 1

    await at.serve(app)
    assert at.types == ["start"]
    assert await at.data(at.token) == {"x": 1}


@pytest.mark.parametrize("act", [setting(x=1), len], ids=["changed", "untouched"])
@pytest.mark.parametrize("token", [True, False])
async def test_all_of_a_response_is_sent_once(at: Edge, act: Act, token: bool) -> None:
    """Whether there is something to store or not."""
    brought = await at.begin({"y": 1}) if token else None
    await at.serve(responding(act), brought)
    assert at.types == ["start", "body"]


async def test_the_commit_ends_before_the_start_goes_out(at: Edge) -> None:
    """Who has the response finds what it stored."""
    found: list[object] = []

    async def when_sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            found.append(await at.data(at.token or token))

    at.when_sent = when_sent
    token = ""
    await at.serve(responding(setting(x=1)))
    token = at.token or ""
    await at.serve(responding(setting(x=2)), token)
    assert found == [{"x": 1}, {"x": 2}]


async def test_a_commit_that_fails_raises_from_send(at: Edge) -> None:
    """An application that goes on is told again, and the client gets the 503 in any case."""
    token = await at.begin({"x": 1})
    heard: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["x"] = 2
        await send(start((b"x-of", b"app")))
        at.away.away = True
        for message in (BODY, BODY):
            try:
                await send(message)
            except StoreUnavailableError:
                heard.append("away")

    await at.serve(app, token)
    assert heard == ["away", "away"]
    assert (at.status, at.header("x-of"), at.types) == (503, [], ["start", "body"])


async def test_a_commit_that_fails_is_answered(at: Edge) -> None:
    """An application that lets the error through gets it answered in its place."""
    token = await at.begin({"x": 1})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["x"] = 2
        await send(start((b"x-of", b"app")))
        at.away.away = True
        await send(BODY)

    await at.serve(app, token)
    assert (at.status, at.header("x-of"), at.token) == (503, [], None)
    assert at.reported("unavailable") == ["server"]


# -- event streams


@pytest.mark.parametrize(
    "value", [EVENTS[1], b"text/event-stream", b"Text/Event-Stream"], ids=bytes.decode
)
async def test_an_event_stream_starts_at_once(at: Edge, value: bytes) -> None:
    """A browser hears that the stream is there before the first event; later changes are stored."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["x"] = 1
        await send(start((b"x-of", b"app"), (b"content-type", value)))
        assert at.types == ["start"]
        assert await at.data(at.token) == {"x": 1}
        scope["session"]["x"] = 2
        await send(BODY)

    await at.serve(app)
    assert at.types == ["start", "body"]
    assert await at.data(at.token) == {"x": 2}


@pytest.mark.parametrize("header", [(b"content-type", b"text/html"), (b"x-type", EVENTS[1])])
async def test_what_is_no_event_stream_is_held(at: Edge, header: tuple[bytes, bytes]) -> None:
    """By the content type alone."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(header))
        assert at.sent == []
        await send(BODY)

    await at.serve(app)
    assert at.types == ["start", "body"]


async def test_what_comes_before_a_start(at: Edge) -> None:
    """A message of another kind isn't held, and begins no response."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.debug", "info": {}})
        assert at.types == ["debug"]
        scope["session"]["x"] = 1
        await send(start())
        assert at.types == ["debug"]
        await send(BODY)

    await at.serve(app)
    assert at.types == ["debug", "start", "body"]
    at.sent.pop(0)
    assert await at.data(at.token) == {"x": 1}


# -- the status decides what counts


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (399, {"user_id": "alice", "x": 2}),
        (400, {"x": 1}),
        (500, {"x": 1}),
    ],
)
async def test_a_sign_in_counts_below_400(at: Edge, status: int, data: dict[str, object]) -> None:
    """A response of 400 or more signs nobody in, and stores nothing of that request."""
    token = await at.begin({"x": 1})
    await at.serve(responding(setting(user_id="alice", x=2), status=status), token)
    assert await at.data(at.token or token) == data


@pytest.mark.parametrize(("status", "x"), [(499, 2), (500, 1)])
async def test_a_change_counts_below_500(at: Edge, status: int, x: int) -> None:
    """A response of 500 or more stores no data."""
    token = await at.begin({"x": 1})
    await at.serve(responding(setting(x=2), status=status), token)
    assert (at.status, at.token) == (status, None)
    assert await at.data(token) == {"x": x}


@pytest.mark.parametrize("status", [200, 404, 500])
async def test_a_sign_out_counts_always(at: Edge, status: int) -> None:
    """It ends the session, and expires the cookie, whatever the response is."""
    token = await at.begin({"user_id": "alice"})
    await at.serve(responding(lambda session: session.clear(), status=status), token)
    assert (at.status, at.token) == (status, "null")
    assert await at.data(token) == {}
