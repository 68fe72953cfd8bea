"""A session of another library is accepted: once, as a sign-in, whatever comes of it."""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from redis_sessions import CookieTransport, HeaderTransport, Session
from tests.support.asgi import COOKIE, cookie
from tests.unit.accept.elsewhere import THEIRS, Elsewhere, Place, names_in, token_in

ALICES = {"user_id": "alice", "cart": ["tea"]}


async def test_a_session_from_elsewhere_is_a_sign_in() -> None:
    """The handler sees the data, and the response carries a token of a session in the index."""
    at = Place()
    reply = (await at.visit()).checked()
    assert reply.seen == ALICES
    assert names_in(reply) == [THEIRS, COOKIE]
    assert "expires=Thu, 01 Jan 1970" in reply.cookies[0]
    assert at.reported("signed_in") == ["gain"]
    assert at.reported("accepted") == ["Elsewhere theirs"]
    (info,) = await at.manager.sessions_of("alice")
    session = await at.load(token_in(reply))
    assert dict(session) == ALICES
    assert session.id == info.id
    again = (await at.visit(theirs=None, ours=token_in(reply))).checked()
    assert again.seen == ALICES
    assert again.cookies == []


async def test_a_visitor_s_data_become_an_anonymous_session() -> None:
    """Where nobody was signed in, a new session begins, and it counts as nobody's."""
    at = Place(Elsewhere({"v": {"cart": ["tea"]}}))
    reply = (await at.visit(theirs="v")).checked()
    assert at.reported("created") == ["create"]
    signed_in = await at.visit(lambda s: s.sign_in("bob"), theirs="v", ours=token_in(reply))
    assert await at.data(token_in(signed_in)) == {"cart": ["tea"], "user_id": "bob"}


async def test_when_they_signed_in_elsewhere_counts_for_no_step_up() -> None:
    """Nobody has proved here who they are, until they do."""
    at = Place()
    reply = await at.visit()
    assert (await at.load(token_in(reply))).authenticated_at is None
    proved = await at.visit(lambda s: s.authenticated(), theirs=None, ours=token_in(reply))
    assert (await at.load(token_in(proved))).authenticated_at is not None


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("how", ["sign_out", "clear", "revoke", "revoke_all", "expiry"])
async def test_what_ended_here_does_not_come_back(how: str, once: bool) -> None:
    """A session of ours that ended isn't made anew from the foreign cookie that lives on."""
    at = Place(Elsewhere(once=once))
    token = token_in(await at.visit())
    if how == "expiry":
        at.clock.advance(15 * 24 * 3600)
    elif how == "revoke":
        await at.manager.revoke(token[:20], "alice")
    elif how == "revoke_all":
        await at.manager.revoke_all("alice")
    else:
        await at.visit(lambda s: getattr(s, how)(), ours=token)
    for later in (0, 31, 3600):
        at.clock.advance(later)
        for ours in (None, token):
            reply = (await at.visit(ours=ours)).checked()
            assert reply.seen == {}
    assert await at.manager.sessions_of("alice") == []


async def test_of_parallel_first_requests_one_signs_in() -> None:
    """The others see the same data and store nothing, so that no session is left over."""
    at = Place()
    ready = asyncio.Barrier(3)
    replies = await asyncio.gather(*(at.visit(lambda _: ready.wait()) for _ in range(3)))
    assert [reply.checked().seen for reply in replies] == [ALICES] * 3
    assert sorted(len(reply.cookies) for reply in replies) == [0, 0, 2]
    assert len(await at.manager.sessions_of("alice")) == 1
    # A moment later, when the browser hasn't got the cookie yet.
    late = (await at.visit(lambda s: s.update(n=1))).checked()
    assert (late.seen, late.cookies) == (ALICES, [])
    assert at.reported("dropped") == ["accepted meanwhile"]
    at.clock.advance(31)
    assert (await at.visit()).seen == {}


@pytest.mark.parametrize("status", [400, 404, 500])
async def test_a_failed_response_stores_nothing(status: int) -> None:
    """The next request tries again."""
    at = Place()
    reply = await at.visit(status=status)
    assert (reply.seen, reply.cookies) == (ALICES, [])
    assert (await at.visit(fails=True)).cookies == []
    assert names_in(await at.visit()) == [THEIRS, COOKIE]


