"""Sessions that are shared with a source: the same keys on both sides, and one login."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from starlette.applications import Starlette

from redis_sessions import Session, SessionMiddleware
from redis_sessions.accept import Found
from redis_sessions.errors import StoreUnavailableError
from redis_sessions.http import accepting as http_accepting
from tests.support.asgi import COOKIE
from tests.unit.accept.elsewhere import THEIRS, Elsewhere, Place, names_in, token_in
from tests.unit.accept.together import ALICE, Together, add, visited


async def test_a_change_is_stored_there() -> None:
    """Of what a request has changed, the shared keys are stored there; nothing after a failure."""
    at, source, token = await visited(s1={**ALICE, "theirs": 1})
    await at.visit(add, ours=token)
    assert source.sessions["s1"] == {**ALICE, "theirs": 1, "cart": ["tea", "milk"]}
    await at.visit(ours=token)
    await at.visit(add, ours=token, status=500)
    assert source.written == [{"cart": ["tea", "milk"]}]


async def test_the_request_that_is_the_first_stores_there_too() -> None:
    """A session that is accepted and changed in one request has its change on both sides."""
    source = Together(s1=dict(ALICE))
    await Place([source]).visit(add)
    assert source.sessions["s1"]["cart"] == ["tea", "milk"]


async def test_another_middleware_of_the_same_manager() -> None:
    """It accepts others, and the first one shares its sessions as before."""
    at, source, token = await visited(s1=dict(ALICE))

    def act(session: Session) -> None:
        SessionMiddleware(Starlette(), manager=at.manager, accept=[Elsewhere()])
        add(session)

    await at.visit(act, ours=token)
    assert source.sessions["s1"]["cart"] == ["tea", "milk"]


async def test_a_change_there_is_seen_here() -> None:
    """What is shared is read in each request, also what is missing by now."""
    at, source, token = await visited(s1=dict(ALICE))
    source.sessions["s1"]["cart"] = ["rum"]
    assert (await at.visit(ours=token)).seen == {**ALICE, "cart": ["rum"]}
    del source.sessions["s1"]["cart"]
    assert (await at.visit(ours=token)).seen == {"user_id": "alice"}
    assert source.written == []


async def test_a_sign_in_begins_there() -> None:
    """A sign-in here has a new session there, which nobody had before; the old one ends."""
    at, source, token = await visited(s1={"cart": ["tea"], "theirs": 1})
    reply = await at.visit(lambda session: session.sign_in("alice"), ours=token)
    assert names_in(reply) == [THEIRS, COOKIE]
    assert source.sessions == {"new1": {**ALICE, "theirs": 1}}
    after = token_in(reply)
    assert (await at.visit(ours=after, theirs="new1")).seen == {**ALICE, "theirs": 1}


async def test_a_sign_in_that_fails_there_fails_here() -> None:
    """If the session can't begin there, nobody is signed in, on neither side."""
    at, source, token = await visited(s1={"cart": ["tea"]})
    source.full = True
    reply = await at.visit(lambda session: session.sign_in("alice"), ours=token)
    assert reply.status == 503
    assert await at.manager.sessions_of("alice") == []
    assert at.reported("ended")[-1] == "not shared"


@pytest.mark.parametrize("before", [True, False])
async def test_a_sign_out_beside_a_sign_in(before: bool) -> None:
    """A page's other request signs out, before the session there began or after: both end."""
    source = Together(s1={"cart": ["tea"]})
    at = Place([source])
    begin = source.begin

    async def sign_out_first(
        id: str, data: dict[str, Any], values: Mapping[str, Any]
    ) -> tuple[bytes, bytes]:
        await at.visit(lambda session: session.clear())
        return await begin(id, data, values)

    async def sign_in(session: Session) -> None:
        (await at.visit(lambda session: session.sign_in("alice"))).checked()
        session.clear()

    if before:
        source.begin = sign_out_first  # type: ignore[method-assign]  # one test alone wants it
        reply = await at.visit(lambda session: session.sign_in("alice"))
        assert (reply.status, reply.cookies) == (503, [])
    else:
        await at.visit(sign_in)
    assert source.sessions == {}
    assert await at.manager.count() == 0


