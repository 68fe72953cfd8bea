"""What a server's answers to TIME say of its clock."""

from __future__ import annotations

import asyncio
import logging
import time
from unittest.mock import AsyncMock

import pytest

from redis_sessions import Keyring, MemoryStore, SessionManager, generate_key
from redis_sessions.connect import clock as clocks
from redis_sessions.connect.clock import ServerClock
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.testing import Clock

AHEAD = 1000.0
"""The server's clock less `time.monotonic()`."""


def heard(*answers: tuple[str, float, float, float]) -> float:
    """The offset after answers of servers: name, their clock's lead, seconds there and back."""
    clock, sent = ServerClock(), 50.0
    for server, ahead, there, back in answers:
        clock.note(server, sent + there + ahead, sent, sent + there + back)
        sent += 100
    return clock.offset


def test_a_quick_answer_is_right() -> None:
    """The middle of the way there and back."""
    assert heard(("a", AHEAD, 0.001, 0.001)) == pytest.approx(AHEAD)


@pytest.mark.parametrize(("there", "back"), [(2.0, 0.0), (0.0, 2.0), (2.0, 2.0)])
def test_a_late_answer_moves_nothing(there: float, back: float) -> None:
    """Wherever it was late: what was known lies within what it says."""
    known = ("a", AHEAD, 0.001, 0.001)
    assert heard(known, ("a", AHEAD, there, back)) == pytest.approx(AHEAD, abs=0.002)


def test_a_quick_answer_after_a_late_one_is_believed() -> None:
    """The first answer, which had to connect, was a second off."""
    late, quick = ("a", AHEAD, 2.0, 0.0), ("a", AHEAD, 0.001, 0.001)
    assert heard(late, quick) == pytest.approx(AHEAD, abs=0.002)


@pytest.mark.parametrize("step", [-300.0, 300.0])
def test_a_server_that_is_set_is_followed(step: float) -> None:
    """As all other processes follow it; also where another server takes its place."""
    set_since = ("a", AHEAD + step, 0.001, 0.001)
    assert heard(("a", AHEAD, 0.001, 0.001), set_since) == pytest.approx(AHEAD + step, abs=0.002)


def test_of_many_nodes_it_is_the_middle_one() -> None:
    """One node of a Cluster whose clock is wrong changes nothing."""
    nodes = [(name, AHEAD, 0.001, 0.001) for name in "abc"]
    wrong = ("d", AHEAD + 4000, 0.001, 0.001)
    assert heard(*nodes, wrong) == heard(wrong, *nodes) == pytest.approx(AHEAD)


def test_a_node_that_left_counts_no_more() -> None:
    """A Cluster whose nodes with a wrong clock were replaced has the time of the others."""
    clock, now = ServerClock(), time.monotonic()
    for name in ("a", "b"):
        clock.note(name, now + AHEAD + 3600, now, now)
    clock.note("c", now + AHEAD, now, now)
    for name in ("a", "b", "never heard of"):
        clock.forget(name)
    assert clock.now() - time.monotonic() == pytest.approx(AHEAD, abs=0.01)
    clock.forget("c")  # the last one's time is better than none
    assert clock.now() - time.monotonic() == pytest.approx(AHEAD, abs=0.01)


def test_a_server_that_says_nothing_leaves_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after that was set."""
    clock, real = ServerClock(), time.time
    monkeypatch.setattr(time, "time", lambda: real() + 300)
    clock.note_silence()
    assert clock.now() == pytest.approx(real() + 300, abs=1)


def test_a_late_answer_is_no_reason_to_complain(caplog: pytest.LogCaptureFixture) -> None:
    """What is told is a difference that is certain; and it is told once."""
    clock, wall, now = ServerClock(), time.time(), time.monotonic()
    clock.note("here", wall - 7, now - 5, now)
    clock.note("here", wall + 4, now, now)
    assert caplog.messages == []
    for ahead in (-6, -6, 6):
        clock.note("here", wall + ahead, now, now)
    (message,) = caplog.messages
    assert "NTP" in message
    assert "here" in message
    assert caplog.records[0].levelno == logging.WARNING


def test_an_injected_clock_is_taken_as_it_is() -> None:
    """For times and for ages: so tests have one rule."""
    clock = Clock()
    manager = SessionManager(MemoryStore(clock=clock), Keyring(generate_key()), clock=clock)
    assert backend_of(manager).clock() == backend_of(manager).timer() == clock.now


def test_a_store_in_memory_goes_by_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own entries do, too; ages don't."""
    monkeypatch.setattr(time, "time", lambda: 5.0)
    manager = SessionManager(MemoryStore(), Keyring(generate_key()))
    assert backend_of(manager).clock() == 5
    assert backend_of(manager).timer is time.monotonic


async def test_a_second_connection_waits_for_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records and indexes have a connection each, and the first one to open asks for both."""
    answered = asyncio.Event()

    async def read(_: object) -> list[bytes]:
        await answered.wait()
        return [b"1000", b"0"]

    monkeypatch.setattr(clocks, "read_reply", read)
    there = ServerClock()
    measurement = clocks.Measurement(there, "a")
    first, second = (asyncio.ensure_future(measurement.on_connect(AsyncMock())) for _ in range(2))
    await asyncio.sleep(0)
    assert not second.done()
    answered.set()
    await asyncio.gather(first, second)
    assert there.now() == pytest.approx(1000, abs=100)
