"""A shop in PHP and an application of ours: one login and one cart on both sides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from redis import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from redis_sessions import SessionConflictError, get_session
from redis_sessions.accept import Found
from redis_sessions.php import PhpSessions
from redis_sessions.testing.topology import ClusterTopology
from tests.support.apps import Events, app_of
from tests.support.servers import as_owner
from tests.support.shop import Browser, Place, browser, phpredis, shop, tcp

SECRET: Final = "interop-tests-alone-have-this-secret-key"


@pytest.fixture(scope="module")
def shop_url(php: Path) -> Iterator[str]:
    """The shop, whose requests say what is in its php.ini."""
    with shop(php) as url:
        yield url


@pytest.fixture(params=["phpredis", "predis", "cluster"])
def place(request: pytest.FixtureRequest, prefix: str, redis_url: str) -> Place:
    """Each of PHP's handlers in turn."""
    theirs = f"{prefix}php:"
    if request.param == "phpredis":
        return phpredis(redis_url, theirs)
    if request.param == "predis":
        request.getfixturevalue("php_libraries")
        return Place(redis_url, theirs, {"predis": tcp(redis_url), "prefix": theirs})
    return _cluster(request.getfixturevalue("cluster_topology"), theirs)


def _cluster(topology: ClusterTopology, prefix: str) -> Place:
    seeds = "&".join(f"seed[]={node.address}" for node in topology.nodes)
    path = f"{seeds}&prefix={prefix}"
    ini = {"session.save_handler": "rediscluster", "session.save_path": path}
    return Place(topology.url, prefix, ini)


async def _do(request: Request) -> Response:
    session = get_session(request)
    for step, value in request.query_params.items():
        if step == "add":
            cart = dict(session.get("cart") or {})
            session["cart"] = {**cart, value: cart.get(value, 0) + 1}
        elif step == "login":
            session.sign_in(value)
        else:
            session.sign_out()
    return JSONResponse(dict(session))


def _app(place: Place, prefix: str, source: PhpSessions, events: Events) -> Starlette:
    return app_of(
        Route("/do", _do),
        store=place.url,
        prefix=prefix,
        secret_key=SECRET,
        https_only=False,
        accept=[source],
        on_event=events,
    )


@asynccontextmanager
async def visiting(
    place: Place, prefix: str, shop_url: str, events: Events | None = None
) -> AsyncGenerator[Browser, None]:
    """A browser of the shop, and of an application that shares the login and the cart with it."""
    source = place.source()
    app = _app(place, prefix, source, Events() if events is None else events)
    async with browser(app, shop_url, place.ini) as found:
        try:
            yield found
        finally:
            await source.close()


async def test_one_login(place: Place, prefix: str, shop_url: str) -> None:
    """Who signs in or out on one side is so on the other, and the cart is the same on both."""
    events = Events()
    async with visiting(place, prefix, shop_url, events) as at:
        await at.php("/add?sku=tea")
        assert await at.ours("/do") == {"cart": {"tea": 1}}
        # A sign-in with PHP, which gives the session another id.
        await at.php("/login?user=alice")
        assert await at.ours("/do") == {"cart": {"tea": 1}, "user_id": "alice"}
        await at.ours("/do?add=milk")
        assert (await at.php("/"))["cart"] == {"tea": 1, "milk": 1}
        await at.php("/add?sku=rum")
        assert (await at.ours("/do"))["cart"] == {"tea": 1, "milk": 1, "rum": 1}
        await at.php("/logout")
        assert await at.ours("/do") == {}
        # A sign-in here, and a sign-out with PHP that keeps its session.
        before = at.php_id
        await at.ours("/do?login=bob&add=gin")
        assert at.php_id != before
        assert await at.php("/") == {"user": {"id": "bob"}, "cart": {"gin": 1}}
        await at.php("/forget")
        assert await at.ours("/do") == {"cart": {"gin": 1}}
        # A sign-in with PHP that keeps its id, and a sign-out here.
        await at.php("/login?user=carol&keep_id=1")
        assert (await at.ours("/do"))["user_id"] == "carol"
        ended = at.php_id
        await at.ours("/do?logout=1")
        assert await at.php("/") == []
        assert at.php_id != ended
    assert events.named("accepted") == ["PhpSessions PHPSESSID"] * 4


async def test_new_ids_beside_old_ones(redis_url: str, prefix: str, shop_url: str) -> None:
    """By default PHP keeps a session under its old id, too; the one in the cookie is shared.

    With 6 bits a character PHP's ids have commas, which it writes as %2C into the cookie.
    """
    place = phpredis(redis_url, f"{prefix}php:")
    place.ini |= {"session.sid_bits_per_character": "6", "session.sid_length": "256"}
    async with visiting(place, prefix, shop_url) as at:
        await at.php("/login?user=alice")
        assert await at.ours("/do?add=tea") == {"user_id": "alice", "cart": {"tea": 1}}
        await at.php("/regenerate?keep_old=1")
        await at.ours("/do?add=tea")
        assert (await at.php("/"))["cart"] == {"tea": 2}
        await at.php("/login?user=bob&keep_old=1")
        assert (await at.ours("/do"))["user_id"] == "bob"
        await at.php("/forget?keep_old=1")
        assert await at.ours("/do") == {"cart": {"tea": 2}}


