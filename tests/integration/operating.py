"""A site whose operator uses the command line, with the rights of the role `admin` alone."""

from __future__ import annotations

import asyncio
from typing import Any

from redis_sessions import Keyring, SessionManager
from redis_sessions.testing import store_session
from tests.support.asgi import KEY
from tests.support.command_line import Result, command

__all__ = ["KEY_ID", "Site"]

KEY_ID = Keyring(KEY).primary.id.hex()


class Site:
    """`manager` is the application's; `url` the operator's."""

    def __init__(self, manager: SessionManager, url: str, key: str = KEY) -> None:
        self.manager = manager
        self.url = url
        self.key = key

    @property
    def environment(self) -> dict[str, str]:
        return {
            "REDIS_SESSIONS_URL": self.url,
            "REDIS_SESSIONS_PREFIX": self.manager.store.prefix,
            "SESSION_SECRET_KEY": self.key,
            "SESSION_RETIRED_KEYS": "",
        }

    async def run(self, *args: str, **more: Any) -> Result:
        """The command as the operator calls it; `more` as for `command`."""
        given: dict[str, Any] = {**self.environment, **more}
        return await asyncio.to_thread(command, *args, **given)

    async def sign_in(self, principal: str, **data: Any) -> str:
        """The token of a new session of this user."""
        return await store_session(self.manager, {"user_id": principal, **data})
