"""The shop of PHP's that shop.php is, and a browser that visits it and an application of ours."""

from __future__ import annotations

import json
import socket
import tempfile
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx2
from starlette.types import ASGIApp

from redis_sessions.connect.launch import launch
from redis_sessions.php import PhpSessions
from tests.support.servers import as_owner, free_port

_SHOP: Final = Path(__file__).with_name("shop.php")
OURS: Final = "http://127.0.0.1:1"
"""Where the browser finds the application. Cookies are the same on all ports of a host."""


MAP: Final = {"user_id": "user.id", "cart": "cart"}


class Place:
    """Where a test's PHP keeps its sessions, and how."""

    def __init__(self, url: str, prefix: str, ini: dict[str, Any]) -> None:
        self.url, self.prefix = url, prefix
        self.ini = ini

    def source(self, **options: Any) -> PhpSessions:
        asked: dict[str, Any] = {
            "map": MAP,
            "write_back": {"user_id", "cart"},
            "https_only": False,
            **options,
        }
        return PhpSessions(self.url, prefix=self.prefix, **asked)


def tcp(url: str) -> str:
    """The server as PHP has it. PHP may do everything there, and we what the rules allow."""
    return as_owner(url).replace("redis://", "tcp://").removesuffix("/0")


def phpredis(url: str, prefix: str) -> Place:
    path = tcp(url)
    ini = {"session.save_handler": "redis", "session.save_path": f"{path}?prefix={prefix}"}
    return Place(url, prefix, {**ini, "redis.session.locking_enabled": "1"})


@contextmanager
def shop(php: Path, *settings: str) -> Generator[str]:
    """PHP's own web server, with this in its php.ini; its URL. It serves four requests at once."""
    port = free_port()

    def answers() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    options = [part for setting in settings for part in ("-d", setting)]
    command = [str(php), *options, "-S", f"127.0.0.1:{port}", str(_SHOP)]
    with tempfile.TemporaryDirectory() as folder:
        process = launch(
            ["env", "PHP_CLI_SERVER_WORKERS=4", *command], Path(folder) / "log", answers
        )
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(10)


class Browser:
    """A browser that has both sides' cookies."""

    def __init__(self, client: httpx2.AsyncClient, shop: str, settings: Mapping[str, Any]) -> None:
        self.client = client
        self._shop = shop
        self._headers = {"X-Ini": json.dumps(settings)}

    async def php(self, path: str) -> Any:
        """A page of the shop's: its `$_SESSION`. An empty array is a list."""
        answer = await self.client.get(self._shop + path, headers=self._headers)
        assert answer.status_code == 200, answer.text
        return answer.json()["session"]

    async def ours(self, path: str) -> Any:
        """A page of the application's."""
        answer = await self.client.get(OURS + path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    @property
    def php_id(self) -> str | None:
        """The id of PHP's session in the cookie."""
        return self.client.cookies.get("PHPSESSID")


@asynccontextmanager
async def browser(
    app: ASGIApp, shop: str, settings: Mapping[str, Any]
) -> AsyncGenerator[Browser, None]:
    """A browser of both. `settings` are those of php.ini; `predis` is a URL for Predis."""
    mounts = {OURS: httpx2.ASGITransport(app)}
    async with httpx2.AsyncClient(mounts=mounts) as client:
        yield Browser(client, shop, settings)
