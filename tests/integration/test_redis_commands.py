"""What each kind of request costs in Redis, as MONITOR sees it, and when a cookie is sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from itertools import groupby

import pytest
from starlette.applications import Starlette

from redis_sessions import SessionManager
from redis_sessions.lifecycle.manager import backend_of
from tests.support.apps import client_of, doing, manager_on, signed_in, token_in
from tests.support.asgi import KEY
from tests.support.redis_wire import Monitor
from tests.support.servers import StartServer


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
    await manager.connect()  # which also makes the server know the scripts
    scripts = ["EVALSHA", "SCRIPT", "EVALSHA"]  # all scripts are loaded together
    store = [*scripts, "MGET", "EVALSHA", "INFO"]
    names = monitor.names()
    assert names[0] == "TIME"  # and again, if it takes more than a second
    assert [name for name, _ in groupby(names) if name != "TIME"] == [*store, "HSCAN"]
    await backend_of(manager).key_notes.renew()
    assert monitor.names() == ["HSET", "PEXPIRE", "HSCAN"]
    yield manager
    await manager.close()


@pytest.fixture
def monitor(watched: tuple[str, Monitor]) -> Monitor:
    return watched[1]


@pytest.fixture
def app(manager: SessionManager) -> Starlette:
    return doing(manager=manager)


READ = ["MGET"]
COMMIT = ["COMMIT"]
END = ["END"]
AT_CONNECTING = {"CLIENT", "TIME"}


def index_write(what: str) -> list[str]:
    return [f"INDEX {what}"]


def told(monitor: Monitor) -> list[str]:
    """What was sent, with each script's name and what it was asked for in place of EVALSHA.

    An id that is ended whatever is there is END; what is compared first is COMMIT, a tombstone
    included.
    """
    names: list[str] = []
    for words in monitor.commands():
        if words[0] in {"CLIENT", "HELLO", "AUTH", "SELECT"}:
            continue
        if words[1] == "session:keys":
            continue  # every five minutes, whatever happens
        if words[0] != "EVALSHA":
            names.append(words[0])
        elif ":of:" in words[3]:
            assert words[2] == "1"  # one key a script: on Cluster too
            names.append(f"INDEX {words[4]}")
        elif ":due:" in words[3]:
            names.append(f"SCHEDULE {words[5]}")
        else:
            items = words[3 + int(words[2]) :]
            names.append("END" if items[0] == "*" else "COMMIT")
    return names


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
        assert told(monitor) == COMMIT
        assert token_in(await browser.get("/do?set=b:2")) is None
        assert told(monitor) == READ + COMMIT
        assert token_in(await browser.get("/do?set=b:2")) is None
        assert told(monitor) == READ  # it is no change


async def test_on_expired_costs_one_command(
    manager: SessionManager, monitor: Monitor, clock: Clock
) -> None:
    """A first visit, a touch and an end note one thing more; a read and a change, nothing."""
    told_of = SessionManager(manager.store, KEY, clock=clock, on_expired=print)
    note, end = ["SCHEDULE note"], ["SCHEDULE end"]
    async with client_of(doing(manager=told_of)) as browser:
        await browser.get("/do?set=a:1")
        assert sorted(told(monitor)) == sorted(COMMIT + note)
        clock.now += 301
        await browser.get("/do")
        assert sorted(told(monitor)) == sorted(READ + COMMIT + note)
        clock.now += 60
        await browser.get("/do?set=b:2")
        await browser.get("/do")
        assert told(monitor) == READ + COMMIT + READ
        await browser.get("/do?clear=")
        assert sorted(told(monitor)) == sorted(READ + END + end)


@pytest.mark.parametrize(
    ("first", "due"),
    [("set=a:1", COMMIT), ("set=user_id:alice", index_write("touch") + COMMIT)],
    ids=["anonymous", "signed in"],
)
async def test_a_touch_costs_one_commit(
    app: Starlette, monitor: Monitor, clock: Clock, first: str, due: list[str]
) -> None:
    """Five minutes after the last one, a read renews the session's time: its index first."""
    async with client_of(app) as browser:
        await browser.get(f"/do?{first}")
        told(monitor)
        for passed, commands in ((299, READ), (2, READ + due), (299, READ), (2, READ + due)):
            clock.now += passed
            assert token_in(await browser.get("/do")) is None
            assert told(monitor) == commands


