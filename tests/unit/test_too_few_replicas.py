"""Writes that too few replicas have: what is carried out, what is raised, and what is answered."""

from __future__ import annotations

from typing import Any

import pytest

from redis_sessions import ReplicationError, Session, SessionManager, Written
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.session.outcome import Outcome
from redis_sessions.session.record import is_tombstone
from tests.support.stores import UnreliableStore
from tests.unit.setting import ALICE, DUE, KEY, Setting, count, token_of


class Short(UnreliableStore):
    """Too few replicas have the writes that a test names. A tombstone that is committed ends."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.short: tuple[str, ...] = ()

    def _noted(self, name: str, written: Written[Any]) -> Written[Any]:
        return written._replace(shortfall=f"{name}: few") if name in self.short else written

    async def commit(self, id: str, expected: bytes | None, value: bytes, ttl: int) -> Written[Any]:
        name = "create" if expected is None else "end" if is_tombstone(value) else "change"
        return self._noted(name, await super().commit(id, expected, value, ttl))

    async def end(self, id: str, tombstone: bytes, ttl: int) -> Written[Any]:
        return self._noted("end", await super().end(id, tombstone, ttl))

    async def enter(self, *names: Any, **options: Any) -> Written[Any]:
        return self._noted("enter", await super().enter(*names, **options))

    async def touch(self, *names: Any, **options: Any) -> Written[Any]:
        return self._noted("touch", await super().touch(*names, **options))

    async def authenticated(self, *names: Any, **options: Any) -> Written[Any]:
        return self._noted("authenticated", await super().authenticated(*names, **options))

    async def mark(self, *names: Any, **options: Any) -> Written[Any]:
        return self._noted("mark", await super().mark(*names, **options))

    async def revoke(self, *names: Any, **options: Any) -> Written[Any]:
        return self._noted("revoke", await super().revoke(*names, **options))

    async def remove(self, *names: Any, **options: Any) -> Written[Any]:
        return self._noted("remove", await super().remove(*names, **options))


class Few(Setting):
    """A setting in which too few replicas have the writes that a test names."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.store = self.replicated = Short(clock=self.clock)
        self.manager = SessionManager(self.store, KEY, clock=self.clock, **options)

    def too_few_have(self, *writes: str) -> None:
        self.replicated.short = writes

    async def entries(self) -> list[str]:
        """The ids in Alice's index."""
        key = backend_of(self.manager).keyring.primary.index("alice")
        return [entry.id for entry in (await self.store.entries(key))[1]]

    async def signed_in(self) -> tuple[str, Session]:
        token = await self.begin(ALICE)
        return token, await self.load(token)


async def test_a_new_session() -> None:
    """It is an error at once, and nobody has its token."""
    at = Few()
    session = await at.load(None)
    session["n"] = 1
    at.too_few_have("create")
    with pytest.raises(ReplicationError, match="create: few"):
        await at.commit(session)
    assert session.id is None


async def test_a_sign_in_whose_entry_is_short() -> None:
    """It is an error before a record is stored."""
    at = Few()
    session = await at.load(None)
    session.sign_in("alice")
    at.too_few_have("enter")
    with pytest.raises(ReplicationError, match="enter: few"):
        await at.commit(session)
    assert len(at.store) == 0


async def test_a_change() -> None:
    """It is stored, the error comes after that, and nothing is left to be stored."""
    at = Few()
    token, session = await at.signed_in()
    session["n"] = 1
    at.too_few_have("change")
    with pytest.raises(ReplicationError, match="change: few"):
        await at.commit(session)
    assert await at.data(token) == {**ALICE, "n": 1}
    assert (await at.commit(session)).outcome is Outcome.NOTHING


async def test_an_update() -> None:
    """It is stored, and the session has it."""
    at = Few()
    token, session = await at.signed_in()
    at.too_few_have("change")
    with pytest.raises(ReplicationError, match="change: few"):
        await at.manager.update(session, count)
    assert session["n"] == 1
    assert await at.data(token) == {**ALICE, "n": 1}


@pytest.mark.parametrize("write", ["change", "touch", "authenticated"])
async def test_a_rotation(write: str) -> None:
    """Its token is answered, and the shortfall is counted."""
    at = Few()
    _, session = await at.signed_in()
    session.authenticated()
    at.too_few_have(write)
    answer = await at.commit(session)
    assert answer.outcome is Outcome.REAUTHENTICATE
    assert await at.data(token_of(answer)) == ALICE
    assert at.manager.counts["unavailable: replication"] == 1


@pytest.mark.parametrize("write", ["change", "touch"])
async def test_a_touch(write: str) -> None:
    """It is no error, and the time is renewed."""
    at = Few()
    _, session = await at.signed_in()
    at.clock.advance(DUE)
    at.too_few_have(write)
    assert (await at.commit(session)).outcome is Outcome.TOUCH
    assert at.manager.counts["unavailable: replication"] == 1


async def test_a_sign_in_from_an_anonymous_session() -> None:
    """Only the end of the anonymous session is short, so that the sign-in is answered."""
    at = Few()
    before = await at.begin({"cart": 1})
    session = await at.load(before)
    session.sign_in("alice")
    at.too_few_have("end")
    answer = await at.commit(session)
    assert answer.outcome is Outcome.GAIN
    assert await at.data(token_of(answer)) == {"cart": 1, **ALICE}
    assert await at.data(before) == {}


@pytest.mark.parametrize("how", ["sign_out", "clear"])
@pytest.mark.parametrize("write", ["end", "mark"])
async def test_a_sign_out(how: str, write: str) -> None:
    """Whichever write is short, record and entry have ended before it is an error."""
    at = Few()
    token, session = await at.signed_in()
    getattr(session, how)()
    at.too_few_have(write)
    with pytest.raises(ReplicationError, match=f"{write}: few"):
        await at.commit(session)
    assert await at.data(token) == {}
    assert at.manager.counts["ended"] == 1
    assert await at.entries() == []


@pytest.mark.parametrize("write", ["end", "mark"])
async def test_a_revocation_of_one(write: str) -> None:
    """Record and entry have ended before it is an error."""
    at = Few()
    token, _ = await at.signed_in()
    at.too_few_have(write)
    with pytest.raises(ReplicationError, match=f"{write}: few"):
        await at.manager.revoke(token[:20], "alice")
    assert await at.data(token) == {}
    assert await at.entries() == []


@pytest.mark.parametrize("write", ["revoke", "end", "remove"])
async def test_a_revocation_of_all(write: str) -> None:
    """All sessions have ended, and their entries are removed, before it is an error."""
    at = Few()
    tokens = [(await at.signed_in())[0] for _ in range(3)]
    at.too_few_have(write)
    with pytest.raises(ReplicationError, match=f"{write}: few"):
        await at.manager.revoke_all("alice")
    assert [await at.data(token) for token in tokens] == [{}] * 3
    assert await at.entries() == []


async def test_the_first_shortfall_is_raised() -> None:
    """Of several short writes the error names the first."""
    at = Few()
    await at.signed_in()
    at.too_few_have("revoke", "end", "remove")
    with pytest.raises(ReplicationError, match="revoke: few"):
        await at.manager.revoke_all("alice")


async def test_room_for_a_sign_in() -> None:
    """A session that ends to make room for another is no error of the other's sign-in."""
    at = Few(max_sessions=1)
    before, _ = await at.signed_in()
    at.too_few_have("end", "mark")
    after, _ = await at.signed_in()
    assert [await at.data(token) for token in (before, after)] == [{}, ALICE]
