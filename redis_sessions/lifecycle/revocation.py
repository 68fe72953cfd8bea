"""The sessions of a principal: list them, revoke one or all, and keep to `max_sessions`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final
from uuid import UUID

from redis_sessions.errors import ConfigurationError, StoreError, raise_if_short
from redis_sessions.events import Client, logger
from redis_sessions.lifecycle.backend import Backend
from redis_sessions.lifecycle.index import Index
from redis_sessions.session.aliases import alias
from redis_sessions.session.record import TOMBSTONE_TTL, is_record, tombstone
from redis_sessions.session.serving import serving
from redis_sessions.session.session import Session, services_of, state_of
from redis_sessions.session.state import Status
from redis_sessions.session.token import is_id
from redis_sessions.stores.protocols import Entry, EntryStatus, Written

__all__ = [
    "AnyPrincipal",
    "SessionInfo",
    "make_room",
    "revoke",
    "revoke_all",
    "revoke_by",
    "sessions_of",
]

_AT_ONCE: Final = 512
_LOOKED_AT: Final = 1000
_TOMBSTONE_MS: Final = TOMBSTONE_TTL * 1000

AnyPrincipal = str | int | UUID


@dataclass(frozen=True)
class SessionInfo:
    """One session of a principal, for a list of devices. All times are UTC."""

    id: str
    current: bool
    """Whether it is the session of the request that asks."""
    authenticated_at: datetime
    last_seen_at: datetime
    """The last touch. The session may have been used up to five minutes later."""
    expires_at: datetime
    created_at: datetime | None
    address: str | None
    user_agent: str | None
    methods: tuple[str, ...] = ()
    """How they signed in, or proved it last: `session.authentication_methods`."""

    @cached_property
    def browser(self) -> str | None:
        """Such as `Firefox 140`, by ua-parser (extra `devices`). None if it isn't known."""
        return _words(self.user_agent, "user_agent")

    @cached_property
    def system(self) -> str | None:
        """Such as `Windows 10`, by ua-parser (extra `devices`). None if it isn't known."""
        return _words(self.user_agent, "os")


async def sessions_of(backend: Backend, principal: AnyPrincipal) -> list[SessionInfo]:
    """What `SessionManager.sessions_of()` does."""
    mine, shown, empty = _own(backend), list[SessionInfo](), True
    async for name, entries in backend.index.pages(backend.principal.canonical(principal)):
        empty = False
        stored = await _stored(backend, [entry.id for entry in entries])
        shown += [_info(backend, name, e, e.id in mine) for e in entries if is_record(stored[e.id])]
    if empty:
        await backend.key_notes.check()
    return sorted(shown, key=lambda info: info.last_seen_at, reverse=True)


async def revoke(backend: Backend, id: str, principal: AnyPrincipal) -> bool:
    """What `SessionManager.revoke()` does."""
    who = backend.principal.canonical(principal)
    if not is_id(id):
        return False
    # The request's own session can be revoked also if its entry was lost.
    known = EntryStatus.LIVE if id in _mine(backend, who) else await backend.index.ask(who, id)
    # A mark alone doesn't say that the id is theirs: an earlier call may have made it (below). So
    # only an end is repeated. A session that is stored ends at its next touch, if it is theirs.
    over = known is EntryStatus.ENDED and not is_record(await backend.store.load(id))
    if known is EntryStatus.LIVE or over:
        # First, so that it can be tried again.
        short = None if over else await _refuse_signed(backend, who, id)
        count, shortfall = await _end_ids(backend, [id])
        marked = await backend.index.mark(who, id)
        if count:
            backend.report("revoked", "one", id, who, _client(backend))
        raise_if_short(short or shortfall or marked.shortfall)
        return count == 1
    await backend.key_notes.check()
    if is_record(await backend.store.load(id)):
        marked = await backend.index.mark(who, id)
        raise_if_short(marked.shortfall)
    return False


async def _refuse_signed(backend: Backend, who: str, id: str) -> str | None:
    """If a session comes from a signed cookie, refuse the other copies of this cookie, too."""
    own = _own(backend).get(id)
    stored = None if own is None else state_of(own).stored
    if stored is not None:
        signed_for = stored.record.signed_for
    else:
        signed_for = await _signed_for(backend, who, id)
    return await backend.refuse_signed(who, signed_for) if signed_for else None