async def test_a_session_that_is_not_accepted_goes_on_in_php(
    redis_url: str, prefix: str, shop_url: str
) -> None:
    """Who is signed in with PHP stays so, although this session is too large for us."""
    place = phpredis(redis_url, f"{prefix}php:")
    async with visiting(place, prefix, shop_url) as at:
        await at.php("/login?user=alice")
        source = place.source()
        await source.write(str(at.php_id), {"cart": {"x": "x" * 70_000}})
        assert await at.ours("/do?add=tea") == {"cart": {"tea": 1}}
        assert await at.ours("/do?add=tea") == {"cart": {"tea": 2}}
        assert (await at.php("/"))["user"]["id"] == "alice"
        await at.ours("/do?login=bob")
        assert await at.php("/") == {"user": {"id": "bob"}, "cart": {"tea": 2}}
        await source.close()


async def test_objects_stay_in_php(redis_url: str, prefix: str, shop_url: str) -> None:
    """An object that PHP puts where the map leads is none here, and changes don't replace it."""
    place = phpredis(redis_url, f"{prefix}php:")
    async with visiting(place, prefix, shop_url) as at:
        await at.php("/login?user=alice")
        await at.ours("/do?add=tea")
        await at.php("/object?name=cart")
        assert await at.ours("/do") == {"user_id": "alice"}
        await at.ours("/do?login=alice")
        assert (await at.php("/"))["cart"] == {"a": 1}


async def test_a_page_s_first_requests(redis_url: str, prefix: str, shop_url: str) -> None:
    """They come together, one of them has our cookie, and none of them ends PHP's session."""
    place = phpredis(redis_url, f"{prefix}php:")
    async with visiting(place, prefix, shop_url) as at:
        await at.php("/login?user=alice")
        id = at.php_id
        for answer in await asyncio.gather(*(at.ours("/do") for _ in range(4))):
            assert answer == {"user_id": "alice"}
        assert at.php_id == id
        assert (await at.ours("/do?add=tea"))["user_id"] == "alice"
        assert (await at.php("/"))["cart"] == {"tea": 1}


async def test_anonymous_carts(place: Place, prefix: str, shop_url: str) -> None:
    """A cart that began here is in the shop, too, and goes along at a sign-in on either side."""
    async with visiting(place, prefix, shop_url) as at:
        await at.ours("/do?add=tea")
        assert await at.php("/add?sku=rum") == {"cart": {"tea": 1, "rum": 1}}
        await at.ours("/do?login=alice")
        assert await at.php("/") == {"cart": {"tea": 1, "rum": 1}, "user": {"id": "alice"}}


async def test_what_php_has_besides(place: Place, prefix: str, shop_url: str) -> None:
    """What only PHP knows stays there, and each sign-in has an id that nobody had before."""
    async with visiting(place, prefix, shop_url) as at:
        await at.php("/count")
        first = str(at.php_id)
        await at.ours("/do?add=tea")
        assert await at.php("/") == {"count": 1, "cart": {"tea": 1}}
        assert at.php_id == first
        await at.ours("/do?login=alice")
        assert await at.php("/regenerate") == {
            "count": 1,
            "cart": {"tea": 1},
            "user": {"id": "alice"},
        }
        assert await at.ours("/do") == {"user_id": "alice", "cart": {"tea": 1}}
        source = place.source()
        assert await source.find(first) is None
        await source.close()


@pytest.mark.parametrize(
    ("serializer", "compression"),
    [
        ("php", None),
        ("php", "lzf"),
        ("php_serialize", "zstd"),
        ("php_binary", "lz4"),
        ("igbinary", None),
        ("msgpack", None),
    ],
)
async def test_formats(
    redis_url: str, prefix: str, shop_url: str, serializer: Any, compression: Any
) -> None:
    """What PHP stores is found, and what is written for it is what PHP reads."""
    place = phpredis(redis_url, prefix)
    place.ini["session.serialize_handler"] = serializer
    place.ini["redis.session.compression"] = compression or "none"
    source = place.source(serializer=serializer, compression=compression, map=None)
    async with browser(Starlette(), shop_url, place.ini) as at:
        await at.php("/object")
        await at.php("/login?user=alice")
        id = str(at.php_id)
        found = await source.find(id)
        assert isinstance(found, Found)
        assert source.map(found.data) == {"user": {"id": "alice", "name": "Zoë"}}
        cart = {"tea": 1, "Ölgötz": [1, 2.5, None, True]}
        assert await source.write(id, {"cart": cart})
        session = await at.php("/")
        assert session["cart"] == cart
        assert session["seen"] == {"a": 1}  # its object is as it was
    await source.close()


