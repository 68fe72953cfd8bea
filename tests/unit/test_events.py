"""Events in a log: one record each, with fields that a structured log can use."""

from __future__ import annotations

import logging
import re

import pytest

from redis_sessions import Event, Keyring, MemoryStore, SessionManager, generate_key, log_events
from redis_sessions.testing import store_session
from tests.support import ROOT

WARNINGS = ["rejected", "dropped", "refused", "message_rejected", "expiry_failed"]
QUIET = [
    "signed_in",
    "signed_out",
    "created",
    "rotated",
    "ended",
    "revoked",
    "merged",
    "touched",
    "bound_elsewhere",
]


def fields(record: logging.LogRecord) -> tuple[object, object, object]:
    found = vars(record)
    return found["session_event"], found["session_reason"], found["session_id"]


@pytest.mark.parametrize("event", [Event("ended", "cleared", "x" * 20), Event("merged")])
def test_one_record_an_event(event: Event, caplog: pytest.LogCaptureFixture) -> None:
    """It has the event's parts as fields, and a message that doesn't vary with them."""
    caplog.set_level(logging.INFO)
    log_events()(event)

    [record] = caplog.records
    assert record.name == "redis_sessions.events"
    assert fields(record) == (event.name, event.reason, event.id)
    assert record.msg == "session event %s: reason=%s id=%s"
    assert record.getMessage() == f"session event {event.name}: reason={event.reason} id={event.id}"


@pytest.mark.parametrize(
    ("name", "level"),
    [
        *((name, logging.WARNING) for name in WARNINGS),
        *((name, logging.INFO) for name in QUIET),
    ],
)
def test_levels(name: str, level: int, caplog: pytest.LogCaptureFixture) -> None:
    """What somebody was denied is a warning; the rest is information."""
    caplog.set_level(logging.DEBUG)
    log_events()(Event(name))

    assert [record.levelno for record in caplog.records] == [level]


def test_a_logger_of_ones_own(caplog: pytest.LogCaptureFixture) -> None:
    """A logger that is given is used, with its own level."""
    own = logging.getLogger("tests.sessions")
    caplog.set_level(logging.WARNING, own.name)
    handler = log_events(own)
    handler(Event("created", "gain"))
    handler(Event("rejected", "expired"))

    assert [(record.name, fields(record)[1]) for record in caplog.records] == [
        (own.name, "expired")
    ]


async def test_as_on_event(caplog: pytest.LogCaptureFixture) -> None:
    """A manager takes it, and what it logs holds no token and no data."""
    caplog.set_level(logging.INFO)
    manager = SessionManager(MemoryStore(), Keyring(generate_key()), on_event=log_events())
    token = await store_session(manager, {"user_id": "Ada"})
    await manager.load(token[:20] + "x" * 44)

    assert [fields(record) for record in caplog.records] == [
        ("created", "gain", token[:20]),
        ("signed_in", "gain", token[:20]),
        ("rejected", "authentication failed", token[:20]),
    ]
    for record in caplog.records:
        assert token[20:] not in repr(vars(record))
        assert "Ada" not in repr(vars(record))


def test_every_name_is_told() -> None:
    """The names that the code reports are those that the docstring and docs/events.md have."""
    code = "".join(path.read_text() for path in (ROOT / "redis_sessions").rglob("*.py"))
    reported = set(re.findall(r'\breport\(\s*"(\w+)"', code))
    table = (ROOT / "docs" / "events.md").read_text().split("Reasons of `rejected`")[0]

    assert "created" in reported
    assert reported == set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert [name for name in reported if f"`{name}`" not in (Event.__doc__ or "")] == []
