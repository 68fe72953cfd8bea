"""All sessions of a Redis, by a manager and by `redis-sessions count` and `list`."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import pytest
from redis import Redis

from redis_sessions import (
    ConfigurationError,
    Keyring,
    RedisStore,
    SessionManager,
    StoreError,
    StoreUnavailableError,
)
from redis_sessions.cli.acl import Role, acl_line, rules
from redis_sessions.testing import store_session
from redis_sessions.testing.conformance import MINUTE, new_id, new_record
from tests.integration.acl_roles import PASSWORD
from tests.integration.wrong_servers import (
    PROTOCOLS,
    TYPES,
    Answer,
    after_greeting,
    always,
    listening,
)
from tests.support.apps import manager_on
from tests.support.asgi import KEY
from tests.support.command_line import command as run
from tests.support.servers import DEFAULT_SERVER, Server, as_owner, free_port

one_server = pytest.mark.parametrize("server", [DEFAULT_SERVER], indirect=True)


async def filled(url: str, prefix: str, count: int) -> list[str]:
    """The ids of so many records that are stored there."""
    store = RedisStore(url, prefix=prefix)
    ids = [new_id() for _ in range(count)]
    for id in ids:
        await store.commit(id, None, new_record(), MINUTE)
    await store.close()
    return ids


# -- connections


def connections(client: Redis, name: str) -> list[str]:
    """The ids of the server's connections that have this name."""
    listed: Any = client.client_list()
    return [each["id"] for each in listed if each["name"] == name]


@one_server
async def test_a_connection_of_its_own(server: Server, prefix: str) -> None:
    """It is there from the first step on, and is gone as soon as it isn't needed."""
    ids = await filled(server.url, prefix, 300)
    name = prefix.replace(":", "-")
    store = RedisStore(f"{as_owner(server.url)}?client_name={name}", prefix=prefix)
    with Redis(port=server.port, protocol=2) as client:
        async with aclosing(store.scan()) as pages:
            await anext(pages)
            assert len(connections(client, name)) == 1
        assert connections(client, name) == []
        assert {found.id async for page in store.scan() for found in page} == set(ids)
        assert connections(client, name) == []


@one_server
async def test_a_connection_that_is_lost(server: Server, prefix: str) -> None:
    """What comes next is an error: another process wouldn't know the cursor. Anew it works."""
    await filled(server.url, prefix, 600)
    name = prefix.replace(":", "-")
    store = RedisStore(f"{as_owner(server.url)}?client_name={name}", prefix=prefix)
    manager = SessionManager(store, KEY)
    with Redis(port=server.port, protocol=2) as client:
        seen = 0
        with pytest.raises(StoreUnavailableError, match="can't be reached"):
            async for _ in manager.sessions():
                seen += 1
                if seen == 1:
                    for id in connections(client, name):
                        client.client_kill_filter(_id=id)
        assert 0 < seen < 600
        assert connections(client, name) == []
        assert await manager.count() == 600
    await manager.close()


