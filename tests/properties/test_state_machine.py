"""Browsers, tabs, workers and an administrator against a model of sessions in plain Python.

Every request goes through the real middleware to a real server. The model knows what a session
holds, who is signed in, which token opens it, until when, and what each response owes the browser.
PROFILE=torture runs many more, and longer, histories.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import os
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Concatenate, Final, Literal, ParamSpec, TypeVar, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.asyncio import Redis
from starlette.requests import HTTPConnection
from starlette.types import Message, Receive, Scope, Send

from redis_sessions import (
    Event,
    Keyring,
    RedisStore,
    Session,
    SessionManager,
    SessionMiddleware,
    SessionToken,
    generate_key,
    get_session,
)
from redis_sessions.session import state_of
from tests.properties.harness import COOKIE, cookie
from tests.support import as_owner

P = ParamSpec("P")
T = TypeVar("T")
M = TypeVar("M", bound="Sessions")

MINUTE: Final = 60
DAY: Final = 24 * 3600
MAX_AGE: Final = 14 * DAY
IDLE: Final = 7 * DAY
CROSSING: Final = 30  # how long a tombstone stands, and a rotated token is known
BROWSERS: Final = 3
WORKERS: Final = 2
USERS: Final = ("A", "B")

PROFILES: Final = {
    "test": settings(max_examples=100, stateful_step_count=40),
    "torture": settings(max_examples=2_000, stateful_step_count=80),
}
PROFILE: Final = settings(
    PROFILES[os.environ.get("PROFILE", "test")],
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

_numbers: Final = itertools.count()

Data = dict[str, Any]
Found = Literal["nothing", "open", "stale", "superseded", "rotated"]
Act = tuple[Any, ...]


def async_rule(
    **strategies: Any,
) -> Callable[
    [Callable[Concatenate[M, P], Coroutine[Any, Any, None]]], Callable[Concatenate[M, P], None]
]:
    """`rule` for a coroutine method: it runs on the machine's own loop, at one moment."""

    def decorate(
        method: Callable[Concatenate[M, P], Coroutine[Any, Any, None]],
    ) -> Callable[Concatenate[M, P], None]:
        @wraps(method)
        def run(self: M, *args: P.args, **kwargs: P.kwargs) -> None:
            self.begin_step()
            self.runner.run(method(self, *args, **kwargs))

        ruled: Callable[Concatenate[M, P], None] = cast("Any", rule)(**strategies)(run)
        return ruled

    return decorate


class SteppingClock:
    """Real time and what was added to it, of which no second passes within a step."""

    def __init__(self) -> None:
        self.added = 0.0
        self.second = 0
        self.tick()

    def tick(self) -> float:
        """Begin a step, well before a second's end; by how much that takes time forward."""
        ahead = 0.25 if (time.time() + self.added) % 1 > 0.75 else 0.0
        self.added += ahead
        self.second = int(time.time() + self.added)
        return ahead

    def __call__(self) -> float:
        return min(time.time() + self.added, self.second + 0.999)


# -- the model


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
    cleared: bool = False
    ended_here: bool = False
    lost: bool = False  # it revoked its own session, which another request had ended
    rotate: bool = False
    authenticated: bool = False
    lifetime: tuple[int, bool | None] | None = None
    revoked: set[str] = field(default_factory=set[str])
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


def changes(before: Data, after: Data) -> Data:
    """The top-level keys that were set or (None) removed."""
    keys = before.keys() | after.keys()
    return {key: after.get(key) for key in keys if before.get(key) != after.get(key)}


def apply(data: Data, changed: Data) -> Data:
    merged = {**data, **changed}
    return {key: copy.deepcopy(value) for key, value in merged.items() if value is not None}


