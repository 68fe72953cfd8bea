"""The cache's entries in a store. They are read as records are, with the sessions of the same tick.

What is stored is a header that nothing else has, as records have one, and a sealed box. By the
header the commit script compares what is there, so no entry needs a lock of its own. For example,
who loads a value first stores a *claim*, and later the value in its place, if the claim is still
there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from os import urandom
from struct import Struct
from typing import Any, Final, NamedTuple

from redis_sessions.connect.resp import UNEXPECTED_REPLY
from redis_sessions.errors import StoreError, StoreUnavailableError
from redis_sessions.session.box import Box
from redis_sessions.session.record import HEADER_SIZE, is_tombstone, tombstone
from redis_sessions.stores.commands import ABSENT, COMMIT, IndexCommand, verdict
from redis_sessions.stores.copies import ENTRY
from redis_sessions.stores.memory import MemoryStore
from redis_sessions.stores.protocols import STORED, Commit, Store, Written, copies_of
from redis_sessions.stores.redis import RedisStore, servers_of

__all__ = ["Claim", "Entries", "Entry", "Place", "Snapshot"]

_DAY: Final = 24 * 3600 * 1000
"""Milliseconds that a generation lives at least after an entry of it was stored."""
_SHARED: Final = bytes(16)
"""The generation of entries that belong to nobody."""
_HEAD: Final = Struct(">16sQQQI")
_LONGEST: Final = (1 << 32) - 1


class Entry(NamedTuple):
    """What is stored under one key. Times in milliseconds since the epoch, on the store's clock."""

    generation: bytes
    fresh_until: int
    kept_until: int
    """Until then it may stand in for a load that fails."""
    busy_until: int
    """Until then somebody is loading it. 0: nobody is."""
    took: int
    """How many milliseconds it took to load."""
    value: bytes
    """Empty while it is loaded for the first time."""

    def packed(self) -> bytes:
        """The entry as bytes, which are then sealed."""
        return _HEAD.pack(*self[:5]) + self.value


class Place(NamedTuple):
    """Where the entry of one key is, and where the generation of its group is."""

    context: str
    id: str
    group: str | None
    group_id: str | None


class Snapshot(NamedTuple):
    """What was stored under one key at some moment."""

    header: bytes | None
    """What the stored bytes begin with. None: nothing was stored. Empty: too few bytes."""
    entry: Entry | None
    """The entry, if it could be opened and belongs to the generation below."""
    group_header: bytes | None
    """What the stored bytes of the generation begin with. None: nothing was stored."""
    generation: bytes | None
    """The generation of the group. None: there is none, or it couldn't be opened."""


class Claim(NamedTuple):
    """What this process stores while it loads a value."""

    stored: bytes
    """A header and a box."""
    ttl: int
    generation: bytes
    before: Entry | None
    """The entry that was there before, which may have a value."""
    group: bytes | None
    """What the stored bytes of the generation begin with. If it is a new one, all of them."""

    @property
    def header(self) -> bytes:
        """The first bytes, which no other claim or value has."""
        return self.stored[:HEADER_SIZE]