async def _signed_for(backend: Backend, who: str, id: str) -> int:
    """`Origin.signed_for` of a session, by its entry."""
    async with aclosing(backend.index.pages(who)) as pages:
        async for name, entries in pages:
            for entry in entries:
                if entry.id == id:
                    shown = backend.sealer.open_descriptor(name, id, entry.descriptor)
                    return 0 if shown is None else shown.signed_for
    return 0


async def revoke_all(backend: Backend, principal: AnyPrincipal, *, keep: str | None = None) -> int:
    """What `SessionManager.revoke_all()` does."""
    who = backend.principal.canonical(principal)
    if keep is not None and not is_id(keep):
        raise ConfigurationError("keep= is no session's id: write session.id")
    ended = await _end_all(backend, backend.index, who, lambda: _mine(backend, who), keep)
    how = "all" if keep is None else "all but one"
    backend.report("revoked", how, keep, who, _client(backend))
    raise_if_short(ended.shortfall)
    return ended.result


async def revoke_by(backend: Backend, name: str, value: str) -> int:
    """What `SessionManager.revoke_by()` does."""
    text = alias(name, value)
    ended = await _end_all(backend, backend.aliases, text, lambda: _named(backend, text))
    backend.report("revoked", "by alias", None, None, _client(backend))
    raise_if_short(ended.shortfall)
    return ended.result


async def _end_all(
    backend: Backend,
    index: Index,
    who: str,
    own: Callable[[], Iterable[str]],
    keep: str | None = None,
) -> Written[int]:
    """End all sessions in an index but `keep`. Returns how many ended.

    `own`: which of the sessions of the request that is being served belong to it.
    """
    revoked, shortfall = await index.revoke(who, keep=keep)
    for session in _serving(backend):
        state = state_of(session)
        request, accepted = state.request, state.accepted
        request.revocations = {**request.revocations, index.name(who): revoked}
        if accepted is not None and accepted.principal == who and index is backend.index:
            session.clear()  # it isn't stored yet, and would count as a sign-in of afterwards
    mine = [id for id in own() if id != keep]  # also without an entry
    ended = await _end_ids(backend, mine)
    count, empty, shortfall = ended.result, not mine, shortfall or ended.shortfall
    # Later sign-ins are left alone. A touch asks every index, so the latest time counts.
    until = max(revoked.values())
    async for name, entries in index.pages(who):
        empty = False
        before = [e.id for e in entries if e.authenticated <= until and e.id != keep]
        ended = await _end_ids(backend, [id for id in before if id not in mine])
        count, shortfall = count + ended.result, shortfall or ended.shortfall
        for ids in _batches(before):
            removed = await index.remove(name, ids, until=until)
            shortfall = shortfall or removed.shortfall
    if empty:
        await backend.key_notes.check()
    return Written(count, shortfall)


async def make_room(backend: Backend, principal: str, most: int, *, keep: str) -> None:
    """Keep to `max_sessions`. Entries without a session go first, then those seen least recently.

    If there are more than 1,000 entries, it looks at some of them. The next sign-ins look at
    others.
    """
    try:
        entries = list[Entry]()
        async with aclosing(backend.index.pages(principal)) as pages:
            async for _, page in pages:
                entries += page
                if len(entries) > _LOOKED_AT:
                    break
        await _keep_to(backend, most, entries, principal, keep)
    except StoreError as exc:  # the sign-in is stored all the same
        logger.warning("sessions over max_sessions were left alive: %s", exc)


async def _keep_to(
    backend: Backend, allowed: int, entries: Sequence[Entry], principal: str, keep: str
) -> None:
    if len(entries) <= allowed:
        return
    stored = await _stored(backend, [entry.id for entry in entries])
    newest = max(entry.seen for entry in entries)

    def under_way(entry: Entry) -> bool:  # the record may be stored in a moment
        return stored[entry.id] is None and newest - entry.seen < _TOMBSTONE_MS

    def order(entry: Entry) -> tuple[bool, float]:
        return is_record(stored[entry.id]), entry.seen

    # Several sign-ins at once agree on this order. Each comes here after its record is stored.
    there = [entry for entry in entries if entry.id == keep or not under_way(entry)]
    over = max(0, len(there) - allowed)
    ids = [entry.id for entry in sorted(there, key=order)[:over]]
    await _end_ids(backend, ids, "evicted")
    for id in ids:
        await backend.index.mark(principal, id)


