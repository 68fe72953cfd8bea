"""The index with one mechanism switched off: in its script, or in what calls it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, Final

from redis_sessions.lifecycle.writer import Writer
from redis_sessions.session.record import Stored
from redis_sessions.stores import Entry, EntryStatus, Store
from redis_sessions.stores.protocols import Entered, Touched, Written
from tests.explorer.backends import Backend
from tests.explorer.mutants import Passing
from tests.explorer.observation import WHOSE
from tests.explorer.scenario import ALIASES, INDEXES, Scenario

__all__ = ["MUTANTS", "SCRIPTS", "Mutant", "Script"]

_end_if_unchanged = Writer.end_if_unchanged
_renew_entry = Writer.renew_entry


class _EndsAnybody(Passing):
    """Entries have no times: `revoke_all` ends those that signed in since, too."""

    async def entries(self, key: str, cursor: int = 0) -> tuple[int, Sequence[Entry]]:
        left, entries = await self.real.entries(key, cursor)
        return left, [replace(entry, authenticated=0) for entry in entries]


async def _mark_first(writer: Writer, old: Stored, how: str, merge: Any = None) -> Any:
    """A sign-out marks before it ends."""
    await writer.mark(old, writer.state.principal)
    return await _end_if_unchanged(writer, old, how, merge)


async def _end_though_changed(writer: Writer, old: Stored, how: str, merge: Any = None) -> Any:
    """What is outdated ends, whatever has become of it."""
    if how != "outdated":
        return await _end_if_unchanged(writer, old, how, merge)
    await writer.end(old.token.id, how)
    return old


async def _note_first(writer: Writer, ttl: int | None = None) -> float | None:
    """`authenticated()` tells the index before the record."""
    clock = await _renew_entry(writer, ttl)
    if clock is not None and writer.state.wanted.authenticated:
        at = int(clock - writer.backend.index.age(writer.state.request.began))
        index, old = writer.backend.index, writer.at
        await index.rotated(writer.principal or "", old.token.id, (writer.now, 0), at, b"")
    return clock


class _AsksNoAlias(Passing):
    """A touch asks the principal's index alone."""

    async def touch(self, key: str, id: str, **options: Any) -> Written[Touched]:
        if WHOSE[key] in ALIASES:
            return Written(Touched(EntryStatus.LIVE, 0))
        return await self.real.touch(key, id, **options)


class _EntersNoAlias(Passing):
    """A sign-in is entered in the principal's index alone."""

    async def enter(self, key: str, id: str, **options: Any) -> Written[Entered]:
        if WHOSE[key] in ALIASES:
            return Written(Entered(EntryStatus.LIVE, int(self.backend.clock() * 1000), 1, inf))
        return await self.real.enter(key, id, **options)


class _RevokesThePrincipal(Passing):
    """`revoke_by` goes to the principal's index."""

    async def revoke(self, key: str, *, keep: str | None, memory: int) -> Written[float]:
        return await self.real.revoke(_as_principal(key), keep=keep, memory=memory)

    async def entries(self, key: str, cursor: int = 0) -> tuple[int, Sequence[Entry]]:
        return await self.real.entries(_as_principal(key), cursor)


def _as_principal(key: str) -> str:
    return INDEXES["A"] if WHOSE[key] in ALIASES else key


class _LosesOverlookedAliases(Passing):
    """`revoke_by` ends what has an entry, and doesn't note when it was."""

    async def revoke(self, key: str, *, keep: str | None, memory: int) -> Written[float]:
        if WHOSE[key] in ALIASES:
            return Written(self.backend.clock() * 1000)
        return await self.real.revoke(key, keep=keep, memory=memory)


@dataclass(frozen=True)
class Script:
    """What is replaced in the index's script, where that shows, and as what."""

    name: str
    old: str
    new: str
    breaks: str
    scenarios: Iterable[Scenario]


