"""What each kind of request costs in Redis, as MONITOR sees it, and when a cookie is sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from starlette.applications import Starlette

from redis_sessions import SessionManager
from tests.integration.apps import (
    Monitor,
    client_of,
    doing,
    manager_on,
    signed_in,
    token_in,
)
from tests.support import StartServer


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watched(start_server: StartServer) -> Iterator[tuple[str, Monitor]]:
    server = start_server()
    with Monitor(server.port) as monitor:
        yield server.url, monitor


@pytest.fixture
async def manager(watched: tuple[str, Monitor], clock: Clock) -> AsyncIterator[SessionManager]:
    url, monitor = watched
    manager = manager_on(url, clock=clock)
    await manager.connect()  # which also makes the server know the script
    assert monitor.names() == ["EVALSHA", "EVAL", "MGET", "INFO"]
    yield manager
    await manager.close()


@pytest.fixture
def monitor(watched: tuple[str, Monitor]) -> Monitor:
    return watched[1]


@pytest.fixture
def app(manager: SessionManager) -> Starlette:
    return doing(manager=manager)


READ = ["MGET"]
COMMIT = ["EVALSHA"]


@pytest.mark.parametrize(
    "cookie",
    [None, "short", "x" * 65, "x" * 63 + "!", "é" * 64, "null", ""],
    ids=["none", "short", "long", "odd", "not ASCII", "null", "empty"],
)
async def test_no_token_costs_nothing(app: Starlette, monitor: Monitor, cookie: str | None) -> None:
    """Without a token, or with a malformed one, reading asks nobody and sends no cookie."""
    headers = [] if cookie is None else [(b"cookie", f"__Host-session={cookie}".encode())]
    async with client_of(app) as browser:
        response = await browser.get("/do", headers=headers)
        assert response.json() == {}
        assert token_in(response) is None
    assert monitor.names() == []


async def test_an_empty_session_is_not_stored(app: Starlette, monitor: Monitor) -> None:
    """A new session whose data came and went within the request costs nothing."""
    async with client_of(app) as browser:
        assert token_in(await browser.get("/do?set=a:1&drop=a&rotate=&expire_in=60")) is None
    assert monitor.names() == []


async def test_reading_costs_one_read(app: Starlette, monitor: Monitor) -> None:
    """A request that reads costs one MGET of one key; a page that doesn't look, the same."""
    async with client_of(app) as browser:
        token = await signed_in(browser)
        monitor.names()
        response = await browser.get("/do")
        assert response.json() == {"user_id": "alice"}
        assert token_in(response) is None
        assert monitor.commands() == [["MGET", f"session:{token[:20]}"]]


async def test_a_change_costs_one_read_and_one_commit(app: Starlette, monitor: Monitor) -> None:
    """A first visit is one commit; a later change a read and a commit, without a cookie."""
    async with client_of(app) as browser:
        assert token_in(await browser.get("/do?set=a:1"))
        assert monitor.names() == COMMIT
        assert token_in(await browser.get("/do?set=b:2")) is None
        assert monitor.names() == READ + COMMIT
        assert token_in(await browser.get("/do?set=b:2")) is None
        assert monitor.names() == READ  # it is no change


async def test_a_touch_costs_one_commit(
    app: Starlette, monitor: Monitor, clock: Clock, manager: SessionManager
) -> None:
    """Five minutes after the last one, a read renews the session's time; not before."""
    async with client_of(app) as browser:
        await signed_in(browser)
        monitor.names()
        for passed, commands in ((299, READ), (2, READ + COMMIT), (299, READ), (2, READ + COMMIT)):
            clock.now += passed
            assert token_in(await browser.get("/do")) is None
            assert monitor.names() == commands


async def test_a_change_renews_the_time_as_well(
    app: Starlette, monitor: Monitor, clock: Clock
) -> None:
    """A change when a touch is due is one commit, which renews too."""
    async with client_of(app) as browser:
        await signed_in(browser)
        clock.now += 301
        monitor.names()
        await browser.get("/do?set=a:1")
        assert monitor.names() == READ + COMMIT
        clock.now += 200
        await browser.get("/do")
        assert monitor.names() == READ


async def test_signing_in_costs_a_commit(app: Starlette, monitor: Monitor) -> None:
    """Nobody was there before: one commit. Over an anonymous session: and one that ends it."""
    async with client_of(app) as browser:
        await signed_in(browser)
        assert monitor.names() == COMMIT
    async with client_of(app) as browser:
        await browser.get("/do?set=cart:tea")
        monitor.names()
        await signed_in(browser)
        assert monitor.names() == READ + COMMIT + COMMIT


async def test_switching_costs_two_commits(app: Starlette, monitor: Monitor) -> None:
    """A → B: a new session, and the end of the old one."""
    async with client_of(app) as browser:
        await signed_in(browser)
        monitor.names()
        await signed_in(browser, "bob")
        assert monitor.names() == READ + COMMIT + COMMIT


