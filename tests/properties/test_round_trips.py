"""What is stored is what is loaded; what changed is written, and nothing else."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import msgspec
from hypothesis import assume, given, reject
from hypothesis import strategies as st

from redis_sessions import MemoryStore, SessionToken
from redis_sessions.session import values
from redis_sessions.session.outcome import Outcome
from redis_sessions.session.values import Values
from tests.properties.strategies import datas, examples, storable, texts
from tests.support.site import Site

CODEC = Values(max_size=1 << 20)


def packed(value: object) -> bytes:
    """For comparing: NaN isn't equal to itself, and 1 is equal to True."""
    return msgspec.msgpack.encode(value)


async def kept(data: dict[str, Any]) -> tuple[Site, MemoryStore, SessionToken]:
    store = MemoryStore()
    site = Site(store)
    if not data:
        reject()
    return site, store, await site.store_session(data)


@examples
@given(data=datas)
async def test_what_is_stored_is_loaded(data: dict[str, Any]) -> None:
    """Nested data, times, bytes, 64-bit integers, infinities and any text come back equal."""
    assume("user_id" not in data)
    site, _, token = await kept(data)

    reply = await site.visit(token)

    assert reply.seen is not None
    assert packed(reply.seen) == packed(data)
    assert list(reply.seen) == list(data)


@examples
@given(data=datas)
async def test_reading_writes_nothing(data: dict[str, Any]) -> None:
    """Looking at everything, however deep, is no change: the stored bytes stay."""
    site, store, token = await kept(data)
    before = await store.load(token.id)

    reply = await site.visit(token, act=lambda s: repr([list(s.items()), deepcopy(dict(s))]))

    assert reply.error is None
    assert await store.load(token.id) == before
    assert site.events == []


@examples
@given(data=datas)
async def test_an_assignment_of_the_same_value_writes_nothing(data: dict[str, Any]) -> None:
    """Setting keys to equal values, or changing and restoring them, is no change."""
    site, store, token = await kept(data)
    before = await store.load(token.id)

    def act(session: Any) -> None:
        for key, value in deepcopy(dict(session)).items():
            session[key] = "another"
            session[key] = value
        session["new"] = 1
        del session["new"]
        session.update(deepcopy(dict(session)))

    assume("new" not in data)
    reply = await site.visit(token, act=act)

    assert reply.error is None
    assert await store.load(token.id) == before


def members(container: Any) -> list[Any]:
    values_of = getattr(container, "values", container.__iter__)
    return list(values_of())


def containers(value: Any) -> list[Any]:
    """Every dict and list inside, the outermost first."""
    if not isinstance(value, (dict, list)):
        return []
    found: list[Any] = [value]
    for child in members(value):
        found += containers(child)
    return found


def mutate(container: Any, value: Any) -> None:
    if isinstance(container, list):
        container.append(value)
    else:
        container["mutated, a key that nothing else has"] = value


@examples
@given(data=datas, value=storable, place=st.integers(0, 1000))
async def test_a_nested_mutation_is_found(data: dict[str, Any], value: object, place: int) -> None:
    """A change inside any container, however deep, is stored, and nothing else with it."""
    site, store, token = await kept(data)
    at = place % len(containers(data))
    before = await store.load(token.id)

    reply = await site.visit(token, act=lambda s: mutate(containers(s)[at], value))
    seen = (await site.visit(token)).seen

    assert (reply.error, reply.cookies) == (None, [])
    assert await store.load(token.id) != before
    expected = deepcopy(data)
    mutate(containers(expected)[at], value)
    assert packed(seen) == packed(expected)


@examples
@given(data=datas, other=datas)
async def test_any_change_of_keys_is_stored(data: dict[str, Any], other: dict[str, Any]) -> None:
    """Whatever keys are set, replaced and removed: the next request finds what this one left."""
    assume("user_id" not in data | other)
    site, _, token = await kept(data)

    def act(session: Any) -> None:
        for key in list(session):
            del session[key]
        session.update(other)

    reply = await site.visit(token, act=act)

    assert (reply.error, reply.cookies) == (None, [])
    assert packed((await site.visit(token)).seen) == packed(other)


@examples
@given(data=datas, mine=datas, theirs=datas)
async def test_changes_of_other_keys_are_merged(
    data: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any]
) -> None:
    """Two requests at once that change different keys both find their change stored."""
    mine = {f"mine {key}": value for key, value in mine.items()}
    theirs = {f"theirs {key}": value for key, value in theirs.items()}
    assume("user_id" not in data)
    site, _, token = await kept(data)

    one = await site.manager.load(token.value)
    other = await site.manager.load(token.value)
    one.update(mine)
    other.update(theirs)
    await site.manager.commit(other)
    answer = await site.manager.commit(one)

    assert answer.outcome is (Outcome.CHANGE if mine else Outcome.NOTHING)
    expected = {key: packed(value) for key, value in {**data, **theirs, **mine}.items()}
    seen = (await site.visit(token)).seen
    assert seen is not None
    assert {key: packed(value) for key, value in seen.items()} == expected
    if mine:
        assert {key: packed(value) for key, value in one.items()} == expected


async def test_nothing_is_written_again_after_a_merge() -> None:
    """A session that was merged while it was saved is unchanged from then on."""
    site, store, token = await kept({"n": 1})
    one = await site.manager.load(token.value)
    other = await site.manager.load(token.value)
    other["theirs"] = 1
    await site.manager.commit(other)
    one["mine"] = 1
    await one.save()
    before = await store.load(token.id)

    answer = await site.manager.commit(one)

    assert one == {"n": 1, "mine": 1, "theirs": 1}
    assert answer.outcome is Outcome.NOTHING
    assert await store.load(token.id) == before


# -- the laws of merging


def parts(encoded: bytes) -> dict[Any, bytes]:
    """A mapping that compares by what each key's value encodes to."""
    return values.split(encoded)


encoded_datas = datas.map(CODEC.encode)


@examples
@given(encoded=encoded_datas)
def test_join_undoes_split(encoded: bytes) -> None:
    """`join(split(x))` is x, to the byte; and so is x with no changes applied."""
    assert values.join(values.split(encoded)) == encoded
    assert values.apply(encoded, {}) == encoded
    assert values.changes(parts(encoded), parts(encoded)) == {}


@examples
@given(before=encoded_datas, after=encoded_datas)
def test_changes_lead_from_before_to_after(before: bytes, after: bytes) -> None:
    """`apply(before, changes(before, after))` is after, and applying twice is applying once."""
    changed = values.changes(parts(before), parts(after))

    result = values.apply(before, changed)

    assert parts(result) == parts(after)
    assert values.apply(result, changed) == result
    assert set(changed) <= set(parts(before)) | set(parts(after))


changes_of_keys = st.dictionaries(texts, st.none() | storable.map(packed), max_size=5)


@examples
@given(base=encoded_datas, one=changes_of_keys, other=changes_of_keys)
def test_disjoint_changes_commute(
    base: bytes, one: dict[Any, bytes | None], other: dict[Any, bytes | None]
) -> None:
    """The order of changes to different keys doesn't matter; of the same key the later wins."""
    both = values.apply(values.apply(base, one), other)

    for key, value in other.items():
        assert parts(both).get(key) == value
    apart = {key: value for key, value in one.items() if key not in other}
    first = values.apply(values.apply(base, apart), other)
    second = values.apply(values.apply(base, other), apart)
    assert parts(first) == parts(second)
    untouched = set(parts(base)) - set(one) - set(other)
    assert all(parts(both)[key] == parts(base)[key] for key in untouched)
