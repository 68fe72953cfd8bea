"""The directory in which the server works: which one it is, and what isn't used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from redis_sessions.connect import embedded
from redis_sessions.connect.embedded import ensure_server
from redis_sessions.errors import ConfigurationError
from tests.integration.embedded.workers import Hire, ask, server_pid
from tests.support import eventually


def test_names_and_working_directories_separate(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another name, or another working directory, is another server."""
    paths = [ensure_server(), ensure_server("ü/../x")]
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    paths.append(ensure_server())
    assert len({server_pid(path) for path in paths}) == 3
    assert {Path(path).parent.parent for path in paths} == {base}


def expected_directory() -> Path:
    """Where the server would be; nothing is made."""
    directory: Path = vars(embedded)["_directory"]("")
    return directory


def test_refuses_a_symlink(base: Path) -> None:
    """A link that somebody put in the directory's place isn't followed."""
    target = base / "target"
    target.mkdir(mode=0o700)
    expected_directory().symlink_to(target)
    with pytest.raises(ConfigurationError, match="private directory"):
        ensure_server()
    assert not list(target.iterdir())
    expected_directory().unlink()
    target.rmdir()


def test_refuses_an_open_directory(base: Path) -> None:
    """A directory that others may enter isn't used."""
    expected_directory().mkdir()
    expected_directory().chmod(0o750)
    with pytest.raises(ConfigurationError, match="0700"):
        ensure_server()
    assert not list(expected_directory().iterdir())
    expected_directory().rmdir()


def test_refuses_somebody_elses_directory(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory with our name and another owner isn't used."""
    stranger = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: stranger)
    expected_directory().mkdir(mode=0o700)
    with pytest.raises(ConfigurationError, match="this user"):
        ensure_server()
    assert not list(expected_directory().iterdir())
    expected_directory().rmdir()


def test_prefers_the_runtime_directory(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG_RUNTIME_DIR comes before the temp directory, unless it is relative or missing."""
    run = base / "run"
    run.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(run))
    assert expected_directory().parent == run
    run.rmdir()
    assert expected_directory().parent == base
    monkeypatch.setenv("XDG_RUNTIME_DIR", ".")
    assert expected_directory().parent == base


def test_long_paths(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deep working directory is no problem, a temp directory too long for a socket is passed."""
    deep = tmp_path / ("d" * 100) / ("ü" * 50)
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    path = ensure_server()
    assert len(os.fsencode(path)) <= 103
    assert ask(path, "PING") == "+PONG\r\n"


def test_paths_with_blanks(base: Path, monkeypatch: pytest.MonkeyPatch, hire: Hire) -> None:
    """The server gets a path with blanks and other letters as it is."""
    odd = base / "a  b ü #"
    odd.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(odd))
    worker = hire()
    assert Path(worker.path).parent.parent == odd
    assert ask(worker.path, "PING") == "+PONG\r\n"
    worker.kill()
    assert eventually(lambda: not list(odd.iterdir()))
    odd.rmdir()


def test_nowhere_to_write(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a place for the socket the error names TMPDIR."""

    def refuse(path: str, mode: int) -> bool:
        return False

    monkeypatch.setattr(os, "access", refuse)
    with pytest.raises(ConfigurationError, match="TMPDIR"):
        ensure_server()
