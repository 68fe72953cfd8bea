"""Fixtures for every test: servers, key prefixes, the browser; and what couldn't be run.

A test whose server or browser isn't here is skipped, and the run fails at its end, unless
ALLOW_MISSING=1.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Final, NoReturn

import pytest

from tests.support import (
    DEFAULT_SERVER,
    EXPECTED_SERVERS,
    SERVERS,
    Server,
    StartServer,
    find_program,
    version,
)

_MISSING: Final = pytest.StashKey[set[str]]()
_ALLOW_MISSING: Final = os.environ.get("ALLOW_MISSING", "") not in {"", "0"}

_numbers: Final = itertools.count()


def _skip_without(what: str, config: pytest.Config) -> NoReturn:
    config.stash.setdefault(_MISSING, set()).add(what)
    pytest.skip(f"{what} is not here (make servers)")


def pytest_report_header() -> str:
    here = ", ".join(f"{kind} {version(binary)}" for kind, binary in SERVERS.items())
    return f"servers: {here or 'none'}"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    missing = config.stash.get(_MISSING, set[str]())
    if missing:
        terminalreporter.section("not everything could be run", red=not _ALLOW_MISSING)
        terminalreporter.line(f"Missing: {', '.join(sorted(missing))}.")
        if not _ALLOW_MISSING:
            terminalreporter.line("That fails the run; ALLOW_MISSING=1 lets it pass.")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if session.config.stash.get(_MISSING, None) and not _ALLOW_MISSING and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """asyncio alone; `tests.support.LOOPS` has uvloop as well."""
    return "asyncio"


@pytest.fixture(scope="session")
def server_kinds() -> tuple[str, ...]:
    """The kinds of server that are here."""
    return tuple(SERVERS)


@pytest.fixture(scope="session")
def _shared_server(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Server]]:
    with ExitStack() as stack:

        @cache
        def get(kind: str) -> Server:
            if kind not in SERVERS:
                _skip_without(kind, request.config)
            return stack.enter_context(Server(kind))

        yield get


@pytest.fixture(scope="session", params=dict.fromkeys([*EXPECTED_SERVERS, *SERVERS]))
def server(request: pytest.FixtureRequest, _shared_server: Callable[[str], Server]) -> Server:
    """A server that all tests share, of each kind in turn: keep to `prefix`."""
    return _shared_server(request.param)


@pytest.fixture(scope="session")
def redis_url(_shared_server: Callable[[str], Server]) -> str:
    """The shared Redis, or the wheel's Valkey where there is none."""
    return _shared_server(DEFAULT_SERVER).url


@pytest.fixture
def prefix() -> str:
    """A key prefix that no other test has."""
    return f"t{next(_numbers):04x}:"


@pytest.fixture
def start_server(request: pytest.FixtureRequest) -> Iterator[StartServer]:
    """Start servers of the test's own, to stop, kill, restart or configure."""
    with ExitStack() as stack:

        def start(*args: str, kind: str = DEFAULT_SERVER, config: Path | None = None) -> Server:
            if kind not in SERVERS:
                _skip_without(kind, request.config)
            return stack.enter_context(Server(kind, *args, config=config))

        yield start


@pytest.fixture(scope="session")
def chromium(request: pytest.FixtureRequest) -> Path:
    """The browser, for playwright's `executable_path`."""
    found = find_program("chromium", "chromium-browser", "google-chrome")
    return found or _skip_without("chromium", request.config)


@pytest.fixture(scope="session")
def curl(request: pytest.FixtureRequest) -> Path:
    """The curl command, for what the demo's page says."""
    return find_program("curl") or _skip_without("curl", request.config)


@pytest.fixture(scope="session")
def docker_compose(request: pytest.FixtureRequest) -> Path:
    """The docker-compose command; no engine is needed to check a file."""
    return find_program("docker-compose") or _skip_without("docker-compose", request.config)
