"""What the command line makes of what it sees, without a server."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections import Counter
from contextlib import redirect_stdout
from io import BytesIO, TextIOWrapper
from pathlib import Path
from secrets import token_urlsafe

import pytest

from redis_sessions import Keyring, generate_key
from redis_sessions.cli import commands, run
from redis_sessions.cli.bench import Figures, advice
from redis_sessions.cli.events import Sight
from redis_sessions.cli.output import as_json, complain, printable, span
from redis_sessions.cli.rotation import advice_for, uses_of
from redis_sessions.session.record import tombstone
from redis_sessions.stores.enumeration import Found
from redis_sessions.testing.conformance import new_id, new_record
from tests.support.command_line import command


def seen(id: str, stored: bytes) -> Found:
    return Found(id, stored[:33], len(stored), 1000)


def test_a_life_as_it_is_told() -> None:
    """Each step of it once, and the end of a tombstone not at all."""
    id, sight = new_id(), Sight()
    first, ended = new_record(), tombstone(0)
    rotated = first[:5] + (7).to_bytes(4, "big") + first[9:]
    told = [
        sight.note(id, None if stored is None else seen(id, stored))
        for stored in (first, first, rotated, rotated, ended, ended, None, first, None, None)
    ]
    assert told == [
        *("created", "changed", "rotated", "changed", "ended", None, None),
        *("created", "gone", None),
    ]


def test_what_no_server_has_named() -> None:
    """After a gap only what shows is told: a change of data doesn't."""
    id, sight = new_id(), Sight()
    stored = new_record()
    rotated = stored[:5] + (7).to_bytes(4, "big") + stored[9:]
    told = [
        sight.note(id, None if each is None else seen(id, each), named=False)
        for each in (stored, stored, rotated, tombstone(0), None)
    ]
    assert told == ["created", None, "rotated", "ended", None]


def test_what_is_not_known_from_the_start() -> None:
    """Without a look at what is there, a session may be new or not, and one that is gone was."""
    id, sight = new_id(), Sight(complete=False)
    assert sight.note(id, seen(id, new_record())) == "stored"
    assert sight.note(new_id(), None) == "gone"


OLD, NEW, OTHER = (generate_key() for _ in range(3))
OLD_ID, NEW_ID, OTHER_ID = (Keyring(key).primary.id.hex() for key in (OLD, NEW, OTHER))
HOUR = 3600.0


@pytest.mark.parametrize(
    ("keys", "sessions", "notes", "says"),
    [
        ([NEW, OLD], {OLD_ID: 5}, {OLD_ID: 60.0}, ["Step 1: processes still seal"]),
        ([NEW, OLD], {OLD_ID: 5}, {OLD_ID: 60.0, NEW_ID: 1.0}, ["Step 2 is under way"]),
        ([NEW, OLD], {OLD_ID: 5, NEW_ID: 1}, {OLD_ID: HOUR, NEW_ID: 1.0}, ["Keep ", "5 sessions"]),
        ([NEW, OLD], {NEW_ID: 6}, {OLD_ID: HOUR, NEW_ID: 1.0}, ["Step 3", "may remove it"]),
        ([NEW], {NEW_ID: 6}, {NEW_ID: 1.0}, ["To replace this key"]),
        ([NEW], {OTHER_ID: 2}, {}, [f"{OTHER_ID} is in use, and isn't among the keys"]),
        ([NEW], {NEW_ID: 1}, {OTHER_ID: HOUR}, ["To replace this key"]),
        (None, {}, {}, ["No session is stored"]),
        (None, {OLD_ID: 1}, {}, [f"In use: {OLD_ID}"]),
    ],
)
def test_the_next_step_of_a_rotation(
    keys: list[str] | None, sessions: dict[str, int], notes: dict[str, float], says: list[str]
) -> None:
    """What is sealed and noted decides which step comes next, and when the old key may go."""
    keyring = None if keys is None else Keyring(*keys)
    said = " ".join(advice_for(uses_of(keyring, Counter(sessions), notes)))
    assert [part for part in says if part not in said] == []


def figures(round_trip: float, read: float, busy: float) -> list[Figures]:
    def of(work: str, seconds: float) -> Figures:
        return Figures(work, 1, seconds, seconds, 1 / seconds, busy)

    return [of("PING", round_trip), of("read", read), of("read", read), of("change", read)]


@pytest.mark.parametrize(
    ("measured", "uvloop", "says"),
    [
        (figures(0.003, 0.004, 0.3), True, ["round trip", "client_cache", "waited"]),
        (figures(0.0001, 0.0002, 0.99), True, ["this process was the limit"]),
        (figures(0.0001, 0.0002, 0.3), False, ["uvloop", "waited"]),
    ],
)
def test_what_a_bench_advises(measured: list[Figures], uvloop: bool, says: list[str]) -> None:
    """One sentence for each reason, and none without one."""
    said = advice(measured, has_uvloop=uvloop)
    assert len(said) == len(says)
    assert [word for word, line in zip(says, said, strict=True) if word not in line] == []


