"""Two sessions that follow each other: what ends on one side ends on the other."""

from __future__ import annotations

from typing import Any

import pytest

from redis_sessions import Session, SessionManager, generate_key
from tests.support.asgi import COOKIE
from tests.support.stores import NearStore
from tests.unit.accept.elsewhere import Elsewhere, Place, names_in, token_in
from tests.unit.setting import KEY

ALICES = {"user_id": "alice", "cart": ["tea"]}


def followed(**more: dict[str, Any]) -> tuple[Place, Elsewhere]:
    source = Elsewhere(more, follow=True)
    return Place(source), source


async def test_its_end_ends_ours_before_the_application_sees_it() -> None:
    """Who signs out there is signed out here at the next request."""
    at, source = followed()
    token = token_in(await at.visit())
    assert (await at.visit(ours=token)).seen == ALICES
    del source.sessions["s1"]
    reply = (await at.visit(ours=token)).checked()
    assert (reply.seen, reply.is_new) == ({}, True)
    assert names_in(reply) == [COOKIE]
    assert "expires=Thu, 01 Jan 1970" in reply.cookies[0]
    assert at.reported("signed_out") == ["cleared"]
    assert at.reported("rejected") == ["Elsewhere theirs: ended at its source"]
    assert await at.manager.sessions_of("alice") == []


@pytest.mark.parametrize("follow", [True, False])
async def test_what_was_revoked_stays_so_without_following(follow: bool) -> None:
    """`follow` is another one after a deployment; a session that was revoked isn't accepted."""
    at, source = followed()
    source.follow = follow
    await at.visit()
    await at.manager.revoke_all("alice")
    at.clock.advance(31)
    source.follow = not follow
    assert (await at.visit()).seen == {}


@pytest.mark.parametrize("how", ["sign_out", "clear", "switch"])
@pytest.mark.parametrize("first", [True, False])
async def test_a_sign_out_here_ends_it_there(how: str, first: bool) -> None:
    """Also in the very request that was accepted, and when another user signs in."""
    at, source = followed()

    def act(session: Session) -> None:
        session.sign_in("bob") if how == "switch" else getattr(session, how)()

    token = None if first else token_in(await at.visit())
    await at.visit(act, ours=token)
    assert source.ended == ["s1"]


async def test_a_sign_out_here_ends_a_newer_session_there() -> None:
    """She signed in there again, under another id, and the former one still lives."""
    at, source = followed(s2=ALICES)
    token = token_in(await at.visit())
    await at.visit(lambda s: s.clear(), theirs="s2", ours=token)
    assert source.ended == ["s1", "s2"]
    at.clock.advance(31)
    assert (await at.visit(theirs="s2")).seen == {}


@pytest.mark.parametrize("name", ["revoke", "revoke_all"])
async def test_a_revocation_elsewhere_ends_it_at_the_next_request(name: str) -> None:
    """A revocation knows no foreign ids. The marker leads to it when its cookie comes."""
    at, source = followed()
    token = token_in(await at.visit())
    if name == "revoke":
        await at.manager.revoke(token[:20], "alice")
    else:
        await at.manager.revoke_all("alice")
    assert (await at.visit(ours=token)).seen == {}
    assert source.ended == ["s1"]


async def test_a_secret_key_that_was_removed_ends_nothing_there() -> None:
    """The marker can't be read any more. That says nothing of a sign-out."""
    at, source = followed()
    token = token_in(await at.visit())
    at.manager = SessionManager(at.store, generate_key(), clock=at.clock)
    assert (await at.visit(ours=token)).seen == {}
    assert (await at.visit()).seen == {}
    assert source.ended == []


async def test_an_expired_session_of_ours_ends_nothing_there() -> None:
    """They stay signed in there, though nobody is signed in here by it any more."""
    at, source = followed()
    token = token_in(await at.visit())
    at.clock.advance(15 * 24 * 3600)
    assert (await at.visit(ours=token)).seen == {}
    assert source.ended == []


async def test_a_new_session_there_takes_the_place_of_the_old_one_at_once() -> None:
    """PHP gives a session a new id at a sign-in. No page in between is seen signed out."""
    at, source = followed()
    token = token_in(await at.visit())
    source.sessions["s2"] = source.sessions.pop("s1")
    reply = (await at.visit(theirs="s2", ours=token)).checked()
    assert reply.seen == ALICES
    assert token_in(reply)[:20] != token[:20]
    assert (await at.visit(theirs="s2", ours=token_in(reply))).seen == ALICES
    assert len(await at.manager.sessions_of("alice")) == 1
    assert await at.data(token) == {}
    assert source.ended == []


async def test_another_user_there_is_another_user_here() -> None:
    """Bob signs in there, in Alice's browser, and gets nothing of hers here."""
    at, source = followed(s2={"user_id": "bob"})
    token = token_in(await at.visit())
    await at.visit(lambda s: s.update(note="private"), ours=token)
    del source.sessions["s1"]
    reply = (await at.visit(theirs="s2", ours=token)).checked()
    assert reply.seen == {"user_id": "bob"}
    assert await at.data(token_in(reply)) == {"user_id": "bob"}
    assert await at.manager.sessions_of("alice") == []


