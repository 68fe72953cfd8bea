"""What crossing requests, tasks and clocks may not do to a session."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx2
import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from redis_sessions import (
    Answer,
    Commit,
    Keyring,
    MemoryStore,
    Session,
    SessionConflictError,
    SessionGoneError,
    SessionManager,
    SessionMiddleware,
    StoreUnavailableError,
)
from redis_sessions.outcome import Outcome
from redis_sessions.session import state_of
from redis_sessions.testing import Clock
from tests.unit.test_manager import DAY, KEY, Setting, token_of


class Delayed(MemoryStore):
    """A store whose answers something may come before."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.loaded: Callable[[], Awaitable[None]] | None = None
        self.committed: Callable[[bytes | None, Commit], Awaitable[None]] | None = None

    async def load(self, id: str) -> bytes | None:
        found = await super().load(id)
        if self.loaded is not None:
            await self.loaded()
        return found

    async def commit(self, id: str, expected: bytes | None, value: bytes, ttl: int) -> Commit:
        result = await super().commit(id, expected, value, ttl)
        if self.committed is not None:
            await self.committed(expected, result)
        return result


class Crossed(Setting):
    """A setting whose store can be held up, and another request at hand."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.delayed = Delayed(clock=self.clock)
        self.store = self.manager.store = self.delayed

    async def put(self, token: str, changes: Mapping[str, Any]) -> Answer:
        """What another request stores."""
        session = await self.load(token)
        session.update(changes)
        return await self.commit(session)


@pytest.fixture
def at() -> Crossed:
    return Crossed()


def second_factor(data: Mapping[str, Any]) -> Any:
    """A principal of two keys: nobody without the second factor."""
    return data.get("user") if data.get("mfa") else None


def either(data: Mapping[str, Any]) -> Any:
    """A principal that two keys may name."""
    return data.get("user") or data.get("guest")


# -- merges never change who is signed in


@pytest.mark.parametrize("when", ["before", "between"])
@pytest.mark.parametrize(
    ("principal", "begun", "signs_in", "others"),
    [
        ("user_id", {"x": 1}, {"user_id": "A"}, {"user_id": None}),
        ("user.sub", {"user": {"lang": "en"}}, {"user": {"sub": "A"}}, {"user": {"lang": "de"}}),
        (second_factor, {"x": 1}, {"user": "A", "mfa": True}, {"user": "B"}),
        (second_factor, {"user": "A"}, {"user": "A", "mfa": True}, {"mfa": False}),
    ],
    ids=["key", "path", "callable", "callable, the other half"],
)
async def test_the_keys_of_a_sign_in_win(
    principal: Any,
    begun: dict[str, Any],
    signs_in: dict[str, Any],
    others: dict[str, Any],
    when: str,
) -> None:
    """Another request's change of a key that the sign-in set doesn't take the principal away."""
    at = Crossed(principal=principal)
    token = await at.begin(begun)
    signing = await at.load(token)
    signing.update(signs_in)

    async def other(expected: bytes | None, result: Commit) -> None:
        at.delayed.committed = None
        await at.put(token, {**others, "y": 2})

    if when == "before":
        await other(None, Commit.STORED)
    else:
        at.delayed.committed = other
    answer = await at.commit(signing)
    assert answer.outcome is Outcome.GAIN
    signed_in = await at.load(token_of(answer))
    assert dict(signed_in) == {**begun, **signs_in, "y": 2}
    assert (signed_in.principal, signing.principal) == ("A", "A")
    assert at.reported("merged") == [None]
    assert await at.data(token) == {}


async def test_other_keys_of_a_sign_in_win(at: Crossed) -> None:
    """The sign-in, which commits later, wins the keys that both changed."""
    token = await at.begin({"cart": 0})
    signing = await at.load(token)
    signing.update(user_id="A", cart="merged with the saved one")
    await at.put(token, {"cart": 1})
    answer = await at.commit(signing)
    stored = {"user_id": "A", "cart": "merged with the saved one"}
    assert await at.data(token_of(answer)) == stored
    assert dict(signing) == stored


@pytest.mark.parametrize("user", ["B", None])
async def test_no_place_after_the_sign_in(user: str | None) -> None:
    """Of an anonymous request's changes none that would sign in somebody else moves along."""
    at = Crossed(principal=second_factor)
    token = await at.begin({"user": "A"})
    signing = await at.load(token)
    signing["mfa"] = True
    await at.put(token, {"user": user})
    signed_in = await at.load(token_of(await at.commit(signing)))
    assert dict(signed_in) == dict(signing) == {"user": "A", "mfa": True}
    assert signed_in.principal == "A"
    assert at.reported("dropped") == ["no place after the sign-in"]
    assert at.reported("merged") == []


