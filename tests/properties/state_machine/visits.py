"""A session, a visit of a browser, and what its response owes it, as the model has them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Literal

from redis_sessions import Session, SessionManager

Data = dict[str, Any]
Found = Literal["nothing", "open", "stale", "superseded", "rotated"]
Act = tuple[Any, ...]


@dataclass(eq=False, slots=True)
class Stored:
    """A session, as the model has it."""

    id: str
    token: str
    data: Data
    owner: str | None
    seen: int
    expires: int
    idle: int
    persistent: bool
    rotated: int = 0
    version: int = 0
    methods: tuple[str, ...] = ()
    aliases: dict[str, int] = field(default_factory=dict[str, int])  # and in which step each came
    dead: bool = False
    marked: bool = False  # as ended, in its principal's index
    grave_until: int = 0
    grave_says: int | None = None  # when it ended, if that request's browser is told

    @property
    def principal(self) -> str | None:
        return self.data.get("user_id")


@dataclass(eq=False, slots=True)
class Visit:
    """A request that is under way: what it loaded, what it did, what it wants."""

    browser: int
    token: str | None
    found: Found
    session: Stored | None
    base: Data
    step: int
    done: int = 0  # the step in which it is answered
    task: asyncio.Task[None] | None = None
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    # what the handler has and does
    manager: SessionManager | None = None
    real: Session | None = None
    acts: list[Act] = field(default_factory=list[Act])
    status: int | None = 200
    # the model's side of it
    local: Data = field(default_factory=dict[str, Any])
    seen: int = 0
    idle: int = 0
    expires: int = 0
    persistent: bool = True
    version: int = 0
    had: dict[str, int] = field(default_factory=dict[str, int])  # its aliases
    cleared: bool = False
    ended_here: bool = False
    lost: bool = False  # it revoked its own session, which another request had ended
    rotate: bool = False
    authenticated: bool = False
    methods: tuple[str, ...] = ()
    whose: str | None = None  # who has proved it
    aliases: tuple[str, ...] | None = None  # which sign_in() named
    untouched: bool = False  # it doesn't count as use
    lifetime: tuple[int, bool | None] | None = None
    assigned: set[str] = field(default_factory=set[str])  # keys with objects of this request's own
    left: bool = False  # a sign-in left changes behind
    revoked: set[str] = field(default_factory=set[str])
    revoked_by: set[str] = field(default_factory=set[str])
    # the response
    answered: int | None = None
    cookies: list[str] = field(default_factory=list[str])
    error: Exception | None = None


@dataclass(slots=True)
class Owed:
    """What the model says that a response owes the browser."""

    token: Stored | None = None
    expire: bool = False
    dropped: bool = False
    refused: bool = False


def clear(visit: Visit) -> None:
    visit.local.clear()
    visit.cleared = True
    visit.rotate = visit.authenticated = False
    visit.lifetime = visit.aliases = visit.whose = None
    visit.methods = ()
    visit.assigned.clear()
    visit.left = False


def leave_behind(visit: Visit, user: str) -> None:
    """What isn't for who signs in goes at once."""
    old, was = visit.session, visit.base.get("user_id")
    if old is None or visit.cleared or user == was:
        return
    if was is None and old.owner in (None, user):
        return
    for key in [key for key in visit.local if key != "user_id" and key not in visit.assigned]:
        visit.left |= visit.local[key] != visit.base.get(key)
        del visit.local[key]


def prove(visit: Visit, whose: str | None, methods: tuple[str, ...]) -> None:
    """Somebody has proved who they are. What another one has named goes."""
    if visit.whose != whose:
        visit.aliases = None
    visit.authenticated, visit.whose, visit.methods = True, whose, methods


def note_assignment(visit: Visit, act: Act) -> None:
    """What an act means for who wrote what, before it is done; and for the token."""
    match act:
        case ("set", str(key)):
            visit.assigned.add(key)
        case ("nested", str(key)) if not isinstance(visit.local.get(key), dict):
            visit.assigned.add(key)
        case ("copy", str(key), str(to)) if key in visit.local:
            if key in visit.assigned or visit.cleared:
                visit.assigned.add(to)
            else:
                visit.assigned.discard(to)
        case ("remove", str(key)):
            visit.assigned.discard(key)
        case ("sign out of everything",):
            visit.assigned.clear()
        case ("sign in by method", str(user)):
            leave_behind(visit, user)
            prove(visit, user, ())
        case ("sign in with alias", str(user), str(value)):
            leave_behind(visit, user)
            prove(visit, user, (value,))
            visit.aliases = (value,)
        case ("sign out by method",):
            visit.authenticated, visit.methods, visit.aliases = False, (), None
            visit.whose = None
        case _:
            pass
