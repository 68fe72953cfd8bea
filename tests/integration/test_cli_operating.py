"""The operator's commands, with the rights of `acl --role admin`, on one server and a Cluster."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from redis_sessions import RedisStore, generate_key
from redis_sessions.cli.acl import Role, acl_line, rules
from redis_sessions.leader import Leader
from redis_sessions.stores.commands import IndexCommand
from redis_sessions.stores.leases import leases_of
from redis_sessions.stores.redis import servers_of
from redis_sessions.testing import read_session
from redis_sessions.testing.conformance import MINUTE, new_id, new_record
from tests.integration.acl_roles import PASSWORD
from tests.integration.operating import KEY_ID, Site
from tests.support import ROOT
from tests.support.apps import manager_on
from tests.support.asgi import KEY
from tests.support.deployments import until
from tests.support.servers import as_owner, as_user, free_port

one_server = pytest.mark.parametrize("site", ["server"], indirect=True)


@pytest.fixture(params=["server", "cluster"])
async def site(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[Site]:
    """Each of them with a user of the role `admin`."""
    asks: list[Callable[..., Any]]
    if clustered := request.param == "cluster":
        running = request.getfixturevalue("cluster_topology")
        url, asks = as_owner(running.url), [node.ask for node in running.nodes]
    else:
        url = as_owner(request.getfixturevalue("redis_url"))
        asks = [Redis.from_url(url, protocol=2).execute_command]
    name = prefix.replace(":", "-")
    line = acl_line(name, f">{PASSWORD}", rules(Role.ADMIN, prefix=prefix, cluster=clustered))
    for ask in asks:
        ask(*line.split(" "))
    site = Site(manager_on(url, prefix), as_user(url, f"{name}:{PASSWORD}"))
    yield site
    await site.manager.close()
    for ask in asks:
        ask("ACL", "DELUSER", name)


async def test_a_users_sessions(site: Site) -> None:
    """They are listed, one is ended, all but one, and all; the status says if there was one."""
    tokens = [await site.sign_in("ada") for _ in range(4)]
    ids = [token[:20] for token in tokens]
    other = await site.sign_in("bob")

    listed = await site.run("sessions", "ada")
    assert (listed.exit_code, listed.stderr) == (0, "")
    head, *rows = listed.stdout.splitlines()
    assert head.split("  ")[0] == "id"
    assert sorted(row.split()[0] for row in rows) == sorted(ids)
    told = json.loads((await site.run("sessions", "ada", "--json")).stdout)["sessions"]
    assert [each["id"] for each in told] == [row.split()[0] for row in rows]
    assert told[0]["user_agent"] is None
    assert re.fullmatch(r"20\d\d-.+Z", told[0]["expires_at"])

    one = await site.run("revoke", "ada", "--id", ids[0])
    assert one == (0, "1 session ended\n", "")
    for gone in (ids[0], other[:20]):
        assert (await site.run("revoke", "ada", "--id", gone)).exit_code == 1
    kept = await site.run("revoke", "ada", "--keep", ids[1], "--json")
    assert json.loads(kept.stdout) == {"ended": 2, "missed": []}
    alive = [bool(await read_session(site.manager, token)) for token in tokens]
    assert alive == [False, True, False, False]
    assert (await site.run("revoke", "ada", "--all")).stdout == "1 session ended\n"
    assert (await site.run("sessions", "ada")).exit_code == 1
    assert await read_session(site.manager, other)


async def test_who_leads(site: Site) -> None:
    """Each name with its leader and its token; the status says if somebody leads this one now."""
    assert await site.run("leader") == (0, "", "redis-sessions: nobody has led anything\n")
    leader = Leader(site.manager.store)
    async with leader("nightly") as term:
        await leases_of(site.manager.store).names("nightly")
        listed = await site.run("leader", "--json")
        assert (listed.exit_code, listed.stderr) == (0, "")
        (told,) = json.loads(listed.stdout)["leaders"]
        assert (told["name"], told["leads"], told["token"]) == ("nightly", True, term.token)
        assert told["process"].endswith(f":{os.getpid()}")
        assert 0 < told["lease_ends_in"] <= 15
        one = await site.run("leader", "nightly")
        assert one.exit_code == 0
        assert re.search(
            rf"^nightly +\S+:{os.getpid()} +20\S+Z +in \d+ s +- +{term.token}$",
            one[1],
            re.MULTILINE,
        )
    gone = await site.run("leader", "nightly")
    assert (gone.exit_code, gone.stderr) == (1, "")
    assert "- (last: " in gone.stdout
    never = await site.run("leader", "never")
    assert never == (1, "", "redis-sessions: nobody has led 'never'\n")


async def test_one_session_from_outside(site: Site) -> None:
    """Its header and TTL; whose it is by a name; its data by the token from standard input."""
    token = await site.sign_in("ada", cart=["book"], escape="\x1b[2J")
    id = token[:20]

    plain = await site.run("inspect", id, "--json", SESSION_SECRET_KEY="")
    assert (plain.exit_code, plain.stderr) == (0, "")
    told = json.loads(plain.stdout)
    assert (told["id"], told["stored"], told["key_id"], told["format"]) == (id, True, KEY_ID, 1)
    assert set(told) == {
        *("id", "stored", "format", "key_id", "rotated_at", "nonce", "size", "idle_expires_at")
    }

    theirs = await site.run("inspect", id, "--principal", "ada")
    assert "theirs:           yes\n" in theirs.stdout
    assert (await site.run("inspect", id, "--principal", "bob")).exit_code == 1

    opened = await site.run("inspect", id, "--token", "-", stdin=f"{token}\n")
    assert (opened.exit_code, opened.stderr) == (0, "")
    assert '"cart": ["book"]' in opened.stdout
    assert "\x1b" not in opened.stdout
    assert token not in opened.stdout
    assert re.search(r"^owner: +[0-9a-f]{24}$", opened.stdout, re.MULTILINE)

    for wrong in (new_id() * 3 + "xxxx", id + "x" * 44, "nonsense"):
        refused = await site.run("inspect", id, "--token", "-", stdin=wrong)
        assert (refused.exit_code, "cart" in refused.stdout) == (1, False)
    await site.manager.revoke_all("ada")
    ended = await site.run("inspect", id, "--token", "-", "--json", stdin=token)
    assert (ended.exit_code, json.loads(ended.stdout)["tombstone"]) == (1, True)
    assert (await site.run("inspect", new_id())).exit_code == 1


async def test_a_list_in_parts(site: Site) -> None:
    """Each part says where the next one begins; together they have all sessions, once each."""
    ids = [new_id() for _ in range(1500 if "cluster" in site.url else 600)]
    store = site.manager.store
    await asyncio.gather(*(store.commit(id, None, new_record(), MINUTE) for id in ids))
    found: list[str] = []
    more: list[str] = []
    parts = 0
    while True:
        part = await site.run("list", "--json", "--limit", "1", *more)
        assert part.exit_code == 0
        found += [json.loads(line)["id"] for line in part.stdout.splitlines()]
        parts += 1
        if not part.stderr:
            break
        more = part.stderr.removeprefix("the next ones: ").split()
    assert parts > 1
    assert sorted(set(found)) == sorted(ids)


async def test_the_figures(site: Site) -> None:
    """Sessions, sizes, lifetimes, users and servers, with the rights of an administrator."""
    for user in ("ada", "ada", "bob", "eve"):
        await site.sign_in(user)
    done = await site.run("stats", "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert (told["sessions"], told["complete"], told["by_key"]) == (4, True, {KEY_ID: 4})
    assert told["ends_within"]["7 days"] == 4
    assert told["users"]["indexes"] == told["users"]["looked_at"] == 3
    assert told["users"]["sessions"]["most"] == 2
    assert all(server["used_memory"] > 0 for server in told["servers"])
    primaries = 3 if "cluster" in site.url else 1
    assert len({server["server"] for server in told["servers"]}) == primaries
    assert "4 sealed with the key" in (await site.run("stats")).stdout
    few = json.loads((await site.run("stats", "--json", "--most", "1")).stdout)
    assert few["complete"] is False


async def test_a_bench_leaves_nothing(site: Site) -> None:
    """It measures reads and changes, and removes what it wrote."""
    done = await site.run("bench", "--seconds", "0.2", "--at-once", "3", "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    figures = json.loads(done.stdout)["figures"]
    assert [(each["work"], each["at_once"]) for each in figures] == [
        *(("PING", 1), ("read", 1)),
        *(("read", 3), ("change", 3)),
    ]
    assert all(0 < each["p50"] <= each["p99"] for each in figures)
    if "cluster" not in site.url:
        with Redis.from_url(as_owner(site.url), protocol=2) as client:
            assert client.keys(f"{site.manager.store.prefix}*") == []


# -- events, as a process


async def watching(site: Site, *args: str) -> Process:
    """The command `events`, once it watches."""
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "redis_sessions.cli", "events", "--json", *args),
        env={**os.environ, **site.environment},
        cwd=ROOT,
        stdout=PIPE,
        stderr=PIPE,
    )
    assert started.stderr is not None
    assert await started.stderr.readline() == b"watching\n"
    return started


@pytest.mark.parametrize("site", ["cluster"], indirect=True)
async def test_what_happens_is_told(site: Site) -> None:
    """New, changed, rotated, ended and gone; Ctrl-C ends it."""
    before = await site.sign_in("ada")
    process = await watching(site)
    assert process.stdout is not None

    async def told() -> tuple[str, str]:
        assert process.stdout is not None
        line = json.loads(await process.stdout.readline())
        return line["event"], line["id"]

    token = await site.sign_in("ada")
    assert await told() == ("created", token[:20])
    session = await site.manager.load(before)
    session["n"] = 1
    await site.manager.commit(session)
    assert await told() == ("changed", before[:20])
    session.rotate()
    await site.manager.commit(session)
    assert await told() == ("rotated", before[:20])
    await site.manager.revoke(token[:20], "ada")
    assert await told() == ("ended", token[:20])
    store = site.manager.store
    assert isinstance(store, RedisStore)
    await store.commit(lost := new_id(), None, new_record(), MINUTE)
    assert await told() == ("created", lost)
    key = store.prefix + lost
    await servers_of(store).index_commands.submit(IndexCommand(key, ("DEL", key)), 64)
    assert await told() == ("gone", lost)

    process.send_signal(signal.SIGINT)
    assert await process.wait() == 130
    assert process.stderr is not None
    assert await process.stderr.read() == b""


@one_server
async def test_a_connection_that_is_lost(site: Site) -> None:
    """It ends with status 2, since nobody knows what was missed."""
    name = site.manager.store.prefix.replace(":", "-")
    with Redis.from_url(as_owner(site.url), protocol=2) as client:

        async def tracked() -> bool:
            listed: Any = client.client_list()
            found = [c["id"] for c in listed if c["name"] == name and "B" in c["flags"]]
            for id in found:
                client.client_kill_filter(_id=id)
            return bool(found)

        url = f"{site.url}?client_name={name}"
        done, _ = await asyncio.gather(site.run("events", "--url", url), until(tracked))
    assert (done.exit_code, done.stdout) == (2, "")
    assert "can't be reached" in done.stderr


# -- keys


@one_server
async def test_a_key_is_replaced(site: Site) -> None:
    """At each step it says which keys are in use, and what comes next."""
    await site.sign_in("ada")
    new = generate_key()

    async def advice(status: int, **keys: str) -> str:
        done = await site.run("keys", **keys)
        assert (done.exit_code, done.stderr) == (status, "")
        assert new not in done.stdout
        assert KEY not in done.stdout
        return " ".join(done.stdout.split())

    assert f"In use: {KEY_ID}." in await advice(0, SESSION_SECRET_KEY="")
    assert "deploy secret_key=[old, new]" in await advice(0)
    assert f"{KEY_ID} is in use, and isn't among" in await advice(1, SESSION_SECRET_KEY=new)

    done = await site.run("keys", "--json", "--key-file", "-", stdin=f"{new}\n{KEY}\n")
    told = json.loads(done.stdout)
    assert [(k["place"], k["sessions"], k["removable"]) for k in told["keys"]] == [
        *(("first", 0, False), ("older", 1, False)),
    ]
    assert "Step 1: processes still seal with" in told["advice"][0]


# -- where the URL and the keys come from


@one_server
async def test_keys_come_from_a_file(site: Site, tmp_path: Path) -> None:
    """One in each line, the first one first; an older key finds the sessions that it sealed."""
    await site.sign_in("ada")
    (tmp_path / "keys").write_text(f"{generate_key()}\n\n{KEY}\n")
    found = await site.run("sessions", "ada", "--key-file", str(tmp_path / "keys"))
    assert (found.exit_code, found.stderr) == (0, "")


REFUSED: list[tuple[list[str], dict[str, str], str]] = [
    (["count"], {"REDIS_SESSIONS_URL": ""}, "Set REDIS_SESSIONS_URL"),
    (["sessions", "ada"], {"SESSION_SECRET_KEY": ""}, "set SESSION_SECRET_KEY"),
    (["sessions", "ada"], {"SESSION_SECRET_KEY": "short"}, "at least 32"),
    (["sessions", "ada"], {"SESSION_SECRET_KEY": generate_key()}, "no session can be found with"),
    (["sessions", "ada", "--key-file", "/nowhere"], {}, "--key-file: No such file"),
    (["sessions", "ada", "--key-file", "-"], {}, "there is no key in it"),
    (["revoke", "ada"], {}, "one of the arguments --id --all --keep is required"),
    (["revoke", "ada", "--all", "--keep", "x" * 20], {}, "not allowed with argument"),
    (["revoke", "ada", "--keep", "x"], {}, "this is no session's id"),
    (["inspect", "x" * 64], {}, "never a whole token"),
    (["inspect", "x" * 20, "--token", "s3same" * 10], {}, "Treat this one as stolen"),
    (["inspect", "x" * 20, "--token", "-", "--key-file", "-"], {}, "there is one input"),
    (["list", "--cursor", "nonsense"], {}, "an earlier list --limit"),
    (["list", "--cursor", "elsewhere:1/7"], {}, "isn't a primary any more"),
    (["bench", "--seconds", "0"], {}, "above 0"),
    (["events", "--most", "0"], {}, "from 1 on"),
    (["stats", f"redis://u:s3same@127.0.0.1:{free_port()}/0"], {}, "can't be reached"),
    (["events", f"redis://u:s3same@127.0.0.1:{free_port()}/0"], {}, "can't be reached"),
]


@one_server
async def test_what_cannot_be_done(site: Site) -> None:
    """Status 2, nothing on standard output, and a reason that repeats no secret."""
    await site.sign_in("ada")
    for args, environment, why in REFUSED:
        done = await site.run(*args, **environment)
        assert (args, done.exit_code, done.stdout) == (args, 2, "")
        assert why in done.stderr, args
        assert "s3same" not in done.stderr
        assert "Traceback" not in done.stderr


@one_server
async def test_at_a_terminal(site: Site) -> None:
    """It asks before all sessions end, and draws a table; a script isn't asked."""
    token = await site.sign_in("ada")
    no = await site.run("revoke", "ada", "--all", terminal=True, stdin="\n")
    assert (no.exit_code, no.stdout) == (1, "")
    assert "[y/N]" in no.stderr
    drawn = await site.run("sessions", "ada", terminal=True, COLUMNS="70", TERM="xterm")
    assert token[:20] in drawn.stdout
    assert "─" in drawn.stdout
    counted = await site.run("count", terminal=True)
    assert "keys looked at" in counted.stderr
    yes = await site.run("revoke", "ada", "--all", terminal=True, stdin="y\n")
    assert (yes.exit_code, yes.stdout) == (0, "1 session ended\n")
