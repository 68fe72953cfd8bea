"""Everything that an application calls strips what it raises."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any

import pytest

from redis_sessions import (
    Cache,
    CrossSiteError,
    Keyring,
    MemoryStore,
    Session,
    SessionManager,
    StoreError,
    StoreUnavailableError,
    generate_key,
)
from redis_sessions.accept import Found, RedisSdk, StarletteCookie, Starsessions
from redis_sessions.leader import Leader, Term
from redis_sessions.lifecycle.loading import foreign
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.php import PhpSessions
from redis_sessions.session.session import services_of, state_of
from redis_sessions.stores.protocols import Store
from redis_sessions.testing import store_session
from tests.unit.tracebacks.shown import frames, ours


class Away(MemoryStore):
    """A store that fails at everything, once it is away."""

    away = False

    def __getattribute__(self, name: str) -> Any:
        if name in METHODS and super().__getattribute__("away"):
            raise StoreUnavailableError("away")
        return super().__getattribute__(name)


METHODS = {name for name in dir(Store) if not name.startswith("_")} - {"prefix"} | {
    *("discard", "scan", "channels")
}


async def exclusive(session: Session) -> None:
    async with session.exclusive():
        pass


async def managed(manager: SessionManager, session: Session) -> None:
    async with services_of(session).exclusive(session, 5):
        pass


async def listened(manager: SessionManager, session: Session) -> None:
    async for _ in session.messages():
        pass


async def begun(manager: SessionManager, session: Session) -> None:
    async with manager.messages.listen(all=True):
        pass


async def changed(manager: SessionManager, session: Session) -> None:
    store, stored = manager.store, state_of(session).stored
    assert isinstance(store, Away)
    assert stored is not None
    store.away = False
    other = await manager.load(stored.token.value)
    other["more"] = 1
    await manager.commit(other)
    store.away = True
    async for _ in session.changes():
        pass


def written(session: Session) -> Session:
    session["more"] = object
    return session


def emptied(session: Session) -> Session:
    session["user_id"] = []
    return session


async def unreadable() -> Any:
    return object()


async def given(cache: Cache) -> None:
    """An awaitable for what isn't awaited."""


MANAGERS: dict[str, Callable[[SessionManager, Session], Awaitable[Any]]] = {
    "connect": lambda manager, _: manager.connect(),
    "close": lambda manager, _: manager.close(),
    "load": lambda manager, _: manager.load("a" * 64),
    "load, wrongly": lambda manager, _: manager.load(bound="a", check_binding=False),
    "commit": lambda manager, session: manager.commit(written(session)),
    "update": lambda manager, session: manager.update(session, len),
    "exclusive": managed,
    "changes": changed,
    "messages": lambda manager, _: manager.messages.to_all({"a": object}),
    "messages, to whom": lambda manager, _: manager.messages.to_session("a", {}),
    "session.messages": listened,
    "listen": begun,
    "listen, to what": lambda manager, _: manager.messages.listen().__aenter__(),
    "close messages": lambda manager, _: manager.messages.close(),
    "sessions_of": lambda manager, _: manager.sessions_of("a"),
    "revoke": lambda manager, session: manager.revoke(str(session.id), principal="a"),
    "count": lambda manager, _: manager.count(),
    "sessions": lambda manager, _: anext(manager.sessions()),
    "revoke_all": lambda manager, _: manager.revoke_all("a"),
    "revoke_by": lambda manager, _: manager.revoke_by("sid", "a"),
    "cache.forget": lambda manager, _: manager.cache.forget("a"),
    "cache.forget_principal": lambda manager, _: manager.cache.forget_principal("a"),
    "cache.get_or_set": lambda manager, _: manager.cache.get_or_set("a", unreadable, ttl=60),
    "cache.close": lambda manager, _: manager.cache.close(),
    "cache.of": lambda manager, session: given(manager.cache.of(emptied(session))),
    "cache.of_principal": lambda manager, _: given(manager.cache.of_principal("")),
}

SESSIONS: dict[str, Callable[[Session], Any]] = {
    "save": lambda session: written(session).save(),
    "refresh": lambda session: session.refresh(),
    "exclusive": exclusive,
    "principal": lambda session: session.pop("user_id") and session.principal,
    "sign_in": lambda session: session.sign_in([]),  # type: ignore[arg-type]
    "sign_out": lambda session: session.sign_out(),
    "authenticated": lambda session: session.authenticated(methods=[""]),
    "expire_in": lambda session: session.expire_in(0),
    "get_as": lambda session: session.get_as("mark", int),
}