class Model:
    """Sessions, by the design's rules; one commit at a time."""

    def __init__(self, clock: SteppingClock) -> None:
        self._clock = clock
        self.sessions: dict[str, Stored] = {}
        self.entered: defaultdict[str, set[str]] = defaultdict(set)
        self.revoked_at: defaultdict[str, int] = defaultdict(lambda: -1)  # a step

    @property
    def now(self) -> int:
        return self._clock.second

    def alive(self, session: Stored) -> bool:
        return not session.dead and self.now < min(session.seen + session.idle, session.expires)

    def opens(self, token: str) -> Stored | None:
        session = self.sessions[token[:20]]
        return session if session.token == token and self.alive(session) else None

    def find(self, token: str | None) -> tuple[Found, Stored | None]:
        if token is None:
            return "nothing", None
        session = self.sessions[token[:20]]
        said = session.grave_says
        if not self.alive(session):
            stands = said is not None and self.now < session.grave_until
            crossing = stands and said is not None and self.now - said <= CROSSING
            return ("superseded" if crossing else "stale"), None
        if session.token != token:
            return ("rotated" if self.now - session.rotated <= CROSSING else "stale"), None
        return "open", session

    def end(self, session: Stored, *, tells: bool = True, mark: bool = False) -> bool:
        """End it; whether that was news."""
        was_alive = self.alive(session)
        session.dead = True
        session.marked = session.marked or mark
        if was_alive or self.now >= session.grave_until:
            session.grave_says = self.now if tells else None
        session.grave_until = self.now + CROSSING
        return was_alive

    def revoke(self, principal: str, id: str, visit: Visit | None = None) -> bool:
        if id not in self.entered[principal]:
            return False
        own = visit is not None and visit.session is not None and visit.session.id == id
        own = own and visit is not None and not visit.cleared and not visit.lost
        ended = self.end(self.sessions[id], tells=own, mark=True)
        if own and visit is not None and ended:
            clear(visit)
            visit.ended_here = True
        elif own and visit is not None:
            visit.lost = True
        return ended

    def revoke_all(
        self, principal: str, keep: str | None, step: int, visit: Visit | None = None
    ) -> int:
        self.revoked_at[principal] = step
        if visit is not None:
            visit.revoked.add(principal)
        ids = self.entered[principal] - {keep}
        return sum(self.revoke(principal, id, visit) for id in ids)

    # -- what a response owes the session

    def commit(self, visit: Visit, status: int, learn: Callable[[], str]) -> Owed:
        """Carry out what it did; `learn` gives the token that it got."""
        found, session, base = visit.found, visit.session, visit.base
        owed = Owed()
        if visit.cleared:
            owed.expire = found == "rotated"
            if found == "open" and session is not None:
                signed_in = base.get("user_id") is not None
                tells = visit.status is not None
                owed.expire = visit.ended_here or self.end(session, tells=tells, mark=signed_in)
                found = "nothing" if owed.expire else "superseded"
            if found == "stale":
                found = "nothing"
            session, base = None, Data()
        was, now = base.get("user_id"), visit.local.get("user_id")
        if session is not None and was is not None and now is None:
            self._lose(visit, session, status, owed, learn)
        elif now is not None and now != was:
            if status < 400:
                self._gain(visit, session, owed, learn)
        elif visit.lost and session is not None and not (visit.authenticated and status < 400):
            wants = visit.rotate or visit.authenticated or visit.lifetime is not None
            owed.dropped = (wants or visit.local != base) and status < 500
        elif session is None:
            if visit.local and status < 500:
                if found in ("nothing", "stale"):
                    owed.token = self._create(visit, visit.local, None, learn)
                else:
                    owed.dropped = True
        else:
            self._stay(visit, session, status, owed, learn)
        if owed.token is not None:
            owed.expire = False
        return owed

    def _lose(
        self, visit: Visit, session: Stored, status: int, owed: Owed, learn: Callable[[], str]
    ) -> None:
        newest = session.data if session.token == visit.token else visit.base
        tells = visit.status is not None  # else the handler failed, and so does the response
        if not self.end(session, tells=tells, mark=True):
            owed.dropped = True
            return
        mine = changes(visit.base, visit.local) if status < 500 else {"user_id": None}
        left = apply(newest, mine)
        if left and not tells:
            owed.dropped = True
        elif left:
            owed.token = self._create(visit, left, session.owner, learn)
        else:
            owed.expire = True

    def _gain(self, visit: Visit, old: Stored | None, owed: Owed, learn: Callable[[], str]) -> None:
        now = visit.local["user_id"]
        switches = old is not None and old.owner not in (None, now)
        was = visit.base.get("user_id") if old is not None else None
        data = visit.local
        if switches or was is not None:
            data = {k: v for k, v in changes(visit.base, visit.local).items() if v is not None}
            data["user_id"] = now
        owed.token = self._enter(visit, data, now, owed, learn)
        if owed.token is None or old is None or visit.lost:
            return
        if switches or was is not None:
            self.end(old, mark=was is not None)
        elif self.alive(old) and old.token == visit.token:
            mine = changes(visit.base, visit.local)
            theirs = {k: v for k, v in changes(visit.base, old.data).items() if k not in mine}
            owed.token.data = apply(owed.token.data, theirs)
            self.end(old)

    def _stay(
        self, visit: Visit, session: Stored, status: int, owed: Owed, learn: Callable[[], str]
    ) -> None:
        now: str | None = visit.local.get("user_id")
        changed = visit.local != visit.base
        touch_due = self.now - visit.seen > min(visit.idle / 10, 300)
        rotates = visit.rotate
        if visit.lifetime is not None:
            duration, persistent = visit.lifetime
            longer = self.now + duration > visit.expires
            other = persistent is not None and persistent != visit.persistent
            rotates = rotates or longer or other
            changed = changed or not (longer or other)
        again = visit.authenticated and now is not None and status < 400
        rotates = rotates or (visit.authenticated and now is None)
        stands = self.alive(session) and session.token == visit.token
        if again or (rotates and status < 500):
            if again or visit.lifetime is not None:
                stands = self._ask_index(session) and stands
            if stands:
                self._in_place(visit, session, seen=again or touch_due)
                session.rotated, session.token = self.now, learn()
                owed.token = session
            elif again and now is not None:
                mine = changes(visit.base, visit.local)
                data = {key: value for key, value in mine.items() if value is not None}
                owed.token = self._enter(visit, {**data, "user_id": now}, now, owed, learn)
            else:
                owed.dropped = True
        elif changed and status < 500:
            if touch_due:
                stands = self._ask_index(session) and stands
            owed.dropped = not stands
            if stands:
                self._in_place(visit, session, seen=touch_due)
        elif touch_due:
            stands = self._ask_index(session) and stands
            if stands and session.version == visit.version:
                session.seen = self.now
                session.version += 1

    def _ask_index(self, session: Stored) -> bool:
        if session.marked:
            self.end(session)
        return not session.marked

    def _in_place(self, visit: Visit, session: Stored, *, seen: bool) -> None:
        session.data = apply(session.data, changes(visit.base, visit.local))
        session.version += 1
        if visit.lifetime is not None:
            self._set_lifetime(session, visit.lifetime)
        if seen or visit.lifetime is not None:
            session.seen = self.now

    def _set_lifetime(self, session: Stored, lifetime: tuple[int, bool | None]) -> None:
        duration, persistent = lifetime
        session.expires = self.now + duration
        session.idle = duration if duration > MAX_AGE else min(IDLE, duration)
        session.persistent = session.persistent if persistent is None else persistent

    def _enter(
        self, visit: Visit, data: Data, principal: str, owed: Owed, learn: Callable[[], str]
    ) -> Stored | None:
        if self.revoked_at[principal] > visit.step and principal not in visit.revoked:
            owed.refused = True
            return None
        session = self._create(visit, data, principal, learn)
        self.entered[principal].add(session.id)
        return session

    def _create(
        self, visit: Visit, data: Data, owner: str | None, learn: Callable[[], str]
    ) -> Stored:
        token = learn()
        assert token[:20] not in self.sessions, "I3: an id is new"
        session = Stored(
            id=token[:20],
            token=token,
            data=copy.deepcopy(data),
            owner=owner,
            seen=self.now,
            expires=self.now + MAX_AGE,
            idle=IDLE,
            persistent=True,
        )
        if visit.lifetime is not None:
            self._set_lifetime(session, visit.lifetime)
        self.sessions[session.id] = session
        return session


