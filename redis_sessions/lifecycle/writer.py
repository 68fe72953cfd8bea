"""The writes of one commit: compare-and-set, merge and try again, within one deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from redis_sessions.errors import (
    ReplicationError,
    SessionConflictError,
    SessionError,
    SessionGoneError,
    StoreUnavailableError,
)
from redis_sessions.lifecycle.policy import Policy
from redis_sessions.session import values
from redis_sessions.session.outcome import Answer, Outcome
from redis_sessions.session.record import (
    TOMBSTONE_TTL,
    Descriptor,
    Record,
    Reject,
    Stored,
    tombstone,
)
from redis_sessions.session.session import Session, replace_data, state_of
from redis_sessions.session.state import ANYWHERE, Found, Peer
from redis_sessions.session.token import SessionToken
from redis_sessions.stores.protocols import Commit, EntryStatus
from redis_sessions.stores.shortfall import Shortfall

__all__ = ["Update", "Writer"]

T = TypeVar("T")

_TOMBSTONE_MS: Final = TOMBSTONE_TTL * 1000


class Writer:
    """Writes one session. `encoded`: its data as they are now."""

    def __init__(
        self, policy: Policy, session: Session, encoded: bytes, ends: float | None = None
    ) -> None:
        self._policy = policy
        self._store = policy.store
        self._session = session
        self._state = state_of(session)
        self._encoded = encoded
        self._now = policy.now()
        self._ends = ends or asyncio.get_running_loop().time() + policy.deadline
        self._contended = False
        self._principal: str | None = None
        self._short = Shortfall()

    @property
    def _at(self) -> Stored:
        if self._state.stored is None:
            raise RuntimeError("nothing is stored")
        return self._state.stored

    async def _in_place(
        self, token: SessionToken, rotated: int, authenticated_at: int | None = None
    ) -> bool:
        """Commit this request's changes under the session's id; False if it is gone.

        `authenticated_at`: the principal proved again who they are, and the lifetime restarts.
        """
        state, at = self._state, self._at
        data, mine = self._encoded, None
        while True:
            record = at.record.amended(data=data, **self._amendments(at.record, authenticated_at))
            new = self._policy.sealer.seal(token, record, rotated)
            result = await self._store_record(at.version, new)
            if result is Commit.STORED:
                break
            newer = await self._again(at.token) if result is Commit.CONFLICT else None
            if newer is None:
                state.lost()
                return False
            if self._policy.on_conflict == "error" and newer.data != at.data:
                raise SessionConflictError("the session was changed by another request")
            mine = state.changes(self._encoded) if mine is None else mine
            data, at = values.apply(newer.data, mine), newer
            self._policy.values.check(data, newer.data)
            if self._policy.principal.of(data) != self._principal:
                # Each was right for itself; together they would change who an id belongs to.
                raise SessionConflictError("crossing changes would change who is signed in")
        before, rebased = values.split(state.base), state.rebased
        state.remember(new)
        if mine is not None:
            self._adopt(data, before, rebased)
            self._policy.report("merged", None, token.id)
        state.hold_all(self._policy.values.keyed(self._session))
        return True

    async def reload(self) -> None:
        """Take what others stored; what was changed here stays changed."""
        state, at = self._state, self._state.live
        if at is None:
            if state.found is Found.LOST:
                raise SessionGoneError("the session ended or was rotated elsewhere")
            return  # there is nothing to load
        principal = self._policy.principal.of(self._encoded)
        if state.is_anothers(principal):
            return  # whoever signs in over it isn't to see it
        sealed = await self._store.load(at.token.id)
        newer, _ = self._policy.unseal(at.token, sealed, state.bound)
        if isinstance(newer, Reject):
            self._policy.refuse(newer, at.token, sealed)
            state.lost()
            raise SessionGoneError("the session ended or was rotated elsewhere")
        mine, before, rebased = (
            state.changes(self._encoded),
            values.split(state.base),
            state.rebased,
        )
        data = values.apply(newer.data, mine)
        if self._policy.principal.of(data) != principal:
            raise SessionConflictError("crossing changes would change who is signed in")
        state.remember(newer)
        self._adopt(data, before, rebased)

    def _amendments(self, record: Record, authenticated_at: int | None) -> dict[str, Any]:
        fields = dict[str, Any]()
        if authenticated_at is not None:
            expires_at = self._now + self._length(record)
            fields.update(authenticated_at=authenticated_at, expires_at=expires_at)
        if self._state.lifetime is not None:
            expires_at, idle, persistent = self._lifetime(record)
            fields.update(expires_at=expires_at, idle=idle, persistent=persistent)
        if fields or self._policy.touch_due(self._state):
            fields["seen_at"] = self._now
        return fields

    def _length(self, record: Record) -> int:
        """The lifetime that a renewed sign-in gets, in seconds: the policy's, or "remember me"."""
        return max(self._policy.max_age, record.idle)

    async def _create(
        self,
        outcome: Outcome,
        data: bytes,
        token: SessionToken,
        owner: bytes | None = None,
        authenticated_at: int | None = None,
    ) -> Answer:
        state = self._state
        expires_at, idle, persistent = self._lifetime(None)
        record = Record(
            created_at=self._now,
            authenticated_at=authenticated_at,
            seen_at=self._now,
            expires_at=expires_at,
            idle=idle,
            persistent=persistent,
            owner=owner,
            binding=self._binding(),
            data=values.raw(data),
        )
        new = self._policy.sealer.seal(token, record, 0)
        if await self._store_record(None, new) is not Commit.STORED:
            raise StoreUnavailableError("the new session was ended before it began")
        state.forget()
        state.remember(new)
        state.principal = None if authenticated_at is None else self._principal
        self._adopt(data)
        state.hold_all(self._policy.values.keyed(self._session))
        self._policy.report("created", outcome.name.lower(), token.id)
        return self._told(outcome)

    def _binding(self) -> bytes | None:
        bound = self._state.bound
        return self._policy.keyring.primary.binding(bound) if isinstance(bound, str) else None

    def _descriptor(self, id: str, created_at: int) -> bytes:
        """What the index shows of this session; empty where nobody knows who asks."""
        peer, principal = self._state.peer(), self._principal
        principal = self._state.principal if principal is None else principal
        if peer == Peer() or principal is None:
            return b""
        return self._policy.sealer.seal_descriptor(
            self._policy.keyring.primary.index(principal),
            id,
            Descriptor(
                created_at=created_at,
                address=peer.address,
                user_agent=peer.user_agent and peer.user_agent[:256],
            ),
        )

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

    # -- the index

    async def _mark(self, at: Stored, principal: str | None) -> None:
        if principal is not None:
            self._check_time()
            ttl = max(1, at.record.expires_at - self._now) * 1000
            await self._short.of(self._policy.index.mark(principal, at.token.id, ttl=ttl))

    async def _is_over(self) -> bool:
        """Whether the index says that this session has ended: then it ends here and now."""
        lives, _ = await self._ask_index(max(1, self._at.record.expires_at - self._now))
        return not lives

    async def _ask_index(self, ttl: int) -> tuple[bool, float]:
        """Renew the entry, for `ttl` seconds; whether the session lives, and the server's time."""
        state, at = self._state, self._at
        if state.principal is None:
            return True, 0
        self._check_time()
        touched = self._policy.index.touch(
            state.principal,
            at.token.id,
            authenticated=at.record.authenticated_at or 0,
            ttl=ttl * 1000,
            descriptor=self._descriptor(at.token.id, at.record.created_at),
        )
        status, clock = await self._short.of(touched)
        if status is EntryStatus.LIVE:
            return True, clock
        if status is EntryStatus.ENDED:
            await self._end(at.token.id, "revoked")
        else:
            await self._end_if_unchanged(at, "outdated")
        state.lost()
        return False, clock

    async def _end_if_unchanged(self, old: Stored, how: str) -> Stored | None:
        """End it; as it was at its end, or None if another request had ended or rotated it."""
        while True:
            result = await self._bury(old)
            if result is Commit.STORED:
                self._policy.report("ended", how, old.token.id)
                return old
            newer = await self._again(old.token) if result is Commit.CONFLICT else None
            if newer is None:
                return None
            old = newer

    # -- the store

    async def _store_record(self, version: bytes | None, new: Stored) -> Commit:
        return await self._commit(new.token.id, version, new.sealed, self._policy.ttl(new))

    async def _bury(self, old: Stored) -> Commit:
        """A tombstone in its place, unless it was changed."""
        return await self._commit(old.token.id, old.version, self._grave(), _TOMBSTONE_MS)

    def _grave(self) -> bytes:
        """A tombstone; a browser that can't be told any more starts afresh."""
        return tombstone(0 if self._state.late else self._now)

    async def _commit(self, id: str, version: bytes | None, value: bytes, ttl: int) -> Commit:
        self._check_time()
        try:
            return await self._store.commit(id, version, value, ttl)
        except ReplicationError as exc:
            if version is None:
                raise  # nobody has its token
            self._short.error = exc
            return Commit.STORED

    async def _again(self, token: SessionToken) -> Stored | None:
        """After a conflict: what is there now, or None if the token opens it no more."""
        self._contended = True
        self._check_time()
        sealed = await self._store.load(token.id)
        newer, _ = self._policy.unseal(token, sealed, ANYWHERE)  # which was asked at the load
        return newer if isinstance(newer, Stored) else None

    async def _end(self, id: str, how: str) -> bool:
        self._check_time()
        end = self._store.end(id, self._grave(), _TOMBSTONE_MS)
        alive = await self._short.of(end)
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
        if data == self._encoded or self._state.cleared:  # cleared by another task since
            return
        session, mine, stored = self._session, values.split(self._encoded), values.split(data)
        here = self._policy.values.keyed(dict(session))  # which a thread may change meanwhile
        before, converted = before or {}, rebased or {}
        adopted, came, bases = dict[Any, Any](), dict[Any, Any](), dict[Any, bytes]()
        for key, raw in stored.items():
            if key not in here and mine.get(key) == raw:
                continue  # it was removed since it was encoded
            if key in here and mine.get(key) == raw:
                adopted[key] = here[key]
            elif key in here and key in converted and before.get(key) == raw:
                adopted[key], bases[key] = here[key], converted[key]
            else:
                adopted[key] = came[key] = values.decode_value(raw)
        since = {key: value for key, value in here.items() if key not in mine}
        replace_data(session, {**adopted, **since})
        self._state.hold(came)
        assigned = self._policy.values.keyed(dict.fromkeys(self._state.assigned or ()))
        self._state.assigned = assigned.keys() - came.keys()
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


