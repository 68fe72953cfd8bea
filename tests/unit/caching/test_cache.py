"""The cache over a store in memory: what is kept, for how long, and for whom."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from redis_sessions import (
    ConfigurationError,
    SessionEncodeError,
    StoreUnavailableError,
    generate_key,
)
from tests.unit.caching.setting import Kept, Loads, paused
from tests.unit.setting import ALICE, DAY, KEY, Setting, token_of


@dataclass
class User:
    id: int
    name: str


class Model(BaseModel):
    id: int
    name: str


async def test_once(at: Kept) -> None:
    """A value is loaded once within its ttl, and again afterwards."""
    load = Loads({"a": (1, 2)})
    for _ in range(3):
        assert await at.cache.get_or_set("key", load, ttl=60) == {"a": [1, 2]}
    assert load.calls == 1
    at.clock.advance(60)
    await at.cache.get_or_set("key", load, ttl=60)
    assert load.calls == 2
    assert at.cache.counts == {"hit": 2, "load": 2}


async def test_own_objects(at: Kept) -> None:
    """Whoever asks gets an object of their own, also those who waited for one load."""
    load = Loads([])
    first, second = await asyncio.gather(
        *(at.cache.get_or_set("key", load, ttl=60) for _ in range(2))
    )
    first.append(1)
    assert second == []
    assert await at.cache.get_or_set("key", load, ttl=60) == []


@pytest.mark.parametrize("type_", [User, Model])
async def test_typed(at: Kept, type_: Any) -> None:
    """With `as_` a loaded value looks as one that was kept, whatever the loader gives."""
    for value in ({"id": 7, "name": "Ada"}, type_(id=7, name="Ada")):
        for _ in range(2):
            key = f"user:{type(value).__name__}"
            user = await at.cache.get_or_set(key, Loads(value), ttl=60, as_=type_)
            assert user == type_(id=7, name="Ada")


async def test_misfit(at: Kept) -> None:
    """An entry that doesn't fit `as_` is loaded anew; a loaded value that doesn't is an error."""
    await at.cache.get_or_set("key", Loads({"name": "Ada"}), ttl=60)
    load = Loads({"id": 7, "name": "Ada"})
    assert await at.cache.get_or_set("key", load, ttl=60, as_=User) == User(7, "Ada")
    assert await at.cache.get_or_set("key", load, ttl=60, as_=User) == User(7, "Ada")
    assert load.calls == 1
    assert at.cache.counts["misfit"] == 1
    with pytest.raises(ValueError, match=r"^cache\['other'\], as it is stored, doesn't fit"):
        await at.cache.get_or_set("other", Loads({"id": "x"}), ttl=60, as_=User)


async def test_hooks(at: Kept) -> None:
    """The hooks turn values of other types into what is kept, and back."""

    def encode(value: complex) -> list[float]:
        return [value.real, value.imag]

    def decode(_: type, value: list[float]) -> complex:
        return complex(*value)

    cache = at.another(enc_hook=encode, dec_hook=decode)
    for _ in range(2):
        assert await cache.get_or_set("key", Loads(1 + 2j), ttl=60, as_=complex) == 1 + 2j
    with pytest.raises(
        SessionEncodeError, match=r"^cache\['b'\]\['a'\] can't be stored: .*enc_hook"
    ):
        await at.cache.get_or_set("b", Loads({"a": object()}), ttl=60)


async def test_too_deep(at: Kept) -> None:
    """A value that is nested too deep to be encoded is an error that names its key."""
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(SessionEncodeError, match=r"^cache\['key'\] is nested deeper than 100"):
        await at.cache.get_or_set("key", Loads(value), ttl=60)


async def test_nothing(at: Kept) -> None:
    """None is kept for `negative_ttl`, and without one it isn't kept."""
    load = Loads(None)
    for _ in range(2):
        assert await at.cache.get_or_set("key", load, ttl=60, as_=User) is None
    assert load.calls == 2
    for _ in range(2):
        assert await at.cache.get_or_set("key", load, ttl=60, as_=User, negative_ttl=5) is None
    assert load.calls == 3
    at.clock.advance(5)
    await at.cache.get_or_set("key", load, ttl=60, negative_ttl=5)
    assert load.calls == 4


async def test_too_large(at: Kept, caplog: pytest.LogCaptureFixture) -> None:
    """A value above max_size is given, isn't kept, and the log says so once."""
    cache, load = at.another(max_size=100), Loads("x" * 200)
    for _ in range(2):
        assert await cache.get_or_set("key", load, ttl=60) == "x" * 200
    assert load.calls == 2
    (record,) = caplog.records
    assert record.getMessage().startswith("cache: a value has 202 bytes, over max_size=100: ")


