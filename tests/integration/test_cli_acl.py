"""The roles of `redis-sessions acl`: on each server, what a user can do, and what it can't."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from redis import Redis

from redis_sessions import (
    ConfigurationError,
    RedisStore,
    SessionConflictError,
    SessionManager,
    StoreError,
)
from redis_sessions.cli.acl import Role, acl_line, rules
from redis_sessions.testing import (
    read_session,
    store_session,
)
from redis_sessions.testing.conformance import MINUTE, new_id
from redis_sessions.testing.index_conformance import new_key
from tests.integration.acl_roles import PASSWORD, administer, exercise, refused
from tests.support.apps import manager_on
from tests.support.servers import DEFAULT_SERVER, Server

Account = Callable[..., str]


@pytest.fixture
def account(server: Server, prefix: str) -> Iterator[Account]:
    """Make a user of a role on the server; its URL. `without` are commands that it lacks."""
    made: list[str] = []

    def make(role: Role, *, without: str = "", query: str = "", database: int = 0) -> str:
        name = f"{prefix.replace(':', '-')}{role}-{len(made)}"
        given = [rule for rule in rules(role, prefix=prefix) if rule != f"+{without}"]
        assert len(given) == len(rules(role, prefix=prefix)) - bool(without)
        client.execute_command(*acl_line(name, f">{PASSWORD}", given).split(" "))
        made.append(name)
        return f"redis://{name}:{PASSWORD}@127.0.0.1:{server.port}/{database}{query}"

    with Redis(port=server.port, protocol=2) as client:
        yield make
        for name in made:
            client.execute_command("ACL", "DELUSER", name)


# -- the application


async def test_app_leads_a_whole_life(account: Account, server: Server, prefix: str) -> None:
    """Through a manager: start, sign in, change, lock, list, revoke; and nothing was refused."""
    url = account(Role.APP, query="?client_name=shop", database=2)
    before = denied(server)
    manager = manager_on(url, prefix)
    await manager.connect()
    tokens = [await store_session(manager, {"user_id": "ada", "n": 0}) for _ in range(3)]
    session = await manager.load(tokens[0])

    def count(data: dict[str, Any]) -> None:
        data["n"] += 1

    await manager.update(session, count)
    async with session.exclusive():
        session["locked"] = True
    assert await read_session(manager, tokens[0]) == {"user_id": "ada", "n": 1, "locked": True}

    listed = await manager.sessions_of("ada")
    assert len(listed) == 3
    assert await manager.revoke(tokens[1][:20], principal="ada")
    assert await manager.revoke_all("ada", keep=tokens[0][:20]) == 1
    async with manager.messages.listen(principal="ada") as listener:
        await manager.messages.to_principal("ada", {"n": 1})
        assert await anext(listener) == {"n": 1}
    assert await manager.revoke_all("ada") == 1
    assert await read_session(manager, tokens[0]) == {}
    await manager.close()
    assert denied(server) == before


def denied(server: Server) -> int:
    """How many refusals the server has noted."""
    with Redis(port=server.port, protocol=2) as client:
        entries: list[Any] = client.acl_log()
        return sum(int(entry["count"]) for entry in entries)


def forget_scripts(server: Server) -> None:
    """As after a restart: whoever calls a script has to load it."""
    with Redis(port=server.port, protocol=2) as client:
        client.script_flush()


def of_use(role: Role) -> list[str]:
    """The commands of a role, but for those that are for what an exercise doesn't do."""
    spare = {"ping", "select", "info", "client|setname", "client|setinfo", "unsubscribe"}
    commands = [rule[1:] for rule in rules(role, prefix="p:") if rule.startswith("+")]
    return [command for command in commands if command not in spare]


@pytest.mark.parametrize("server", [DEFAULT_SERVER], indirect=True)
async def test_app_has_nothing_to_spare(account: Account, server: Server, prefix: str) -> None:
    """Without any one of its commands, something of a store fails."""
    await exercise(account(Role.APP), prefix)
    for command in of_use(Role.APP):
        forget_scripts(server)
        with pytest.raises((StoreError, SessionConflictError)):
            await exercise(account(Role.APP, without=command), prefix)


