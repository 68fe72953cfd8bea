"""Journeys in which something goes wrong: hostile cookies, an outage, bugs, other origins."""

from __future__ import annotations

import asyncio

from starlette.requests import HTTPConnection

from redis_sessions import Session
from tests.combinations.browser import OTHER, Browser
from tests.combinations.journeys.handlers import clears, puts, signed_in, signs_in
from tests.combinations.world import World


async def hostile(world: World) -> None:
    """Cookies that nobody was given: no token, one of another session, and one that was changed."""
    browser = await signed_in(world)
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


def _does_nothing(world: World) -> None:
    """A page that needs no session."""


async def _lists(world: World) -> object:
    return await world.manager.sessions_of("ada")


async def _revokes(world: World) -> object:
    return await world.manager.revoke_all("ada")


async def store_away(world: World) -> None:
    """The store goes, and comes back."""
    browser = await signed_in(world)
    visitor = Browser(world)
    world.ground.cut()
    await visitor.get("a visitor looks", lambda s, _, __: s.get("cart"))
    await browser.get("look", lambda s, _, __: s.get("cart"))
    await browser.post("change", puts(cart=["pear"]))
    await browser.get("a page without session", bare=_does_nothing)
    await browser.get("a list", bare=_lists)
    await browser.post("revoke", bare=_revokes)
    await browser.socket("socket")
    await world.ground.heal()
    await browser.get("look again")
    await browser.post("change again", puts(cart=["plum"]))


async def store_goes_meanwhile(world: World) -> None:
    """The store goes while a request is under way."""
    browser = await signed_in(world)

    def cut(session: Session, world: World, _: HTTPConnection) -> None:
        world.ground.cut()
        session["cart"] = ["pear"]

    await browser.post("change", cut)
    await world.ground.heal()
    await browser.get("look")


async def failing(world: World) -> None:
    """Handlers fail, by an answer and by an exception."""
    browser = await signed_in(world)
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
    browser = await signed_in(world)
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
    browser = await signed_in(world)
    thief = browser.copy()
    thief.address, thief.agent = "203.0.113.9", "curl"
    await thief.get("look", lambda s, _, __: s.get("cart"))
    await thief.post("change", puts(cart=["stolen"]))
    await browser.get("the user looks")


async def other_origin(world: World) -> None:
    """Another origin's page sends requests with the browser's cookies."""
    browser = await signed_in(world)
    await browser.post("change", puts(cart=["pear"]), origin=OTHER)
    await browser.get("look", origin=OTHER)
    await browser.socket("socket", origin=OTHER)
    await browser.post("sign-out", clears, origin=OTHER)
    await Browser(world).post("a visitor", puts(cart=["pear"]), origin=OTHER)
    await browser.get("look again")


async def refused_user(world: World) -> None:
    """A user signs in whom the application's own manager refuses, if it has one."""
    browser = await signed_in(world, "mallory")
    await browser.get("look")
    await browser.post("change", puts(cart=["pear"]))
    await browser.get("look again", lambda s, _, __: s.refresh())
    await browser.socket("socket")
