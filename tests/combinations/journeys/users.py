"""Journeys of one user after the other: visits, sign-ins, changes, and their ends in time."""

from __future__ import annotations

from typing import Any

from starlette.requests import HTTPConnection

from redis_sessions import Session
from tests.combinations.browser import Browser
from tests.combinations.journeys.handlers import puts, rotates, signed_in, signs_in, signs_out
from tests.combinations.world import World

HOUR = 3600
DAY = 24 * 3600


async def first_visit(world: World) -> None:
    """A visitor looks, fills a cart and looks again."""
    browser = Browser(world)
    await browser.get("look")
    await browser.post("fill", puts(cart=["pear"]))
    await browser.get("look again")


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
    browser = await signed_in(world)
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
    browser = await signed_in(world)
    await browser.post("put", puts(cart=["pear"], seen={"a": 1}))
    await browser.post("append", lambda s, _, __: s["cart"].append("apple"))
    await browser.post("nested", lambda s, _, __: s["seen"].update(b=2))
    await browser.post("the same again", puts(cart=["pear", "apple"]))
    await browser.post("remove", lambda s, _, __: s.pop("seen"))
    await browser.get("look")


async def touching(world: World) -> None:
    """A user comes back every ten minutes, and then after an hour and a half."""
    browser = await signed_in(world)
    for number in range(3):
        world.clock.advance(600)
        await browser.get(f"look {number}")
    world.clock.advance(1.5 * HOUR)
    await browser.get("look later")


async def expiring(world: World) -> None:
    """A user comes back when all is over; another one has asked to be remembered."""
    browser = await signed_in(world)
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
    browser = await signed_in(world, methods=["pwd"])
    first = browser.copy()
    await browser.post("rotate", rotates)
    await first.get("the first token")
    second = browser.copy()
    await browser.post("prove", lambda s, _, __: s.authenticated(methods=["otp"]))
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
    browser = await signed_in(world)
    await browser.post("fill", puts(cart=["pear"]))
    stolen = browser.copy()
    await browser.post("sign-out", signs_out)
    await browser.get("look")
    await stolen.get("the old token")
    await browser.post("bob signs in", signs_in("bob"))
    await browser.get("bob looks")


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


async def exclusive(world: World) -> None:
    """A counter and a block of which one runs at a time."""
    browser = await signed_in(world)

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
    await browser.get("look", lambda s, _, __: s.refresh())


async def _saves(session: Session, world: World, _: HTTPConnection) -> None:
    session["saved"] = 1
    await session.save()


async def large(world: World) -> None:
    """More data than usual."""
    browser = await signed_in(world)
    await browser.post("much", puts(much="m" * 5000))
    await browser.get("look", lambda s, _, __: len(s.get("much", "")))


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
