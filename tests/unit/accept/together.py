"""A source that shares sessions, whose sessions are in a dict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from redis_sessions import Session
from redis_sessions.accept import Found
from redis_sessions.errors import StoreUnavailableError
from tests.unit.accept.elsewhere import THEIRS, Place, token_in


class Together:
    """A source that shares the user and the cart. Its sessions are in a dict."""

    cookie = THEIRS
    path = "/"
    domain = None
    once = False
    follow = True
    shares = frozenset({"user_id", "cart"})

    def __init__(self, **sessions: dict[str, Any]) -> None:
        self.sessions = sessions
        self.full = False
        self.written: list[Mapping[str, Any]] = []

    def map(self, data: dict[str, Any]) -> Mapping[str, Any] | None:
        if "broken" in data:
            raise RuntimeError("the map fails, says the test")
        return data

    async def find(self, value: str) -> Found | str | None:
        found = self.sessions.get(value)
        return None if found is None else Found(dict(found), value, None)

    def id_of(self, value: str) -> str | None:
        return value

    async def read(self, id: str) -> dict[str, Any] | None:
        found = self.sessions.get(id)
        return None if found is None else dict(found)

    async def write(
        self, id: str, values: Mapping[str, Any], same: Callable[[dict[str, Any]], bool]
    ) -> bool:
        if self.full:
            raise StoreUnavailableError("their store is full, says the test", reason="server")
        if not same(self.sessions[id]):
            return False
        self.written.append(values)
        self.sessions[id].update(values)
        return True

    def new_id(self) -> str:
        return f"new{len(self.sessions)}"

    async def begin(
        self, id: str, data: dict[str, Any], values: Mapping[str, Any]
    ) -> tuple[bytes, bytes]:
        if self.full:
            raise StoreUnavailableError("their store is full, says the test", reason="server")
        self.sessions[id] = {**data, **values}
        return b"set-cookie", f"{THEIRS}={id}".encode()

    async def end(self, id: str) -> None:
        self.sessions.pop(id, None)

    def expire(self) -> tuple[bytes, bytes]:
        return b"set-cookie", f"{THEIRS}=gone".encode()

    async def close(self) -> None:
        pass


def add(session: Session) -> None:
    session["cart"] = [*session.get("cart", []), "milk"]
    session["mine"] = 1


async def visited(**sessions: dict[str, Any]) -> tuple[Place, Together, str]:
    """A place where the session s1 was accepted, its source, and the token of ours."""
    source = Together(**sessions)
    at = Place([source])
    return at, source, token_in(await at.visit())


ALICE: Final = {"user_id": "alice", "cart": ["tea"]}