async def led(act: Callable[[Term], object] = Term.check, *, ends: bool = False) -> None:
    """Lead, and have an error."""
    async with Leader(MemoryStore())("nightly") as term:
        if not ends:
            act(term)
    act(term)


async def refused() -> None:
    leader = Leader(MemoryStore())

    async def refuse(*_: object) -> object:
        raise StoreError("no")

    leader._election.leases._call = refuse  # pyright: ignore[reportPrivateUsage] - as a server may
    async with leader("nightly"):
        pass


LEADERS: dict[str, Callable[[], Any]] = {
    "Leader": lambda: Leader(MemoryStore(), lease=0),
    "call": lambda: Leader(MemoryStore())(""),
    "every": lambda: Leader(MemoryStore()).every("often"),
    "every, a function": lambda: Leader(MemoryStore()).every("5m")(led, 1),  # type: ignore[call-arg]
    "check": lambda: led(ends=True),
    "a refusal": refused,
}


@pytest.mark.parametrize("name", LEADERS)
async def test_a_leader_s_methods(name: str) -> None:
    """What a leader raises, and what `async with` does, shows none of our functions."""
    exc = await caught_from(LEADERS[name])
    assert not ours(exc)
    assert set(frames(exc)) <= {__name__, "contextlib"}


async def caught_from(act: Callable[[], Any]) -> BaseException:
    try:
        done = act()
        if isawaitable(done):
            await done
    except Exception as exc:  # noqa: BLE001 - whatever it is
        return exc
    raise AssertionError("it didn't raise")


@pytest.mark.parametrize("name", MANAGERS)
async def test_a_manager_s_methods(name: str) -> None:
    """While the store is away, all that is left is who called, and the store's own frames."""
    store = Away()
    manager = SessionManager(store, Keyring(generate_key()))
    session = await manager.load(await store_session(manager, {"user_id": "a"}))
    assert manager.cache.counts == {}  # it is made before the store is away
    store.away = True
    exc = await caught_from(lambda: MANAGERS[name](manager, session))
    assert not ours(exc)
    assert set(frames(exc)) - {"contextlib"} == {__name__}


@pytest.mark.parametrize("name", SESSIONS)
async def test_a_session_s_methods(name: str) -> None:
    """What can't be stored, doesn't fit, or has no key to sign in by, is raised to who called."""

    def principal(data: dict[str, Any]) -> str:
        user: str = data["user_id"]
        return user

    by: Any = principal if name in ("principal", "sign_out") else "user_id"
    store = Away()
    manager = SessionManager(store, Keyring(generate_key()), principal=by)
    session = await manager.load(await store_session(manager, {"user_id": "a", "mark": "b"}))
    store.away = True
    exc = await caught_from(lambda: SESSIONS[name](session))
    assert not ours(exc)
    assert set(frames(exc)) <= {__name__, "contextlib"}


@pytest.mark.parametrize(
    "make",
    [
        lambda: StarletteCookie(""),
        lambda: Starsessions("x://"),
        lambda: RedisSdk("x://"),
        lambda: PhpSessions("x://"),
    ],
    ids=["StarletteCookie", "Starsessions", "RedisSdk", "PhpSessions"],
)
async def test_a_source_of_other_sessions(make: Callable[[], object]) -> None:
    """What is wrong with its options, such as a key, is raised to who makes it."""
    exc = await caught_from(make)
    assert not ours(exc)
    assert {*frames(exc)} == {__name__}


def test_what_a_source_has_found_is_not_shown() -> None:
    """Its data and its id are as secret as ours."""
    assert "secret" not in repr(Found({"a": "secret"}, "secret", 1))


@pytest.mark.parametrize("name", ["sign_in", "update", "exclusive"])
async def test_a_session_that_may_not_be_written(name: str) -> None:
    """That another origin caused the request is raised to who would write."""
    backend = backend_of(SessionManager(MemoryStore(), Keyring(generate_key())))
    session = foreign(backend, CrossSiteError("another origin caused it"))
    exc = await caught_from(getattr(session, name))
    assert isinstance(exc, CrossSiteError)
    assert not ours(exc)
    assert frames(exc) == [__name__]
