"""Values that can't be stored: named, and nothing of the request reaches Redis."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from redis_sessions import (
    ConfigurationError,
    MemoryStore,
    RedisStore,
    Session,
    SessionEncodeError,
    SessionError,
)
from tests.properties.strategies import examples
from tests.support.servers import StartServer, as_owner
from tests.support.site import Site


class Text(str):
    """A subclass of str, which msgspec doesn't take."""

    __slots__ = ()


class Number(int):
    """A subclass of int."""


class Plain:
    """An object of a class that nothing knows."""


def cycle() -> dict[str, Any]:
    inner: dict[str, Any] = {}
    inner["again"] = inner
    return inner


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "an int over 64 bits": (lambda: 2**64, "int"),
    "an int below 64 bits": (lambda: -(2**63) - 1, "int"),
    "a surrogate": (lambda: "a\ud800", "str"),
    "a deque": (lambda: deque([1]), "collections.deque"),
    "a complex": (lambda: 1j, "complex"),
    "a path": (lambda: PurePosixPath("a"), "PurePosixPath"),
    "a subclass of str": (lambda: Text("a"), "Text"),
    "a subclass of int": (lambda: Number(1), "Number"),
    "an object": (Plain, "Plain"),
    "a class": (lambda: Plain, "type"),
    "a function": (lambda: cycle, "function"),
    "a generator": (lambda: (n for n in [1]), "generator"),
    "a range": (lambda: range(3), "range"),
    "an exception": (lambda: ValueError("a"), "ValueError"),
}


@pytest.fixture
async def watched(start_server: StartServer, prefix: str) -> AsyncIterator[tuple[Site, Redis]]:
    server = start_server()
    store = RedisStore(server.url, prefix=prefix)
    site = Site(store)
    await store.connect()
    async with Redis.from_url(as_owner(server.url)) as client:
        yield site, client
    await store.close()


async def writes(client: Redis) -> dict[str, int]:
    """How often each command but reading was called."""
    stats: dict[str, dict[str, Any]] = await client.info("commandstats")
    reads = ("cmdstat_info", "cmdstat_mget", "cmdstat_get", "cmdstat_ping")
    return {name: entry["calls"] for name, entry in stats.items() if name not in reads}


