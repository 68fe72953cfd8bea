"""Walks at random through a shop in PHP and an application of ours: both always say the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from redis_sessions import get_session
from tests.support.apps import app_of
from tests.support.shop import browser, phpredis, shop

PHP: Final = [
    *("/login?user=alice", "/login?user=bob&keep_old=1", "/login?user=bob&keep_id=1"),
    *("/logout", "/forget", "/forget?keep_old=1", "/regenerate", "/regenerate?keep_old=1"),
    *("/add?sku=tea", "/add?sku=rum", "/count", "/"),
]
OURS: Final = [
    *("/?login=alice", "/?login=bob", "/?login=alice&add=gin", "/?logout=1"),
    *("/?add=tea", "/?add=gin", "/", "/"),
]


@pytest.fixture(scope="module")
def shop_url(php: Path) -> Iterator[str]:
    """The shop, whose requests say what is in its php.ini."""
    with shop(php) as url:
        yield url


async def _do(request: Request) -> Response:
    session = get_session(request)
    for step, value in request.query_params.items():
        if step == "add":
            cart = dict(session.get("cart") or {})
            session["cart"] = {**cart, value: cart.get(value, 0) + 1}
        elif step == "login":
            session.sign_in(value)
        else:
            session.clear()
    return JSONResponse(dict(session))


@pytest.mark.parametrize("seed", [3, 7, 10])
async def test_both_sides_say_the_same(
    redis_url: str, prefix: str, shop_url: str, seed: int
) -> None:
    """Whatever was done on either side, the user and the cart are the same on both."""
    place = phpredis(redis_url, f"{prefix}php:")
    source, random = place.source(), Random(seed)  # noqa: S311  # nothing secret
    app = app_of(
        Route("/", _do),
        store=redis_url,
        prefix=prefix,
        secret_key="interop-tests-alone-have-this-secret-key",
        https_only=False,
        accept=[source],
    )
    trace = list[Any]()
    async with browser(app, shop_url, place.ini) as at:
        for _ in range(40):
            for _ in range(random.choice((1, 1, 2, 3))):
                path = random.choice(PHP if random.random() < 0.5 else OURS)
                trace.append(path)
                await (at.ours(path) if path in OURS else at.php(path))
            ours = await at.ours("/")
            theirs = dict(await at.php("/"))  # an empty array is a list
            said = theirs.get("user", {}).get("id"), dict(theirs.get("cart") or {})
            trace.append(said)
            assert (ours.get("user_id"), ours.get("cart", {})) == said, trace[-12:]
    await source.close()
