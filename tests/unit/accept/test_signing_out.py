"""Whoever signs out is signed out, whatever else the browser brings, and whoever is faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest

from redis_sessions import Commit, Session
from tests.support.asgi import COOKIE, cookie
from tests.unit.accept.elsewhere import THEIRS, Elsewhere, Place, names_in, token_in

ALICES = {"user_id": "alice", "cart": ["tea"]}


def sign_out(session: Session) -> None:
    session.sign_out()


HOW: Final[dict[str, Callable[[Session], None]]] = {
    "sign_out": sign_out,
    "clear": lambda session: session.clear(),
}


@pytest.mark.parametrize("at_commit", [1, 2])
async def test_a_sign_out_while_another_request_accepts(at_commit: int) -> None:
    """Whichever comes first: afterwards nobody is signed in by the foreign session."""
    at = Place(Elsewhere(once=False))
    commits = 0

    async def sign_out(expected: bytes | None, result: Commit) -> None:
        nonlocal commits
        commits += 1
        if commits == at_commit:
            at.store.committed = None
            (await at.visit(lambda s: s.clear())).checked()

    at.store.committed = sign_out
    reply = await at.visit()
    assert (reply.status, reply.cookies) == (503, [])
    assert await at.manager.sessions_of("alice") == []
    for _ in range(3):
        assert (await at.visit()).seen == {}
        at.clock.advance(31)


async def test_two_sessions_that_end_at_once() -> None:
    """A browser brings two sessions of ours. `clear()` ends both, and those that they follow."""
    source = Elsewhere({"s2": {"user_id": "bob"}}, follow=True)
    at = Place(source)
    tokens = [token_in(await at.visit(theirs=theirs)) for theirs in ("s1", "s2")]
    more = [(b"cookie", cookie(tokens[1]))]
    await at.visit(lambda s: s.clear(), theirs=None, ours=tokens[0], headers=more)
    assert sorted(source.ended) == ["s1", "s2"]
    assert await at.manager.count() == 0


@pytest.mark.parametrize("how", ["sign_out", "clear"])
@pytest.mark.parametrize("follow", [False, True])
async def test_two_sessions_of_ours_beside_a_foreign_one(how: str, follow: bool) -> None:
    """Whose cookies open several sessions isn't signed in by the foreign one after the sign-out."""
    at = Place(Elsewhere(once=False, follow=follow))
    tokens = [await at.begin({"user_id": whose}) for whose in ("bob", "carol")]
    more = [(b"cookie", cookie(tokens[1]))]
    (await at.visit(HOW[how], ours=tokens[0], headers=more)).checked()
    assert await at.manager.count() == 0
    at.clock.advance(31)
    assert (await at.visit()).seen == {}


@pytest.mark.parametrize("follow", [False, True])
async def test_a_session_that_was_rotated_meanwhile_beside_a_foreign_one(follow: bool) -> None:
    """`clear()` signs this browser out, whose token was replaced. The foreign one goes with it."""
    at = Place(Elsewhere(once=False, follow=follow))
    token = await at.begin({"user_id": "alice"})
    await at.request(lambda s: s.rotate(), token)
    reply = (await at.visit(lambda s: s.clear(), ours=token)).checked()
    assert names_in(reply) == [COOKIE]
    at.clock.advance(31)
    assert (await at.visit()).seen == {}


async def test_a_sign_out_in_a_request_that_was_slower() -> None:
    """The session that the faster one has stored ends, and its browser is signed out."""
    at = Place(Elsewhere(once=False))
    token = ""

    async def act(session: Session) -> None:
        nonlocal token
        token = token_in(await at.visit())
        session.sign_out()

    (await at.visit(act)).checked()
    assert await at.data(token) == {}
    assert "mark" in at.store.asked
    assert at.reported("signed_out") == ["signed out"]
    at.clock.advance(31)
    assert (await at.visit()).seen == {}


async def test_a_sign_out_that_fails_and_another_one() -> None:
    """Two slower requests sign out. The first one's fails half-way, and the second one's holds."""
    at = Place(Elsewhere(once=False))
    token = ""

    async def act(session: Session) -> None:
        nonlocal token
        token = token_in(await at.visit())

        async def first(session: Session) -> None:
            at.store.failing = {"end"}
            session.sign_out()

        assert (await at.visit(first)).status == 503
        at.store.failing = set()
        session.sign_out()

    (await at.visit(act)).checked()
    assert await at.data(token) == {}


@pytest.mark.parametrize("how", ["sign_out", "clear", "pop", "switch"])
@pytest.mark.parametrize("kind", ["once", "stays", "follow"])
@pytest.mark.parametrize("whose", ["alice", "carol"])
async def test_a_sign_out_of_another_session_holds(how: str, kind: str, whose: str) -> None:
    """Who signed in here has the foreign cookie, too. It signs nobody in after the sign-out."""
    source = Elsewhere(once=kind == "once", follow=kind == "follow")
    at = Place(source)
    token = await at.begin({"user_id": whose, "cart": ["here"]})

    def act(session: Session) -> None:
        if how == "pop":
            session.pop("user_id")
        else:
            session.sign_in("bob") if how == "switch" else getattr(session, how)()

    reply = (await at.visit(act, ours=token)).checked()
    assert (THEIRS in names_in(reply)) is (kind == "once")
    assert source.ended == (["s1"] if kind == "follow" else [])
    assert (await at.visit()).seen == {}
    assert await at.manager.sessions_of("alice") == []


async def test_a_sign_in_here_as_the_foreign_user_ends_nothing_there() -> None:
    """Alice takes the place of Carol here, and has signed in there before."""
    at = Place(source := Elsewhere(follow=True))
    token = await at.begin({"user_id": "carol"})
    await at.visit(lambda s: s.sign_in("alice"), ours=token)
    assert source.ended == []


async def test_a_visitor_s_session_that_was_cleared_stays_so() -> None:
    """Its cart doesn't come back, though nobody was signed in."""
    at = Place(Elsewhere({"v": {"cart": ["tea"]}}, once=False))
    (await at.visit(lambda s: s.clear(), theirs="v")).checked()
    assert (await at.visit(theirs="v")).seen == {}


async def test_who_signs_in_again_after_a_sign_out() -> None:
    """The same data, put there by the application, are a sign-in like any other."""
    at = Place()

    async def act(session: Session) -> None:
        for key in list(session):
            del session[key]
        await session.save()
        session.update(ALICES)

    reply = (await at.visit(act)).checked()
    session = await at.load(token_in(reply))
    assert dict(session) == ALICES
    assert session.authenticated_at is not None


@pytest.mark.parametrize("status", [200, 404])
async def test_a_sign_out_after_the_response(status: int) -> None:
    """It holds, whether the response has signed in or not, and nothing new begins."""
    at = Place(Elsewhere(once=False))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        scope["session"].pop("user_id", None)
        await send({"type": "http.response.body", "body": b""})

    reply = await at.visit(app=app)
    assert (COOKIE in names_in(reply.checked())) is (status == 200)
    at.clock.advance(31)
    assert (await at.visit()).seen == {}
    assert await at.manager.sessions_of("alice") == []