@pytest.mark.parametrize(
    "options",
    [{"ttl": 0}, {"ttl": True}, {"ttl": 60, "negative_ttl": -1}, {"ttl": 60, "lock": "1"}],
)
async def test_durations(at: Kept, options: dict[str, Any]) -> None:
    """A duration that can't be one is an error that names it."""
    with pytest.raises(ConfigurationError, match=f"^{list(options)[-1]}="):
        await at.cache.get_or_set("key", Loads(), **options)


async def test_plain_function(at: Kept) -> None:
    """A loader that isn't async is an error that says so."""
    plain: Any = dict
    with pytest.raises(ConfigurationError, match=r"^load= returns dict: write an async function"):
        await at.cache.get_or_set("key", plain, ttl=60)


async def test_away(at: Kept) -> None:
    """While the store is away each call loads, and only `forget` raises."""
    load = Loads()
    at.store.failing = {"load", "commit", "discard"}
    for _ in range(2):
        assert await at.cache.get_or_set("key", load, ttl=60) == "value"
    at.store.failing = {"commit", "discard"}
    assert await at.cache.get_or_set("key", load, ttl=60) == "value"
    assert load.calls == at.cache.counts["unavailable"] == 3
    for forget in (at.cache.forget("key"), at.cache.forget_principal(1)):
        with pytest.raises(StoreUnavailableError):
            await forget


@pytest.mark.parametrize("whose", ["key", "principal"])
async def test_no_room(at: Kept, whose: str) -> None:
    """While nothing can be stored, all who come during a load wait for it and share the next."""
    at.store.failing = {"commit"}
    load, part = paused("value"), at.cache.of_principal(1)
    first = asyncio.create_task(part.get_or_set("key", load, ttl=60))
    await load.began.wait()
    others = [asyncio.create_task(part.get_or_set("key", load, ttl=60)) for _ in range(10)]
    await at.until(lambda: at.cache.counts["unavailable"] == 1)
    for _ in range(10):
        await asyncio.sleep(0)
    await (part.forget("key") if whose == "key" else at.cache.forget_principal(1))
    assert await part.get_or_set("key", Loads("new"), ttl=60) == "new"
    load.value = "next"
    load.go_on.set()
    assert await asyncio.gather(first, *others) == ["value"] + ["next"] * 10
    assert load.calls == 2


async def test_sealed(at: Kept) -> None:
    """The store sees neither key nor value, and another key, owner or secret key opens nothing."""
    await at.cache.get_or_set("user:7", Loads("secret"), ttl=60)
    ((id, value),) = at.entries().items()
    assert b"secret" not in value
    assert id.startswith("cache:")
    assert len(id) == 38
    for other, key in (
        (at.cache, "user:8"),
        (at.cache.of_principal("user"), "7"),
        (at.cache.of_principal("7"), "user:7"),
        (at.another("another-secret-key-of-at-least-32-characters"), "user:7"),
    ):
        load = Loads("other")
        assert await other.get_or_set(key, load, ttl=60) == "other"
        assert load.calls == 1


def moved(entries: dict[str, bytes]) -> dict[str, bytes]:
    """Each entry's bytes under another entry's id."""
    return dict(zip(entries, reversed(entries.values()), strict=True))


async def test_moved(at: Kept) -> None:
    """Another entry's bytes don't open: they are a miss, an event, and replaced."""
    for key in "ab":
        await at.cache.get_or_set(key, Loads(key), ttl=60)
    await at.cache.of_principal(1).get_or_set("a", Loads("c"), ttl=60)
    for id, value in moved(at.entries()).items():
        at.put(id, value)
    for key in "ab":
        load = Loads(key * 2)
        for _ in range(2):
            assert await at.cache.get_or_set(key, load, ttl=60) == key * 2
        assert load.calls == 1
    assert await at.cache.of_principal(1).get_or_set("a", Loads("cc"), ttl=60) == "cc"
    assert {(event.name, event.reason) for event in at.events} == {("rejected", "cache entry")}