@pytest.mark.parametrize(("make", "kind"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("stored", [False, True], ids=["new", "stored"])
async def test_a_value_that_cannot_be_stored_is_named(
    make: Callable[[], Any], kind: str, stored: bool, watched: tuple[Site, Redis]
) -> None:
    """The error names path and type, the response is 500, and nothing was sent to the store."""
    site, client = watched
    token = [await site.store_session({"n": 1})] if stored else []
    before = await writes(client)

    reply = await site.visit(*token, act=lambda s: s.update(n=2, cart=["a", "b", "c", make()]))

    assert reply.status == 500
    assert isinstance(reply.error, SessionEncodeError)
    assert "session['cart'][3]" in str(reply.error)
    assert kind in str(reply.error)
    assert "enc_hook" in str(reply.error)
    assert reply.cookies == []
    assert await writes(client) == before
    if stored:
        assert (await site.visit(*token)).seen == {"n": 1}


def nest(steps: list[str | int], leaf: Any) -> Any:
    for step in reversed(steps):
        leaf = {step: leaf} if isinstance(step, str) else [*range(step), leaf]
    return leaf


@examples
@given(
    steps=st.lists(st.text("ab'\"é\\", max_size=3) | st.integers(0, 5), min_size=0, max_size=8),
    made=st.sampled_from([1j, 2**64, "\udc00", deque([1])]),
)
async def test_the_path_leads_to_the_value(steps: list[str | int], made: object) -> None:
    """However deep the value is, the path is the expression that reads it."""
    store = MemoryStore()

    reply = await Site(store).visit(act=lambda s: s.update(key=nest(steps, made)))

    path = "session" + "".join(f"[{step!r}]" for step in ["key", *steps])
    assert str(reply.error).startswith(f"{path} can't be stored: a value of type ")
    assert len(store) == 0


@pytest.mark.parametrize("key", [1j, Plain(), ("a", 1j)], ids=lambda key: type(key).__name__)
async def test_a_key_that_cannot_be_stored_is_named(key: Any) -> None:
    """Of a key that can't be stored, the error names its type and the dict that has it."""
    reply = await Site(MemoryStore()).visit(act=lambda s: s.update(cart={"a": {key: 1}}))

    assert isinstance(reply.error, SessionEncodeError)
    assert "session['cart']['a']" in str(reply.error)
    assert "key" in str(reply.error)
    assert type(key).__name__ in str(reply.error)


@pytest.mark.parametrize("size", [4096, 100_000])
async def test_too_large_data_are_refused(size: int, watched: tuple[Site, Redis]) -> None:
    """Over `max_size`: the error names both sizes and the largest keys; nothing is sent."""
    site, client = watched
    small = Site(site.store, max_size=size)
    token = await small.store_session({"n": 1})
    before = await writes(client)
    data = {"a": "x" * (size // 2), "b": "x" * (size // 3), "c": "x" * (size // 4), "d": 1}

    reply = await small.visit(token, act=lambda s: s.update(data))

    text = str(reply.error)
    assert isinstance(reply.error, SessionEncodeError)
    assert f"max_size={size}" in text
    assert text.index("'a'") < text.index("'b'") < text.index("'c'")
    assert "'d'" not in text
    assert str(size // 2) in text.replace(str(size // 2 + 3), str(size // 2))
    assert reply.status == 500
    assert await writes(client) == before
    assert (await small.visit(token)).seen == {"n": 1}


async def test_the_limit_is_what_it_says() -> None:
    """`max_size` is of the encoded data, and inclusive."""
    site = Site(MemoryStore(), max_size=100)

    fits = await site.visit(act=lambda s: s.update(a="x" * 95))  # map, key, text: 1 + 2 + 2
    over = await site.visit(act=lambda s: s.update(a="x" * 96))

    assert fits.error is None
    assert "is 101 bytes, over max_size=100" in str(over.error)


@pytest.mark.parametrize(
    ("levels", "refused"),
    [(1, False), (99, False), (100, True), (400, True), (900, True), (5_000, True)],
)
async def test_too_deep_data_are_refused(levels: int, refused: bool) -> None:
    """Beyond 100 levels, the session's own included, on every Python; what is stored loads."""
    site = Site(MemoryStore())
    token = await site.store_session({"n": 1})

    reply = await site.visit(token, act=lambda s: s.update(deep=nested(levels)))

    seen = (await site.visit(token)).seen
    if refused:
        assert isinstance(reply.error, SessionEncodeError)
        assert reply.status == 500
        assert seen == {"n": 1}
    else:
        assert reply.error is None
        assert seen == {"n": 1, "deep": nested(levels)}


@pytest.mark.parametrize(
    "make", [cycle, lambda: nested(5_000), lambda: nested(100_000)], ids=["cycle", "5k", "100k"]
)
async def test_the_error_of_endless_data_is_short(make: Callable[[], Any]) -> None:
    """Of data that contain themselves, or nest without end, the error says so in a few words."""
    reply = await Site(MemoryStore()).visit(act=lambda s: s.update(cart=make()))

    assert isinstance(reply.error, SessionEncodeError)
    assert "nested deeper than 100 levels" in str(reply.error)
    assert "session['cart']" in str(reply.error)
    assert len(str(reply.error)) < 500


@pytest.mark.parametrize("stored", [False, True], ids=["new", "stored"])
@pytest.mark.parametrize("value", [{"sub": 1}, [1], (1,), True, 1.5, b"a"], ids=repr)
async def test_a_principal_that_cannot_be_compared_is_refused(value: object, stored: bool) -> None:
    """It is an error of the request that sets it, and nothing is stored."""
    store = MemoryStore()
    site = Site(store)
    token = [await site.store_session({"n": 1})] if stored else []

    reply = await site.visit(*token, act=lambda s: s.update(user_id=value))

    assert isinstance(reply.error, ConfigurationError)
    assert (reply.status, reply.cookies, len(store)) == (500, [], len(token))
    assert not site.events


async def test_a_sign_out_holds_although_the_rest_is_refused() -> None:
    """Who signs out in a request whose other data can't be stored is signed out all the same."""
    site = Site(MemoryStore())
    token = await site.store_session({"user_id": "ann", "n": 1})

    def act(session: Session) -> None:
        del session["user_id"]
        session["n"] = 1j

    reply = await site.visit(token, act=act)

    assert reply.status == 500
    assert (await site.visit(token)).seen == {}


async def test_saving_what_cannot_be_stored() -> None:
    """`await session.save()` raises the same error, in the handler."""
    site = Site(MemoryStore())
    token = await site.store_session({"n": 1})
    caught: list[SessionError] = []

    async def act(session: Session) -> None:
        session["n"] = [1j]
        try:
            await session.save()
        except SessionEncodeError as exc:
            caught.append(exc)
            session["n"] = 2

    reply = await site.visit(token, act=act)

    assert reply.error is None
    assert "session['n'][0]" in str(caught[0])
    assert (await site.visit(token)).seen == {"n": 2}
