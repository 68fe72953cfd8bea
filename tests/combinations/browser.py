"""The browsers of a journey: they keep their cookies, and show what came of each request."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from starlette.requests import HTTPConnection
from starlette.types import Message, Receive, Scope, Send

from redis_sessions import Session
from tests.combinations.sources import signed
from tests.combinations.traces import Shown
from tests.combinations.world import Act, Bare, World
from tests.support.asgi import Reply, ask

PATH: Final = "/app/page"
HOST: Final = b"shop.example"
OTHER: Final = "https://elsewhere.example"
TOKEN_HEADER: Final = b"x-session-token"
OTHERS: Final = frozenset({"legacy", "older", "signed", "outer", "plain"})
"""The cookies of other sessions than ours."""


def _in_minutes(attribute: str) -> str:
    """A cookie's attribute; its `Max-Age` in minutes, since by a real clock seconds pass."""
    name, _, value = attribute.partition("=")
    return attribute if name != "Max-Age" else f"{name}={round(int(value) / 60)} min"


class Browser:
    """One browser: its cookies, and its address."""

    def __init__(
        self, world: World, *, address: str = "198.51.100.7", agent: str = "Firefox"
    ) -> None:
        self.world = world
        self.address, self.agent = address, agent
        self.cookies: dict[str, str] = {}
        self.token: str | None = None

    def copy(self) -> Browser:
        """A thief's: with the same cookies."""
        other = Browser(self.world, address=self.address, agent=self.agent)
        other.cookies, other.token = dict(self.cookies), self.token
        return other

    def carry(self, token: str) -> None:
        """Have this token, where it has that of its session, or would have it."""
        name = self.world.cookie_name
        if name is None or self.token is not None:
            self.token = token
        else:
            self.cookies[name] = token

    def has(self, session: Mapping[str, Any], *, cookie: str = "legacy") -> None:
        """Give it a session of another library's."""
        if cookie == "signed":
            self.cookies[cookie] = signed(session)
        else:
            self.cookies[cookie] = self.world.legacy[cookie].begin(session)

    def headers(self, origin: str | None) -> list[tuple[bytes, bytes]]:
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        found = [(b"host", HOST), (b"user-agent", self.agent.encode())]
        if cookies:
            found.append((b"cookie", cookies.encode()))
        if self.token:
            found.append((TOKEN_HEADER, self.token.encode()))
        if origin is not None:
            found.append((b"origin", origin.encode()))
        return found

    async def get(self, step: str, act: Act | None = None, **fields: Any) -> Reply:
        """A request that changes nothing elsewhere."""
        return await self.ask(step, act, method="GET", **fields)

    async def post(self, step: str, act: Act | None = None, **fields: Any) -> Reply:
        """A request with an unsafe method."""
        return await self.ask(step, act, method="POST", **fields)

    async def ask(
        self,
        step: str,
        act: Any = None,
        *,
        method: str,
        answers: int = 200,
        origin: str | None = None,
        bare: Bare | None = None,
    ) -> Reply:
        """Send a request, keep what cookies it brings, and show what came of it."""
        saw: Shown = {}
        world = self.world
        reply = await ask(
            world.app,
            self.headers(origin),
            path=PATH,
            method=method,
            client=(self.address, 1),
            act=act,
            bare=bare,
            saw=saw,
            answers=answers,
        )
        world.show(step, **self.shown(reply), **saw)
        await world.ground.settle()
        return reply

    def shown(self, reply: Reply) -> Shown:
        """What a browser sees of a response."""
        error = None if reply.error is None else type(reply.error).__name__
        token, others, headers, clears = "kept", Counter[str](), Counter[str](), False
        for name, value in reply.headers:
            text = value.decode()
            if name == TOKEN_HEADER:
                token = self._take(None, text)
            elif name != b"set-cookie":
                if name == b"vary":
                    self.world.vary.add(text)
                    headers["vary"] += 1
                elif name == b"clear-site-data":
                    clears = True
                elif name in (b"cache-control", b"retry-after"):
                    headers[f"{name.decode()}: {text}"] += 1
            else:
                pair, *rest = text.split("; ")
                cookie, _, given = pair.partition("=")
                if "expires=" in text:
                    given = ""
                if cookie.endswith("-fresh"):
                    self.world.hinted = True  # it isn't kept: all have heard of what was written
                elif cookie in OTHERS:
                    others[f"{cookie} {'kept' if given else 'expired'}"] += 1
                    self._keep(cookie, given)
                else:
                    token = self._take(cookie, given)
                    self._note(cookie, token, rest)
        if headers["cache-control: no-store"]:
            del headers["vary"]  # which plays no role then
        if clears:
            self.world.cleared.add(token)
        return {
            "status": 500 if error and not reply.status else reply.status,
            "error": error,
            "token": token,
            "other cookies": others,
            "headers": headers,
        }

    def _note(self, cookie: str, token: str, attributes: list[str]) -> None:
        """What ends a cookie has the attributes of what began it, or browsers keep both."""
        if token == "new":
            self.world.names.add(cookie)
            self.world.attributes.update(map(_in_minutes, attributes))
        else:
            own = {each for each in attributes if not each.startswith("expires=")}
            assert own <= self.world.attributes, own

    def _take(self, cookie: str | None, token: str) -> str:
        if cookie is None:
            self.token = token or None
        else:
            self._keep(cookie, token)
        if not token:
            return "expired"
        self.world.tokens.append(token)
        return "new"

    def _keep(self, cookie: str, value: str) -> None:
        if value:
            self.cookies[cookie] = value
        else:
            self.cookies.pop(cookie, None)

    async def socket(
        self,
        step: str,
        act: Callable[[Session, World], Awaitable[Any]] | None = None,
        *,
        meanwhile: Callable[[], Awaitable[Any]] | None = None,
        stays: bool = False,
        origin: str | None = None,
    ) -> None:
        """Open a WebSocket, and show how it ends.

        `meanwhile` runs when it is open. Then it is closed by the client if it `stays` open, and
        by the server otherwise.
        """
        saw: Shown = {}
        opened, left, over = asyncio.Event(), asyncio.Event(), asyncio.Event()
        sent: list[Message] = []
        first = True

        async def receive() -> Message:
            nonlocal first
            if first:
                first = False
                return {"type": "websocket.connect"}
            await left.wait()
            return {"type": "websocket.disconnect", "code": 1000}

        async def send(message: Message) -> None:
            sent.append(message)
            kind = message["type"]
            if kind == "websocket.accept":
                opened.set()
            else:
                opened.set()
                over.set()

        async def handle(
            connection: HTTPConnection, receive: Receive, send: Send, saw: Shown
        ) -> None:
            await receive()
            session = await self.world.loaded(connection)
            saw |= self.world.seen(session)
            await send({"type": "websocket.accept"})
            if act is not None:
                saw["returned"] = await act(session, self.world)
            await receive()

        scope: Scope = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": "wss",
            "path": PATH,
            "raw_path": PATH.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": self.headers(origin),
            "client": (self.address, 1),
            "server": ("shop.example", 443),
            "subprotocols": [],
            "extensions": {"websocket.http.response": {}},
            "act": handle,
            "saw": saw,
        }
        error: str | None = None

        async def run() -> None:
            nonlocal error
            try:
                await self.world.app(scope, receive, send)
            except Exception as exc:  # noqa: BLE001 - it is shown
                error = type(exc).__name__
            finally:
                opened.set()
                over.set()

        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            task = group.create_task(run())
            await opened.wait()
            if meanwhile is not None and not over.is_set():
                await meanwhile()
                if not stays:
                    await over.wait()
            left.set()
            await task
        shown = [
            (m["type"].removeprefix("websocket."), m.get("code", m.get("status"))) for m in sent
        ]
        self.world.show(step, messages=shown, error=error, **saw)
        await self.world.ground.settle()
