"""One login is signed anew with each response, so that many copies of it are valid at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest

from redis_sessions import Keyring, Session, SessionManager, generate_key
from redis_sessions.accept import Found
from tests.unit.accept.elsewhere import Elsewhere, Place, token_in
from tests.unit.setting import DAY, KEY

VALID: Final = 14 * DAY
"""For how many seconds a signature is valid."""
LOCAL: Final[dict[str, Any]] = {"client": None}
"""A client without an address, as behind a socket of the file system."""


class Signed(Elsewhere):
    """A source whose cookie says whose it is and when it was signed, such as `alice@1000`."""

    async def find(self, value: str) -> Found | str | None:
        whose, _, at = value.partition("@")
        data = {"user_id": whose} if whose else {"cart": ["tea"]}
        return Found(data, value, VALID, float(at), VALID)


class Signing(Place):
    """A place where such cookies are accepted."""

    def __init__(self, **options: Any) -> None:
        super().__init__(Signed(once=False), **options)

    def sign(self, whose: str = "alice") -> str:
        """A cookie that is signed now. Then a second passes."""
        value = f"{whose}@{int(self.clock())}"
        self.clock.advance(1)
        return value

    async def opens(self, theirs: str) -> bool:
        """Whether a browser that has this cookie alone has a session, a while later."""
        self.clock.advance(31)
        return bool((await self.visit(theirs=theirs)).checked().seen)


def sign_out(session: Session) -> None:
    session.sign_out()


HOW: Final[dict[str, Callable[[Session], Any]]] = {
    "sign_out": sign_out,
    "clear": lambda s: s.clear(),
    "pop": lambda s: s.pop("user_id"),
    "switch": lambda s: s.sign_in("bob"),
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("status", [200, 500])
async def test_a_sign_out_refuses_all_copies_that_were_signed_before(
    how: str, first: bool, status: int
) -> None:
    """Also in the very request that was accepted. A later sign-in there opens."""
    at = Signing()
    copies = [at.sign() for _ in range(4)]
    token = None if first else token_in(await at.visit(theirs=copies[2]))
    if how == "switch":
        status = 200  # a failed response signs nobody in
    (await at.visit(HOW[how], theirs=copies[2], ours=token, status=status)).checked()
    assert [await at.opens(copy) for copy in copies] == [False] * 4
    assert at.reported("rejected")[-1] == "Signed theirs: signed before a sign-out"
    assert await at.opens(at.sign())


@pytest.mark.parametrize("mine", [True, False])
@pytest.mark.parametrize("client", [{}, LOCAL])
async def test_a_revocation_of_one_session_refuses_them_too(
    mine: bool, client: dict[str, Any]
) -> None:
    """Ada ends the session of a thief, whether its request does it or a process without sources."""
    at = Signing()
    copies = [at.sign() for _ in range(3)]
    token = token_in(await at.visit(theirs=copies[1], **client))
    worker = SessionManager(at.store, Keyring(KEY), clock=at.clock)
    if mine:
        await at.visit(lambda s: at.manager.revoke(token[:20], "alice"), theirs=None, ours=token)
    else:
        assert await worker.revoke(token[:20], "alice")
    assert [await at.opens(copy) for copy in copies] == [False] * 3
    assert await at.opens(at.sign())


async def test_a_worker_that_signs_out() -> None:
    """The record tells it where the session comes from. It needs no source."""
    at = Signing()
    copies = [at.sign() for _ in range(3)]
    token = token_in(await at.visit(theirs=copies[1]))
    worker = SessionManager(at.store, Keyring(KEY), clock=at.clock)
    session = await worker.load(token)
    session.clear()
    await worker.commit(session)
    assert not await at.opens(copies[0])


@pytest.mark.parametrize("client", [{}, LOCAL])
@pytest.mark.parametrize("later", ["touch", "rotate", "prove", "another key", "touch by it"])
async def test_what_became_of_the_session_meanwhile(later: str, client: dict[str, Any]) -> None:
    """It still counts as a copy of its login, in its record and in the list of sessions."""
    at = Signing()
    copies = [at.sign() for _ in range(2)]
    token = token_in(await at.visit(theirs=copies[1], **client))
    keys = Keyring(KEY)
    if later in ("another key", "touch by it"):
        keys = Keyring(generate_key(), KEY)
        at.manager = SessionManager(at.store, keys, clock=at.clock)
    if later.startswith("touch"):
        at.clock.advance(DAY)
        await at.visit(theirs=None, ours=token, **client)
    elif later != "another key":
        act = Session.rotate if later == "rotate" else Session.authenticated
        token = token_in(await at.visit(act, theirs=None, ours=token, **client))
    assert await SessionManager(at.store, keys, clock=at.clock).revoke(token[:20], "alice")
    assert not await at.opens(copies[0])


async def test_a_session_that_began_here_says_nothing_of_theirs() -> None:
    """Ada signs out on a laptop, where she had signed in here. Her phone's cookie opens."""
    at = Signing()
    phone = at.sign()
    laptop = await at.begin({"user_id": "alice"})
    await at.visit(sign_out, theirs=None, ours=laptop)
    laptop = await at.begin({"user_id": "alice"})
    await at.manager.revoke(laptop[:20], "alice")
    assert await at.opens(phone)