async def test_signing_out_costs_an_end(app: Starlette, monitor: Monitor) -> None:
    """One end; a commit more if data are left."""
    async with client_of(app) as browser:
        for path, commands, told in (
            ("/do?clear=", COMMIT, "null"),
            ("/do?drop=user_id", COMMIT, "null"),
            ("/do?set=cart:tea&drop=user_id", COMMIT + COMMIT, None),
        ):
            await signed_in(browser)
            monitor.names()
            token = token_in(await browser.get(path))
            assert monitor.names() == READ + commands
            assert token is not None
            assert told is None or token == told


async def test_rotating_costs_a_commit(app: Starlette, monitor: Monitor) -> None:
    """rotate() and authenticated() replace the token in place."""
    async with client_of(app) as browser:
        await signed_in(browser)
        for what in ("rotate", "authenticated"):
            monitor.names()
            assert token_in(await browser.get(f"/do?{what}="))
            assert monitor.names() == READ + COMMIT


@pytest.mark.parametrize(
    ("duration", "cookie"), [(30 * 24 * 3600, True), (3600, False)], ids=["longer", "shorter"]
)
async def test_expire_in(
    app: Starlette, monitor: Monitor, manager: SessionManager, duration: int, cookie: bool
) -> None:
    """A longer lifetime has to reach the cookie, so the token is new; a shorter one doesn't."""
    async with client_of(app) as browser:
        token = await signed_in(browser)
        monitor.names()
        response = await browser.get(f"/do?expire_in={duration}")
        assert monitor.names() == READ + COMMIT
        new = token_in(response)
        assert (new is not None) is cookie
        if cookie:
            assert f"Max-Age={duration};" in response.headers["set-cookie"]
        session = await manager.load(new or token)
        assert session.expires_at is not None
        assert session.expires_at.timestamp() == int(manager.clock()) + duration


async def test_a_stale_token_costs_a_read(app: Starlette, monitor: Monitor) -> None:
    """A token that names nothing: one read, no cookie; a write goes under an id of its own."""
    stale = "stale" + "x" * 59
    async with client_of(app, stale) as browser:
        assert token_in(await browser.get("/do")) is None
        assert monitor.names() == READ
        new = token_in(await browser.get("/do?set=a:1"))
        assert monitor.names() == READ + COMMIT
        assert new is not None
        assert new[:20] != stale[:20]


async def test_loads_of_one_moment_share_one_command(
    manager: SessionManager, monitor: Monitor
) -> None:
    """Loads that are begun in one tick are one MGET, ids deduplicated; commits one EVALSHA."""

    async def new(number: int) -> str:
        session = await manager.load()
        session["number"] = number
        answer = await manager.commit(session)
        assert answer.token is not None
        return answer.token.value

    tokens = await asyncio.gather(*(new(number) for number in range(50)))
    assert monitor.names() == COMMIT
    sessions = await asyncio.gather(*(manager.load(token) for token in tokens + tokens))
    ((name, *keys),) = monitor.commands()
    assert name == "MGET"
    assert len(keys) == 50
    assert [session["number"] for session in sessions] == [*range(50), *range(50)]


async def test_requests_of_one_moment_share_commands(
    app: Starlette, manager: SessionManager, monitor: Monitor
) -> None:
    """64 concurrent requests: few MGETs, and few EVALSHAs for as many changes."""
    async with client_of(app) as browser:
        tokens: list[str] = []
        for number in range(64):
            browser.cookies.clear()
            tokens.append(await signed_in(browser, str(number)))
        browser.cookies.clear()
        headers = [{"Cookie": f"__Host-session={token}"} for token in tokens]
        monitor.names()
        responses = await asyncio.gather(*(browser.get("/do", headers=h) for h in headers))
        assert [r.json()["user_id"] for r in responses] == [str(number) for number in range(64)]
        reads = monitor.commands()
        assert {command[0] for command in reads} == {"MGET"}
        assert sum(len(command) - 1 for command in reads) == 64
        assert len(reads) <= 8
        await asyncio.gather(*(browser.get("/do?set=a:1", headers=h) for h in headers))
        names = monitor.names()
        assert set(names) == {"MGET", "EVALSHA"}
        assert len(names) <= 16


async def test_no_cookie_unless_the_token_changed(app: Starlette, clock: Clock) -> None:
    """Over a session's life `Set-Cookie` goes out at its beginning, rotation and end alone."""
    told: list[bool] = []
    async with client_of(app) as browser:
        for query in (
            "set=a:1", "set=b:2", "", "drop=b", "drop=a", "set=user_id:alice", "set=c:3", "",
            "rotate=", "set=d:4", "expire_in=60", "", "clear=", "",
        ):  # fmt: skip
            clock.now += 20
            response = await browser.get(f"/do?{query}")
            told.append(token_in(response) is not None)
    expected = [True, False, False, False, False, True, False, False, True, False, False, False]
    assert told == [*expected, True, False]
