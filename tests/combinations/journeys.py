"""What browsers and an application do: each journey is a function of a `World`, and shows its steps.

Each journey is a story of its own, with its own users. An application has to be the same whatever its
options are. So handlers sign in and out by the world's methods, and get their session by `SessionDep`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.requests import HTTPConnection

from redis_sessions import Session, SessionManager
from tests.combinations.world import OTHER, Act, Browser, World

Journey = Callable[[World], Awaitable[None]]

HOUR: Final = 3600
DAY: Final = 24 * HOUR


def signs_in(user: str, **proof: Any) -> Act:
    """Sign this user in."""
    return lambda session, world, _: world.sign_in(session, user, **proof)


def puts(**data: Any) -> Act:
    """Assign these data."""
    return lambda session, world, _: session.update(data)


def signs_out(session: Session, world: World, _: HTTPConnection) -> None:
    """Sign out, and keep the other data."""
    world.sign_out(session)


def clears(session: Session, *_: Any) -> None:
    """End the session."""
    session.clear()


def rotates(session: Session, *_: Any) -> None:
    """Change the token."""
    session.rotate()


async def _signed_in(world: World, user: str = "ada", **proof: Any) -> Browser:
    browser = Browser(world)
    await browser.post("sign-in", signs_in(user, **proof))
    return browser


async def first_visit(world: World) -> None:
    """A visitor looks, fills a cart and looks again."""
    browser = Browser(world)
    await browser.get("look")
    await browser.post("fill", puts(cart=["pear"]))
    await browser.get("look again")


async def hostile(world: World) -> None:
    """Cookies that nobody was given: no token, one of another session, and one that was changed."""
    browser = await _signed_in(world)
    token = world.tokens[0]
    for step, text in {
        "garbage": "garbage",
        "very long": "a" * 4000,
        "made up": "a" * 64,
        "another secret": token[:20] + "b" * 44,
    }.items():
        thief = browser.copy()
        thief.carry(text)
        await thief.get(step)
    await browser.get("the user looks")


async def signing_in(world: World) -> None:
    """A visitor with a cart signs in, and signs in once more."""
    browser = Browser(world)
    await browser.post("fill", puts(cart=["pear"]))
    before = browser.copy()
    await browser.post("sign-in", signs_in("ada", methods=["pwd"]))
    await browser.get("look")
    await before.get("look with the token of before")
    await browser.post("sign-in again", signs_in("ada", methods=["otp"]))
    await browser.get("look again")


async def the_same_user_again(world: World) -> None:
    """The handler sets the user's key in each request, as many applications do."""
    browser = Browser(world)
    await browser.post("assign", lambda s, w, _: w.assign(s, "ada"))
    await browser.post("assign again", lambda s, w, _: w.assign(s, "ada"))
    await browser.get("look")


async def another_user(world: World) -> None:
    """Bob signs in over Ada's session, by a call and by assignment, and gets nothing of hers."""
    browser = await _signed_in(world)
    await browser.post("fill", puts(cart=["pear"]))
    ada = browser.copy()
    await browser.post("bob signs in", signs_in("bob", methods=["pwd"]))
    await browser.get("bob looks")
    await ada.get("ada's token")

    def proves_and_assigns(session: Session, world: World, _: HTTPConnection) -> None:
        session.authenticated(methods=["otp"])
        world.assign(session, "carol")

    await browser.post("carol by assignment", proves_and_assigns)
    await browser.get("carol looks")


async def changing(world: World) -> None:
    """Data change: new keys, removed ones, and a change inside of a value."""
    browser = await _signed_in(world)
    await browser.post("put", puts(cart=["pear"], seen={"a": 1}))
    await browser.post("append", lambda s, *_: s["cart"].append("apple"))
    await browser.post("nested", lambda s, *_: s["seen"].update(b=2))
    await browser.post("the same again", puts(cart=["pear", "apple"]))
    await browser.post("remove", lambda s, *_: s.pop("seen"))
    await browser.get("look")


async def at_once(world: World) -> None:
    """Two requests of one browser change different keys at once."""
    browser = await _signed_in(world)
    other = browser.copy()

    async def slow(session: Session, world: World, _: HTTPConnection) -> None:
        session["slow"] = 1
        await other.post("fast", puts(fast=2))

    await browser.post("slow", slow)
    await browser.get("look")


async def conflict(world: World) -> None:
    """Two requests of one browser change the same key at once."""
    browser = await _signed_in(world)
    other = browser.copy()

    async def slow(session: Session, world: World, _: HTTPConnection) -> None:
        session["n"] = 1
        await other.post("fast", puts(n=2))

    await browser.post("slow", slow)
    await browser.get("look")


