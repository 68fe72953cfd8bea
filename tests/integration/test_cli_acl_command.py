"""`redis-sessions acl`, the command: what it prints, what it refuses, and deploy/ beside it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from redis_sessions.cli.acl import Role, acl_line, key_pattern, password_rule, rules
from redis_sessions.errors import ConfigurationError
from tests.integration.acl_roles import PASSWORD, refused
from tests.support import ROOT
from tests.support.command_line import Result, command
from tests.support.servers import Server


def acl(*args: str) -> Result:
    """The command, in this process."""
    return command("acl", *args)


@pytest.mark.parametrize("role", Role)
def test_command_prints_the_line(server: Server, role: Role, prefix: str, tmp_path: Path) -> None:
    """What is printed is a command that the server takes, without the password."""
    secret = tmp_path / "password"
    secret.write_text(f"{PASSWORD}\n")
    name = f"{prefix}cli"
    done = acl(
        *("--role", role, "--user", name, "--prefix", prefix, "--password-file", str(secret)),
        *("--cluster", "--replicas"),
        *(["--no-sharded"] if server.kind == "redis62" else []),
    )
    assert (done.exit_code, done.stderr) == (0, "")
    assert PASSWORD not in done.stdout
    assert done.stdout.count("\n") == 1
    with Redis(port=server.port, protocol=2) as client:
        client.execute_command(*done.stdout.split())
        with Redis(port=server.port, username=name, password=PASSWORD, protocol=2) as user:
            assert user.ping()
        # Again: it is the same user, and has nothing from before.
        client.execute_command("ACL", "SETUSER", name, "allkeys", "+flushall", ">more", "&*")
        client.execute_command(*done.stdout.split())
        listed: Any = client.acl_list()
        line: str = next(text for text in listed if text.split()[1] == name)
        client.execute_command("ACL", "DELUSER", name)
    keys = [rule for rule in line.split() if rule.startswith("~")]
    assert keys == ([] if role is Role.MONITOR else [f"~{prefix}*"])
    assert "&*" not in line
    assert "+flushall" not in line
    assert line.count(" #") == 1


def test_command_has_a_placeholder() -> None:
    """Without a password's file there is `#PASSWORD` to replace; the names are as given."""
    done = acl("--prefix", "shop:", "--user", "shop", "--file")
    assert done.stdout.startswith(
        "user shop on #PASSWORD resetchannels -@all ~shop:* &shop:msg:* +ping "
    )
    assert acl().stdout.startswith("ACL SETUSER app reset on #PASSWORD ")
    assert acl("--role", "monitor").stdout.startswith("ACL SETUSER monitor reset ")


def test_options_add_what_they_need() -> None:
    """Cluster and replicas add commands; the monitor has a key pattern in no case."""

    def more(role: Role, **options: bool) -> set[str]:
        known = rules(role, prefix="s:", sharded=False)
        return set(rules(role, prefix="s:", sharded=False, **options)) - set(known)

    assert more(Role.APP, cluster=True) == {"+cluster|slots", "+asking"}
    assert more(Role.APP, replicas=True) == {"+wait"}
    assert more(Role.APP, cluster=True, replicas=True) == {
        *("+cluster|slots", "+asking", "+wait", "+readonly"),
    }
    assert more(Role.ADMIN, cluster=True) == {"+cluster|slots", "+asking", "+get"}
    assert more(Role.MONITOR, replicas=True) == set()
    assert not [r for r in rules(Role.MONITOR, prefix="s:", cluster=True) if r.startswith("~")]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--prefix", "a b:"], "can't name a space"),
        (["--prefix", ""], "printable ASCII"),
        (["--user", "a b"], "without spaces"),
        (["--sentinel", "--cluster"], "leave the other options out"),
        (["--role", "root"], "--role"),
        (["--password-file", "/nowhere"], "--password-file"),
    ],
)
def test_what_cannot_work_is_refused(args: list[str], message: str) -> None:
    """Status 2, nothing on standard output, and the reason."""
    done = acl(*args)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"\n", "is empty"),
        (b"\nsecret\n", "several lines"),
        (b"secret\nmore\n", "several lines"),
        (b"\xff\xfe", "no text in UTF-8"),
    ],
)
def test_a_file_without_a_password_is_refused(tmp_path: Path, text: bytes, why: str) -> None:
    """As in a URL's `password_file=`: one line of text. None would let in who sends nothing."""
    (tmp_path / "odd").write_bytes(text)
    done = acl("--password-file", str(tmp_path / "odd"))
    assert (done.exit_code, done.stdout) == (2, "")
    assert why in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


def test_pattern_is_the_prefix_alone(server: Server, prefix: str) -> None:
    """Characters that a pattern has a meaning for stand for themselves."""
    odd = f"{prefix}a*b[c]?\\:"
    with Redis(port=server.port, protocol=2) as client:
        line = acl_line(f"{prefix}odd", ">x", rules(Role.APP, prefix=odd))
        client.execute_command(*line.split(" "))
        with Redis(port=server.port, username=f"{prefix}odd", password="x", protocol=2) as user:
            user.set(f"{odd}x", b"1", px=1000)
            for other in (f"{prefix}aXb[c]?\\:x", f"{prefix}a*bc?\\:x", f"{prefix}a*b[c]!\\:x"):
                refused(user, "SET", other, "1")
        client.execute_command("ACL", "DELUSER", f"{prefix}odd")
    with pytest.raises(ConfigurationError):
        key_pattern("")


# -- deploy/


@pytest.mark.parametrize(
    ("deployment", "cluster"), [("redis", False), ("sentinel", False), ("cluster", True)]
)
def test_deployed_user_is_what_is_printed(deployment: str, cluster: bool) -> None:
    """`app` of deploy/ is the printed line, with the development password's hash."""
    text = (ROOT / "deploy" / deployment / "users.acl").read_text()
    given = rules(Role.APP, prefix="session:", cluster=cluster, replicas=True)

    assert acl_line("app", password_rule("development"), given, file=True) in text.splitlines()


ODD = ["session:odd:a*[b]:", "session:odd:it's", 'session:odd:a\\b"*:']


@pytest.fixture(scope="session")
def lines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the command prints for each odd prefix: the same for each server."""
    secret = tmp_path_factory.mktemp("acl") / "password"
    secret.write_text(PASSWORD)
    command = [sys.executable, "-m", "redis_sessions.cli", "acl", "--user", "piped"]
    command += ["--password-file", str(secret), "--prefix"]
    return {
        odd: subprocess.run([*command, odd], cwd=ROOT, capture_output=True, check=True).stdout
        for odd in ODD
    }


@pytest.mark.parametrize("odd", ODD)
def test_the_line_goes_to_redis_cli(
    server: Server, lines: dict[str, bytes], redis_cli: Path, odd: str
) -> None:
    """Piped into redis-cli it makes the user; an odd prefix survives the way."""
    done = subprocess.run(
        [redis_cli, "-p", str(server.port)], input=lines[odd], capture_output=True, check=True
    )
    assert done.stdout == b"OK\n"
    with Redis(port=server.port, username="piped", password=PASSWORD, protocol=2) as user:
        assert user.set(f"{odd}x", b"1", px=1000)
        refused(user, "SET", "session:odd:ab:x", "1")
    with Redis(port=server.port, protocol=2) as client:
        client.execute_command("ACL", "DELUSER", "piped")
