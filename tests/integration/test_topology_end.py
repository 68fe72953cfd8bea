"""The servers that tests and developers start: nothing of them is left, however they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from redis_sessions.errors import ConfigurationError
from redis_sessions.testing import topology as topologies
from redis_sessions.testing.topology import Node, TopologyError
from tests.support import eventually


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def processes_in(directory: Path) -> list[str]:
    """The processes whose working directory is below this one, or was."""
    found: list[str] = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if str(link.readlink()).startswith(f"{directory}/"):
                found.append(link.parent.name)
        except OSError:
            continue  # it has just ended, or is another user's
    return found


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory in which topologies make theirs: this test's own, and empty at its end."""
    with tempfile.TemporaryDirectory(prefix="rs-") as name:
        monkeypatch.setattr(tempfile, "tempdir", name)
        monkeypatch.setenv("TMPDIR", name)
        yield Path(name)


def test_certificates_need_trustme(monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    """Without it the error says what to install, and nothing is left."""
    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(ConfigurationError, match="pip install trustme"), topologies.tls():
        pass
    assert list(base.iterdir()) == []


@pytest.mark.parametrize("kind", ["single", "cluster"])
def test_nothing_is_left_after_the_block(kind: str, base: Path, server_binary: Path) -> None:
    """Processes and files are gone, whatever state they were in and however the block ended."""
    nodes: tuple[Node, ...] = ()

    class OwnError(Exception):
        pass

    with pytest.raises(OwnError), getattr(topologies, kind)(server=server_binary) as topology:
        nodes = topology.nodes
        nodes[0].pause()
        nodes[-1].kill()
        raise OwnError

    assert not any(lives(node.pid) for node in nodes)
    assert list(base.iterdir()) == []
    assert processes_in(base) == []


def test_failed_start_says_why_and_leaves_nothing(base: Path, server_binary: Path) -> None:
    """The error has the end of the server's log."""
    options = {"no-such-option": "1"}
    failing = topologies.replicas(server=server_binary, options=options)
    with pytest.raises(TopologyError, match="no-such-option"), failing:
        pass
    assert list(base.iterdir()) == []
    assert processes_in(base) == []


def test_unknown_server(base: Path) -> None:
    """What is no program isn't started."""
    with (
        pytest.raises(ConfigurationError, match="no server's program"),
        topologies.single(server=base),
    ):
        pass


def test_fork_ends_nothing(server_binary: Path) -> None:
    """A child that leaves the block leaves the servers to its parent."""
    script = f"""
import os, sys
from redis_sessions.testing.topology import single
with single(server={str(server_binary)!r}) as topology:
    child = os.fork()
    if child == 0:
        sys.exit()
    print(os.waitpid(child, 0)[1], topology.primary.ask("PING"), topology.nodes[0].pid)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    status, pong, pid = run.stdout.split()
    assert (status, pong) == ("0", "True")
    assert not lives(int(pid))


def start_command(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "redis_sessions.testing.topology", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("kind", "number"),
    [("acl", signal.SIGINT), ("replicas", signal.SIGTERM), ("sentinel", signal.SIGTERM)],
)
def test_command_shows_and_ends(
    kind: str, number: signal.Signals, base: Path, server_binary: Path
) -> None:
    """It prints the URL and the processes; a signal ends them all, and it succeeds."""
    with start_command(kind, "--server", str(server_binary)) as process:
        assert process.stdout
        url = process.stdout.readline().strip()
        address, pid = process.stdout.readline().split()[1::2]
        try:
            assert lives(int(pid))
            assert url.startswith("redis")
            assert kind == "sentinel" or url.split("@")[-1].endswith(f"{address}/0")
            assert len(processes_in(base)) >= 1
        finally:
            process.send_signal(number)
        assert process.wait(20) == 0
        assert process.stderr
        assert process.stderr.read() == ""
    assert list(base.iterdir()) == []
    assert processes_in(base) == []


def test_command_ends_while_it_starts(base: Path, server_binary: Path) -> None:
    """A signal before all is ready ends what there is by then."""
    with start_command("cluster", "--server", str(server_binary)) as process:
        started = eventually(lambda: len(processes_in(base)) >= 3)
        process.send_signal(signal.SIGTERM)
        assert started
        assert process.wait(20) == 0
        assert process.stdout
        assert process.stdout.read() == ""
    assert list(base.iterdir()) == []
    assert processes_in(base) == []


def test_killed_command_leaves_nothing(base: Path, server_binary: Path) -> None:
    """Not even SIGKILL leaves servers behind: somebody watches."""
    with start_command("replicas", "--server", str(server_binary)) as process:
        assert process.stdout
        process.stdout.readline()
        process.kill()
        process.wait(20)
    assert eventually(lambda: not list(base.iterdir()))
    assert eventually(lambda: processes_in(base) == [])


def test_command_says_what_is_missing(base: Path) -> None:
    """A server that isn't there is a message and a status, without a traceback."""
    with start_command("single", "--server", str(base / "none")) as process:
        assert process.wait(20) == 1
        assert process.stderr
        assert process.stderr.read().startswith(f"{base / 'none'} is no server's program")