async def test_no_room_after_the_sign_in() -> None:
    """What is too large together with the sign-in's data doesn't move along."""
    at = Crossed(max_size=100)
    token = await at.begin({"x": 1})
    signing = await at.load(token)
    signing.update(user_id="A", mine="m" * 50)
    await at.put(token, {"theirs": "t" * 50})
    answer = await at.commit(signing)
    assert await at.data(token_of(answer)) == {"x": 1, "user_id": "A", "mine": "m" * 50}
    assert at.reported("dropped") == ["no place after the sign-in"]


@pytest.mark.parametrize("how", ["commit", "save", "rotate"])
async def test_changes_that_together_sign_in(how: str) -> None:
    """Two anonymous changes that compose a principal don't sign in under the id they share."""
    at = Crossed(principal=second_factor)
    token = await at.begin({"x": 1})
    session = await at.load(token)
    session["mfa"] = True
    await at.put(token, {"user": "B"})
    if how == "rotate":
        session.rotate()
    with pytest.raises(SessionConflictError, match="who is signed in"):
        await (session.save() if how == "save" else at.commit(session))
    again = await at.load(token)
    assert dict(again) == {"x": 1, "user": "B"}
    assert again.principal is None


async def test_changes_that_together_sign_out() -> None:
    """Two changes that each leave the principal don't take it away together."""
    at = Crossed(principal=either)
    token = await at.begin({"user": "A", "guest": "A"})
    one, two = await at.load(token), await at.load(token)
    del one["user"], two["guest"]
    await at.commit(one)
    with pytest.raises(SessionConflictError, match="who is signed in"):
        await at.commit(two)
    assert await at.data(token) == {"guest": "A"}


@pytest.mark.parametrize(
    ("principal", "begun", "others"),
    [
        ("user_id", {"user_id": 7}, {"user_id": "7"}),
        ("user.sub", {"user": {"sub": 7}}, {"user": {"sub": 7, "lang": "de"}}),
        (second_factor, {"user": 7, "mfa": True}, {"mfa": 2}),
        (either, {"user": 7}, {"guest": 7}),
    ],
    ids=["key", "path", "callable", "callable, the other half"],
)
async def test_changes_that_leave_the_principal_merge(
    principal: Any, begun: dict[str, Any], others: dict[str, Any]
) -> None:
    """Another request may change the keys of the principal, if it is the same afterwards."""
    at = Crossed(principal=principal)
    token = await at.begin(begun)
    session = await at.load(token)
    session["x"] = 1
    await at.put(token, others)
    assert await at.commit(session) == Answer(Outcome.CHANGE)
    again = await at.load(token)
    assert dict(again) == dict(session) == {**begun, **others, "x": 1}
    assert again.principal == "7"


# -- after a save() or refresh() that found the session gone


@dataclass
class Gone:
    """A session of A's that was found gone, and the token under which it lives on, if it does."""

    session: Session
    elsewhere: str | None


@pytest.fixture(params=["save", "refresh"])
def first(request: pytest.FixtureRequest) -> str:
    """What raises SessionGoneError first."""
    name: str = request.param
    return name


async def found_gone(
    at: Setting, first: str, *, rotated: bool, data: Mapping[str, Any] | None = None
) -> Gone:
    token = await at.begin({"user_id": "A", "x": 1} if data is None else data)
    session, other = await at.load(token), await at.load(token)
    if rotated:
        other.rotate()
    else:
        other.clear()
    answer = await at.commit(other)
    session["x"] = 2
    with pytest.raises(SessionGoneError):
        await getattr(session, first)()
    at.events.clear()
    return Gone(session, token_of(answer) if rotated else None)