def flipped(value: bytes, at: int) -> bytes:
    return value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_hostile_bytes(data: st.DataObject) -> None:
    """Whatever is stored, the value is loaded or the one that was kept, and is kept again."""

    def forged(value: bytes) -> bytes:
        if data.draw(st.booleans()):
            return data.draw(st.binary(max_size=80))
        place = data.draw(st.integers(0, len(value) - 1))
        return data.draw(st.sampled_from([value, value[:place], flipped(value, place)]))

    async def look() -> None:
        at = Kept()
        user = at.cache.of_principal("alice")
        await user.get_or_set("key", Loads("kept"), ttl=60, stale_if_error=60)
        for id, value in at.entries().items():
            at.put(id, forged(value))
        assert await user.get_or_set("key", Loads("new"), ttl=60) in {"kept", "new"}
        load = Loads("again")
        assert await user.get_or_set("key", load, ttl=60) in {"kept", "new"}
        assert not load.calls

    asyncio.run(look())


async def test_secret_keys(at: Kept) -> None:
    """An entry that was kept under a former key is forgotten under each key of the ring."""
    old, new = KEY, generate_key()
    before, between = at.another([old, new]), at.another([new, old])
    for cache in (before, between):
        await cache.get_or_set("key", Loads("old"), ttl=60)
        await cache.of_principal("alice").get_or_set("key", Loads("old"), ttl=60)
    await between.forget("key")
    await between.forget_principal("alice")
    for cache in (before, between):
        for part in (cache, cache.of_principal("alice")):
            assert await part.get_or_set("key", Loads("new"), ttl=60) == "new"


async def test_principals(at: Kept) -> None:
    """All entries of a principal are forgotten at once, and those of nobody else."""
    alice, bob = at.cache.of_principal("alice"), at.another().of_principal("bob")
    for part in (alice, bob, at.cache):
        for key in "ab":
            await part.get_or_set(key, Loads("old"), ttl=60)
    await at.another().forget_principal("alice")
    found = [await part.get_or_set("a", Loads("new"), ttl=60) for part in (alice, bob, at.cache)]
    assert found == ["new", "old", "old"]
    assert await alice.get_or_set("b", Loads("new"), ttl=60) == "new"
    one = at.cache.of_principal(1)
    await one.get_or_set("a", Loads("old"), ttl=60)
    assert await at.cache.of_principal("1").get_or_set("a", Loads("new"), ttl=60) == "old"


async def test_generation_lost(at: Kept) -> None:
    """If a generation was evicted, the entries of before never come back."""
    alice = at.cache.of_principal("alice")
    await alice.get_or_set("key", Loads("old"), ttl=60)
    before = at.entries()
    (generation,) = [id for id, value in before.items() if len(value) == 93]
    at.store.discard([generation])
    await alice.get_or_set("other", Loads("other"), ttl=60)
    assert await alice.get_or_set("key", Loads("new"), ttl=60) == "new"


async def test_generation_lives(at: Kept) -> None:
    """A generation lives as long as the entry that was stored last, and a day at least."""
    alice, load = at.cache.of_principal("alice"), Loads()
    await alice.get_or_set("key", load, ttl=3 * DAY)
    at.clock.advance(2 * DAY)
    await alice.get_or_set("key", load, ttl=60)
    assert load.calls == 1
    await alice.get_or_set("other", load, ttl=60)
    at.clock.advance(DAY - 10)
    await alice.get_or_set("key", load, ttl=60)
    assert load.calls == 2


async def test_session() -> None:
    """A session has entries of its own, until another user or nobody is signed in."""
    at = Setting()
    cache = at.manager.cache
    assert cache is at.manager.cache
    load = Loads()

    async def ask(token: str | None, key: str = "key") -> int:
        await cache.of(await at.load(token)).get_or_set(key, load, ttl=60, beta=0)
        return load.calls

    assert [await ask(None), await ask(None)] == [1, 2]  # it isn't stored
    first, second = await at.begin(ALICE), await at.begin(ALICE)
    assert [await ask(first), await ask(first), await ask(second)] == [3, 3, 4]
    await cache.forget_principal("alice")
    assert [await ask(first), await ask(first), await ask(second)] == [5, 5, 6]
    session = await at.load(second)
    await cache.of(session).forget("key")
    assert [await ask(first), await ask(second)] == [6, 7]
    session.sign_out()
    session["cart"] = 1
    signed_out = token_of(await at.commit(session))
    assert [await ask(signed_out), await ask(signed_out)] == [8, 8]
    session = await at.load(signed_out)
    session.sign_in("bob")
    await cache.of(session).get_or_set("key", load, ttl=60)
    assert load.calls == 9


async def test_sessions_are_counted_alone() -> None:
    """Entries of the cache are no sessions: they are neither listed nor counted."""
    at = Setting()
    await at.begin(ALICE)
    await at.manager.cache.of_principal("alice").get_or_set("key", Loads(), ttl=60)
    assert await at.manager.count() == 1
    assert len([info async for info in at.manager.sessions()]) == 1