class Entries:
    """The entries of one cache. All methods that are awaited raise `StoreError`.

    An entry belongs to a generation: 16 random bytes, stored under a key of their own. To forget
    all entries of a group, its generation is removed. The next one is random, too, so it can't be
    the same, as a number could. A load that began before stores its result under the generation
    that it began with.
    """

    def __init__(self, store: Store, box: Box, clock: Callable[[], float]) -> None:
        self.store = store
        self._box = box
        self._clock = clock
        self._copies = copies_of(store)
        self.rejected: Callable[[], None] = lambda: None
        """Is called if stored bytes can't be opened."""

    def now(self) -> int:
        """Milliseconds since the epoch."""
        return int(self._clock() * 1000)

    def place(self, context: str, group: str | None) -> Place:
        """Where an entry is."""
        return Place(context, self._id(context), group, None if group is None else self._id(group))

    def _id(self, context: str) -> str:
        return ENTRY + self._box.names(context)[0]

    # -- reading

    def near(self, place: Place) -> Snapshot | None:
        """What near copies hold, if there are any of the entry and of its generation."""
        if self._copies is None:
            return None
        copy = self._copies.near_copy(place.id)
        if copy is None:
            return None
        group = None
        if place.group_id is not None:
            of_group = self._copies.near_copy(place.group_id)
            if of_group is None:
                return None
            group = of_group.value
        if copy.opened is None:
            copy.opened = self._opened(place, copy.value)
        return self._sight(place, copy.value, copy.opened, group)

    async def look(self, place: Place) -> Snapshot:
        """What is stored."""
        load = self.store.load
        if place.group_id is None:
            found, group = await load(place.id), None
        else:
            found, group = await asyncio.gather(load(place.id), load(place.group_id))
        return self._sight(place, found, self._opened(place, found), group)

    def _opened(self, place: Place, found: bytes | None) -> Entry | None:
        plain = self._unsealed(place.context, found)
        if plain is None or len(plain) < _HEAD.size:
            return None
        return Entry._make((*_HEAD.unpack_from(plain), plain[_HEAD.size :]))

    def _unsealed(self, context: str, found: bytes | None) -> bytes | None:
        if not found or is_tombstone(found):
            return None
        plain = self._box.open(context, found[HEADER_SIZE:])
        if plain is None:
            self.rejected()
        return plain

    def _sight(
        self, place: Place, found: bytes | None, entry: Entry | None, group: bytes | None
    ) -> Snapshot:
        generation = _SHARED if place.group is None else self._unsealed(place.group, group)
        if entry is not None and entry.generation != generation:
            entry = None
        return Snapshot(_header(found), entry, _header(group), generation)

    # -- writing

    def new_claim(self, place: Place, seen: Snapshot, lock: int) -> Claim:
        """A claim for `lock` milliseconds, which isn't stored yet."""
        generation, before, group = seen.generation, seen.entry, seen.group_header
        if generation is None:
            assert place.group is not None
            generation = urandom(16)
            group = self._sealed(place.group, generation)
        now = self.now()
        if before is None:
            entry = Entry(generation, 0, 0, now + lock, 0, b"")
        else:
            entry = before._replace(busy_until=now + lock)
        stored = self._sealed(place.context, entry.packed())
        return Claim(stored, max(lock, entry.kept_until - now), generation, before, group)

    async def claim(self, place: Place, seen: Snapshot, claim: Claim) -> bool:
        """Store the claim. False if the entry isn't any more what was seen."""
        id, group = place.group_id, claim.group
        if seen.generation is None and id is not None and group is not None:
            stored = await self._put(id, seen.group_header, group, _DAY)
            if not stored:
                return False
        return await self._put(place.id, seen.header, claim.stored, claim.ttl)

    async def keep(
        self, place: Place, claim: Claim, value: bytes, *, took: int, ttl: int, stale: int
    ) -> bool:
        """Store a value in the place of the claim. False if it isn't there any more."""
        now = self.now()
        entry = Entry(
            claim.generation, now + ttl, now + ttl + stale, 0, min(max(took, 1), _LONGEST), value
        )
        put = self._put(
            place.id, claim.header, self._sealed(place.context, entry.packed()), ttl + stale
        )
        if place.group is None or place.group_id is None or claim.group is None:
            return await put
        # If the header is the same, this only renews the time. If it is another, this does nothing.
        header = claim.group[:HEADER_SIZE]
        again = header + self._box.seal(place.group, claim.generation)
        renew = self._put(place.group_id, header, again, max(_DAY, ttl + stale))
        kept, _ = await asyncio.gather(put, renew)
        return kept

    async def release(self, place: Place, claim: Claim, *, restore: bool) -> None:
        """Give up the claim. `restore`: store the entry again that was there before."""
        now = self.now()
        entry = claim.before if restore else None
        left = 1 if entry is None else entry.kept_until - now
        if entry is None or left < 1:
            entry, left = Entry(claim.generation, 0, 0, 0, 0, b""), 1
        released = entry._replace(busy_until=0)
        await self._put(
            place.id, claim.header, self._sealed(place.context, released.packed()), left
        )

    async def forget(self, context: str) -> None:
        """Remove an entry, or a generation, under each secret key."""
        await self._remove([ENTRY + name for name in self._box.names(context)])

    async def _remove(self, ids: Sequence[str]) -> None:
        if isinstance(self.store, MemoryStore):
            self.store.discard(ids)
        elif isinstance(self.store, RedisStore):
            submit = servers_of(self.store).index_commands.submit
            keys = [self.store.prefix + id for id in ids]
            commands = [IndexCommand(key, ("DEL", key), "entry") for key in keys]
            await asyncio.gather(*(submit(command, 128) for command in commands))
        else:  # a tombstone, which expires after a millisecond
            await asyncio.gather(*(self.store.end(id, tombstone(0), 1) for id in ids))

    def _sealed(self, context: str, plain: bytes) -> bytes:
        return tombstone(0) + self._box.seal(context, plain)

    async def _put(self, id: str, expected: bytes | None, value: bytes, ttl: int) -> bool:
        """Store this if what is there begins with `expected`. None: if nothing is there.

        It doesn't wait for replicas, and isn't repeated after a failover: what is lost is loaded
        anew.
        """
        store = self.store
        if expected == b"":
            await self._remove([id])
            expected = None
        if not isinstance(store, RedisStore):
            return (await store.commit(id, expected, value, ttl)).result is Commit.STORED
        key = store.prefix + id
        call = COMMIT.call([key], (ABSENT if expected is None else expected, value, ttl))
        # Not over the link of the records, which would wait behind a large entry.
        command = IndexCommand(key, call, "entry")
        reply = await servers_of(store).index_commands.submit(command, len(value) + 128)
        return _is_stored(reply)


def _header(found: bytes | None) -> bytes | None:
    if found is None:
        return None
    return found[:HEADER_SIZE] if len(found) > HEADER_SIZE else b""


def _is_stored(reply: Any) -> bool:
    try:
        (answer,) = reply
        written = verdict(answer)
    except UNEXPECTED_REPLY as exc:
        raise StoreUnavailableError(
            "the store answered what no Redis does", reason="protocol"
        ) from exc
    if not isinstance(written, Written):
        raise StoreError(f"the store answered: {written}")
    return written is STORED