async def test_clear_after_a_rotation(at: Crossed, first: str) -> None:
    """clear() signs out though save() or refresh() has found the session rotated."""
    gone = await found_gone(at, first, rotated=True)
    gone.session.clear()
    assert await at.commit(gone.session) == Answer(Outcome.CLEAR, expire=True)
    assert at.reported("ended") == ["cleared"]
    assert await at.data(gone.elsewhere) == {}


async def test_clear_after_an_end(at: Crossed, first: str) -> None:
    """clear() of a session that another request has ended leaves the browser to that request."""
    gone = await found_gone(at, first, rotated=False)
    gone.session.clear()
    assert await at.commit(gone.session) == Answer(Outcome.NOTHING)
    assert at.reported("ended") == []


async def test_removed_principal_after_a_rotation(at: Crossed, first: str) -> None:
    """Removing the principal signs out though save() or refresh() has found it rotated."""
    gone = await found_gone(at, first, rotated=True)
    del gone.session["user_id"]
    answer = await at.commit(gone.session)
    assert answer.outcome is Outcome.LOSE
    left = await at.load(token_of(answer))
    assert (dict(left), left.principal) == ({"x": 2}, None)
    assert at.reported("ended") == ["signed out"]
    assert await at.data(gone.elsewhere) == {}


async def test_removed_principal_after_an_end(at: Crossed, first: str) -> None:
    """Removing the principal of what another request has ended keeps nothing."""
    gone = await found_gone(at, first, rotated=False)
    del gone.session["user_id"]
    assert await at.commit(gone.session) == Answer(Outcome.DROP)
    assert at.reported("dropped") == ["ended elsewhere"]
    assert at.reported("created") == []


@pytest.mark.parametrize("rotated", [True, False], ids=["rotated", "ended"])
@pytest.mark.parametrize(
    ("principal", "data"),
    [
        ("user_id", {"user_id": "A"}),
        ("user.sub", {"user": {"sub": "A"}}),
        (either, {"user": "A"}),
    ],
    ids=["key", "path", "callable"],
)
async def test_authenticated_after_gone(
    principal: Any, data: dict[str, Any], first: str, rotated: bool
) -> None:
    """Who proves who they are in a session that was found gone is signed in to a new one."""
    at = Crossed(principal=principal)
    gone = await found_gone(at, first, rotated=rotated, data=data)
    gone.session.authenticated()
    answer = await at.commit(gone.session)
    assert answer.outcome is Outcome.GAIN
    new = await at.load(token_of(answer))
    assert new.authenticated_at is not None
    assert (dict(new), new.principal) == ({**data, "x": 2}, "A")
    assert await at.data(gone.elsewhere) == ({**data} if rotated else {})


@pytest.mark.parametrize("rotated", [True, False], ids=["rotated", "ended"])
async def test_somebody_else_after_gone(at: Crossed, first: str, rotated: bool) -> None:
    """A sign-in of another over a session that was found gone ends it, wherever it lives on."""
    gone = await found_gone(at, first, rotated=rotated)
    gone.session["user_id"] = "B"
    answer = await at.commit(gone.session)
    assert answer.outcome is Outcome.SWITCH
    assert await at.data(token_of(answer)) == {"user_id": "B", "x": 2}
    assert await at.data(gone.elsewhere) == {}


@pytest.mark.parametrize("rotated", [True, False], ids=["rotated", "ended"])
async def test_gone_stays_gone(at: Crossed, first: str, rotated: bool) -> None:
    """Each further save() of changes and each refresh() of a session found gone says so again."""
    gone = await found_gone(at, first, rotated=rotated)
    with pytest.raises(SessionGoneError):
        await gone.session.refresh()
    with pytest.raises(SessionGoneError):
        await gone.session.save()
    with pytest.raises(SessionGoneError):
        await gone.session.refresh()
    assert at.reported("created") == []