def test_texts_of_others() -> None:
    """What controls a terminal isn't printed; JSON takes any data of a session."""
    assert printable("\x1b]0;x\x07 é\n") == "�]0;x� é�"
    assert as_json({1: b"\x01", (2,): {3: None}}) == '{"1": "01", "(2,)": {"3": null}}'
    assert as_json([float("nan"), float("-inf")]) == '["nan", "-inf"]'
    assert [span(s) for s in (90, 900, 7200, 13 * 86400)] == ["90 s", "15 min", "2 h", "13 d"]


def test_a_servers_error_controls_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Its text is shown, and each line of it stays one."""
    complain("localhost:6379 answered: \x1b]0;x\x07\nbad")
    assert capsys.readouterr().err == "redis-sessions: localhost:6379 answered: �]0;x�\nbad\n"


def test_what_goes_wrong_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No warning for applications ("requests get 503") stands beside the command's own error."""
    log = logging.getLogger("redis_sessions")
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(log, "propagate", False)  # pytest listens further up
    done = command("count", "redis://127.0.0.1:1")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)


def test_the_demos_store_may_stay_off_the_command_line() -> None:
    """Its URL may have a password, which others would see there."""
    done = command("demo", "--workers", "2", REDIS_SESSIONS_DEMO_STORE="memory://")
    assert (done.exit_code, "memory:// is one process' own" in done.stderr) == (2, True)


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """Its help says what it is for, and how it ends."""
    for name in commands().names:
        assert commands().run([name, "--help"]) == 0
        told = capsys.readouterr()
        assert told.err == ""
        assert "\n\n" in told.out
        assert name in ("key", "acl", "completion", "demo") or "Exit status: 0" in told.out, name


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_all_commands(shell: str) -> None:
    """The script for a shell names each command, and an option of one."""
    done = command("completion", shell)
    assert done.exit_code == 0
    assert [name for name in commands().names if name not in done.stdout] == []
    assert "wait-replicas" in done.stdout


def test_an_id_may_begin_with_a_hyphen() -> None:
    """One in 64 does; it is an id, and no option."""
    id = "-" + new_id()[1:]
    for args in (["inspect", id], ["inspect", "--json", id], ["inspect", id, "--json"]):
        done = command(*args, REDIS_SESSIONS_URL="nonsense")
        assert "is no URL of a store" in done.stderr
    for args in (["revoke", "ada", "--id", id], ["revoke", "ada", f"--keep={id}"]):
        done = command(*args, REDIS_SESSIONS_URL="nonsense", SESSION_SECRET_KEY=generate_key())
        assert "is no URL of a store" in done.stderr


TOKEN = new_id() + token_urlsafe(33)


@pytest.mark.parametrize(
    "arguments",
    [
        ["revoke", "ada", "--id", TOKEN],
        ["revoke", "ada", f"--id={TOKEN}"],
        ["revoke", "ada", "--keep", TOKEN],
        ["revoke", "ada", "--all", TOKEN],
        ["inspect", TOKEN],
        ["inspect", new_id(), TOKEN],
        ["inspect", new_id(), "--token", TOKEN],
        [TOKEN],
        ["sessions", "ada", "--key", generate_key()],
    ],
)
def test_a_secret_in_the_wrong_place(arguments: list[str]) -> None:
    """A token or a key on the command line is refused, and isn't repeated where a log keeps it."""
    done = command(
        *arguments, REDIS_SESSIONS_URL="redis://localhost:1", SESSION_SECRET_KEY=generate_key()
    )
    assert (done.exit_code, done.stdout) == (2, "")
    assert max(map(len, re.findall(r"[\w-]+", done.stderr))) < 40


def test_an_input_that_is_no_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused in a sentence, without a byte of it: it may be a key."""
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b"\xff"), "utf-8"))
    assert run(["sessions", "ada", "--key-file", "-"]) == 2
    assert capsys.readouterr().err == "redis-sessions: --key-file -: it is no text in UTF-8\n"


@pytest.mark.parametrize("which", ["--id", "--keep"])
def test_what_is_no_id_ends_nothing(which: str) -> None:
    """It is an error of whoever wrote it, and not a session that has ended before."""
    done = command(
        *("revoke", "ada", which, "junk"),
        REDIS_SESSIONS_URL="redis://localhost:1",
        SESSION_SECRET_KEY=generate_key(),
    )
    assert done.exit_code == 2
    assert "no session's id" in done.stderr


def test_a_reader_that_leaves() -> None:
    """`redis-sessions … | head` ends without a traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe, redirect_stdout(pipe):
        assert run(["key"]) == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no such device")
def test_a_disk_that_is_full(capfd: pytest.CaptureFixture[str]) -> None:
    """Output that can't be written is an error (2), and no answer (1)."""
    with Path("/dev/full").open("w") as full, redirect_stdout(full):
        assert run(["key"]) == 2
    assert "No space left" in capfd.readouterr().err
