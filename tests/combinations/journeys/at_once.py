"""Journeys in which several requests, or other processes, do something at once."""

from __future__ import annotations

from typing import Any

from starlette.requests import HTTPConnection

from redis_sessions import Session, SessionManager
from tests.combinations.browser import Browser
from tests.combinations.journeys.handlers import clears, puts, signed_in, signs_in
from tests.combinations.world import World


async def at_once(world: World) -> None:
    """Two requests of one browser change different keys at once."""
    browser = await signed_in(world)
    other = browser.copy()

    async def slow(session: Session, world: World, _: HTTPConnection) -> None:
        session["slow"] = 1
        await other.post("fast", puts(fast=2))

    await browser.post("slow", slow)
    await browser.get("look")


async def conflict(world: World) -> None:
    """Two requests of one browser change the same key at once."""
    browser = await signed_in(world)
    other = browser.copy()

    async def slow(session: Session, world: World, _: HTTPConnection) -> None:
        session["n"] = 1
        await other.post("fast", puts(n=2))

    await browser.post("slow", slow)
    await browser.get("look")


async def clearing(world: World) -> None:
    """A session ends by clear(), also while another request is under way."""
    browser = await signed_in(world)
    other = browser.copy()

    async def slow(session: Session, world: World, _: HTTPConnection) -> None:
        session["late"] = 1
        await other.post("clear", clears)

    await browser.post("slow", slow)
    await browser.get("look")
    await browser.post("begin again", puts(cart=["plum"]))


async def revoking(world: World) -> None:
    """A worker ends one of a user's sessions."""
    phone, laptop = await signed_in(world), Browser(world)
    await laptop.post("another device", signs_in("ada"))
    id = world.tokens[0][:20]
    await world.elsewhere("revoke", lambda manager: manager.revoke(id, "ada"))
    await phone.get("the phone")
    await laptop.get("the laptop")


async def revoking_all(world: World) -> None:
    """A worker ends all of a user's sessions. One of them has a request under way."""
    phone, laptop = await signed_in(world), Browser(world)
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
    phone, laptop = await signed_in(world), Browser(world)
    await laptop.post("another device", signs_in("ada"))

    async def end(session: Session, world: World, _: HTTPConnection) -> int:
        return await world.manager.revoke_all("ada", keep=session.id)

    await laptop.post("end the others", end)
    await phone.get("the phone")
    await laptop.get("the laptop")
    await laptop.post("end all", lambda s, w, _: w.manager.revoke_all("ada"))
    await laptop.get("look")


async def socket(world: World) -> None:
    """A WebSocket changes the session, saves it, and ends with the session."""
    browser = await signed_in(world)

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


async def worker(world: World) -> None:
    """A worker reads and changes a session, and lists them all."""
    browser = await signed_in(world)
    token = world.tokens[0]

    async def work(manager: SessionManager) -> Any:
        session = await manager.load(token, check_binding=False)
        session["from"] = "worker"
        await manager.commit(session)
        return session.principal, len(await manager.sessions_of("ada"))

    await world.elsewhere("work", work)
    await browser.get("look")
