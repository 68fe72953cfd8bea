"""Whatever is done to sessions: those that ran out are told, and no others, and none early."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_sessions import (
    Expired,
    Keyring,
    MemoryStore,
    Session,
    SessionManager,
    StoreUnavailableError,
    generate_key,
)
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.lifecycle.sweep import sweep
from redis_sessions.session.record import is_record
from redis_sessions.stores.schedule import SHARDS, schedule_of
from redis_sessions.testing import Clock, store_session

KEY: Final = generate_key()
HOUR: Final = 3600
USERS: Final = ("ada", "bob")

which = st.integers(0, 9)
users = st.sampled_from(USERS)
acts = st.one_of(
    st.tuples(st.just("begin"), st.none() | users),
    st.tuples(st.just("sign in"), which, users),
    st.tuples(
        st.sampled_from(["use", "change", "rotate", "expire", "sign out", "clear", "revoke"]), which
    ),
    st.tuples(st.just("revoke all"), users),
    st.tuples(st.just("wait"), st.sampled_from([1, 400, HOUR - 100, HOUR])),
    st.tuples(st.just("other process")),
    st.tuples(st.sampled_from(["sweep", "sweep", "crash"])),
)


class World:
    """Sessions, and which of them ran out by what the store has before and after time passes."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(clock=self.clock)
        self.told: list[Expired] = []
        options: dict[str, Any] = {
            "max_age": 3 * HOUR,
            "idle_timeout": HOUR,
            "max_sessions": 2,
            "clock": self.clock,
        }
        ring = Keyring(KEY)
        self.manager = SessionManager(self.store, ring, on_expired=self.told.append, **options)
        self.without = SessionManager(self.store, ring, **options)
        self.tokens: list[str] = []
        self.who: dict[str, str | None] = {}
        self.ran_out: set[str] = set()
        self.crashed = False

    async def alive(self) -> set[str]:
        ids = {token[:20] for token in self.tokens}
        return {id for id in ids if is_record(await self.store.load(id))}

    async def act(self, what: str, *arguments: Any) -> None:
        if what == "begin":
            (user,) = arguments
            self.know(await store_session(self.manager, {"user_id": user} if user else {"n": 1}))
        elif what == "revoke all":
            await self.manager.revoke_all(*arguments)
            await self.wait(1)  # a sign-in at the same moment is refused
        elif what == "wait":
            await self.wait(*arguments)
        elif what in ("sweep", "crash"):
            await self.sweep(crash=what == "crash")
        elif self.tokens and arguments:
            await self.request(what, *arguments)
        elif self.tokens:  # one that has no schedule touches them
            for token in self.tokens:
                await self.without.commit(await self.without.load(token))

    async def request(self, what: str, number: int, user: str = "") -> None:
        session = await self.manager.load(self.tokens[number % len(self.tokens)])
        if what == "revoke":
            if session.id and session.principal:
                await self.manager.revoke(session.id, session.principal)
            return
        if session.is_new and what != "sign in":
            return
        self.do(what, session, user)
        answer = await self.manager.commit(session)
        if answer.token is not None:
            self.know(answer.token.value)

    def do(self, what: str, session: Session, user: str) -> None:
        if what == "change":
            session["n"] = session.get("n", 0) + 1
        elif what == "rotate":
            session.rotate()
        elif what == "expire":
            session.expire_in(120)
        elif what == "sign out":
            session.sign_out()
        elif what == "clear":
            session.clear()
        elif what == "sign in":
            session.sign_in(user)

    def know(self, token: str) -> None:
        self.tokens = [each for each in self.tokens if each[:20] != token[:20]] + [token]

    async def wait(self, seconds: int) -> None:
        before = await self.alive()
        for token in self.tokens:
            if token[:20] in before:
                self.who[token[:20]] = (await self.without.load(token)).principal
        await self.settle()
        self.clock.advance(seconds)
        self.ran_out |= before - await self.alive()

    async def settle(self) -> None:
        expiry = backend_of(self.manager).expiry
        assert expiry is not None
        await expiry.wait_written()

    async def sweep(self, *, crash: bool = False) -> None:
        expiry = backend_of(self.manager).expiry
        assert expiry is not None
        schedule: Any = schedule_of(self.store)
        with pytest.MonkeyPatch.context() as patch:
            if crash:
                self.crashed = True

                async def fail(*_: object) -> None:
                    raise StoreUnavailableError("killed, says the test")

                patch.setattr(schedule, "remove", fail)
            try:
                await sweep(expiry)
            except StoreUnavailableError:
                assert crash
        assert {each.id for each in self.told} <= self.ran_out

    async def run(self, acts: list[tuple[Any, ...]]) -> None:
        for act in acts:
            await self.act(*act)
        await self.wait(3 * HOUR)
        await self.sweep()
        told = [each.id for each in self.told]
        assert set(told) == self.ran_out
        assert self.crashed or len(told) == len(set(told))
        assert all(each.principal == self.who[each.id] for each in self.told)
        await self.wait(61)
        for shard in SHARDS:
            assert await schedule_of(self.store).due(shard, 500) == ([], False)


@given(st.lists(acts, min_size=12, max_size=40))
def test_who_is_told(acts: list[tuple[Any, ...]]) -> None:
    """Each session that ran out, once (at least once over crashes), with its principal."""
    asyncio.run(World().run(acts))