SCRIPTS: Final = (
    Script(
        "the floor is ignored",
        "return authenticated <= floor and 'unsure' or 'missing'",
        "return 'missing'",
        "I8",
        [Scenario("A2", ("out@9", "out"), "failover record")],
    ),
    Script(
        "the floor isn't raised",
        "if over > now then floor = math.max(floor, marked) end",
        "",
        "I8",
        [Scenario("A2", ("out@9", "out"), "failover record")],
    ),
    Script(
        "the floor ends those whose entry is there",
        "if not entry then return authenticated <= floor and 'unsure' or 'missing' end",
        "if authenticated <= floor then return 'ended' end if not entry then return 'missing' end",
        "F1",
        [Scenario("A3", ("touch", "out@9", "out@8"))],
    ),
    Script(
        "a revocation doesn't count where there is an entry",
        "if overtaken or is_marked(id)",
        "if overtaken and not entry or is_marked(id)",
        "I8",
        [Scenario("A2", ("all",), "crash")],
    ),
    Script(
        "a kept session is excepted from earlier revocations",
        "(id == keep and before or revoked)",
        "(id == keep and -1 or revoked)",
        "I8",
        [Scenario("A", ("all", "keep"), "crash")],
    ),
    Script(
        "a session that is kept needs its entry",
        "(id == keep and before or revoked)",
        "(id == keep and entry and before or revoked)",
        "I8",
        [Scenario("Alost", ("keep", "touch"))],
    ),
    Script(
        "an index's clock goes back",
        "local now = math.max(clock, last + 0.001)",
        "local now = clock",
        "I8",
        [Scenario("A2", ("all",), "behind")],
    ),
    Script(
        "a revocation stays ahead of a clock that is behind",
        "happened = math.min(happened, clock)",
        "",
        "F5",
        [Scenario("A2", ("all",), "behind")],
    ),
    Script(
        "a refused sign-in tells the index nothing",
        "put_meta()  -- `happened`: whose request begins after this isn't refused",
        "",
        "F5",
        [Scenario("A2", ("all",), "behind")],
    ),
    Script(
        "a sign-in is later than a revocation that comes next",
        "now = math.max(now, authenticated)",
        "",
        "I",
        [Scenario("A", ("resetA", "all"), "behind")],
    ),
    Script(
        "a touch sets an entry's time back",
        "latest = math.max(latest, entry.authenticated)",
        "",
        "F4",
        [Scenario("A", ("reA", "touch"), "failover record")],
    ),
    Script(
        "outdated records aren't ended",
        "return outdated and 'outdated' or 'live'",
        "return 'live'",
        "F1",
        [Scenario("A", ("reA",), "failover record then 30 s")],
    ),
    Script(
        "a rotation leaves no trace",
        "math.max(rotated, entry.rotated), descriptor)",
        "entry.rotated, descriptor)",
        "F6",
        [Scenario("A", ("rotate",), "failover record then 30 s")],
    ),
    Script(
        "who rotates a record that came back keeps the session",
        "then rotated = NOBODYS end",
        "then end",
        "F6",
        [Scenario("A", ("rotate", "rotate"), "failover record then 30 s")],
    ),
    Script(
        "a touch doesn't look for a later rotation",
        "or rotated < entry.rotated and is_settled(entry.rotated * 1000)",
        "",
        "F6",
        [Scenario("A", ("rotate",), "failover record then 30 s")],
    ),
    Script(
        "a late touch takes a rotation's trace away",
        "rotated = math.max(rotated, entry.rotated)",
        "",
        "F4",
        [Scenario("A", ("rotate", "touch"))],
    ),
    Script(
        "marks aren't bounded",
        "if #marks >= MARKS * WIDTH then",
        "if false then",
        "F3",
        [Scenario("A2", ("out", "out@9"))],
    ),
    Script(
        "marks don't end",
        "if overtaken or is_marked(id)",
        "if overtaken",
        "I8",
        [Scenario("A", ("out",), "failover record")],
    ),
)


def _as_it_is(store: Store, _: Backend) -> Store:
    return store


@dataclass(frozen=True)
class Mutant:
    """What is replaced in the library, where that shows, and as what."""

    name: str
    breaks: str
    scenarios: Iterable[Scenario]
    store: Callable[[Store, Backend], Store] = _as_it_is
    writer: Mapping[str, Any] = field(default_factory=dict[str, Any])


MUTANTS: Final = (
    Mutant(
        "revoke_all ends those who signed in later",
        "S2",
        [Scenario("A2", ("inA@-", "all"))],
        store=_EndsAnybody,
    ),
    Mutant(
        "a sign-out marks before it ends",
        "S3",
        [Scenario("A2", ("out", "out@9", "all"))],
        writer={"end_if_unchanged": _mark_first},
    ),
    Mutant(
        "outdated records are ended though changed",
        "F1",
        [Scenario("A", ("reA", "touch"), "30 s")],
        writer={"end_if_unchanged": _end_though_changed},
    ),
    Mutant(
        "authenticated() tells the index before the record",
        "F1",
        [Scenario("A", ("reA", "touch"), "crash then 30 s")],
        writer={"renew_entry": _note_first},
    ),
    Mutant(
        "a touch doesn't ask the aliases' indexes",
        "I8",
        [Scenario("S2", ("by",), "failover record")],
        store=_AsksNoAlias,
    ),
    Mutant(
        "revoke_by notes no time",
        "I8",
        [Scenario("S2", ("inS@-", "by"))],
        store=_LosesOverlookedAliases,
    ),
    Mutant(
        "a sign-in isn't entered under its alias",
        "I7",
        [Scenario("none", ("inS",))],
        store=_EntersNoAlias,
    ),
    Mutant(
        "revoke_by ends all sessions of the user",
        "S4",
        [Scenario("S2", ("by",))],
        store=_RevokesThePrincipal,
    ),
)
