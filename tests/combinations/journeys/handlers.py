"""What handlers do in many journeys."""

from __future__ import annotations

from typing import Any

from starlette.requests import HTTPConnection

from redis_sessions import Session
from tests.combinations.browser import Browser
from tests.combinations.world import Act, World


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


async def signed_in(world: World, user: str = "ada", **proof: Any) -> Browser:
    """A browser whose user has just signed in."""
    browser = Browser(world)
    await browser.post("sign-in", signs_in(user, **proof))
    return browser