async def test_another_user_gets_nothing_of_the_first() -> None:
    """Somebody else who signs in here has a new session there, without the data of the first."""
    at, source, token = await visited(s1=dict(ALICE))
    await at.visit(lambda session: session.sign_in("bob"), ours=token)
    assert source.sessions == {"new1": {"user_id": "bob"}}


async def test_a_sign_out_ends_it_there() -> None:
    """A sign-out here removes the session there, and its cookie."""
    at, source, token = await visited(s1=dict(ALICE))
    reply = await at.visit(lambda session: session.sign_out(), ours=token)
    assert source.sessions == {}
    assert THEIRS in names_in(reply)


async def test_a_sign_out_there_after_a_sign_in_on_both_sides() -> None:
    """She has proved here, too, who she is; what there is without her is shared as before."""
    at = Place([source := Together(s1=dict(ALICE))])
    token = token_in(await at.visit(lambda session: session.sign_in("alice")))
    source.sessions["s1"] = {"cart": ["tea"]}
    reply = await at.visit(ours=token)
    assert reply.seen == {"cart": ["tea"]}
    await at.visit(add, ours=token_in(reply))
    assert source.sessions == {"s1": {"cart": ["tea", "milk"]}}


@pytest.mark.parametrize("now", [{}, {"cart": []}, {"user_id": "bob"}, {"broken": 1}, None])
async def test_it_isnt_alice_s_any_more(now: dict[str, Any] | None) -> None:
    """If she isn't signed in there any more, she isn't here, and her data are nobody else's."""
    at, source, token = await visited(s1=dict(ALICE))
    await at.visit(add, ours=token)
    source.sessions.pop("s1")
    if now is not None:
        source.sessions["s1"] = now
    seen = (await at.visit(ours=token)).seen
    assert seen == ({} if now is None or "broken" in now else now)
    assert source.sessions == ({} if now is None else {"s1": now})  # nothing is ended there


async def test_who_signs_in_there_is_known_here() -> None:
    """A browser that is nobody's here is known at once; its own data go along, unless another's."""
    at = Place([source := Together()])
    token = token_in(await at.visit(lambda session: session.update(mine=1), theirs=None))
    source.sessions["s1"] = dict(ALICE)
    reply = await at.visit(ours=token)
    assert reply.seen == {**ALICE, "mine": 1}
    reply = await at.visit(lambda session: session.sign_out(), ours=token_in(reply))
    token = token_in(reply)
    assert (await at.visit(ours=token)).seen == {"cart": ["tea"], "mine": 1}
    source.sessions["s2"] = {"user_id": "bob"}
    assert (await at.visit(ours=token, theirs="s2")).seen == {"user_id": "bob"}


async def test_what_began_here_brings_nobody_back() -> None:
    """A session there that a sign-in here has begun isn't accepted when ours was revoked."""
    at = Place([source := Together()])
    token = token_in(await at.visit(lambda session: session.sign_in("alice"), theirs=None))
    assert source.sessions == {"new0": {"user_id": "alice"}}
    await at.manager.revoke_all("alice")
    assert (await at.visit(ours=token, theirs="new0")).seen == {}
    assert source.sessions == {}


async def test_a_new_id_there_changes_nothing_here() -> None:
    """PHP may give a session another id now and then: the same user's own data stay."""
    at, source, token = await visited(s1=dict(ALICE))
    await at.visit(add, ours=token)
    source.sessions = {"s2": {**ALICE, "cart": ["rum"]}}
    reply = await at.visit(ours=token, theirs="s2")
    assert reply.seen == {"user_id": "alice", "cart": ["rum"], "mine": 1}
    source.sessions = {"s3": {"user_id": "alice"}}
    reply = await at.visit(ours=token_in(reply), theirs="s3")
    assert reply.seen == {"user_id": "alice", "mine": 1}  # there is no cart there any more
    source.sessions = {"s4": {"cart": ["rum"]}}
    assert (await at.visit(ours=token_in(reply), theirs="s4")).seen == {"cart": ["rum"]}


