"""What the interop tests share: where an application is served, and a look into its Redis."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

from redis import Redis

from redis_sessions import Keyring, RedisStore, SessionManager
from tests.support import ROOT
from tests.support.servers import as_owner

SECRET: Final = "interop-tests-alone-have-this-secret-key"

_HEADER: Final = 33  # a record that is no longer than its header is a tombstone
_ID: Final = 20


@dataclass(frozen=True)
class Site:
    """A scheme, and what the session's cookie is called there by default."""

    scheme: str
    cookie: str

    @property
    def url(self) -> str:
        return f"{self.scheme}://testserver"

    @property
    def socket_url(self) -> str:
        return self.url.replace("http", "ws", 1)

    @property
    def https_only(self) -> bool:
        return self.scheme == "https"


HTTPS: Final = Site("https", "__Host-session")
HTTP: Final = Site("http", "sid")


class Records:
    """The sessions that one test's applications keep in Redis."""

    def __init__(self, url: str, prefix: str) -> None:
        self._url = url
        self._prefix = prefix

    def ids(self) -> set[str]:
        """Of the sessions that are alive."""
        with Redis.from_url(as_owner(self._url), decode_responses=True) as client:
            keys = cast("Iterator[str]", client.scan_iter(f"{self._prefix}*", _type="string"))
            alive = {key for key in keys if client.strlen(key) > _HEADER}
        return {key.removeprefix(self._prefix) for key in alive}

    def read(self, token: str) -> dict[str, Any] | None:
        """What the session holds that this token opens, as another process finds it."""
        return asyncio.run(self._read(token))

    async def _read(self, token: str) -> dict[str, Any] | None:
        manager = SessionManager(RedisStore(self._url, prefix=self._prefix), Keyring(SECRET))
        try:
            session = await manager.load(token)
            return None if session.is_new else dict(session)
        finally:
            await manager.close()


def id_of(token: str) -> str:
    """The part of a token that names its record."""
    return token[:_ID]


Options = Callable[..., dict[str, Any]]
"""The `options` fixture: keyword arguments for `SessionMiddleware`, further ones added."""


@contextmanager
def served(module: str, *arguments: str, environment: Mapping[str, str]) -> Generator[str]:
    """Run a module that serves an application by uvicorn, in a process of its own; its address.

    Some frameworks are one for each process, and do other things where they know of pytest.
    """
    known = {name: value for name, value in environment.items() if not name.startswith("PYTEST")}
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, env=known, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        said: list[str] = []
        try:
            for line in iter(process.stderr.readline, ""):
                said.append(line)
                if found := re.search(r"running on (http://[0-9.:]+)", line):
                    yield found[1]
                    return
            raise AssertionError("".join(said))
        finally:
            process.terminate()