async def touching(world: World) -> None:
    """A user comes back every ten minutes, and then after an hour and a half."""
    browser = await _signed_in(world)
    for number in range(3):
        world.clock.advance(600)
        await browser.get(f"look {number}")
    world.clock.advance(1.5 * HOUR)
    await browser.get("look later")


async def expiring(world: World) -> None:
    """A user comes back when all is over; another one has asked to be remembered."""
    browser = await _signed_in(world)
    remembered = Browser(world)

    def remember(session: Session, world: World, _: HTTPConnection) -> None:
        world.sign_in(session, "bob")
        session.expire_in(60 * DAY, persistent=True)

    await remembered.post("remembered", remember)
    world.clock.advance(20 * DAY)
    await browser.get("too late")
    await remembered.get("remembered still")


async def rotating(world: World) -> None:
    """The token is changed: by a call, and since the user proved who they are."""
    browser = await _signed_in(world, methods=["pwd"])
    first = browser.copy()
    await browser.post("rotate", rotates)
    await first.get("the first token")
    second = browser.copy()
    await browser.post("prove", lambda s, *_: s.authenticated(methods=["otp"]))
    await second.get("the second token")
    await browser.get("look")


async def more_rights(world: World) -> None:
    """A visitor, and then a user, gets a role."""
    visitor = Browser(world)
    await visitor.post("fill", puts(cart=["pear"]))
    await visitor.post("a role for a visitor", puts(role="guest"))
    await visitor.post("sign-in", signs_in("ada"))
    before = visitor.copy()
    await visitor.post("a role for a user", puts(role="admin"))
    await visitor.get("look")
    await before.get("the token of before")


async def signing_out(world: World) -> None:
    """A user signs out and keeps the cart. The old token opens nothing."""
    browser = await _signed_in(world)
    await browser.post("fill", puts(cart=["pear"]))
    stolen = browser.copy()
    await browser.post("sign-out", signs_out)
    await browser.get("look")
    await stolen.get("the old token")
    await browser.post("bob signs in", signs_in("bob"))
    await browser.get("bob looks")


async def clearing(world: World) -> None:
    """A session ends by clear(), also while another request is under way."""
    browser = await _signed_in(world)
    other = browser.copy()

    async def slow(session: Session, world: World, _: HTTPConnection) -> None:
        session["late"] = 1
        await other.post("clear", clears)

    await browser.post("slow", slow)
    await browser.get("look")
    await browser.post("begin again", puts(cart=["plum"]))


async def revoking(world: World) -> None:
    """A worker ends one of a user's sessions."""
    phone, laptop = await _signed_in(world), Browser(world)
    await laptop.post("another device", signs_in("ada"))
    id = world.tokens[0][:20]
    await world.elsewhere("revoke", lambda manager: manager.revoke(id, "ada"))
    await phone.get("the phone")
    await laptop.get("the laptop")


async def revoking_all(world: World) -> None:
    """A worker ends all of a user's sessions. One of them has a request under way."""
    phone, laptop = await _signed_in(world), Browser(world)
    await laptop.post("another device", signs_in("ada"))

    async def slow(session: Session, world: World, _: HTTPConnection) -> None:
        session["late"] = 1
        await world.elsewhere("revoke all", lambda manager: manager.revoke_all("ada"))

    await phone.post("slow", slow)
    await phone.get("the phone")
    await laptop.get("the laptop")
    await phone.post("sign in again", signs_in("ada"))
    await phone.get("look")


async def revoking_by(world: World) -> None:
    """A provider ends the sessions of one sign-in there."""
    browser = Browser(world)
    proof = signs_in("ada", methods=["pwd"], aliases={"sid": "s-1"})
    await browser.post("sign-in", proof)
    await browser.get("look")
    await world.elsewhere("revoke by", lambda manager: manager.revoke_by("sid", "s-1"))
    await browser.get("look again")


async def ending_others(world: World) -> None:
    """A user ends their other sessions, in a handler."""
    phone, laptop = await _signed_in(world), Browser(world)
    await laptop.post("another device", signs_in("ada"))

    async def end(session: Session, world: World, _: HTTPConnection) -> int:
        return await world.manager.revoke_all("ada", keep=session.id)

    await laptop.post("end the others", end)
    await phone.get("the phone")
    await laptop.get("the laptop")
    await laptop.post("end all", lambda s, w, _: w.manager.revoke_all("ada"))
    await laptop.get("look")


