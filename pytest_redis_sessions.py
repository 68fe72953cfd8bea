"""A pytest plugin: fixtures for tests of an application that has sessions.

pytest loads it by itself where redis-sessions is installed, so it imports nothing but pytest until
a test asks for a fixture. It is beside the package, since an import from within would import the
package. docs/testing.md shows how it is used; `-p no:pytest_redis_sessions` switches it off.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from redis_sessions import Event, SessionManager
    from redis_sessions.testing import Clock
    from redis_sessions.testing.session_client import SessionClient


@pytest.fixture
def session_clock() -> Clock:
    """The time of this test's sessions. It moves only by `session_clock.advance(seconds)`."""
    from redis_sessions.testing.clock import Clock

    return Clock()


@pytest.fixture
def session_events() -> list[Event]:
    """What this test's sessions have reported, the oldest first."""
    return []


@pytest.fixture
def session_options() -> dict[str, Any]:
    """Arguments of `session_manager`, such as `max_age`. Write a fixture of this name for yours."""
    return {}


@pytest.fixture
def session_manager(
    session_clock: Clock, session_events: list[Event], session_options: dict[str, Any]
) -> SessionManager:
    """A manager over an empty store in memory, with the clock and the events of this test."""
    from redis_sessions import MemoryStore, SessionManager, generate_key

    given: dict[str, Any] = {"clock": session_clock, "on_event": session_events.append}
    given |= session_options
    return SessionManager(MemoryStore(clock=session_clock), generate_key(), **given)


@pytest.fixture
def session_app() -> Any:
    """Your application. Write a fixture of this name that returns it."""
    raise pytest.UsageError(
        "session_client needs your application: write a fixture session_app that returns it. "
        "docs/testing.md of redis-sessions has an example"
    )


@pytest.fixture
def session_client(
    session_app: Any, session_clock: Clock, session_events: list[Event]
) -> Iterator[SessionClient]:
    """A client of `session_app`, which sets and reads its own session.

    If the application's `SessionMiddleware` has no `manager=` of its own, its sessions are in
    memory for this test, by `session_clock`, and report to `session_events`.
    """
    from redis_sessions.testing.session_client import SessionClient, in_memory

    with (
        in_memory(session_app, clock=session_clock, on_event=session_events.append),
        SessionClient(session_app) as client,
    ):
        yield client