async def test_every_write_counts(redis_url: str, prefix: str, shop_url: str) -> None:
    """PHP's lock is ours, too: 100 writes of both sides at once, and none is lost."""
    place = phpredis(redis_url, prefix)
    place.ini |= {"redis.session.lock_wait_time": "2000", "redis.session.lock_retries": "5000"}
    names = [f"key{number}" for number in range(50)]
    source = place.source(map=None, write_back=names)
    async with browser(Starlette(), shop_url, place.ini) as at:
        await at.php("/count")
        id = str(at.php_id)

        async def write(some: list[str]) -> None:
            for name in some:
                assert await source.write(id, {name: name})

        async def count() -> None:
            for _ in range(10):
                await at.php("/count")

        writes = [write(names[first::5]) for first in range(5)]
        await asyncio.gather(*writes, *(count() for _ in range(5)))
        assert await at.php("/") == {"count": 51, **{name: name for name in names}}
    await source.close()


async def test_writes_in_a_cluster(
    cluster_topology: ClusterTopology, prefix: str, shop_url: str
) -> None:
    """Where PHP has no lock, writes of ours that come at once are all there, too."""
    place = _cluster(cluster_topology, prefix)
    names = [f"key.{number}" for number in range(10)]
    source = place.source(map=None, write_back=names)
    async with browser(Starlette(), shop_url, place.ini) as at:
        await at.php("/count")
        id = str(at.php_id)
        assert all(await asyncio.gather(*(source.write(id, {name: name}) for name in names)))
        assert await at.php("/") == {"count": 1, **{name: name for name in names}}
    await source.close()


async def test_php_holds_the_lock(
    redis_url: str, prefix: str, shop_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write waits for PHP's lock, and then fails; an end happens all the same."""
    monkeypatch.setattr("redis_sessions.php.sessions._WAIT", 0.05)
    place = phpredis(redis_url, prefix)
    source = place.source()
    async with browser(Starlette(), shop_url, place.ini) as at:
        await at.php("/login?user=alice")
        id = str(at.php_id)
        with Redis.from_url(as_owner(redis_url)) as client:
            client.set(f"{prefix}{id}_LOCK", "host|1")
            with pytest.raises(SessionConflictError):
                await source.write(id, {"cart": {}})
            assert await source.read(id) is not None
            await source.end(id)
            assert await source.read(id) is None
            assert client.get(f"{prefix}{id}_LOCK") == b"host|1"
    await source.close()


async def test_a_session_that_ended_stays_so(redis_url: str, prefix: str, shop_url: str) -> None:
    """What PHP has ended isn't stored again by a write, and isn't there."""
    place = phpredis(redis_url, prefix)
    source = place.source()
    async with browser(Starlette(), shop_url, place.ini) as at:
        await at.php("/login?user=alice")
        id = str(at.php_id)
        await at.php("/logout")
        assert not await source.write(id, {"cart": {}})
        assert await source.read(id) is None
        assert await source.find(id) is None
    await source.close()


LARAVEL_KEY: Final = "q5xvLYgo1mGfNZc1J0TrPp8bWq2hXkS7uVd3eAyR9tE="


@pytest.mark.usefixtures("php_libraries")
@pytest.mark.parametrize("framework", ["symfony", "laravel"])
async def test_frameworks(redis_url: str, prefix: str, shop_url: str, framework: str) -> None:
    """One login and one cart with the sessions of Symfony and of Laravel."""
    url = redis_url
    theirs: dict[str, Any] = {"prefix": f"{prefix}php:"}
    path = "_sf2_attributes."
    user = f"{path}user"
    if framework == "laravel":
        user, path = "login_web_59ba36addc2b2f9401580f014c7f58ea4e30989d", ""
        theirs |= {"serializer": "laravel", "cookie": "laravel_session"}
        theirs |= {"prefix": f"{prefix}php:laravel_cache_:", "app_key": f"base64:{LARAVEL_KEY}"}
    source = PhpSessions(
        url,
        map={"user_id": user, "cart": f"{path}cart"},
        write_back={"user_id", "cart"},
        https_only=False,
        **theirs,
    )
    place = Place(url, prefix, {"framework": framework, "prefix": f"{prefix}php:"})
    place.ini |= {"port": int(url.split(":")[-1].split("/")[0]), "key": LARAVEL_KEY}
    events = Events()
    async with browser(_app(place, prefix, source, events), shop_url, place.ini) as at:
        await at.php("/add?sku=tea")
        await at.php("/login?user=7")
        assert await at.ours("/do?add=rum") == {"user_id": 7, "cart": {"tea": 1, "rum": 1}}
        assert await at.php("/") == {"user": 7, "cart": {"tea": 1, "rum": 1}}
        await at.php("/logout")
        assert await at.ours("/do") == {}
        await at.ours("/do?login=8")
        assert (await at.php("/add?sku=gin"))["user"] == "8"
        await at.ours("/do?logout=1")
        assert (await at.php("/"))["user"] is None
    await source.close()
    assert [reason for reason in events.named("rejected") if "ended" not in str(reason)] == []