async def many_devices(world: World) -> None:
    """A user signs in on three devices."""
    devices = [Browser(world, agent=name) for name in ("Firefox", "Safari", "Chrome")]
    for device in devices:
        world.clock.advance(1)
        await device.post(f"{device.agent} signs in", signs_in("ada"))

    async def how_many(session: Session, world: World, _: HTTPConnection) -> int:
        return len(await world.manager.sessions_of("ada"))

    for device in devices:
        await device.get(f"{device.agent} looks", how_many if device is devices[2] else None)


async def store_away(world: World) -> None:
    """The store goes, and comes back."""
    browser = await _signed_in(world)
    visitor = Browser(world)
    world.ground.cut()
    await visitor.get("a visitor looks", lambda s, *_: s.get("cart"))
    await browser.get("look", lambda s, *_: s.get("cart"))
    await browser.post("change", puts(cart=["pear"]))
    await browser.get("a page without session", lambda *_: None, loads=False)
    await browser.get("a list", lambda w: w.manager.sessions_of("ada"), loads=False)
    await browser.post("revoke", lambda w: w.manager.revoke_all("ada"), loads=False)
    await browser.socket("socket")
    await world.ground.heal()
    await browser.get("look again")
    await browser.post("change again", puts(cart=["plum"]))


async def store_goes_meanwhile(world: World) -> None:
    """The store goes while a request is under way."""
    browser = await _signed_in(world)

    def cut(session: Session, world: World, _: HTTPConnection) -> None:
        world.ground.cut()
        session["cart"] = ["pear"]

    await browser.post("change", cut)
    await world.ground.heal()
    await browser.get("look")


async def socket(world: World) -> None:
    """A WebSocket changes the session, saves it, and ends with the session."""
    browser = await _signed_in(world)

    async def saves(session: Session, world: World) -> None:
        session["chat"] = 1
        await session.save()

    async def revoke() -> None:
        await world.other_manager().revoke_all("ada")

    stays = not world.plan.middleware.get("end_sockets", True)
    await browser.socket("socket", saves, stays=True)
    await browser.get("look")
    await browser.socket("socket that is ended", meanwhile=revoke, stays=stays)
    await browser.get("look again")


async def exclusive(world: World) -> None:
    """A counter and a block of which one runs at a time."""
    browser = await _signed_in(world)

    def count(data: dict[str, Any]) -> int:
        data["n"] = data.get("n", 0) + 1
        return int(data["n"])

    async def counts(session: Session, world: World, _: HTTPConnection) -> int:
        return await world.manager.update(session, count)

    async def holds(session: Session, world: World, _: HTTPConnection) -> None:
        async with session.exclusive():
            session["held"] = session.get("n")

    await browser.post("count", counts)
    await browser.post("count again", counts)
    await browser.post("hold", holds)
    await browser.post("save", _saves)
    await browser.get("look", lambda s, *_: s.refresh())


async def _saves(session: Session, world: World, _: HTTPConnection) -> None:
    session["saved"] = 1
    await session.save()


async def failing(world: World) -> None:
    """Handlers fail, by an answer and by an exception."""
    browser = await _signed_in(world)
    await browser.post("400", puts(a=1), answers=400)
    await browser.post("500", puts(b=1), answers=500)

    def breaks(session: Session, world: World, _: HTTPConnection) -> None:
        session["c"] = 1
        raise RuntimeError("a bug of the application")

    await browser.post("a bug", breaks)
    await browser.post("a sign-in that fails", signs_in("bob"), answers=403)
    await browser.get("look")

    def signs_out_and_breaks(session: Session, world: World, _: HTTPConnection) -> None:
        world.sign_out(session)
        raise RuntimeError("a bug of the application")

    await browser.post("a sign-out with a bug", signs_out_and_breaks)
    await browser.get("look again")


async def cancelled(world: World) -> None:
    """A request is cancelled in the middle, when it has changed something."""
    browser = await _signed_in(world)
    began = asyncio.Event()

    async def hangs(session: Session, world: World, _: HTTPConnection) -> None:
        session["lost"] = 1
        began.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(browser.post("hang", hangs))
    await began.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    world.show("cancelled", cancelled=task.cancelled())
    await browser.get("look")


async def from_elsewhere(world: World) -> None:
    """The same cookie comes from another address with another browser, and from its own again."""
    browser = await _signed_in(world)
    thief = browser.copy()
    thief.address, thief.agent = "203.0.113.9", "curl"
    await thief.get("look", lambda s, *_: s.get("cart"))
    await thief.post("change", puts(cart=["stolen"]))
    await browser.get("the user looks")


