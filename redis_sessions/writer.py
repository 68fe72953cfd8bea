"""The writes of one commit: compare-and-set, merge and try again, within one deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from redis_sessions import values
from redis_sessions.errors import (
    SessionConflictError,
    SessionGoneError,
    StoreUnavailableError,
)
from redis_sessions.outcome import Answer, Outcome
from redis_sessions.policy import Opened, Policy
from redis_sessions.record import TOMBSTONE_TTL, Record, tombstone
from redis_sessions.session import LONGEST, Found, Session, Stored, replace_data, state_of
from redis_sessions.stores.protocols import Commit
from redis_sessions.token import SessionToken

__all__ = ["Writer"]

_TOMBSTONE_MS: Final = TOMBSTONE_TTL * 1000


class Writer:
    """Writes one session. `encoded`: its data as they are now."""

    def __init__(self, policy: Policy, session: Session, encoded: bytes) -> None:
        self._policy = policy
        self._store = policy.store
        self._session = session
        self._state = state_of(session)
        self._encoded = encoded
        self._now = policy.now()
        self._ends = asyncio.get_running_loop().time() + policy.deadline
        self._contended = False
        self._principal: str | None = None

    @property
    def _at(self) -> Stored:
        if self._state.stored is None:
            raise RuntimeError("nothing is stored")
        return self._state.stored

    async def _in_place(self, token: SessionToken, rotated: int, restarts: bool = False) -> bool:
        """Commit this request's changes under the session's id; False if it is gone."""
        state, at = self._state, self._at
        data, mine = self._encoded, None
        while True:
            new = at.record.amended(data=data, **self._amendments(at.record, restarts))
            sealed = self._policy.sealer.seal(token, new, rotated)
            result = await self._commit(token, at.version, sealed, new)
            if result is Commit.STORED:
                break
            newer = await self._again(at.token) if result is Commit.CONFLICT else None
            if newer is None:
                state.lost()
                return False
            mine = state.changes(self._encoded) if mine is None else mine
            data, at = values.apply(newer.data, mine), newer
            self._policy.values.check(data)
            if self._policy.principal_of(values.decode(data)) != self._principal:
                # Each was right for itself; together they would change who an id belongs to.
                raise SessionConflictError("crossing changes would change who is signed in")
        before, rebased = values.split(state.base), state.rebased
        state.remember(token, new, sealed)
        if mine is not None:
            self._adopt(data, before, rebased)
            self._policy.report("merged", None, token.id)
        return True

    async def reload(self) -> None:
        """Take what others stored; what was changed here stays changed."""
        state, at = self._state, self._state.live
        if at is None:
            if state.found is Found.LOST:
                raise SessionGoneError("the session ended or was rotated elsewhere")
            return  # there is nothing to load
        stored = await self._store.load(at.token.id)
        opened = self._policy.unseal(state, at.token, stored)
        if opened is None or stored is None:
            state.lost()
            raise SessionGoneError("the session ended or was rotated elsewhere")
        mine, before, rebased = (
            state.changes(self._encoded),
            values.split(state.base),
            state.rebased,
        )
        state.remember(at.token, opened.record, stored)
        self._adopt(values.apply(state.base, mine), before, rebased)

    def _amendments(self, record: Record, restarts: bool) -> dict[str, Any]:
        fields = dict[str, Any]()
        if restarts:
            began = max(record.created_at, (record.authenticated_at or 0) // 1000)
            length = min(max(1, record.expires_at - began), LONGEST)
            fields.update(authenticated_at=self._state.began, expires_at=self._now + length)
        if self._state.lifetime is not None:
            expires_at, idle, persistent = self._lifetime(record)
            fields.update(expires_at=expires_at, idle=idle, persistent=persistent)
        if fields or self._policy.touch_due(self._state):
            fields["seen_at"] = self._now
        return fields

    async def _create(
        self,
        outcome: Outcome,
        data: bytes,
        owner: bytes | None = None,
        authenticated_at: int | None = None,
    ) -> Answer:
        state, token = self._state, SessionToken.generate()
        expires_at, idle, persistent = self._lifetime(None)
        record = Record(
            created_at=self._now,
            authenticated_at=authenticated_at,
            seen_at=self._now,
            expires_at=expires_at,
            idle=idle,
            persistent=persistent,
            owner=owner,
            binding=None,
            data=values.raw(data),
        )
        sealed = self._policy.sealer.seal(token, record, 0)
        if await self._commit(token, None, sealed, record) is not Commit.STORED:
            raise StoreUnavailableError("the new session was ended before it began")
        state.forget()
        state.remember(token, record, sealed)
        state.principal = None if authenticated_at is None else self._principal
        self._adopt(data)
        self._policy.report("created", outcome.name.lower(), token.id)
        return self._told(outcome)

    def _lifetime(self, record: Record | None) -> tuple[int, int, bool]:
        """expires_at, idle, persistent: as `expire_in` asked, else the policy's."""
        policy, wish = self._policy, self._state.lifetime
        persistent = policy.persistent if record is None else record.persistent
        if wish is None:
            return self._now + policy.max_age, policy.idle_timeout, persistent
        duration, wanted = wish
        remembered = duration > policy.max_age
        idle = duration if remembered else min(policy.idle_timeout, duration)
        return self._now + duration, idle, persistent if wanted is None else wanted

    async def _commit(
        self, token: SessionToken, version: bytes | None, value: bytes, record: Record | None = None
    ) -> Commit:
        """Compare-and-set; without a record, `value` is a tombstone."""
        self._check_time()
        ttl = _TOMBSTONE_MS
        if record is not None:
            ttl = max(1, int((record.lives_until() - self._policy.clock()) * 1000))
        return await self._store.commit(token.id, version, value, ttl)

    async def _again(self, token: SessionToken) -> Stored | None:
        """After a conflict: what is there now, or None if the token opens it no more."""
        self._contended = True
        self._check_time()
        stored = await self._store.load(token.id)
        opened = stored and self._policy.open(token, stored)
        if stored is None or not isinstance(opened, Opened):
            return None
        return Stored.of(token, opened.record, stored)

    async def _end(self, id: str, how: str) -> bool:
        self._check_time()
        alive = await self._store.end(id, tombstone(self._now), _TOMBSTONE_MS)
        if alive:
            self._policy.report("ended", how, id)
        return alive

    def _check_time(self) -> None:
        if asyncio.get_running_loop().time() > self._ends:
            if self._contended:
                raise SessionConflictError("the session kept changing until the deadline")
            raise StoreUnavailableError("the deadline has passed", reason="timeout")

    def _adopt(
        self,
        data: bytes,
        before: Mapping[Any, bytes] | None = None,
        rebased: Mapping[Any, bytes] | None = None,
    ) -> None:
        """Make the session's dict these data, keeping the objects whose values are the same.

        `before`, `rebased`: what the keys were compared with so far. A value that `get_as`
        converted is the same as long as others left what it was converted from.
        """
        if data == self._encoded:
            return
        session, mine, stored = self._session, values.split(self._encoded), values.split(data)
        before, converted = before or {}, rebased or {}
        adopted, bases = dict[Any, Any](), dict[Any, bytes]()
        for key, raw in stored.items():
            if key in session and mine.get(key) == raw:
                adopted[key] = session[key]
            elif key in session and key in converted and before.get(key) == raw:
                adopted[key], bases[key] = session[key], converted[key]
            else:
                adopted[key] = values.decode_value(raw)
        since = {key: value for key, value in session.items() if key not in mine}
        replace_data(session, {**adopted, **since})
        self._state.rebased = bases or None
        kept = {key: mine[key] for key in bases}
        self._encoded = values.join({**stored, **kept}) if kept else data

    def _told(self, outcome: Outcome) -> Answer:
        at = self._at
        left = max(1, at.record.expires_at - self._now)
        return Answer(outcome, at.token, left if at.record.persistent else None)

    def _dropped(self, reason: str, id: str | None = None) -> Answer:
        self._policy.report("dropped", reason, id)
        return Answer(Outcome.DROP)