@pytest.mark.parametrize("now", [{**ALICE, "cart": ["rum"]}, {"user_id": "bob"}, {"cart": []}])
async def test_the_cookie_says_which_session_it_is(now: dict[str, Any]) -> None:
    """PHP keeps the old session by default when it gives it a new id. The browser's one counts."""
    at, source, token = await visited(s1=dict(ALICE))
    source.sessions["s2"] = now
    assert (await at.visit(ours=token, theirs=None)).seen == ALICE
    reply = await at.visit(ours=token, theirs="s2")
    assert reply.seen == now
    await at.visit(lambda session: session.sign_out(), ours=token_in(reply), theirs="s2")
    assert source.sessions == {"s1": ALICE} | ({} if "user_id" in now else {"s2": now})


async def test_a_sign_out_after_a_new_id_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The session under the old id lives on, as by default in PHP, but the browser's one ended."""
    monkeypatch.setattr(http_accepting, "_LATER", (0,))
    at, source, token = await visited(s1=dict(ALICE))
    reply = await at.visit(ours=token, theirs="s2")
    assert (reply.seen, names_in(reply)) == ({}, [COOKIE])
    assert at.reported("rejected") == ["Together theirs: ended at its source"]
    assert source.sessions == {"s1": ALICE}
    at.clock.advance(31)
    assert (await at.visit(ours=token, theirs="s1")).seen == {}  # it was accepted once


async def test_a_new_session_there_that_is_stored_late() -> None:
    """PHP sends the new id, and stores the session when its request ends: nobody is signed out."""
    at, source, token = await visited(s1=dict(ALICE))
    found, asked = source.find, list[str]()

    async def find(value: str) -> Found | str | None:
        asked.append(value)
        if len(asked) == 3:
            source.sessions["s2"] = dict(ALICE)
        return await found(value)

    source.find = find  # type: ignore[method-assign]  # one test alone wants it
    assert (await at.visit(ours=token, theirs="s2")).seen == ALICE
    assert (asked, at.reported("rejected")) == (["s2"] * 3, [])
    assert (await at.visit(add, ours=token, theirs="s2")).seen == ALICE
    assert source.sessions["s2"]["cart"] == ["tea", "milk"]


async def test_one_that_took_its_place_and_can_not_be_stored() -> None:
    """It isn't accepted, but it is there: nobody is signed out by its size."""
    at, source, token = await visited(s1=dict(ALICE))
    source.sessions["s2"] = {**ALICE, "n": "x" * 70_000}
    assert (await at.visit(ours=token, theirs="s2")).seen == ALICE
    assert at.reported("rejected") == ["Together theirs: can't be stored"]


async def test_a_visitor_s_session_there_that_grows() -> None:
    """What isn't shared, and is nobody's, is no news at each request."""
    at, source, token = await visited(s1={"cart": ["tea"]})
    source.sessions["s1"]["theirs"] = "x" * 70_000
    assert (await at.visit(ours=token)).seen == {"cart": ["tea"]}
    assert at.reported("rejected") == []


@pytest.mark.parametrize("status", [200, 404, 500])
async def test_a_request_that_stores_nothing_ends_nothing_there(status: int) -> None:
    """A page's first requests come together, and one may fail: their cookie stays."""
    at = Place([Together(s1=dict(ALICE))])
    if status == 200:
        await at.visit()
    reply = await at.visit(status=status)
    assert (reply.seen, names_in(reply)) == (ALICE, [])


async def test_what_was_not_written_there_is_accepted_again() -> None:
    """The response that had our cookie was lost in the error: the next request begins anew."""
    source = Together(s1=dict(ALICE))
    at = Place([source])
    source.full = True
    assert (await at.visit(add)).status == 503
    assert await at.manager.sessions_of("alice") == []
    source.full = False
    reply = await at.visit(add)
    assert names_in(reply) == [COOKIE]
    assert (await at.visit(ours=token_in(reply))).seen == {**source.sessions["s1"], "mine": 1}
    assert source.sessions["s1"]["cart"] == ["tea", "milk"]