@pytest.mark.parametrize(
    ("command", "query", "database"),
    [("select", "", 2), ("client|setname", "?client_name=shop", 0)],
)
@pytest.mark.parametrize("server", [DEFAULT_SERVER], indirect=True)
async def test_url_options_need_their_commands(
    account: Account, prefix: str, command: str, query: str, database: int
) -> None:
    """Another database, and a client's name, are two commands of the list."""
    await exercise(account(Role.APP, query=query, database=database), prefix)
    with pytest.raises(StoreError):
        url = account(Role.APP, query=query, database=database, without=command)
        await exercise(url, prefix)


@pytest.mark.parametrize("server", [DEFAULT_SERVER], indirect=True)
async def test_a_server_may_not_know_setinfo(account: Account, prefix: str) -> None:
    """Redis 7.0, which has no CLIENT SETINFO, serves the application without it."""
    assert "+client|setinfo" not in rules(Role.APP, prefix=prefix, setinfo=False)
    await exercise(account(Role.APP, without="client|setinfo"), prefix)


@pytest.mark.standard(32, "ASVS 13.2.1", "ASVS 13.2.2", "ASVS 13.2.3")
def test_app_has_no_other_commands(account: Account, prefix: str) -> None:
    """The application can't list keys, dump them, or change the server."""
    with Redis.from_url(account(Role.APP), protocol=2) as client:
        client.set(f"{prefix}x", b"record", px=1000)
        for command in (
            *("KEYS *", "SCAN 0", "RANDOMKEY", "DBSIZE", "FLUSHALL", "FLUSHDB", "SHUTDOWN"),
            *("CONFIG GET dir", "ACL LIST", "CLIENT LIST", "CLIENT KILL ID 1", "SCRIPT FLUSH"),
            *(
                "MONITOR",
                "SUBSCRIBE x",
                "PUBLISH x y",
                "PSUBSCRIBE *",
                "REPLICAOF NO ONE",
                "SAVE",
                "SYNC",
            ),
            *(f"DUMP {prefix}x", f"PERSIST {prefix}x", f"RENAME {prefix}x {prefix}y"),
            *("EVAL return 0", "SLOWLOG GET", "WAIT 0 1", "CLUSTER SLOTS"),
        ):
            refused(client, *command.split())


@pytest.mark.standard(32, "ASVS 13.2.1", "ASVS 13.2.2", "ASVS 13.2.3")
def test_app_has_no_other_keys(account: Account, server: Server, prefix: str) -> None:
    """Keys of another prefix are out of reach, from a script as well, declared or not."""
    other = f"other:{prefix}x"
    with Redis(port=server.port, protocol=2) as owner:
        owner.set(other, b"secret", px=60_000)
    with Redis.from_url(account(Role.APP), protocol=2) as client:
        for command in ("GET", "MGET", "HGETALL", "DEL", "GETRANGE"):
            refused(client, command, other, *([0, 1] if command == "GETRANGE" else []))
        refused(client, "SET", other, "x")
        refused(client, "MGET", f"{prefix}x", other)
        declared = client.script_load("return redis.call('GET', KEYS[1])")
        hidden = client.script_load("return redis.call('GET', ARGV[1])")
        refused(client, "EVALSHA", declared, 1, other)
        refused(client, "EVALSHA", hidden, 0, other)
        for script in ("return redis.call('KEYS', '*')", "return redis.call('FLUSHALL')"):
            refused(client, "EVALSHA", client.script_load(script), 0)


# -- the administrator


@pytest.fixture
async def managers(
    account: Account, prefix: str
) -> AsyncIterator[tuple[SessionManager, SessionManager]]:
    """One with the application's user, one with the administrator's."""
    both = manager_on(account(Role.APP), prefix), manager_on(account(Role.ADMIN), prefix)
    yield both
    for manager in both:
        await manager.close()