async def test_a_browser_that_has_the_other_cookie_too() -> None:
    """She had signed in here beside it. The sign-out is one of that login, in each copy."""
    at = Signing()
    copies = [at.sign() for _ in range(2)]
    token = await at.begin({"user_id": "carol"})
    await at.visit(sign_out, theirs=copies[1], ours=token)
    assert not await at.opens(copies[0])


async def test_a_visitor_who_signed_in_here() -> None:
    """The cookie was nobody's. So the sign-out says nothing of what is signed for Alice."""
    at = Signing()
    visitor, phone = at.sign(""), at.sign()
    token = token_in(await at.visit(theirs=visitor))
    token = token_in(await at.visit(lambda s: s.sign_in("alice"), theirs=None, ours=token))
    await at.visit(sign_out, theirs=None, ours=token)
    assert await at.opens(phone)


async def test_copies_of_nobody() -> None:
    """Each visitor's cart is accepted once, and the carts of others don't end with it."""
    at = Signing()
    copies = [at.sign("") for _ in range(2)]
    token = token_in(await at.visit(theirs=copies[1]))
    await at.visit(lambda s: s.clear(), theirs=copies[1], ours=token)
    assert [await at.opens(copy) for copy in copies] == [True, False]


async def test_another_user_s_copies() -> None:
    """They open, whoever else has signed out."""
    at = Signing()
    copies = [at.sign(), at.sign("bob")]
    token = token_in(await at.visit(theirs=copies[0]))
    await at.visit(sign_out, theirs=None, ours=token)
    assert await at.opens(copies[1])


@pytest.mark.parametrize("how", ["expiry", "max_sessions"])
async def test_what_is_no_sign_out(how: str) -> None:
    """A session that has run out, or made room for another, ends none of her other devices."""
    at = Signing(idle_timeout=3600, max_sessions=1)
    phone, laptop = at.sign(), at.sign()
    token = token_in(await at.visit(theirs=laptop))
    if how == "expiry":
        at.clock.advance(3601)
    else:
        await at.begin({"user_id": "alice"})
    assert (await at.visit(theirs=None, ours=token)).seen == {}
    assert await at.opens(phone)
    assert not await at.opens(laptop)


async def test_a_device_that_came_before_the_sign_out() -> None:
    """It has a session of its own here, which nobody signed out of. `revoke_all` ends it."""
    at = Signing()
    phone, laptop = at.sign(), at.sign()
    stays, ends = [token_in(await at.visit(theirs=each)) for each in (phone, laptop)]
    await at.visit(sign_out, theirs=None, ours=ends)
    assert await at.data(stays) == {"user_id": "alice"}


async def test_it_is_remembered_as_long_as_a_copy_is_valid() -> None:
    """A copy of the last second before the sign-out is refused until its signature expires."""
    at = Signing()
    copies = [at.sign() for _ in range(2)]
    token = token_in(await at.visit(theirs=copies[0]))
    at.clock.advance(DAY)
    last = at.sign()
    await at.visit(sign_out, theirs=None, ours=token)
    at.clock.advance(VALID - 120)
    assert not await at.opens(last)


async def test_a_store_that_fails_at_the_sign_out() -> None:
    """The answer is 503, and the session lives. The next attempt refuses the copies."""
    at = Signing()
    copies = [at.sign() for _ in range(2)]
    token = token_in(await at.visit(theirs=copies[1]))
    at.store.failing = {"revoke"}
    assert (await at.visit(sign_out, theirs=None, ours=token)).status == 503
    at.store.failing = set()
    (await at.visit(sign_out, theirs=None, ours=token)).checked()
    assert not await at.opens(copies[0])


async def test_a_middleware_without_sources() -> None:
    """Another application of the same users signs out. It knows no source."""
    at = Signing()
    copies = [at.sign() for _ in range(2)]
    token = token_in(await at.visit(theirs=copies[1]))
    await at.request(sign_out, token)
    assert not await at.opens(copies[0])