async def test_a_sign_out_while_nothing_can_be_written_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It holds: the failed request has her session accepted again only if nobody signed out."""
    at = Place([source := Together(s1=dict(ALICE))])

    async def write(*_: object) -> bool:
        (await at.visit(lambda session: session.clear())).checked()
        source.sessions["s1"] = dict(ALICE)  # by a request to the source that was under way
        raise StoreUnavailableError("their store is full, says the test", reason="server")

    monkeypatch.setattr(source, "write", write)
    assert (await at.visit(add)).status == 503
    assert (await at.visit()).seen == {}


async def test_what_another_user_does_there_meanwhile() -> None:
    """Bob's new session there begins with nobody's data, and never with Alice's."""
    for before in (ALICE, {"cart": ["tea"]}):
        for now in ({**ALICE, "theirs": 1}, {"cart": ["hers"], "theirs": 1}):
            at, source, token = await visited(s1=dict(before))

            def act(session: Session, source: Together = source, now: Any = now) -> None:
                source.sessions["s1"] = dict(now)
                session.sign_in("bob")

            await at.visit(act, ours=token)
            own = {} if before is ALICE else before
            theirs = {} if before is ALICE or "user_id" in now else {"theirs": 1}
            assert source.sessions["new1"] == {"user_id": "bob", **own, **theirs}


@pytest.mark.parametrize("now", ["bob", ["bob"], "alice"])
async def test_what_is_another_s_by_now_is_not_written(now: Any) -> None:
    """Somebody else signs in there by the same id while the request of the first runs."""
    at, source, token = await visited(s1=dict(ALICE))

    def act(session: Session) -> None:
        source.sessions["s1"] = {"user_id": now, "cart": []}
        session["cart"] = ["hers"]

    await at.visit(act, ours=token)
    assert source.sessions["s1"]["cart"] == (["hers"] if now == "alice" else [])


async def test_what_is_not_mapped_stays_there() -> None:
    """A session that shares nothing yet is the one that a change or a sign-in here goes to."""
    source = Together(s1={"theirs": 1})
    source.map = lambda data: {key: data[key] for key in ("user_id", "cart") if key in data}  # type: ignore[method-assign]  # one test alone wants it
    at = Place([source])
    reply = await at.visit(lambda session: session.update(csrf="x"))
    assert source.sessions == {"s1": {"theirs": 1}}
    token = token_in(reply)
    await at.visit(lambda session: session.update(cart=["tea"]), ours=token)
    assert source.sessions == {"s1": {"theirs": 1, "cart": ["tea"]}}
    await at.visit(lambda session: session.sign_in("alice"), ours=token)
    assert source.sessions == {"new1": {**ALICE, "theirs": 1}}


async def test_an_anonymous_session_is_shared_from_its_beginning() -> None:
    """A session that begins here without anything to share has one there, for what comes later."""
    at = Place([source := Together()])
    token = token_in(await at.visit(lambda session: session.update(csrf="x"), theirs=None))
    assert source.sessions == {"new0": {}}
    await at.visit(lambda session: session.update(cart=["tea"]), ours=token, theirs="new0")
    assert source.sessions == {"new0": {"cart": ["tea"]}}


async def test_nothing_is_reported_while_nothing_happens() -> None:
    """An anonymous cart that both sides have is no news, however often it is looked at."""
    at, _, token = await visited(s1={"cart": ["tea"]})
    at.clock.advance(60)
    told = len(at.reported("rejected"))
    await at.visit(ours=token)
    assert len(at.reported("rejected")) == told


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_login_of_its_own(at_once: bool) -> None:
    """If only the cart is shared, a sign-in here is one here alone, until another follows there."""
    source = Together(s1={"cart": ["tea"]})
    source.shares = frozenset({"cart"})
    at = Place([source])
    token = None if at_once else token_in(await at.visit())
    token = token_in(await at.visit(lambda session: session.sign_in("alice"), ours=token))
    assert (await at.visit(add, ours=token)).seen == ALICE
    assert source.sessions == {"s1": {"cart": ["tea", "milk"]}}
    source.sessions["s1"]["user_id"] = "bob"
    assert (await at.visit(ours=token)).seen == {"user_id": "bob", "cart": ["tea", "milk"]}