def clear(visit: Visit) -> None:
    visit.local.clear()
    visit.cleared = True
    visit.rotate = visit.authenticated = False
    visit.lifetime = None


# -- what handlers do, to the session and to the model

keys: Final = st.sampled_from(["a", "b", "c"])
users: Final = st.sampled_from(USERS)
acts: Final[st.SearchStrategy[Act]] = st.one_of(
    st.tuples(st.just("set"), keys),
    st.tuples(st.just("nested"), keys),
    st.tuples(st.just("remove"), keys),
    st.tuples(st.just("sign in"), users),
    st.tuples(st.just("sign out")),
    st.tuples(st.just("sign out of everything")),
    st.tuples(st.just("clear")),
    st.tuples(st.just("rotate")),
    st.tuples(st.just("authenticated")),
    st.tuples(
        st.just("expire in"),
        st.sampled_from([MINUTE, 2 * DAY, 30 * DAY]),
        st.sampled_from([None, True, False]),
    ),
    st.tuples(st.just("revoke this")),
    st.tuples(st.just("revoke all")),
    st.tuples(st.just("revoke others")),
)
statuses: Final = st.sampled_from([200, 200, 200, 303, 404, 500, None])
"""None: the handler raises."""


def _change(data: Data, act: Act, tag: str) -> bool:
    """What is done to the data alone, of the session or of the model."""
    match act:
        case ("set", str(key)):
            data[key] = tag
        case ("nested", str(key)):
            inner = data.get(key)
            if isinstance(inner, dict):
                inner["inside"].append(tag)
            else:
                data[key] = {"inside": [tag]}
        case ("remove", str(key)):
            data.pop(key, None)
        case ("sign in", str(user)):
            data["user_id"] = user
        case ("sign out",):
            data.pop("user_id", None)
        case ("sign out of everything",):
            for key in list(data):
                del data[key]
        case _:
            return False
    return True