async def test_a_change_renews_the_time_as_well(
    app: Starlette, monitor: Monitor, clock: Clock
) -> None:
    """A change when a touch is due is one commit, which renews too, after asking the index."""
    async with client_of(app) as browser:
        await signed_in(browser)
        clock.now += 301
        told(monitor)
        await browser.get("/do?set=a:1")
        assert told(monitor) == READ + index_write("touch") + COMMIT
        clock.now += 200
        await browser.get("/do?set=a:2")
        assert told(monitor) == READ + COMMIT


async def test_signing_in(app: Starlette, monitor: Monitor) -> None:
    """An entry in the index, then a commit; over an anonymous session, a commit that ends it."""
    async with client_of(app) as browser:
        await signed_in(browser)
        assert told(monitor) == index_write("enter") + COMMIT
    async with client_of(app) as browser:
        await browser.get("/do?set=cart:tea")
        told(monitor)
        await signed_in(browser)
        assert told(monitor) == READ + index_write("enter") + COMMIT + COMMIT


async def test_switching(app: Starlette, monitor: Monitor) -> None:
    """A → B: entered and created, then the old session marked and ended."""
    async with client_of(app) as browser:
        await signed_in(browser)
        told(monitor)
        await signed_in(browser, "bob")
        entered, marked = index_write("enter"), index_write("mark")
        assert told(monitor) == READ + entered + COMMIT + END + marked


@pytest.mark.parametrize(
    ("query", "commands", "cookie"),
    [
        ("clear=", END + index_write("mark"), "null"),
        ("drop=user_id", COMMIT + index_write("mark"), "null"),
        ("set=cart:tea&drop=user_id", COMMIT + index_write("mark") + COMMIT, "new"),
        (
            "clear=&set=user_id:alice",
            END + index_write("mark") + index_write("enter") + COMMIT,
            "new",
        ),
    ],
    ids=["clear", "sign out", "sign out, data left", "clear and sign in"],
)
async def test_signing_out(
    app: Starlette, monitor: Monitor, query: str, commands: list[str], cookie: str
) -> None:
    """A mark in the index, then an end; a commit more if data are left."""
    async with client_of(app) as browser:
        old = await signed_in(browser)
        told(monitor)
        token = token_in(await browser.get(f"/do?{query}"))
        assert told(monitor) == READ + commands
        assert token is not None
        assert token[:20] != old[:20]
        assert (token == "null") is (cookie == "null")


async def test_clearing_an_anonymous_session(app: Starlette, monitor: Monitor) -> None:
    """Nobody is signed in: one end, and no index."""
    async with client_of(app) as browser:
        await browser.get("/do?set=a:1")
        told(monitor)
        assert token_in(await browser.get("/do?clear=")) == "null"
        assert told(monitor) == READ + END


async def test_rotating(app: Starlette, monitor: Monitor) -> None:
    """rotate() replaces the token, and tells the index; authenticated() asks it before, too."""
    async with client_of(app) as browser:
        await signed_in(browser)
        asked, telling = index_write("touch"), index_write("authenticated")
        for what, commands in (
            ("rotate", COMMIT + telling),
            ("authenticated", asked + COMMIT + telling),
        ):
            told(monitor)
            assert token_in(await browser.get(f"/do?{what}="))
            assert told(monitor) == READ + commands


