"""The writes of one commit, save or update: one session, one deadline."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from time import monotonic
from typing import Any, Final

import msgspec

from redis_sessions.errors import (
    SessionConflictError,
    StoreError,
    StoreUnavailableError,
    raise_if_short,
)
from redis_sessions.events import logger
from redis_sessions.lifecycle.backend import Backend
from redis_sessions.lifecycle.index import Index
from redis_sessions.lifecycle.loading import unseal
from redis_sessions.session.context import Peer
from redis_sessions.session.record import (
    TOMBSTONE_TTL,
    Alias,
    Descriptor,
    Stored,
    tombstone,
    version,
)
from redis_sessions.session.session import Session
from redis_sessions.session.state import ANYWHERE, State
from redis_sessions.stores.protocols import Commit, EntryStatus, Written
from redis_sessions.tracebacks import no_fields, silent_repr

__all__ = ["TOMBSTONE_MS", "Writer", "deadline"]

TOMBSTONE_MS: Final = TOMBSTONE_TTL * 1000

Value = tuple[bytes, int]
"""What is to be stored, and for how many milliseconds."""


def deadline(backend: Backend) -> float:
    """The deadline of writes that begin now, on `time.monotonic`."""
    return monotonic() + backend.policy.deadline


class Writer(msgspec.Struct, eq=False, gc=False):
    """Writes one session, until a deadline.

    `encoded`: its data as they are now. `principal`: who is signed in by them. `now`: the second
    that all writes use. `shortfall`: what the first write says that is on too few replicas. The
    others are made all the same: a sign-out that was carried out in part would be worse than one
    that a failover may lose.
    """

    __repr__ = silent_repr
    __rich_repr__ = no_fields

    # Many commits wait at once. What the collector needn't know doesn't bring it on (`gc=False`):
    # nothing that a commit's objects refer to refers back to them.

    backend: Backend
    session: Session
    state: State
    encoded: bytes
    principal: str | None
    now: int
    ends: float
    """When the deadline is, on `time.monotonic`."""
    shortfall: str | None = None
    contended: bool = False
    """Whether another request was faster at least once."""

    @property
    def at(self) -> Stored:
        """The record that is stored, as far as this request knows."""
        if self.state.stored is None:
            raise RuntimeError("nothing is stored")
        return self.state.stored

    # -- one write

    async def commit(self, id: str, version: bytes | None, value: bytes, ttl: int) -> Commit:
        """One attempt to store a value, for `ttl` milliseconds."""
        self.check_time()
        written = await self.backend.records.commit(id, version, value, ttl)
        if written.shortfall is not None:
            if version is None:
                raise_if_short(written.shortfall)  # a creation: the browser doesn't get its token
            self._note_shortfall(written)
        return written.result

    async def store(self, version: bytes | None, new: Stored) -> Commit:
        """One attempt to store a record."""
        return await self.commit(new.token.id, version, new.sealed, self.backend.ttl(new))

    def attempt(self, at: Stored, value: Value) -> Awaitable[Written[Commit]]:
        """An attempt to replace what is stored by this value. It may be awaited directly."""
        return self.backend.records.commit(at.token.id, version(at.sealed), *value)

    async def compare_and_set(
        self,
        at: Stored,
        value: Callable[[Stored], Value],
        merge: Callable[[Stored, Stored], Awaitable[None]] | None = None,
        written: Written[Commit] | None = None,
    ) -> Stored | None:
        """Replace what is stored by `value(newest)`. After a conflict it tries again.

        `at`: the newest version that is known. `merge(before, newest)`: is awaited after each
        conflict. `written`: the answer to the first `attempt`, if that was made already. Returns
        the version that was replaced; or None if the session ended or was rotated, so that the
        token opens it no more. At the deadline, raises `SessionConflictError`.
        """
        while True:
            if written is None:
                self.check_time()
                written = await self.attempt(at, value(at))
            if written.result is Commit.STORED:
                self._note_shortfall(written)
                return at
            if written.result is not Commit.CONFLICT:
                return None
            self.contended = True
            if self.backend.observer is not None:
                self.backend.observer.on_conflict()
            self.check_time()
            newest = await self.newest(at)
            if newest is None:
                return None
            if merge is not None:
                await merge(at, newest)
            at, written = newest, None

    async def newest(self, at: Stored) -> Stored | None:
        """What is stored now under the token of `at`. None if this opens nothing any more."""
        sealed = await self.backend.store.load(at.token.id)
        # The binding was checked when the session was loaded.
        newest, _ = unseal(self.backend, at.token, sealed, ANYWHERE)
        return newest if isinstance(newest, Stored) else None

    def check_time(self) -> None:
        """Raise an error if the deadline has passed."""
        if monotonic() > self.ends:
            if self.contended:
                raise SessionConflictError("the session kept changing until the deadline")
            raise StoreUnavailableError("the deadline has passed", reason="timeout")

    def _note_shortfall(self, written: Written[Any]) -> None:
        self.shortfall = self.shortfall or written.shortfall

    # -- ending

    async def end(self, id: str, how: str) -> bool:
        """End this id, whatever is stored under it. Returns whether a session was stored."""
        self.check_time()
        ended = await self.backend.store.end(id, self._tombstone(), TOMBSTONE_MS)
        self._note_shortfall(ended)
        if ended.result:
            self.backend.report("ended", how, id)
        return ended.result

    async def end_if_unchanged(
        self, at: Stored, how: str, merge: Callable[[Stored, Stored], Awaitable[None]] | None = None
    ) -> Stored | None:
        """End a session, unless another request has ended or rotated it. Then returns None.

        Otherwise returns the session's last version, which others may have changed meanwhile.
        `merge`, or the caller, can keep their changes.
        """
        last = await self.compare_and_set(at, lambda _: (self._tombstone(), TOMBSTONE_MS), merge)
        if last is not None:
            self.backend.report("ended", how, at.token.id)
        return last

    def _tombstone(self) -> bytes:
        """The tombstone. With 0 in it, the browser, which can't be told any more, starts anew."""
        return tombstone(0 if self.state.request.late else self.now)

    def signed_out(self, how: str, id: str, principal: str | None) -> None:
        """Report that a session has ended, if somebody was signed in by it."""
        if principal is not None:
            self.backend.report("signed_out", how, id, principal, self.state.peer)

    async def refuse_signed(self, at: Stored, principal: str | None) -> None:
        """If a session comes from a signed cookie, refuse the other copies of this cookie, too.

        Call it before the session ends. Afterwards nobody could try it again.
        """
        signed_for = at.record.signed_for
        if principal is not None and signed_for:
            self.check_time()
            short = await self.backend.refuse_signed(principal, signed_for)
            self.shortfall = self.shortfall or short

    # -- the index

    async def mark(self, at: Stored, principal: str | None) -> None:
        """Mark a session as ended in its principal's index, and take it out of its aliases'."""
        if principal is not None:
            self.check_time()
            ttl = max(1, at.record.expires_at - self.now) * 1000
            self._note_shortfall(await self.backend.index.mark(principal, at.token.id, ttl=ttl))
            await self.forget(at.token.id, at.record.aliases)

    async def forget(self, id: str, aliases: Iterable[Alias]) -> None:
        """Take a session out of the indexes of these aliases.

        No mark is needed there, since its touch asks the principal's index, too. An entry that
        stays does no harm: its id opens nothing, or is of the same user.
        """
        try:
            for alias in aliases:
                await self.backend.aliases.forget(alias.text, id)
        except StoreError as exc:
            logger.warning("sessions: an alias still names a session: %s", exc)

    async def renew_entry(self, ttl: int | None = None) -> float | None:
        """Renew the session's entry in the index, for `ttl` seconds. Returns its time, in ms.

        If the index says that the session has ended, it ends the record, too, and returns None.
        So it does if the index of an alias says it. If nobody is signed in, there is no entry, and
        it returns 0.
        """
        state, backend, record = self.state, self.backend, self.at.record
        if state.principal is None:
            return 0
        lasts = (max(1, record.expires_at - self.now) if ttl is None else ttl) * 1000
        for alias in record.aliases:
            if await self._touch(backend.aliases, alias.text, alias.entered_at, lasts) is None:
                return None
        since = record.authenticated_at or 0
        shown = self.descriptor(
            self.at.token.id, record.created_at, record.methods, record.signed_for
        )
        rotated = self.at.rotated_at
        return await self._touch(backend.index, state.principal, since, lasts, shown, rotated)

    async def _touch(
        self,
        index: Index,
        who: str,
        since: int,
        ttl: int,
        descriptor: bytes = b"",
        rotated: int = 0,
    ) -> float | None:
        self.check_time()
        touched = await index.touch(
            who,
            self.at.token.id,
            authenticated=since,
            ttl=ttl,
            descriptor=descriptor,
            rotated=rotated,
        )
        self._note_shortfall(touched)
        status, clock = touched.result
        if status is EntryStatus.LIVE:
            return clock
        ended = status is EntryStatus.ENDED
        if ended and index is self.backend.index:
            await self.end(self.at.token.id, "revoked")
        else:  # who signed in again meanwhile may have other aliases
            await self.end_if_unchanged(self.at, "revoked" if ended else "outdated")
        self.state.gone()
        return None

    async def note_rotation(self, old: Stored, new: Stored, at: int | None) -> None:
        """Note in the index that `new` has replaced `old`, so that this one ends if it comes back.

        `at`: when the principal proved who they are, if they did. Call it after the record is
        stored. If the index had a later time than the record, the session would end at its next
        touch.
        """
        if self.principal is None:
            return
        id, record = new.token.id, new.record
        shown = b""
        if at is not None:
            shown = self.descriptor(id, record.created_at, record.methods, record.signed_for)
        rotation = new.rotated_at, old.rotated_at
        try:
            index = self.backend.index
            noted = await index.rotated(self.principal, id, rotation, at or 0, shown)
            self._note_shortfall(noted)
        except StoreError as exc:
            logger.warning("sessions: an index has an older time than its session: %s", exc)

    def descriptor(
        self,
        id: str,
        created_at: int,
        methods: tuple[str, ...],
        signed_for: int,
        begins: bool = False,
    ) -> bytes:
        """What lists show of this session, sealed. It is empty if no client is known.

        `begins`: the index has no other descriptor that an empty one would leave there.
        """
        backend, peer = self.backend, self.state.peer()
        principal = self.state.principal if self.principal is None else self.principal
        begins = begins or len(backend.keyring.keys) > 1  # there may be none under the new key
        if principal is None or (peer == Peer() and not (begins and signed_for)):
            return b""
        return backend.sealer.seal_descriptor(
            backend.keyring.primary.index(principal),
            id,
            Descriptor(
                created_at=created_at,
                address=peer.address,
                user_agent=peer.user_agent and peer.user_agent[:256],
                methods=methods,
                signed_for=signed_for,
            ),
        )

    # -- the record

    def seal(self, at: Stored, **fields: Any) -> Stored:
        """The record with other values for these fields, under the same token."""
        return self.backend.sealer.seal_again(at, at.record.amended(**fields))

    def lifetime(self, persistent: bool) -> tuple[int, int, bool]:
        """The fields `expires_at`, `idle` and `persistent`, by `expire_in()` or by the policy."""
        policy, wish = self.backend.policy, self.state.wanted.lifetime
        if wish is None:
            return self.now + policy.max_age, policy.idle_timeout, persistent
        duration, wanted = wish
        remembered = duration > policy.max_age
        idle = duration if remembered else min(policy.idle_timeout, duration)
        return self.now + duration, idle, persistent if wanted is None else wanted