async def test_a_server_that_is_away() -> None:
    """It is told at once, as for everything else."""
    store = RedisStore(f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(StoreUnavailableError, match="can't be reached"):
        await SessionManager(store, KEY).count()


async def hang(_: bytes) -> bytes:
    await asyncio.Event().wait()
    raise AssertionError


PAGE = b"*2\r\n$1\r\n0\r\n*1\r\n$28\r\nsession:" + b"x" * 20 + b"\r\n"


def page_and(reply: bytes) -> Answer:
    """A page of ids, and then this for all that is asked about them."""
    return lambda command: PAGE if command == b"SCAN" else reply


ANSWERS: dict[str, Answer] = {
    **{name: always(PROTOCOLS[name]) for name in ("http", "tls", "noise")},
    **{f"then {name}": after_greeting(reply) for name, reply in TYPES.items()},
    **{f"page, then {name}": page_and(reply) for name, reply in TYPES.items() if name != "int"},
    "hangs": hang,
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_what_is_no_redis(name: str) -> None:
    """Whatever it answers, and if it doesn't, that is an error of a store."""
    async with listening(ANSWERS[name]) as port:
        store = RedisStore(f"redis://127.0.0.1:{port}/0", timeout=0.2 if name == "hangs" else 2)
        with pytest.raises(StoreError):
            await SessionManager(store, KEY).count()


@one_server
async def test_what_else_is_under_the_prefix(server: Server, prefix: str) -> None:
    """Values of other types and other names are no sessions, and disturb nobody."""
    [id] = await filled(server.url, prefix, 1)
    with Redis(port=server.port, protocol=2) as client:
        others = [prefix + new_id(), f"{prefix}{'x' * 19}é", f"{prefix}{'y' * 19}.", prefix]
        client.hset(others[0], "a", "b")
        for other in others[1:]:
            client.set(other, new_record())
        forever = prefix + new_id()
        client.set(forever, new_record())
        store = RedisStore(as_owner(server.url), prefix=prefix)
        found = {each.id: each.left for page in [p async for p in store.scan()] for each in page}
        client.delete(forever, *others)
    assert set(found) == {id, forever[len(prefix) :]}
    assert found[forever[len(prefix) :]] is None


# -- rights


@one_server
async def test_who_may_not(server: Server, prefix: str) -> None:
    """The application's user can't list keys; the error says which role can, and that one can."""
    name = prefix.replace(":", "-")
    with Redis(port=server.port, protocol=2) as client:
        users = {role: f"{name}{role}" for role in (Role.APP, Role.ADMIN)}
        for role, user in users.items():
            line = acl_line(user, f">{PASSWORD}", rules(role, prefix=prefix))
            client.execute_command(*line.split(" "))
        application, admin = (
            manager_on(f"redis://{user}:{PASSWORD}@127.0.0.1:{server.port}/0", prefix)
            for user in users.values()
        )
        token = await store_session(application, {"user_id": "ada"})
        with pytest.raises(ConfigurationError, match=r"refused: .*acl --role admin"):
            await application.count()
        await application.close()
        assert [info.id async for info in admin.sessions()] == [token[:20]]
        await admin.close()
        client.execute_command("ACL", "DELUSER", *users.values())


# -- the commands


@one_server
async def test_the_commands(server: Server, prefix: str) -> None:
    """They need no secret key, and tell ids, times, key ids and sizes, for people and programs."""
    manager = manager_on(as_owner(server.url), prefix)
    tokens = [await store_session(manager, {"user_id": f"user-{n}"}) for n in range(3)]
    session = await manager.load(tokens[0])
    session.rotate()
    answer = await manager.commit(session)
    assert answer.token is not None
    await manager.revoke_all("user-2")
    told = {info.id: info async for info in manager.sessions()}
    await manager.close()
    ids, key_id = {token[:20] for token in tokens[:2]}, Keyring(KEY).primary.id.hex()

    where = (as_owner(server.url), "--prefix", prefix)
    done = {
        args: await asyncio.to_thread(run, args[0], *where, *args[1:])
        for args in [("count",), ("count", "--json"), ("list",), ("list", "--json")]
    }
    for result in done.values():
        assert (result.exit_code, result.stderr) == (0, "")
        for secret in (*(token[20:] for token in tokens), answer.token.value[20:], "user-"):
            assert secret not in result.stdout
    assert done["count",].stdout == f"2 sessions\n       2 sealed with the key {key_id}\n"
    assert json.loads(done["count", "--json"].stdout) == {"sessions": 2, "by_key": {key_id: 2}}

    lines = done["list",].stdout.splitlines()
    assert {line.split()[0] for line in lines} == ids
    assert sum("rotated never" in line for line in lines) == 1
    assert all(f"key {key_id}" in line and "expires 20" in line for line in lines)
    for line in done["list", "--json"].stdout.splitlines():
        found = json.loads(line)
        info = told[found["id"]]
        assert (found["key_id"], found["size"]) == (key_id, info.size)
        assert info.idle_expires_at is not None
        expires = datetime.strptime(found["idle_expires_at"], "%Y-%m-%dT%H:%M:%SZ").replace(
            tzinfo=UTC
        )
        assert abs((expires - info.idle_expires_at).total_seconds()) < 5
        assert (found["rotated_at"] is None) is (info.rotated_at is None)


@pytest.mark.parametrize("command", ["count", "list"])
def test_what_the_commands_cannot_read(command: str) -> None:
    """The status is 2, and the error says why, on stderr and without a password."""
    for url, why in (
        (f"redis://u:{PASSWORD}@127.0.0.1:{free_port()}/0", "can't be reached"),
        ("memory://", "memory"),
        ("nonsense", "is no URL of a store"),
    ):
        done = run(command, url, "--json")
        assert (done.exit_code, done.stdout) == (2, "")
        assert why in done.stderr
        assert PASSWORD not in done.stderr