async def test_admin_lists_and_revokes(
    managers: tuple[SessionManager, SessionManager], prefix: str
) -> None:
    """A user's sessions are listed, one is ended, then all but one, then all; they stay ended."""
    app, admin = managers
    await admin.connect()
    tokens = [await store_session(app, {"user_id": "ada"}) for _ in range(4)]

    assert {info.id for info in await admin.sessions_of("ada")} == {t[:20] for t in tokens}
    assert await admin.revoke(tokens[0][:20], principal="ada")
    assert await admin.revoke_all("ada", keep=tokens[1][:20]) == 2
    assert [bool(await read_session(app, token)) for token in tokens] == [False, True, False, False]
    assert await admin.revoke_all("ada") == 1
    assert await admin.sessions_of("ada") == []


async def test_admin_signs_nobody_in(account: Account, prefix: str) -> None:
    """An administrator's user can neither enter a session into an index nor release a lock."""
    store = RedisStore(account(Role.ADMIN), prefix=prefix)
    with pytest.raises(StoreError):
        await store.enter(new_key(), new_id(), age=0, own=-1, ttl=MINUTE, descriptor=b"d")
    await store.close()
    with Redis.from_url(account(Role.ADMIN), protocol=2) as client:
        client.set(f"{prefix}x", b"record", px=1000)
        for command in (
            *(f"GET {prefix}x", f"DEL {prefix}x", f"HLEN {prefix}x", f"DUMP {prefix}x"),
            *("GET other:x", "HGETALL other:x", "SET other:x y", "MGET other:x"),
            *("KEYS *", "DBSIZE", "ROLE", "CONFIG GET dir", "FLUSHALL", "EVAL x 0"),
            *("ACL LIST", "CLIENT LIST", "SHUTDOWN", "MONITOR", "SCRIPT FLUSH"),
        ):
            refused(client, *command.split())
        hidden = client.script_load("return redis.call('HGETALL', ARGV[1])")
        refused(client, "EVALSHA", hidden, 0, "other:x")


@pytest.mark.parametrize("server", [DEFAULT_SERVER], indirect=True)
async def test_admin_has_nothing_to_spare(account: Account, server: Server, prefix: str) -> None:
    """Without any one of its commands, something of listing, counting and revoking fails."""
    await administer(account(Role.ADMIN), prefix)
    for command in of_use(Role.ADMIN):
        forget_scripts(server)
        with pytest.raises((StoreError, ConfigurationError)):
            await administer(account(Role.ADMIN, without=command), prefix)


# -- the monitor


def test_monitor_counts_and_sees_nothing(account: Account, server: Server, prefix: str) -> None:
    """It reads INFO and how many keys there are; no key, no name of one, no script."""
    with Redis(port=server.port, db=3, protocol=2) as owner:
        owner.set(f"{prefix}x", b"record", px=60_000)
        owner.hset(f"{prefix}h", "a", "b")
        with Redis.from_url(account(Role.MONITOR, database=3), protocol=2) as client:
            assert client.dbsize() == owner.dbsize() >= 2
            assert client.info("memory")["maxmemory_policy"] == "noeviction"
            for command in (
                *(f"GET {prefix}x", f"MGET {prefix}x", f"HGETALL {prefix}h", f"DUMP {prefix}x"),
                *(f"TYPE {prefix}x", f"EXISTS {prefix}x", f"TTL {prefix}x", f"SET {prefix}x y"),
                *("KEYS *", "SCAN 0", "SCAN 0 TYPE string", "RANDOMKEY", "MONITOR", "SLOWLOG GET"),
                *("EVAL x 0", "SCRIPT LOAD x", "CONFIG GET *", "CLIENT LIST", "ACL LIST"),
                *("FLUSHALL", "SUBSCRIBE x", "SYNC", "BGSAVE"),
            ):
                refused(client, *command.split())
        owner.delete(f"{prefix}x", f"{prefix}h")