async def test_the_keys_of_a_sign_in(
    app: Starlette, monitor: Monitor, manager: SessionManager
) -> None:
    """The index is under the principal's digest, the record under the session's id."""
    async with client_of(app) as browser:
        token = await signed_in(browser)
    index, commit = (words for words in monitor.commands() if words[0] == "EVALSHA")
    (digest,) = (key.index("alice") for key in backend_of(manager).keyring.keys)
    assert index[3:6] == [f"session:of:{digest}", "enter", token[:20]]
    assert commit[3] == f"session:{token[:20]}"


@pytest.mark.parametrize(
    ("duration", "cookie", "commands"),
    [
        (30 * 24 * 3600, True, index_write("touch") + COMMIT + index_write("authenticated")),
        (3600, False, COMMIT),
    ],
    ids=["longer", "shorter"],
)
async def test_expire_in(
    app: Starlette,
    monitor: Monitor,
    manager: SessionManager,
    duration: int,
    cookie: bool,
    commands: list[str],
) -> None:
    """A longer lifetime has to reach the index and the cookie, so the token is new."""
    async with client_of(app) as browser:
        token = await signed_in(browser)
        told(monitor)
        response = await browser.get(f"/do?expire_in={duration}")
        assert told(monitor) == READ + commands
        new = token_in(response)
        assert (new is not None) is cookie
        if cookie:
            assert f"Max-Age={duration};" in response.headers["set-cookie"]
        session = await manager.load(new or token)
        assert session.expires_at is not None
        assert session.expires_at.timestamp() == int(backend_of(manager).clock()) + duration


async def test_a_stale_token_costs_a_read(app: Starlette, monitor: Monitor) -> None:
    """A token that names nothing: one read, no cookie; a write goes under an id of its own."""
    stale = "stale" + "x" * 59
    async with client_of(app, stale) as browser:
        assert token_in(await browser.get("/do")) is None
        assert told(monitor) == READ
        new = token_in(await browser.get("/do?set=a:1"))
        assert told(monitor) == READ + COMMIT
        assert new is not None
        assert new[:20] != stale[:20]


async def test_loads_of_one_moment_share_one_command(
    manager: SessionManager, monitor: Monitor
) -> None:
    """Loads that are begun in one tick are one MGET, ids deduplicated; commits one EVALSHA.

    The first load doesn't queue if those before it were alone.
    """

    async def new(number: int) -> str:
        session = await manager.load()
        session["number"] = number
        answer = await manager.commit(session)
        assert answer.token is not None
        return answer.token.value

    tokens = await asyncio.gather(*(new(number) for number in range(50)))
    assert told(monitor) == COMMIT
    sessions = await asyncio.gather(*(manager.load(token) for token in tokens + tokens))
    *alone, (name, *keys) = [command for command in monitor.commands() if command[0] != "CLIENT"]
    assert len(alone) <= 1
    assert all(len(command) == 2 for command in alone)
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
        reads = [command for command in monitor.commands() if command[0] not in AT_CONNECTING]
        assert {command[0] for command in reads} == {"MGET"}
        assert sum(len(command) - 1 for command in reads) == 64
        assert len(reads) <= 8
        await asyncio.gather(*(browser.get("/do?set=a:1", headers=h) for h in headers))
        names = monitor.names()
        assert set(names) - AT_CONNECTING == {"MGET", "EVALSHA"}
        assert len(names) <= 24


async def test_no_cookie_unless_the_token_changed(app: Starlette, clock: Clock) -> None:
    """Over a session's life `Set-Cookie` goes out at its beginning, rotation and end alone."""
    sent: list[bool] = []
    async with client_of(app) as browser:
        for query in (
            "set=a:1", "set=b:2", "", "drop=b", "drop=a", "set=user_id:alice", "set=c:3", "",
            "rotate=", "set=d:4", "expire_in=60", "", "clear=", "",
        ):  # fmt: skip
            clock.now += 20
            response = await browser.get(f"/do?{query}")
            sent.append(token_in(response) is not None)
    expected = [True, False, False, False, False, True, False, False, True, False, False, False]
    assert sent == [*expected, True, False]
