"""Near copies with one mechanism switched off: in the library, or in the server's script."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from redis_sessions.stores.copies import Copies, OwnWrites
from redis_sessions.stores.tracking import Tracking
from redis_sessions.stores.watching import Watching
from tests.explorer import near_door
from tests.explorer.near_world import NearWorld
from tests.explorer.scenario import Scenario

__all__ = ["MUTANTS", "Mutant"]


def _nothing(*_: Any) -> None:
    """A mechanism that is switched off."""


class _Unread(NearWorld):
    """The commit script doesn't read what it has set."""

    rereads = False


class _RepeatedUnread(NearWorld):
    """The commit script doesn't read a record again that was there already."""

    rereads_repeated = False


def _unproven(tracking: Any, key: str) -> Any:
    """A copy is served whatever the server has answered."""
    link = tracking._link
    return None if link is None or link.retired else tracking.copies.get(key)


def _any_role(tracking: Any, reply: Any) -> bool:
    """A replica's answer proves as much as a primary's."""
    tracking._prove(tracking._link.answered)
    return True


def _takes_over(tracking: Any) -> Any:
    """A link takes the place of a retired one, and of its copies."""
    tracking._link, tracking._asked = None, tracking._sender.link
    return [tracking]


def _forgets_once(copies: Copies, key: str, now: float) -> None:
    """What was asked for before this may be kept."""
    copies.forget(key)


def _only_expects(tracking: Any, items: Iterable[Any], answers: Iterable[Any]) -> None:
    """A notice of an own write is passed by, and the copy of before stays."""
    for item in items:
        tracking._own.expect(item.key, float("inf"))


def _passes_by_all(tracking: Any, key: str, now: float) -> bool:
    """Whatever the server tells counts as an own write."""
    return True


@dataclass(frozen=True)
class Mutant:
    """What is switched off, where that shows, and as what."""

    name: str
    breaks: str
    scenario: Scenario
    tracking: Mapping[str, Callable[..., Any]] = field(default_factory=dict[str, Any])
    watching: Mapping[str, Callable[..., Any]] = field(default_factory=dict[str, Any])
    copies: Mapping[str, Callable[..., Any]] = field(default_factory=dict[str, Any])
    own: Mapping[str, Callable[..., Any]] = field(default_factory=dict[str, Any])
    near_door: Mapping[str, Callable[..., Any]] = field(default_factory=dict[str, Any])
    world: type[NearWorld] = NearWorld

    @property
    def replaced(self) -> Iterable[tuple[object, str, Callable[..., Any]]]:
        """Whose attributes they are, their names, and what they are instead."""
        for where in ("tracking", "watching", "copies", "own", "near_door"):
            owner = _OWNERS[where]
            yield from ((owner, name, new) for name, new in getattr(self, where).items())


_OWNERS: Final = {
    "tracking": Tracking,
    "watching": Watching,
    "copies": Copies,
    "own": OwnWrites,
    "near_door": near_door,
}


def _one(start: str, *specs: str, procs: tuple[int, ...], **options: Any) -> Scenario:
    return Scenario(start, specs, procs=procs, **options)


MUTANTS: Final = (
    Mutant(
        "copies outlive their link",
        "I2 served from a copy later than the bound",
        _one("A2", "read@first", "read@9", "out", procs=(0, 0, 1), fault="link ends", warm=True),
        tracking={"forget_copies": _nothing},
    ),
    Mutant(
        "a copy from a commit whose script didn't read",
        "I2 served from a copy later than the bound",
        _one("A", "a", "read@first", "out", procs=(0, 0, 1)),
        world=_Unread,
    ),
    Mutant(
        "a copy from a commit that was repeated, whose script didn't read",
        "a copy stays",
        _one("A", "a", "out", procs=(0, 1), fault="link ends"),
        world=_RepeatedUnread,
    ),
    Mutant(
        "no heartbeat required",
        "I2 served from a copy later than the bound",
        _one("A", "read@first", "out", procs=(0, 1), warm=True),
        tracking={"near_copy": _unproven},
    ),
    Mutant(
        "a replica's heartbeat counts",
        "I2 served from a copy later than the bound",
        _one("A", "read@first", "out", procs=(0, 1), fault="demoted", warm=True),
        tracking={"_note_role": _any_role},
    ),
    Mutant(
        "copies outlive a link that is retired",
        "I2 served from a copy later than the bound",
        _one("A2", "read@first", "read@9", "out", procs=(0, 0, 1), fault="demoted", warm=True),
        tracking={"next_parts": _takes_over},
    ),
    Mutant(
        "a process's own write is no notice",
        "I2 who answered serves a copy of before",
        _one("A", "read@first", "out", procs=(0, 0), warm=True),
        tracking={"note_writes": _only_expects},
    ),
    Mutant(
        "each notice is that of an own write",
        "I2 served from a copy later than the bound",
        _one("A", "a", "read@first", "out", procs=(0, 0, 1)),
        own={"is_told": _passes_by_all},
    ),
    Mutant(
        "a write over another link is no notice",
        "I2 who answered serves a copy of before",
        _one("A", "read@first", "rotate", procs=(0, 0), warm=True, waits=True),
        tracking={"note_changes": _nothing},
    ),
    Mutant(
        "what was asked for before a write is kept",
        "I2 who answered serves a copy of before",
        _one("A", "read@first", "read@first", "revoke", procs=(0, 0, 0), waits=True),
        copies={"forget_at": _forgets_once},
    ),
    Mutant(
        "notices are ignored",
        "I2 served from a copy later than the bound",
        _one("A", "read@first", "out", procs=(0, 1), warm=True),
        copies={"forget_all": _nothing},
    ),
    Mutant(
        "hints are ignored",
        "a browser sees less",
        _one("A", "a", "read", procs=(0, 1), warm=True),
        near_door={"takes_near_copy": lambda *_, **__: True},
    ),
    Mutant(
        "sockets aren't told of changes",
        "a socket outlives its session",
        _one("A", "socket", "out", procs=(0, 1)),
        watching={"read": _nothing},
    ),
    Mutant(
        "sockets aren't read again after a link's end",
        "a socket outlives its session",
        _one("A", "socket", "out", procs=(0, 1), fault="link ends"),
        tracking={"_leave_link": Tracking.close},
    ),
)