async def test_sign_out_page_after_a_rotation(at: Crossed) -> None:
    """A browser whose sign-out crossed a rotation, and whose page saves first, is signed out."""
    arrived, rotated = asyncio.Event(), asyncio.Event()

    async def login(request: Request) -> PlainTextResponse:
        request.session["user_id"] = "A"
        return PlainTextResponse("in")

    async def rotate(request: Request) -> PlainTextResponse:
        session = request.session
        assert isinstance(session, Session)
        session.rotate()
        return PlainTextResponse("rotated")

    async def me(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(request.session.get("user_id")))

    async def logout(request: Request) -> PlainTextResponse:
        session = request.session
        assert isinstance(session, Session)
        arrived.set()
        await rotated.wait()
        session["last_seen"] = "logout page"
        with pytest.raises(SessionGoneError):
            await session.save()
        session.clear()
        return PlainTextResponse("out")

    app = Starlette(
        routes=[Route(f"/{page.__name__}", page) for page in (login, rotate, me, logout)]
    )
    app.add_middleware(SessionMiddleware, manager=at.manager)
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="https://testserver") as browser:
        await browser.get("/login")
        leaving = asyncio.create_task(browser.get("/logout"))
        await arrived.wait()
        assert (await browser.get("/rotate")).text == "rotated"
        rotated.set()
        assert "=null;" in (await leaving).headers["set-cookie"]
        assert (await browser.get("/me")).text == "None"
    assert at.reported("ended") == ["cleared"]


# -- tasks that share a session


async def test_two_saves_at_once(at: Crossed) -> None:
    """Two tasks that save one session at once lose nothing of another request's."""
    token = await at.begin({"x": 0})
    session = await at.load(token)
    await at.put(token, {"other": 1})
    merged, go_on = asyncio.Event(), asyncio.Event()
    results = list[Commit]()

    async def committed(expected: bytes | None, result: Commit) -> None:
        results.append(result)
        if len(results) == 2:  # the first task's merge is stored, and its answer on its way
            merged.set()
            await go_on.wait()
        elif len(results) == 3:  # the second task learns what it met after the first is done
            await asyncio.wait([one])

    at.delayed.committed = committed
    session["a"] = 1
    one = asyncio.create_task(session.save())
    await merged.wait()
    session["b"] = 2
    two = asyncio.create_task(session.save())
    asyncio.get_running_loop().call_soon(go_on.set)  # once the second task has begun
    await asyncio.gather(one, two)
    assert await at.data(token) == dict(session) == {"x": 0, "other": 1, "a": 1, "b": 2}
    assert results == [Commit.CONFLICT, Commit.STORED, Commit.STORED]


async def test_save_during_refresh(at: Crossed) -> None:
    """A save() while a refresh() is under way takes nothing back, and loses nothing."""
    token = await at.begin({"x": 0})
    session = await at.load(token)
    read, go_on = asyncio.Event(), asyncio.Event()

    async def loaded() -> None:
        at.delayed.loaded = None
        read.set()
        await go_on.wait()

    at.delayed.loaded = loaded
    refreshing = asyncio.create_task(session.refresh())
    await read.wait()
    await at.put(token, {"other": 1})
    session["a"] = 1
    saving = asyncio.create_task(session.save())
    # Were save() not to wait for its turn, it would be done before refresh() goes on.
    asyncio.get_running_loop().call_soon(go_on.set)
    await asyncio.gather(refreshing, saving)
    assert await at.data(token) == dict(session) == {"x": 0, "other": 1, "a": 1}
    session["b"] = 2
    await at.commit(session)
    assert await at.data(token) == {"x": 0, "other": 1, "a": 1, "b": 2}


async def test_refresh_during_save(at: Crossed) -> None:
    """A refresh() while a save() is under way loses nothing of either."""
    token = await at.begin({"x": 0})
    session = await at.load(token)
    await at.put(token, {"other": 1})
    stored, go_on = asyncio.Event(), asyncio.Event()

    async def committed(expected: bytes | None, result: Commit) -> None:
        if result is Commit.STORED:
            at.delayed.committed = None
            stored.set()
            await go_on.wait()

    at.delayed.committed = committed
    session["a"] = 1
    saving = asyncio.create_task(session.save())
    await stored.wait()
    await at.put(token, {"later": 2})
    refreshing = asyncio.create_task(session.refresh())
    asyncio.get_running_loop().call_soon(go_on.set)
    await asyncio.gather(saving, refreshing)
    assert await at.data(token) == dict(session) == {"x": 0, "other": 1, "a": 1, "later": 2}
    session["b"] = 2
    await at.commit(session)
    assert await at.data(token) == {"x": 0, "other": 1, "a": 1, "later": 2, "b": 2}


# -- several commits in one request


