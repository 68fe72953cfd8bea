"""Journeys of users who have a session of another library's."""

from __future__ import annotations

from tests.combinations.browser import Browser
from tests.combinations.journeys.handlers import clears, puts, signed_in, signs_out
from tests.combinations.world import World


async def _someone_else(world: World) -> None:
    """Somebody has a session of ours already."""
    zoe = await signed_in(world, "zoe")
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