class HandlerFailedError(Exception):
    """What a handler raises."""


class Sessions(RuleBasedStateMachine):
    """The rules: each is one moment, and what is under way between two of them is a slow tab."""

    url: str = ""
    prefix: str = ""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = SteppingClock()
        self.model = Model(self.clock)
        self.events: list[Event] = []
        self.keys = [generate_key()]
        self.rings = [self.keys] * WORKERS
        self.announced = False  # whether the newest key is to be known, and seals nothing yet
        self.mine = f"{self.prefix}{next(_numbers)}:"
        self.stores: list[RedisStore] = []
        self.managers: list[SessionManager] = []
        self.jars: list[str | None] = [None] * BROWSERS
        self.tokens: list[str] = []  # all that were ever sent
        self.under_way: list[Visit] = []
        self.step = 0
        self.runner.run(self._open())

    async def _open(self) -> None:
        self.redis = Redis.from_url(as_owner(self.url))
        self.managers = [self._new_manager(ring) for ring in self.rings]

    def _new_manager(self, ring: list[str]) -> SessionManager:
        store = RedisStore(self.url, prefix=self.mine, timeout=2.5)
        self.stores.append(store)
        keyring = Keyring(*ring)
        return SessionManager(store, keyring, clock=self.clock, on_event=self.events.append)

    def teardown(self) -> None:
        try:
            self.runner.run(self._close())
        finally:
            self.runner.close()

    async def _close(self) -> None:
        for visit in self.under_way:
            if visit.task is not None:
                visit.task.cancel()
        await asyncio.gather(
            *(visit.task for visit in self.under_way if visit.task), return_exceptions=True
        )
        left = await self._keys()
        if left:
            await self.redis.delete(*left)
        await self.redis.aclose()
        for store in self.stores:
            await store.close()

    async def _keys(self) -> list[bytes]:
        keys = cast("AsyncIterator[bytes]", self.redis.scan_iter(f"{self.mine}*", count=1000))
        return [key async for key in keys]

    # -- rules

    @async_rule(
        browser=st.integers(0, BROWSERS - 1),
        worker=st.integers(0, WORKERS - 1),
        acts=st.lists(acts, max_size=3),
        status=statuses,
    )
    async def visit(self, browser: int, worker: int, acts: list[Act], status: int | None) -> None:
        """One request, start to end."""
        await self._finish(await self._start(browser, worker), acts, status)

    @async_rule(
        browser=st.integers(0, BROWSERS - 1),
        worker=st.integers(0, WORKERS - 1),
        act=acts,
    )
    async def act(self, browser: int, worker: int, act: Act) -> None:
        """One request that does one thing, and succeeds."""
        await self._finish(await self._start(browser, worker), [act], 200)

    @precondition(lambda self: len(self.under_way) < 4)
    @async_rule(browser=st.integers(0, BROWSERS - 1), worker=st.integers(0, WORKERS - 1))
    async def start(self, browser: int, worker: int) -> None:
        """A slow request loads its session."""
        self.under_way.append(await self._start(browser, worker))

    @precondition(lambda self: self.under_way)
    @async_rule(
        which=st.integers(0, 3), acts=st.lists(acts, min_size=1, max_size=3), status=statuses
    )
    async def finish(self, which: int, acts: list[Act], status: int | None) -> None:
        """A slow request does what it does, and is answered."""
        await self._finish(self.under_way.pop(which % len(self.under_way)), acts, status)

    @async_rule(duration=st.sampled_from([16, 40, 400, DAY, 8 * DAY]))
    async def advance(self, duration: int) -> None:
        """Time passes: for the managers, for what expires, and for requests under way."""
        self.clock.added += duration
        for key in await self._keys():
            if not key.startswith(f"{self.mine}of:".encode()):  # it has the server's own clock
                left = await self.redis.pttl(key) - duration * 1000
                await (self.redis.pexpire(key, left) if left > 0 else self.redis.delete(key))
        self._keep_ages(duration)

    def begin_step(self) -> None:
        """Whole seconds pass between steps only."""
        self._keep_ages(self.clock.tick())

    def _keep_ages(self, added: float) -> None:
        """The server's clock wasn't moved: to it, requests under way are as old as before."""
        for visit in self.under_way:
            if visit.real is not None:
                state_of(visit.real).began += added

    @precondition(lambda self: self.model.sessions)
    @async_rule(which=st.integers(0, 50), worker=st.integers(0, WORKERS - 1), who=users)
    async def revoke(self, which: int, worker: int, who: str) -> None:
        """An administrator ends one session, if it is this user's."""
        id = list(self.model.sessions)[which % len(self.model.sessions)]
        ended = await self.managers[worker].revoke(id, principal=who)
        assert ended == self.model.revoke(who, id)

    @async_rule(worker=st.integers(0, WORKERS - 1), who=users, keep=st.none() | st.integers(0, 50))
    async def revoke_all(self, worker: int, who: str, keep: int | None) -> None:
        """An administrator ends all sessions of a user, or all but one."""
        ids = sorted(
            id for id in self.model.entered[who] if self.model.sessions[id].marked is False
        )
        kept = None if keep is None or not ids else ids[keep % len(ids)]
        count = await self.managers[worker].revoke_all(who, keep=kept)
        self.step += 1
        assert count == self.model.revoke_all(who, kept, self.step)
        await self._pass()

    @async_rule(worker=st.integers(0, WORKERS - 1))
    async def restart(self, worker: int) -> None:
        """A worker is replaced; what it is serving ends in the old one."""
        self.managers[worker] = self._new_manager(self.rings[worker])

    @precondition(lambda self: not self.under_way and len(self.keys) < 4)
    @async_rule()
    async def roll_out_a_key(self) -> None:
        """One worker after the other: first all know the new key, then it seals."""
        behind = [n for n, ring in enumerate(self.rings) if ring != self.keys]
        if not behind:
            newest_seals_nothing = self.announced
            self.keys = (
                [self.keys[-1], *self.keys[:-1]]
                if newest_seals_nothing
                else [*self.keys, generate_key()]
            )
            self.announced = not newest_seals_nothing
            behind = list(range(WORKERS))
        worker = behind[0]
        self.rings[worker] = self.keys
        self.managers[worker] = self._new_manager(self.keys)

    # -- a request

    async def _start(self, browser: int, worker: int) -> Visit:
        self.step += 1
        token = self.jars[browser]
        found, session = self.model.find(token)
        visit = Visit(browser, token, found, session, {}, self.step)
        if session is not None:
            visit.base = copy.deepcopy(session.data)
            visit.local = copy.deepcopy(session.data)
            visit.seen, visit.idle, visit.expires = session.seen, session.idle, session.expires
            visit.persistent, visit.version = session.persistent, session.version
        visit.manager = self.managers[worker]
        visit.task = asyncio.create_task(self._serve(visit, visit.manager))
        entered = asyncio.create_task(visit.entered.wait())
        await asyncio.wait({visit.task, entered}, return_when=asyncio.FIRST_COMPLETED)
        entered.cancel()
        assert visit.real is not None, visit.error
        assert dict(visit.real) == visit.base
        assert visit.real.is_new == (session is None)
        assert visit.real.principal == visit.base.get("user_id")
        return visit

    async def _serve(self, visit: Visit, manager: SessionManager) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            visit.real = get_session(HTTPConnection(scope))
            visit.entered.set()
            await visit.released.wait()
            for act in visit.acts:
                await self._really(act, visit, visit.real, manager)
            if visit.status is None:
                raise HandlerFailedError
            await send({"type": "http.response.start", "status": visit.status, "headers": []})
            await send({"type": "http.response.body", "body": b"ok"})

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                visit.answered = message["status"]
                visit.cookies += [v.decode() for k, v in message["headers"] if k == b"set-cookie"]

        headers = [] if visit.token is None else [(b"cookie", cookie(visit.token))]
        scope = {"type": "http", "method": "GET", "scheme": "https", "path": "/"}
        try:
            middleware = SessionMiddleware(app, manager=manager)
            await middleware({**scope, "headers": headers, "client": ("::1", 1)}, receive, send)
        except Exception as exc:  # noqa: BLE001 - the machine looks at it
            visit.error = exc

    async def _really(
        self, act: Act, visit: Visit, session: Session, manager: SessionManager
    ) -> None:
        """Do to the session what `_model` does to the model."""
        if _change(session, act, self._tag(visit)):
            return
        who = session.principal
        match act:
            case ("clear",):
                session.clear()
            case ("rotate",):
                session.rotate()
            case ("authenticated",):
                session.authenticated()
            case ("expire in", int(duration), persistent):
                session.expire_in(duration, persistent=persistent)
            case ("revoke this",) if who is not None and session.id is not None:
                await manager.revoke(session.id, principal=who)
            case ("revoke all",) if who is not None:
                await manager.revoke_all(who)
            case ("revoke others",) if who is not None and session.id is not None:
                await manager.revoke_all(who, keep=session.id)
            case _:
                pass

    def _model(self, act: Act, visit: Visit) -> None:
        if _change(visit.local, act, self._tag(visit)):
            return
        who = visit.local.get("user_id")
        gone = visit.session is None or visit.cleared or visit.lost
        id = None if gone or visit.session is None else visit.session.id
        match act:
            case ("clear",):
                clear(visit)
            case ("rotate",):
                visit.rotate = True
            case ("authenticated",):
                visit.authenticated = True
            case ("expire in", int(duration), persistent):
                visit.lifetime = duration, persistent
            case ("revoke this",) if who is not None and id is not None:
                self.model.revoke(who, id, visit)
            case ("revoke all",) if who is not None:
                self.model.revoke_all(who, None, self.step, visit)
            case ("revoke others",) if who is not None and id is not None:
                self.model.revoke_all(who, id, self.step, visit)
            case _:
                pass

    def _tag(self, visit: Visit) -> str:
        """A value that says whose it is: of whom this request leaves signed in."""
        data = {"user_id": visit.base.get("user_id")}
        for act in visit.acts:
            if act[0] in ("sign in", "sign out", "sign out of everything"):
                _change(data, act, "")
            elif act[0] in ("clear", "revoke this", "revoke all"):
                data.clear()
        return f"{data.get('user_id') or 'nobody'} {self.step}"

    async def _finish(self, visit: Visit, acts: list[Act], status: int | None) -> None:
        self.step += 1
        visit.acts, visit.status = acts, status
        before = len(self.events)
        visit.released.set()
        assert visit.task is not None
        await visit.task
        for act in acts:
            self._model(act, visit)
        owed = self.model.commit(visit, 500 if status is None else status, lambda: _token(visit))
        reported = [event for event in self.events[before:] if event.name == "dropped"]
        assert bool(reported) == owed.dropped, "I4: what isn't stored is reported"
        if owed.token is not None and visit.authenticated and visit.lifetime is None:
            self._restarted(visit, owed.token)
        self._receive(visit, status, owed)
        if any(act[0].startswith("revoke") for act in acts):
            await self._pass()

    def _restarted(self, visit: Visit, session: Stored) -> None:
        """The lifetime that authenticated() restarts is the session's own: taken as it is."""
        assert visit.real is not None
        ends = visit.real.expires_at
        if ends is not None and visit.real.id == session.id:
            assert self.model.now < ends.timestamp() <= self.model.now + 400 * DAY
            session.expires = int(ends.timestamp())
            if session.version:
                session.seen = self.model.now

    def _receive(self, visit: Visit, status: int | None, owed: Owed) -> None:
        """The response, as the browser sees it."""
        if owed.refused:
            assert (visit.answered, visit.cookies) == (503 if status else None, [])
            return
        if status is None:
            assert isinstance(visit.error, HandlerFailedError)
            assert visit.cookies == []
            if owed.token is not None:
                self.tokens.append(owed.token.token)
            return
        assert (visit.error, visit.answered) == (None, status)
        if owed.token is not None:
            (sent,) = visit.cookies
            self.jars[visit.browser] = owed.token.token
            self.tokens.append(owed.token.token)
            assert sent.startswith(f"{COOKIE}={owed.token.token};")
            ends = f"Max-Age={owed.token.expires - self.model.now};"
            assert (ends in sent) == owed.token.persistent
        elif owed.expire:
            (sent,) = visit.cookies
            assert sent.startswith((f"{COOKIE}=null;", f'{COOKIE}="";', f"{COOKIE}=;"))
            self.jars[visit.browser] = None
        else:
            assert visit.cookies == [], "I5"

    async def _pass(self) -> None:
        """Let the server's clock move on: what begins next begins after the revocation."""
        seconds, micros = await self.redis.time()
        while (await self._server_time()) < seconds * 1000 + micros // 1000 + 3:
            pass

    async def _server_time(self) -> int:
        seconds, micros = await self.redis.time()
        return seconds * 1000 + micros // 1000

    # -- what always holds

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        """Each token opens what it should; each user has the sessions they should."""
        self.begin_step()
        self.runner.run(self._compare())

    async def _compare(self) -> None:
        manager = self.managers[self.step % WORKERS]
        loaded = await asyncio.gather(*(manager.load(token) for token in self.tokens))
        for token, session in zip(self.tokens, loaded, strict=True):
            model = self.model.opens(token)
            assert session.is_new == (model is None), "I1, I2"
            assert dict(session) == ({} if model is None else model.data)
            whose = session.principal
            if whose is not None:
                others = [f"{user} " for user in USERS if user != whose]
                assert not any(other in str(dict(session)) for other in others), "I6"
        for who in USERS:
            listed = {info.id for info in await manager.sessions_of(who)}
            live = [s for s in self.model.sessions.values() if self.model.alive(s)]
            assert listed == {s.id for s in live if s.principal == who}, "I7"
        for key in await self._keys():
            assert await self.redis.pttl(key) != -1, "I3: every key has a TTL"


def _token(visit: Visit) -> str:
    """The token that a request got, whether or not its response could carry it."""
    assert visit.real is not None
    stored = state_of(visit.real).stored
    assert stored is not None
    assert isinstance(stored.token, SessionToken)
    return stored.token.value


def run(url: str, prefix: str, profile: settings = PROFILE) -> None:
    """Let hypothesis look for a history in which the library and the model differ."""

    class Here(Sessions):
        """At this server."""

    Here.url, Here.prefix = url, prefix
    run_state_machine_as_test(Here, settings=profile)


@pytest.mark.timeout(400)  # hypothesis shrinks a failure for five minutes at most
def test_sessions_are_as_the_model_says(redis_url: str, prefix: str) -> None:
    """Whatever browsers, tabs, workers and an administrator do, in whatever order."""
    run(redis_url, prefix)