async def test_change_back_after_refresh(at: Crossed) -> None:
    """A change back to what this request saved before, over another's, is stored."""
    token = await at.begin({"n": 0})
    session = await at.load(token)
    session["n"] = 1
    await session.save()
    await at.put(token, {"n": 2})
    await session.refresh()
    assert session["n"] == 2
    session["n"] = 1
    assert await at.commit(session) == Answer(Outcome.CHANGE)
    assert await at.data(token) == {"n": 1}


async def test_wished_lifetime_of_a_new_session(at: Crossed) -> None:
    """expire_in() before a save() that waits for the response holds at the sign-in."""
    session = await at.load(None)
    session.expire_in(30 * DAY, persistent=True)
    await session.save()
    session["user_id"] = "A"
    answer = await at.commit(session)
    assert (answer.outcome, answer.max_age) == (Outcome.GAIN, 30 * DAY)
    at.clock.advance(29 * DAY)
    assert await at.data(token_of(answer)) == {"user_id": "A"}


async def test_late_sign_out_that_leaves_data(at: Crossed) -> None:
    """save() of a late sign-out signs out, and isn't an error, though data are left."""
    token = await at.begin({"user_id": "A", "x": 1})
    session = await at.load(token)
    state_of(session).late = True
    del session["user_id"]
    await session.save()
    assert dict(session) == {}
    assert at.reported("ended") == ["signed out"]
    assert at.reported("dropped") == ["signed out late"]
    assert await at.data(token) == {}


async def test_double_sign_in(at: Crossed) -> None:
    """The later of two sign-ins from one anonymous session doesn't report its end again."""
    token = await at.begin({"x": 1})
    one, two = await at.load(token), await at.load(token)
    one["user_id"] = two["user_id"] = "A"
    await at.commit(one)
    await at.commit(two)
    assert at.reported("ended") == ["signed in"]


# -- time


class Refusing(MemoryStore):
    """A store that can refuse to write."""

    refuses = False

    async def commit(self, id: str, expected: bytes | None, value: bytes, ttl: int) -> Commit:
        if self.refuses:
            raise StoreUnavailableError("out of memory", reason="server")
        return await super().commit(id, expected, value, ttl)


@pytest.mark.parametrize("why", ["conflict", "refused"])
async def test_busy_socket_after_a_failed_touch(why: str) -> None:
    """A socket that saves changes regularly stays alive, though a touch of its failed once."""
    at = Setting(idle_timeout=1800)
    store = at.store = at.manager.store = Refusing(clock=at.clock)
    token = await at.begin({"user_id": "A", "n": 0})
    socket = await at.load(token)
    state_of(socket).late = True
    at.clock.advance(200)
    if why == "conflict":
        assert await at.commit(await at.load(token)) == Answer(Outcome.TOUCH)
    store.refuses = why == "refused"
    await socket.save()
    store.refuses = False
    for n in range(1, 15):
        at.clock.advance(200)
        socket["n"] = n
        await socket.save()
    assert await at.data(token) == {"user_id": "A", "n": 14}


@pytest.mark.parametrize("ahead", [40, -40])
async def test_tombstone_under_clocks_that_differ(at: Crossed, ahead: int) -> None:
    """A tombstone counts on a server whose clock differs by more than the tombstone lives."""
    other = SessionManager(at.store, Keyring(KEY), clock=Clock(at.clock.now + ahead))
    token = await at.begin({"user_id": "A"})
    leaving = await at.load(token)
    del leaving["user_id"]
    await at.commit(leaving)
    late = await other.load(token)
    late["x"] = 1
    assert await other.commit(late) == Answer(Outcome.DROP)


# -- typed values


class User(msgspec.Struct, rename="camel"):
    """Stored as `subId`."""

    sub_id: str


class Account:
    """What only an enc_hook can store."""

    def __init__(self, sub: str) -> None:
        self.sub = sub


def encode(value: object) -> object:
    if isinstance(value, Account):
        return {"sub": value.sub}
    raise NotImplementedError


def decode(type: type[Any], value: Any) -> Any:
    return Account(value["sub"])


TYPED: Final = pytest.mark.parametrize(
    ("options", "stored", "value"),
    [
        ({"principal": "user.subId"}, {"subId": "A"}, User("A")),
        (
            {"principal": "user.sub", "enc_hook": encode, "dec_hook": decode},
            {"sub": "A"},
            Account("A"),
        ),
    ],
    ids=["renamed", "enc_hook"],
)