def _serving(backend: Backend) -> list[Session]:
    """The sessions of this manager in the request that is being served."""
    sessions = (each.session for each in serving.get() if not each.over)
    return [session for session in sessions if services_of(session) is backend.services]


def _client(backend: Backend) -> Client | None:
    """The client of the request that is being served."""
    sessions = _serving(backend)
    return state_of(sessions[-1]).peer if sessions else None


def _own(backend: Backend) -> dict[str, Session]:
    """The sessions in this request that were loaded, by id. They may have been cleared since."""
    pairs = [(state_of(session), session) for session in _serving(backend)]
    return {
        state.stored.token.id: session
        for state, session in pairs
        if state.stored is not None and state.status in (Status.LIVE, Status.ENDED)
    }


def _mine(backend: Backend, principal: str) -> list[str]:
    """The ids of this principal's sessions in the request that is being served."""
    return [id for id, own in _own(backend).items() if state_of(own).principal == principal]


def _named(backend: Backend, text: str) -> list[str]:
    """The ids of the sessions in the request that is being served that have this alias."""
    return [
        id
        for id, own in _own(backend).items()
        if (stored := state_of(own).stored) is not None
        and any(each.text == text for each in stored.record.aliases)
    ]


async def _end_ids(backend: Backend, ids: Sequence[str], how: str = "revoked") -> Written[int]:
    """End these ids. Returns how many sessions were stored."""
    own = _own(backend)
    # Who is told of the end before this request has its answer waits for it.
    ours = [state_of(own[id]) for id in ids if id in own and not state_of(own[id]).turn]
    for state in ours:
        state.turn = True
    try:
        return await _end_each(backend, ids, how, own)
    finally:
        for state in ours:
            state.end_turn()


async def _end_each(
    backend: Backend, ids: Sequence[str], how: str, own: Mapping[str, Session]
) -> Written[int]:
    told = {id for id, session in own.items() if not state_of(session).request.late}
    count, shortfall = 0, None
    for batch in _batches(ids):
        # The browser of this request can be told of the end. With zero, others start anew.
        tombstones = [tombstone(backend.now() if id in told else 0) for id in batch]
        ended = await asyncio.gather(
            *(
                backend.store.end(id, end, _TOMBSTONE_MS)
                for id, end in zip(batch, tombstones, strict=True)
            )
        )
        for id, written in zip(batch, ended, strict=True):
            alive, shortfall = written.result, shortfall or written.shortfall
            count += alive
            if alive:
                backend.report("ended", how, id)
            if id in own:
                _end_own(own[id], alive, how)
        if backend.expiry is not None:  # so that ends don't come in faster than they are noted
            await backend.expiry.keep_pace()
    return Written(count, shortfall)


def _end_own(session: Session, alive: bool, how: str) -> None:
    state = state_of(session)
    if not alive or how == "evicted":
        state.gone()  # another request ended it, or `max_sessions` left no room for it
        return
    if not state.wanted.cleared:
        session.clear()
    state.status = Status.ENDED


async def _stored(backend: Backend, ids: Sequence[str]) -> dict[str, bytes | None]:
    """What is stored under each of these ids."""
    found: dict[str, bytes | None] = {}
    for batch in _batches(ids):
        stored = await asyncio.gather(*(backend.store.load(id) for id in batch))
        found.update(zip(batch, stored, strict=True))
    return found


def _info(backend: Backend, name: str, entry: Entry, current: bool) -> SessionInfo:
    descriptor = backend.sealer.open_descriptor(name, entry.id, entry.descriptor)
    return SessionInfo(
        id=entry.id,
        current=current,
        authenticated_at=_time(entry.authenticated),
        last_seen_at=_time(entry.seen),
        expires_at=_time(entry.expires),
        created_at=_time(descriptor.created_at * 1000) if descriptor else None,
        address=descriptor.address if descriptor else None,
        user_agent=descriptor.user_agent if descriptor else None,
        methods=descriptor.methods if descriptor else (),
    )


def _batches(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[start : start + _AT_ONCE] for start in range(0, len(ids), _AT_ONCE))


def _time(milliseconds: float) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _words(user_agent: str | None, part: str) -> str | None:
    if not user_agent:
        return None
    try:
        import ua_parser
    except ImportError:
        return None
    found: Any = getattr(ua_parser.parse(user_agent), part)
    return None if found is None else " ".join(filter(None, (found.family, found.major)))
