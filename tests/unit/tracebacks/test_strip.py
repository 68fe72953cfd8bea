"""Which frames are taken out of a traceback, and what says where they were."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from redis_sessions import (
    ConfigurationError,
    Event,
    Keyring,
    MemoryStore,
    SessionEncodeError,
    SessionManager,
    generate_key,
)
from redis_sessions.tracebacks import MOST, strip, stripped
from tests.unit.setting import Setting
from tests.unit.tracebacks.shown import frames

HERE = __name__


def within(module: str, function: Callable[[], Any]) -> Callable[[], Any]:
    """A function of this module that calls another one."""
    namespace: dict[str, Any] = {"__name__": module, "function": function}
    exec("def call(): return function()", namespace)  # noqa: S102 - a frame of that module
    call: Callable[[], Any] = namespace["call"]
    return call


def fail() -> None:
    raise ZeroDivisionError


def raised_by(*modules: str, last: Callable[[], Any] = fail) -> BaseException:
    """What `last` raises under functions of these modules, stripped."""
    for module in reversed(modules):
        last = within(module, last)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - any
        last()
    strip(caught.value)
    return caught.value


def bad_key() -> None:
    Keyring(generate_key(), "short")


def notes(exc: BaseException) -> list[str]:
    return getattr(exc, "__notes__", [])


@pytest.mark.parametrize(
    ("modules", "left"),
    [
        (["app", "redis_sessions.lifecycle.manager", "hook"], ["app", "hook"]),
        (["app", "redis_sessions.connect.link", "redis.connection", "asyncio.streams"], ["app"]),
        (["app", "redis.client", "asyncio.streams"], ["app", "redis.client", "asyncio.streams"]),
        (["redis_sessions", "hook", "contextlib", "redis_sessions.x"], ["hook", "contextlib"]),
        (["starlette.routing", "redis_sessions_of_another"], None),
    ],
    ids=lambda names: ">".join(names or ["all"]),
)
def test_whose_frames_are_left(modules: list[str], left: list[str] | None) -> None:
    """Ours go, and what we call; what an application calls by itself stays."""
    exc = raised_by(*modules)
    assert frames(exc) == [HERE, *(modules if left is None else left), HERE]
    assert not notes(exc)  # it wasn't raised here


def test_a_note_says_where_it_was_raised() -> None:
    """Module, line and function, once, however often it is raised again and stripped."""
    with pytest.raises(ConfigurationError) as caught:
        bad_key()
    exc = caught.value
    (note,) = notes(exc)
    places = re.sub(r"\d+", "…", note)
    assert places == (
        "left out of this traceback: redis_sessions.session.keyring:… in __init__, "
        "redis_sessions.session.keyring:… in <genexpr>, "
        "redis_sessions.session.keyring:… in __init__, "
        "redis_sessions.session.keyring:… in _key_bytes"
    )

    for _ in range(3):
        with pytest.raises(ConfigurationError):
            within("redis_sessions.x", stripped(partial(raise_, exc)))()
        strip(exc)
    assert notes(exc) == [note]
    assert set(frames(exc)) == {HERE}


def test_a_wrong_call_has_no_note() -> None:
    """A missing argument is Python's own error at the caller's line: there is no place to name."""
    call: Any = stripped(len)
    with pytest.raises(TypeError) as caught:
        call()
    assert notes(caught.value) == []


def raise_(exc: BaseException) -> None:
    raise exc


def test_a_note_is_bounded() -> None:
    """Of many places the last are named."""
    exc = raised_by(*["redis_sessions.x"] * 50, last=within("redis_sessions.y", partial(int, "x")))
    (note,) = notes(exc)
    assert note.startswith("left out of this traceback: …, redis_sessions.x:1 in call, ")
    assert note.endswith("redis_sessions.y:1 in call")
    assert note.count(" in call") == MOST


def test_causes_and_groups() -> None:
    """What led to an exception is stripped as well, in a group and in a circle, too."""

    def call() -> None:
        try:
            within("redis.client", within("redis_sessions.x", fail))()
        except ZeroDivisionError as exc:
            first.append(exc)
            exc.__cause__ = second = ValueError()
            second.__cause__ = exc
            raise BaseExceptionGroup("several", [second]) from None

    first: list[BaseException] = []
    exc = raised_by("redis_sessions.y", last=call)
    assert frames(exc) == [HERE, HERE]
    assert frames(first[0]) == [HERE, "redis.client", HERE]


def test_what_a_library_below_has_caught_is_stripped() -> None:
    """Its exception's cause, whose traceback begins in that library."""
    code = "def call():\n try: read()\n except ValueError as exc: raise OSError from exc"
    redis: dict[str, Any] = {"__name__": "redis.connection"}
    redis["read"] = within("asyncio.streams", partial(int, "x"))
    exec(code, redis)  # noqa: S102 - a frame of that module
    exc = raised_by("redis_sessions.x", last=redis["call"])

    assert isinstance(exc.__cause__, ValueError)
    assert (frames(exc), frames(exc.__cause__)) == ([HERE], [])
    assert notes(exc.__cause__)[0].endswith("redis.connection:2 in call, asyncio.streams:1 in call")


async def test_a_cancelled_wait_shows_nothing_under_the_timeout() -> None:
    """A time-out's cause is the cancellation, which came through the store."""

    class Slow(MemoryStore):
        async def load(self, id: str) -> bytes | None:
            await asyncio.Event().wait()
            return None

    at = Setting()
    manager = SessionManager(Slow(), Keyring(generate_key()))
    token = await at.begin({"a": 1})
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(0):
            await manager.load(token)
    cancelled = caught.value.__cause__
    assert isinstance(cancelled, asyncio.CancelledError)
    assert frames(cancelled) == [HERE, HERE, "asyncio.locks"]
    assert not notes(cancelled)


async def test_a_handler_s_own_exception_keeps_its_traceback() -> None:
    """An exclusive block that raises is left through our generators."""
    at = Setting()
    session = await at.load(await at.begin({"a": 1}))
    with pytest.raises(ZeroDivisionError) as caught:
        async with session.exclusive():
            fail()
    assert frames(caught.value) == [HERE, HERE]
    assert not notes(caught.value)


async def test_the_hook_that_an_exception_came_from_is_shown() -> None:
    """And not what called it."""

    def hook(value: Any) -> Any:
        fail()

    at = Setting(enc_hook=hook)
    session = await at.load(None)
    session["a"] = object()
    with pytest.raises(SessionEncodeError) as caught:
        await at.commit(session)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert frames(caught.value.__cause__) == [HERE, HERE]


async def test_a_failing_event_handler_is_logged_without_our_frames(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log shows the handler's own."""

    def on_event(event: Event) -> None:
        fail()

    manager = SessionManager(MemoryStore(), Keyring(generate_key()), on_event=on_event)
    with caplog.at_level(logging.ERROR):
        await manager.load("no token")
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.exc_info
    assert record.exc_info[1] is not None
    assert frames(record.exc_info[1]) == [HERE, HERE]


def test_an_exception_that_refuses_attributes_is_stripped() -> None:
    """Such as one that is a frozen dataclass: it is raised as it is."""

    class FrozenError(Exception):
        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

    exc = raised_by("redis_sessions.x", last=partial(raise_, FrozenError()))
    assert isinstance(exc, FrozenError)
    assert frames(exc) == [HERE, HERE]