@TYPED
async def test_typed_sign_in(options: dict[str, Any], stored: Any, value: object) -> None:
    """A sign-in with a typed value counts by what is stored of it: it gives a new id."""
    at = Crossed(**options)
    token = await at.begin({"x": 1})
    session = await at.load(token)
    session["user"] = value
    answer = await at.commit(session)
    assert answer.outcome is Outcome.GAIN
    signed_in = await at.load(token_of(answer))
    assert (dict(signed_in), signed_in.principal) == ({"x": 1, "user": stored}, "A")
    assert await at.data(token) == {}


@TYPED
async def test_typed_read_signs_nobody_out(
    options: dict[str, Any], stored: Any, value: object
) -> None:
    """Reading the principal's value with get_as, and changing another key, changes just that."""
    at = Crossed(**options)
    token = token_of(await at.put(await at.begin({"n": 0}), {"user": stored}))
    session = await at.load(token)
    assert session.get_as("user", type(value)) is not None
    session["n"] = 1
    assert await at.commit(session) == Answer(Outcome.CHANGE)
    again = await at.load(token)
    assert (dict(again), again.principal) == ({"n": 1, "user": stored}, "A")
    assert at.reported("ended") == ["signed in"]  # the anonymous one


@TYPED
async def test_principal_of_a_typed_value(
    options: dict[str, Any], stored: Any, value: object
) -> None:
    """session.principal is the same before and after get_as converts its value."""
    at = Crossed(**options)
    session = await at.load(await at.begin({"user": stored}))
    assert session.principal == "A"
    session.get_as("user", type(value))
    assert session.principal == "A"


class Cart(msgspec.Struct):
    """Encodes to more than what was stored."""

    items: list[str]
    note: str = ""


async def cart_in(session: Session) -> Cart:
    cart = session.get_as("cart", Cart)
    assert cart is not None
    return cart


@pytest.mark.parametrize("how", ["merged save", "refresh", "merging refresh", "all"])
async def test_converted_values_survive(at: Crossed, how: str) -> None:
    """An object of get_as stays the session's, and unchanged, over a merged save() or refresh()."""
    token = await at.begin({"cart": {"items": ["a"]}, "x": 0})
    session = await at.load(token)
    cart = await cart_in(session)
    if how in ("merged save", "all"):
        await at.put(token, {"y": 1})
        session["x"] = 1
        await session.save()
    if how in ("merging refresh", "all"):
        await at.put(token, {"z": 1})
    if how != "merged save":
        await session.refresh()
    assert session["cart"] is cart
    assert await at.commit(session) == Answer(Outcome.NOTHING)
    assert (await at.data(token))["cart"] == {"items": ["a"]}
    cart.items.append("b")
    assert await at.commit(session) == Answer(Outcome.CHANGE)
    assert (await at.data(token))["cart"] == {"items": ["a", "b"], "note": ""}


@pytest.mark.parametrize("how", ["save", "refresh"])
async def test_converted_value_that_others_changed(at: Crossed, how: str) -> None:
    """An unchanged object of get_as gives way to what another request stored."""
    token = await at.begin({"cart": {"items": ["a"]}, "x": 0})
    session = await at.load(token)
    await cart_in(session)
    await at.put(token, {"cart": {"items": ["b"]}})
    session["x"] = 1
    await getattr(session, how)()
    assert session["cart"] == {"items": ["b"]}
    await at.commit(session)
    assert await at.data(token) == {"cart": {"items": ["b"]}, "x": 1}


@pytest.mark.parametrize("how", ["save", "refresh"])
async def test_converted_value_that_was_changed_here(at: Crossed, how: str) -> None:
    """A changed object of get_as is a change like any other over a merged save() or refresh()."""
    token = await at.begin({"cart": {"items": ["a"]}})
    session = await at.load(token)
    cart = await cart_in(session)
    cart.items.append("b")
    await at.put(token, {"y": 1})
    await getattr(session, how)()
    assert session["cart"] is cart
    cart.items.append("c")
    await at.commit(session)
    assert await at.data(token) == {"cart": {"items": ["a", "b", "c"], "note": ""}, "y": 1}