@pytest.mark.parametrize("how", ["sign_out", "clear", "pop"])
@pytest.mark.parametrize("then", ["200", "404", "500", "fails", "save"])
@pytest.mark.parametrize("data", [{"user_id": "alice"}, ALICES])
async def test_a_sign_out_in_the_first_request_holds(
    how: str, then: str, data: dict[str, Any]
) -> None:
    """Whatever the response is, the foreign session signs nobody in any more."""
    at = Place(Elsewhere({"s1": data}, once=False))

    async def act(session: Session) -> None:
        session.pop("user_id") if how == "pop" else getattr(session, how)()
        if then == "save":
            await session.save()

    status = int(then) if then.isdigit() else 200
    reply = await at.visit(act, status=status, fails=then == "fails")
    for _ in range(2):
        assert "user_id" not in ((await at.visit()).seen or {})
        at.clock.advance(31)
    assert await at.manager.sessions_of("alice") == []
    if COOKIE in names_in(reply):  # the cart goes on, and stays Alice's
        bobs = await at.visit(lambda s: s.sign_in("bob"), ours=token_in(reply))
        assert await at.data(token_in(bobs)) == {"user_id": "bob"}


@pytest.mark.parametrize("how", ["sign_in", "key", "clear", "pop an item"])
async def test_another_user_who_signs_in_gets_none_of_the_data(how: str) -> None:
    """Alice's data from elsewhere don't show in Bob's session, and she isn't signed in again."""
    at = Place(Elsewhere({"s1": {"user_id": "alice", "cart": [["a private thing"]]}}, once=False))

    def act(session: Session) -> None:
        if how == "clear":
            kept = dict(session)
            session.clear()
            session.update(kept)
        if how == "pop an item":
            session["item"] = session["cart"].pop()
        if how == "key":
            session["user_id"] = "bob"
        else:
            session.sign_in("bob")

    reply = (await at.visit(act)).checked()
    assert await at.data(token_in(reply)) == {"user_id": "bob"}
    assert at.reported("dropped") == ([] if how in ("sign_in", "key") else ["another's data"])
    assert (await at.visit()).seen == {}
    assert await at.manager.sessions_of("alice") == []


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("how", ["sign_in", "key"])
async def test_the_same_user_who_signs_in_keeps_the_data(how: str, late: bool) -> None:
    """It is one sign-in, and it counts as one here, also a moment after another request's."""
    at = Place()
    if late:
        await at.visit()
    reply = await at.visit(
        lambda s: s.sign_in("alice") if how == "sign_in" else s.update(user_id="alice")
    )
    session = await at.load(token_in(reply.checked()))
    assert dict(session) == ALICES
    assert session.authenticated_at is not None
    assert at.reported("signed_in") == ["gain"] * (2 if late else 1)


async def test_who_has_planted_the_foreign_cookie_learns_nothing() -> None:
    """It became a session of ours, whose token only the visitor's browser has."""
    at = Place(Elsewhere({"bait": {"cart": ["bait"]}}, once=False))
    visitor = token_in(await at.visit(theirs="bait"))
    alices = token_in(await at.visit(lambda s: s.sign_in("alice"), theirs="bait", ours=visitor))
    await at.visit(lambda s: s.update(note="private"), theirs="bait", ours=alices)
    for later in (0, 31):
        at.clock.advance(later)
        mallory = (await at.visit(theirs="bait")).checked()
        assert (mallory.seen, mallory.cookies) == ({}, [])


async def test_two_sessions_of_ours_come_first() -> None:
    """Nobody knows which one is meant, and it is none from elsewhere."""
    at = Place()
    tokens = [await at.begin({"n": n}) for n in range(2)]
    reply = await at.visit(ours=tokens[0], headers=[(b"cookie", cookie(tokens[1]))])
    assert (reply.seen, reply.cookies) == ({}, [])


async def test_a_session_of_ours_comes_first() -> None:
    """With a session of ours the foreign cookie isn't looked at, and is no way to replace it."""
    at = Place(Elsewhere({"mallory": {"user_id": "mallory"}}))
    ours = await at.begin({"cart": ["own"]})
    reply = (await at.visit(theirs="mallory", ours=ours)).checked()
    assert (reply.seen, reply.cookies) == ({"cart": ["own"]}, [])


