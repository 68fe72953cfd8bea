"""Browsers and workers, whose requests go to the middleware and to the model alike."""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import AsyncIterator
from typing import Final, cast

from hypothesis.stateful import RuleBasedStateMachine
from redis.asyncio import Redis
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

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
from redis_sessions.session.session import state_of
from tests.properties.state_machine.acts import change
from tests.properties.state_machine.model import ROTATE_ON, Model, SteppingClock
from tests.properties.state_machine.visits import Act, Owed, Visit, clear, note_assignment, prove
from tests.support.asgi import COOKIE, ask, cookie
from tests.support.servers import as_owner

BROWSERS: Final = 3
WORKERS: Final = 2

_numbers: Final = itertools.count()


class HandlerFailedError(Exception):
    """What a handler raises."""


class Driver(RuleBasedStateMachine):
    """Does to the middleware what it does to the model, and compares the responses."""

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
        return SessionManager(
            store,
            keyring,
            rotate_on=[ROTATE_ON],
            clock=self.clock,
            on_event=self.events.append,
        )

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
            visit.had = dict(session.aliases)
        visit.manager = self.managers[worker]
        visit.task = asyncio.create_task(self._serve(visit, visit.manager))
        entered = asyncio.create_task(visit.entered.wait())
        await asyncio.wait({visit.task, entered}, return_when=asyncio.FIRST_COMPLETED)
        entered.cancel()
        assert visit.real is not None, visit.error
        assert dict(visit.real) == visit.base
        visit.base, visit.local = (
            {key: data[key] for key in visit.real} for data in (visit.base, visit.local)
        )
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

        headers = [] if visit.token is None else [(b"cookie", cookie(visit.token))]
        reply = await ask(SessionMiddleware(app, manager=manager), headers)
        visit.answered, visit.error = reply.status or None, reply.error
        visit.cookies += reply.cookies

    async def _really(
        self, act: Act, visit: Visit, session: Session, manager: SessionManager
    ) -> None:
        """Do to the session what `_model` does to the model."""
        if change(session, act, self._tag(visit)):
            return
        who = session.principal
        match act:
            case ("clear",):
                session.clear()
            case ("rotate",):
                session.rotate()
            case ("authenticated", methods):
                session.authenticated(methods=methods)
            case ("untouched",):
                session.untouched()
            case ("expire in", int(duration), persistent):
                session.expire_in(duration, persistent=persistent)
            case ("revoke this",) if who is not None and session.id is not None:
                await manager.revoke(session.id, principal=who)
            case ("revoke all",) if who is not None:
                await manager.revoke_all(who)
            case ("revoke others",) if who is not None and session.id is not None:
                await manager.revoke_all(who, keep=session.id)
            case ("revoke by", str(value)) if session.id is not None:
                await manager.revoke_by("sid", value)
            case _:
                pass

    def _model(self, act: Act, visit: Visit) -> None:
        note_assignment(visit, act)
        if change(visit.local, act, self._tag(visit)):
            return
        who = visit.local.get("user_id")
        gone = visit.session is None or visit.cleared or visit.lost
        id = None if gone or visit.session is None else visit.session.id
        match act:
            case ("clear",):
                clear(visit)
            case ("rotate",):
                visit.rotate = True
            case ("authenticated", methods):
                prove(visit, who, methods)
            case ("untouched",):
                visit.untouched = True
            case ("expire in", int(duration), persistent):
                visit.lifetime = duration, persistent
            case ("revoke this",) if who is not None and id is not None:
                self.model.revoke(who, id, visit)
            case ("revoke all",) if who is not None:
                self.model.revoke_all(who, None, self.step, visit)
            case ("revoke others",) if who is not None and id is not None:
                self.model.revoke_all(who, id, self.step, visit)
            case ("revoke by", str(value)) if id is not None:
                self.model.revoke_by(value, self.step, visit)
            case _:
                pass

    def _tag(self, visit: Visit) -> str:
        """A value that says whose it is: of whom this request leaves signed in."""
        data = {"user_id": visit.base.get("user_id")}
        for act in visit.acts:
            if act[0].startswith("sign "):
                change(data, act, "")
            elif act[0] in ("clear", "revoke this", "revoke all") or (
                act[0] == "revoke by" and act[1] in visit.had
            ):
                data.clear()
        return f"{data.get('user_id') or 'nobody'} {self.step}"

    async def _finish(self, visit: Visit, acts: list[Act], status: int | None) -> None:
        self.step += 1
        visit.acts, visit.status, visit.done = acts, status, self.step
        before = len(self.events)
        visit.released.set()
        assert visit.task is not None
        await visit.task
        for act in acts:
            self._model(act, visit)
        owed = self.model.commit(visit, 500 if status is None else status, lambda: _token(visit))
        reported = [event for event in self.events[before:] if event.name == "dropped"]
        assert bool(reported) == owed.dropped, "I4: what isn't stored is reported"
        self._receive(visit, status, owed)
        if any(act[0].startswith("revoke") for act in acts):
            await self._pass()

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


def _token(visit: Visit) -> str:
    """The token that a request got, whether or not its response could carry it."""
    assert visit.real is not None
    stored = state_of(visit.real).stored
    assert stored is not None
    assert isinstance(stored.token, SessionToken)
    return stored.token.value