@pytest.mark.parametrize("data", [{"cart": ["tea"]}, {"user_id": "bob"}, {"secret": 1}, {"n": 1}])
async def test_the_same_session_of_another_user_there_is_not_ours(data: dict[str, Any]) -> None:
    """Alice signs out there, and some libraries go on with the same id, for nobody or for Bob."""
    at, source = followed()
    token = token_in(await at.visit())
    source.sessions["s1"] = data
    assert (await at.visit(ours=token, theirs=None)).seen == {}
    assert "user_id" not in ((await at.visit(ours=token)).seen or {})
    assert await at.manager.sessions_of("alice") == []


async def test_a_visitor_who_signs_in_there_is_signed_in_here() -> None:
    """Also if the id stays, and what the visitor had here goes along, once."""
    at, source = followed(v={"cart": ["tea"]})
    visitor = token_in(await at.visit(lambda s: s.update(n=1), theirs="v"))
    source.sessions["v"] = {**ALICES, "cart": ["tea", "cup"]}
    reply = await at.visit(theirs="v", ours=visitor)
    alices = token_in(reply)
    assert reply.seen == await at.data(alices) == {**ALICES, "cart": ["tea", "cup"], "n": 1}
    assert await at.data(visitor) == {}
    assert at.reported("signed_in") == ["gain"]
    source.sessions["v"] = {"user_id": "bob"}
    bobs = token_in(await at.visit(theirs="v", ours=alices))
    assert await at.data(bobs) == {"user_id": "bob"}


async def test_a_visitor_whose_data_are_too_large_to_go_along() -> None:
    """She is signed in all the same, and what she had here is left behind."""
    at, source = followed(v={"cart": ["tea"]})
    visitor = token_in(await at.visit(lambda s: s.update(mine="x" * 40_000), theirs="v"))
    source.sessions["v"] = theirs = {**ALICES, "theirs": "x" * 40_000}
    reply = (await at.visit(theirs="v", ours=visitor)).checked()
    assert reply.seen == theirs
    assert await at.data(token_in(reply)) == theirs


async def test_a_source_that_fails_in_its_map_later() -> None:
    """Nobody knows whose the session is now, so it is nobody's."""
    at, source = followed()
    token = token_in(await at.visit())
    source.sessions["s1"] = {"user_id": ["odd"]}
    assert (await at.visit(ours=token)).seen == {}


async def test_a_visitor_who_signs_in_here_is_still_followed() -> None:
    """The session goes on under a new id, and the foreign one goes on, too."""
    at, source = followed(v={"cart": ["tea"]})
    visitor = token_in(await at.visit(theirs="v"))
    alices = token_in(await at.visit(lambda s: s.sign_in("alice"), theirs="v", ours=visitor))
    assert source.ended == []
    assert (await at.load(alices)).authenticated_at is not None
    del source.sessions["v"]
    assert (await at.visit(theirs="v", ours=alices)).seen == {}


@pytest.mark.parametrize("how", ["find", "read", "end"])
async def test_a_source_that_is_away_is_as_our_own_store(how: str) -> None:
    """The answer is 503, and the next request tries again."""
    at, source = followed()
    token = None if how == "find" else token_in(await at.visit())

    def act(session: Session) -> None:
        if how == "end":
            source.away = True
            session.clear()

    source.away = how != "end"
    assert (await at.visit(act, ours=token)).status == 503
    source.away = False
    reply = (await at.visit(ours=token)).checked()
    if how == "end":
        assert (reply.seen, source.ended) == ({}, ["s1"])
    else:
        assert reply.seen == ALICES


async def test_a_source_that_is_away_leaves_visitors_anonymous() -> None:
    """With on_unavailable="anonymous" the session is empty, and can't be written."""
    at, source = followed()
    at.site = {"on_unavailable": "anonymous"}
    token = token_in(await at.visit())
    source.away = True
    for ours in (None, token):
        reply = (await at.visit(ours=ours)).checked()
        assert (reply.seen, reply.cookies) == ({}, [])


async def test_what_is_not_accepted_any_more_lives_on_by_itself() -> None:
    """Without accept= the sessions that came from elsewhere stay."""
    at, source = followed()
    token = token_in(await at.visit())
    at.source = []
    del source.sessions["s1"]
    assert (await at.visit(ours=token)).seen == ALICES


async def test_a_near_copy_does_not_outlive_it() -> None:
    """Each request asks the source, so none is served from a copy in the process."""
    at, source = followed()
    store = NearStore(clock=at.clock)
    at.manager = SessionManager(store, KEY, clock=at.clock)
    token = token_in(await at.visit())
    assert store.near_copy(token[:20]) is not None
    assert (await at.visit(ours=token)).seen == ALICES
    del source.sessions["s1"]
    assert (await at.visit(ours=token)).seen == {}


async def test_an_unloaded_session_is_followed_when_it_is_loaded() -> None:
    """With lazy=True its source is asked when somebody asks for the session."""
    at, source = followed()
    at.site = {"lazy": True}
    token = token_in(await at.visit())
    assert (await at.visit(ours=token)).seen == ALICES
    del source.sessions["s1"]
    assert (await at.visit(ours=token)).seen == {}


async def test_a_sign_in_by_a_websocket_s_handshake_is_accepted_and_followed() -> None:
    """The handshake's response has the token."""
    at, source = followed()
    token = token_in(await at.visit(kind="websocket"))
    del source.sessions["s1"]
    assert (await at.visit(ours=token, kind="websocket")).seen == {}
