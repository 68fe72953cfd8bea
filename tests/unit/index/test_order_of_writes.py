"""In which order index and record are written; a sign-in that was overtaken is refused."""

from __future__ import annotations

from typing import Any

import pytest

from redis_sessions import StoreUnavailableError
from redis_sessions.session.outcome import Outcome
from tests.unit.index.losses import changed, ids, visited
from tests.unit.setting import ALICE, DUE, Setting, token_of

# -- index first, record second


@pytest.mark.parametrize(
    ("act", "asked"),
    [
        ({"set": "bob"}, ["enter", "commit", "end", "mark"]),
        ({"drop": True}, ["commit", "mark"]),
        ({"clear": True}, ["end", "mark"]),
        ({"authenticated": True}, ["touch", "commit", "authenticated"]),
        ({"due": True}, ["touch", "commit"]),
        ({"due": True, "data": 1}, ["touch", "commit"]),
    ],
    ids=["switch", "sign out", "clear", "authenticated", "touch", "change"],
)
async def test_order(at: Setting, act: dict[str, Any], asked: list[str]) -> None:
    """A sign-in and a touch write the index first; an end comes before its mark."""
    token = await at.begin(ALICE)
    assert at.store.asked == ["enter", "commit"]
    at.store.asked.clear()
    if act.get("due"):
        at.clock.advance(DUE)
    session = await at.load(token)
    if "set" in act:
        session["user_id"] = act["set"]
    if "data" in act:
        session["data"] = act["data"]
    if "drop" in act:
        del session["user_id"]
    if "clear" in act:
        session.clear()
    if "authenticated" in act:
        session.authenticated()
    await at.commit(session)
    assert at.store.asked == asked


async def test_nobody_has_no_index(at: Setting) -> None:
    """An anonymous session is written, touched, rotated and ended without an index."""
    token = await at.begin({"cart": 1})
    at.clock.advance(DUE)
    await visited(at, token)
    session = await at.load(token)
    session.rotate()
    token = token_of(await at.commit(session))
    session = await at.load(token)
    session.clear()
    await at.commit(session)
    assert set(at.store.asked) == {"commit", "end"}


@pytest.mark.parametrize("away", ["enter", "commit"])
async def test_a_sign_in_that_failed_leaves_the_cart(at: Setting, away: str) -> None:
    """Where the index or the record can't be written, nobody is signed in; the cart is intact."""
    token = await at.begin({"cart": 1})
    at.store.failing.add(away)
    with pytest.raises(StoreUnavailableError):
        await changed(at, token, user_id="alice")
    at.store.failing.clear()
    assert await at.data(token) == {"cart": 1}
    assert await ids(at) == set()


@pytest.mark.parametrize("away", ["end", "mark"])
async def test_a_sign_out_that_failed_can_be_repeated(at: Setting, away: str) -> None:
    """Where the end or the mark can't be written the answer is an error; again, it holds."""
    token = await at.begin(ALICE)
    for _ in range(2):
        session = await at.load(token)
        session.clear()
        if away in at.store.asked:
            await at.commit(session)
            break
        at.store.failing.add(away)
        with pytest.raises(StoreUnavailableError):
            await at.commit(session)
        at.store.failing.clear()
        at.store.asked.append(away)
    assert await ids(at) == set()
    assert await at.data(token) == {}


async def test_a_touch_that_fails_fails_no_read(at: Setting) -> None:
    """Reading works while the index is away, and the session isn't renewed past it."""
    token = await at.begin(ALICE)
    at.clock.advance(DUE)
    at.store.failing.add("touch")
    assert (await visited(at, token)).outcome is Outcome.NOTHING
    assert at.store.asked == ["enter", "commit"]
    assert await at.data(token) == ALICE


async def test_a_change_whose_touch_fails_is_unknown(at: Setting) -> None:
    """A change that would renew the session isn't stored where the index can't be asked."""
    token = await at.begin(ALICE)
    at.clock.advance(DUE)
    at.store.failing.add("touch")
    with pytest.raises(StoreUnavailableError):
        await changed(at, token, a=1)
    assert await at.data(token) == ALICE


# -- a sign-in that a revocation overtook


@pytest.mark.parametrize("cart", [True, False], ids=["with a cart", "without"])
async def test_a_sign_in_that_was_overtaken_is_refused(at: Setting, cart: bool) -> None:
    """revoke_all while a sign-in is under way: 503, an event, no session, the cart intact."""
    token = await at.begin({"cart": 1}) if cart else None
    session = await at.load(token)
    session["user_id"] = "alice"
    at.clock.advance(1)
    await at.manager.revoke_all("alice")
    with pytest.raises(StoreUnavailableError) as raised:
        await at.commit(session)
    assert raised.value.reason == "server"
    assert at.reported("refused") == ["revoked meanwhile"]
    assert await at.data(token) == ({"cart": 1} if cart else {})
    assert await ids(at) == set()
    at.clock.advance(1)
    again = await changed(at, token, user_id="alice")
    assert await at.data(token_of(again)) == {**({"cart": 1} if cart else {}), "user_id": "alice"}


async def test_a_sign_in_of_somebody_else_is_not_refused(at: Setting) -> None:
    """Alice's revocation is nothing to Bob."""
    session = await at.load(None)
    session["user_id"] = "bob"
    at.clock.advance(1)
    await at.manager.revoke_all("alice")
    assert (await at.commit(session)).token is not None
