"""Sessions of other libraries, as `accept=` takes them over."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from typing import Any, Final

from itsdangerous import TimestampSigner

from redis_sessions.accept import Found

OLD_KEY: Final = "the key of Starlette's own sessions"


def signed(data: Mapping[str, Any]) -> str:
    """A cookie of Starlette's own sessions."""
    payload = b64encode(json.dumps(dict(data)).encode())
    return TimestampSigner(OLD_KEY).sign(payload).decode()


class Legacy:
    """Sessions of another library, by the id in its cookie."""

    path, domain = "/", None

    def __init__(self, cookie: str, *, once: bool = False, follow: bool = False) -> None:
        self.cookie = cookie
        self.once, self.follow = once, follow
        self.sessions: dict[str, dict[str, Any]] = {}
        self.principal: Any = "user_id"

    def begin(self, data: Mapping[str, Any]) -> str:
        """A new session. Returns its id."""
        id = f"{self.cookie}-{len(self.sessions)}"
        self.sessions[id] = dict(data)
        return id

    def as_option(self, *, once: bool, follow: bool, principal: Any) -> Legacy:
        """The same sessions, as a source."""
        self.once, self.follow, self.principal = once, follow, principal
        return self

    def map(self, data: dict[str, Any]) -> Mapping[str, Any] | None:
        """What becomes ours: who is signed in is where this application has it."""
        data = dict(data)
        user = data.pop("user_id", None)
        if user is None:
            return data
        if self.principal == "user.id":
            return {**data, "user": {"id": user}}
        return {**data, "who" if callable(self.principal) else "user_id": user}

    async def find(self, value: str) -> Found | str | None:
        data = self.sessions.get(value)
        return None if data is None else Found(dict(data), value, None)

    async def read(self, id: str) -> dict[str, Any] | None:
        return self.sessions.get(id)

    async def end(self, id: str) -> None:
        self.sessions.pop(id, None)

    async def close(self) -> None:
        pass