class Update(Writer):
    """Read, modify and write, again and again until nobody was faster."""

    def __init__(self, policy: Policy, session: Session) -> None:
        super().__init__(policy, session, policy.values.encode(session))

    async def run(self, function: Callable[[dict[str, Any]], T]) -> T:
        """Apply the function to the newest data, and store them."""
        policy, state, session = self._policy, self._state, self._session
        if state.live is None:
            if state.stored is not None and not state.cleared:
                raise SessionGoneError("the session ended or was rotated elsewhere")
            return function(session)  # it is stored with the response, and nobody else has it
        if state.is_anothers(policy.principal.of(self._encoded)):
            return function(session)  # of a session that is still to come, too
        due = policy.touch_due(state)
        if due and await self._is_over():
            raise SessionGoneError("the session was revoked")
        mine, before, at = state.changes(self._encoded), values.split(state.base), state.live
        rebased = state.rebased
        while True:
            data = values.decode(at.data)
            state.hold(data)  # what the function takes out of them, and returns, is the record's
            result = function(data)
            state.hold(data)
            encoded = policy.values.encode(data)
            policy.values.check(encoded, at.data)
            if policy.principal.of(encoded) != state.principal:
                raise SessionError(
                    "update() can't sign in or out: call session.sign_in() or sign_out()"
                )
            seen_at = self._now if due else at.record.seen_at
            record = at.record.amended(data=encoded, seen_at=seen_at)
            new = policy.sealer.seal(at.token, record, at.rotated_at)
            written = await self._store_record(at.version, new)
            if written is Commit.STORED:
                break
            newer = await self._again(at.token) if written is Commit.CONFLICT else None
            if newer is None:
                state.lost()
                raise SessionGoneError("the session ended or was rotated elsewhere")
            at = newer
        state.remember(new)
        self._adopt(values.apply(encoded, mine), before, rebased)
        self._short.tell(result)
        return result