async def other_origin(world: World) -> None:
    """Another origin's page sends requests with the browser's cookies."""
    browser = await _signed_in(world)
    await browser.post("change", puts(cart=["pear"]), origin=OTHER)
    await browser.get("look", origin=OTHER)
    await browser.socket("socket", origin=OTHER)
    await browser.post("sign-out", clears, origin=OTHER)
    await Browser(world).post("a visitor", puts(cart=["pear"]), origin=OTHER)
    await browser.get("look again")


async def refused_user(world: World) -> None:
    """A user signs in whom the application's own manager refuses, if it has one."""
    browser = await _signed_in(world, "mallory")
    await browser.get("look")
    await browser.post("change", puts(cart=["pear"]))
    await browser.get("look again", lambda s, *_: s.refresh())
    await browser.socket("socket")


async def large(world: World) -> None:
    """More data than usual."""
    browser = await _signed_in(world)
    await browser.post("much", puts(much="m" * 5000))
    await browser.get("look", lambda s, *_: len(s.get("much", "")))


async def old_key(world: World) -> None:
    """A session that was sealed with the key of yesterday goes on."""
    browser = Browser(world)
    old = world.other_manager(world.plan.older)
    session = await old.load(None)
    world.assign(session, "ada")
    session["cart"] = ["pear"]
    answer = await old.commit(session)
    assert answer.token is not None
    world.tokens.append(answer.token.value)
    browser.carry(answer.token.value)
    await world.ground.settle()
    await browser.get("look")
    await browser.post("change", puts(cart=["plum"]))
    await browser.post("rotate", rotates)
    await browser.get("look again")


async def _someone_else(world: World) -> None:
    """Somebody has a session of ours already."""
    zoe = await _signed_in(world, "zoe")
    await zoe.get("zoe looks")


async def moving_in(world: World) -> None:
    """A user of another library's sessions comes, changes something, and signs out."""
    await _someone_else(world)
    browser = Browser(world)
    browser.has({"user_id": "ada", "cart": ["pear"]})
    stolen = browser.copy()
    await browser.get("come")
    await browser.post("change", puts(cart=["plum"]))
    await browser.get("look")
    await browser.post("sign-out", clears)
    world.show("left there", sessions=sorted(world.legacy["legacy"].sessions))
    await browser.get("look again")
    await stolen.get("the old cookie")


async def moving_in_twice(world: World) -> None:
    """A user of two other libraries' sessions; the other one's ends there."""
    await _someone_else(world)
    browser = Browser(world)
    browser.has({"user_id": "ada", "cart": ["pear"]}, cookie="older")
    await browser.get("come")
    world.legacy["older"].sessions.clear()
    await browser.get("look")
    await browser.post("sign-out", signs_out)
    await browser.get("look again")


async def moving_in_signed(world: World) -> None:
    """A user of Starlette's own sessions comes, and signs out."""
    await _someone_else(world)
    browser = Browser(world)
    browser.has({"user_id": "ada", "n": 2}, cookie="signed")
    await browser.get("come")
    await browser.get("look")
    await browser.post("sign-out", clears)
    await browser.get("look again")


async def signed_before(world: World) -> None:
    """Such a user has signed out. An earlier copy of the cookie opens nothing."""
    browser = Browser(world)
    browser.has({"user_id": "ada", "n": 1}, cookie="signed")
    earlier = browser.copy()
    browser.has({"user_id": "ada", "n": 2}, cookie="signed")
    await browser.get("come")
    await browser.post("sign-out", clears)
    world.forget()
    await earlier.get("an earlier copy")
    await earlier.get("look again")


async def worker(world: World) -> None:
    """A worker reads and changes a session, and lists them all."""
    browser = await _signed_in(world)
    token = world.tokens[0]

    async def work(manager: SessionManager) -> Any:
        session = await manager.load(token, check_binding=False)
        session["from"] = "worker"
        await manager.commit(session)
        return session.principal, len(await manager.sessions_of("ada"))

    await world.elsewhere("work", work)
    await browser.get("look")


JOURNEYS: Final[dict[str, Journey]] = {
    journey.__name__: journey
    for journey in (
        first_visit,
        hostile,
        signing_in,
        the_same_user_again,
        another_user,
        changing,
        at_once,
        conflict,
        touching,
        expiring,
        rotating,
        more_rights,
        signing_out,
        clearing,
        revoking,
        revoking_all,
        revoking_by,
        ending_others,
        many_devices,
        store_away,
        store_goes_meanwhile,
        socket,
        exclusive,
        failing,
        cancelled,
        from_elsewhere,
        other_origin,
        refused_user,
        large,
        old_key,
        moving_in,
        moving_in_twice,
        moving_in_signed,
        signed_before,
        worker,
    )
}
