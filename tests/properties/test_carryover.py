"""Whatever a request does with another's data: nothing of them is in who signs in over them."""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st

from redis_sessions import Keyring, MemoryStore, Session, SessionManager, generate_key
from redis_sessions.testing import read_session, store_session

KEY: Final = generate_key()
HERS: Final = "Alice's "
NAMES: Final = ("a", "b", "c")

texts = st.sampled_from([f"{HERS}{n}" for n in range(6)])
trees = st.recursive(
    texts | st.integers(0, 9) | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner),
    max_leaves=8,
)
data = st.dictionaries(st.sampled_from(NAMES), trees, min_size=1)

Wrap = Callable[[Any], Any]
WRAPS: Final[dict[str, Wrap]] = {
    "itself": lambda value: value,
    "in a list": lambda value: [value],
    "in a dict": lambda value: {"w": value},
    "a copy": copy.copy,
}
acts = st.one_of(
    st.tuples(
        st.sampled_from(["take", "take out"]),
        st.integers(0, 99),
        st.sampled_from(NAMES),
        st.sampled_from([*WRAPS]),
    ),
    st.tuples(st.just("add"), st.integers(0, 99)),
    st.tuples(st.just("assign"), st.sampled_from(NAMES)),
    st.tuples(st.just("save")),
    st.tuples(st.just("clear"), st.booleans()),
)


def holds(value: Any) -> bool:
    return isinstance(value, (list, dict))


def add(into: Any, mine: str) -> None:
    if hasattr(into, "append"):
        into.append(mine)
    else:
        into[mine] = mine


def places(container: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Each value below: where it is, by which key, and itself."""
    pairs: Any = container.items() if hasattr(container, "items") else enumerate(container)
    for key, value in list(pairs):
        yield container, key, value
        if holds(value):
            yield from places(value)


async def do(session: Session, act: tuple[Any, ...], fresh: Iterator[int]) -> None:
    match act:
        case ("take" | "take out" as how, int(nth), str(to), str(wrap)):
            there = [place for place in places(session) if place[1] != "user_id"]
            if there:
                container, key, value = there[nth % len(there)]
                if how == "take out":
                    del container[key]
                session[to] = WRAPS[wrap](value)
        case ("add", int(nth)):
            inner = [value for _, _, value in places(session) if holds(value)]
            if inner:
                add(inner[nth % len(inner)], f"Bob's {next(fresh)}")
        case ("assign", str(to)):
            session[to] = [f"Bob's {next(fresh)}"]
        case ("clear", bool(puts_back)):
            old = dict(session)
            session.clear()
            session.update(old if puts_back else {})
        case _:
            await session.save()


def texts_in(value: Any) -> Iterator[str]:
    for _, key, inner in places(value):
        yield from (text for text in (key, inner) if isinstance(text, str))


@settings(max_examples=300, deadline=None)
@given(stored=data, todo=st.lists(acts, max_size=8), signed_out=st.booleans())
def test_nothing_of_hers_is_in_his(
    stored: dict[str, Any], todo: list[tuple[Any, ...]], signed_out: bool
) -> None:
    """Taken, copied, nested, put back or added to: hers stay behind, and his own go along."""

    async def run() -> None:
        manager = SessionManager(MemoryStore(), Keyring(KEY))
        session = await manager.load(await store_session(manager, {**stored, "user_id": "A"}))
        if signed_out:
            session.sign_out()
            answer = await manager.commit(session)
            session = await manager.load(answer.token.value if answer.token else None)
        fresh = itertools.count()
        for act in todo:
            await do(session, act, fresh)
        session["own"] = {"text": [f"Bob's {next(fresh)}"]}
        session.sign_in("Bob")
        assert not [text for text in texts_in(session) if text.startswith(HERS)]
        own = session["own"]
        answer = await manager.commit(session)
        assert answer.token is not None
        his = await read_session(manager, answer.token.value)
        assert (his["own"], his["user_id"]) == (own, "Bob")
        assert not [text for text in texts_in(his) if text.startswith(HERS)]

    asyncio.run(run())