@pytest.mark.parametrize(
    ("headers", "seen"),
    [
        ([(b"sec-fetch-site", b"cross-site"), (b"origin", b"https://evil.example")], {}),
        ([(b"sec-fetch-site", b"same-origin"), (b"origin", b"https://testserver")], ALICES),
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_another_origin_s_request_has_no_session_from_elsewhere(
    headers: list[tuple[bytes, bytes]], seen: dict[str, Any], kind: str
) -> None:
    """The foreign cookie is sent by browsers themselves, as ours is."""
    at = Place()
    reply = (await at.visit(headers=headers, kind=kind, method="POST")).checked()
    assert reply.seen == seen
    assert len(reply.cookies) == (2 if seen else 0)


@pytest.mark.parametrize("choice", ["anonymous", "refuse"])
@pytest.mark.parametrize("lazy", [False, True])
async def test_another_origin_s_request_is_refused_when_it_writes(choice: str, lazy: bool) -> None:
    """Also where the session would be loaded later: it is a 403 with any of the two cookies."""
    at = Place(site={"cross_site": choice, "lazy": lazy})
    for theirs in ("s1", None):
        reply = await at.visit(
            lambda session: session.sign_in("mallory"),
            theirs=theirs,
            headers=[(b"sec-fetch-site", b"cross-site")],
            method="POST",
        )
        assert (reply.checked().status, reply.cookies) == (403, [])


async def test_a_token_in_a_header_takes_no_foreign_cookie_along() -> None:
    """A cross-origin request with a header of ours is served as if there were no cookies."""
    at = Place(site={"transport": [CookieTransport(), HeaderTransport()]})
    foreign = [(b"origin", b"https://evil.example"), (b"x-session-token", b"x")]
    reply = (await at.visit(method="POST", headers=foreign)).checked()
    assert (reply.seen, reply.cookies) == ({}, [])
    assert (await at.visit()).seen == ALICES


async def test_an_unloaded_session_is_accepted_when_it_is_loaded() -> None:
    """With lazy=True the sources are asked when somebody asks for the session."""
    at = Place(site={"lazy": True})

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    assert (await at.visit(app=answer)).checked().cookies == []
    reply = (await at.visit()).checked()
    assert reply.seen == ALICES
    assert names_in(reply) == [THEIRS, COOKIE]


async def test_the_new_session_is_bound_to_its_client() -> None:
    """An accepted session opens nowhere else."""
    at = Place(site={"binding": "ip"})
    token = token_in(await at.visit())
    assert (await at.visit(theirs=None, ours=token)).seen == ALICES
    assert (await at.visit(theirs=None, ours=token, client=("192.0.2.1", 1))).seen == {}


async def test_sessions_from_elsewhere_are_not_accepted_after_a_revocation() -> None:
    """All sessions of a user were revoked: one that was there before isn't accepted, either."""
    at = Place()
    before, after = at.clock() - 10, at.clock() + 10
    at.source = Elsewhere(since=before)
    token = await at.begin({"user_id": "alice"})
    await at.manager.revoke_all("alice")
    assert token
    assert (await at.visit()).seen == {}
    assert at.reported("rejected") == ["Elsewhere theirs: revoked"]
    at.source = Elsewhere(since=after)
    assert (await at.visit()).seen == ALICES


async def test_a_revocation_by_the_first_request_ends_what_it_was_given() -> None:
    """Who signs out everywhere, in the request that was accepted, is signed out of it, too."""
    at = Place()
    reply = (await at.visit(lambda _: at.manager.revoke_all("alice"))).checked()
    assert names_in(reply) == [THEIRS]
    at.clock.advance(31)
    assert (await at.visit()).seen == {}


async def test_a_revocation_meanwhile_refuses_the_session() -> None:
    """All of Alice's sessions are revoked by another request, before the response."""
    at = Place()

    async def revoke() -> None:
        await at.manager.revoke_all("alice")

    reply = await at.visit(lambda _: asyncio.create_task(revoke(), context=Context()))
    assert (reply.status, reply.cookies) == (503, [])
    assert await at.manager.sessions_of("alice") == []


@pytest.mark.parametrize(
    ("value", "reasons"),
    [
        ("unknown", []),
        ("!", ["Elsewhere theirs: bad signature"]),
        ("x" * 9000, ["Elsewhere theirs: too much"]),
        ("odd", ["Elsewhere theirs: can't be stored"]),
        ("unprincipled", ["Elsewhere theirs: can't be stored"]),
        ("secretive", []),
        ("empty", []),
    ],
)
async def test_what_is_no_session_is_none(value: str, reasons: list[str]) -> None:
    """Nobody is signed in by it, no exception is raised, and an event says why."""
    odd: dict[str, dict[str, Any]] = {
        "odd": {"x": object()},
        "unprincipled": {"user_id": {"a": 1}},
        "secretive": {"secret": 1, "user_id": "alice"},
        "empty": {},
    }
    at = Place(Elsewhere(odd))
    reply = (await at.visit(theirs=value)).checked()
    assert (reply.seen, reply.cookies) == ({}, [])
    assert at.reported("rejected") == reasons


async def test_two_foreign_sessions_are_none() -> None:
    """Nobody knows which one is meant, as with two tokens of ours."""
    at = Place(Elsewhere({"s2": {"user_id": "mallory"}}))
    reply = await at.visit(headers=[(b"cookie", b"theirs=s2")])
    assert reply.seen == {}
    assert at.reported("rejected") == ["Elsewhere theirs: several sessions"]
