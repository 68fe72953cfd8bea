"""Everything that tools which print local variables show, but of an application's own frames."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from traceback import TracebackException, walk_tb
from typing import Any, Final

import sentry_sdk
from rich.pretty import Node
from rich.traceback import Traceback

# What tests hold is their own.
APPLICATION: Final = str(Path(__file__).parents[2])


def shown(exc: BaseException) -> str:
    """What three tools show of the frames that aren't the application's, and all messages."""
    parts = [*_by_traceback(exc), *_by_rich(exc), *_by_sentry(exc)]
    return "\n".join(parts)


def ours(exc: BaseException) -> list[str]:
    """The modules of our frames, in an exception and those that it came from."""
    names = [name for each in chain(exc) for name in frames(each)]
    return [name for name in names if name.startswith("redis_sessions")]


def chain(exc: BaseException) -> list[BaseException]:
    """An exception and those that it came from, which may be itself."""
    found, more = list[BaseException](), [exc]
    while more:
        found.append(more.pop())
        came_from = found[-1].__cause__, found[-1].__context__
        more += [each for each in came_from if each is not None and each not in found]
    return found


def frames(exc: BaseException) -> list[str]:
    """The modules of the frames of one exception."""
    return [frame.f_globals["__name__"] for frame, _ in walk_tb(exc.__traceback__)]


def _by_traceback(exc: BaseException) -> Iterator[str]:
    stack = [TracebackException.from_exception(exc, capture_locals=True)]
    while stack:
        told = stack.pop()
        stack += filter(None, (told.__cause__, told.__context__))
        yield from told.format_exception_only()
        for frame in told.stack:
            if not frame.filename.startswith(APPLICATION):
                for name, text in (frame.locals or {}).items():
                    yield f"traceback {frame.name} {name} = {text}"


def _by_rich(exc: BaseException) -> Iterator[str]:
    trace = Traceback.extract(
        type(exc),
        exc,
        exc.__traceback__,
        show_locals=True,
        locals_max_length=1000,
        locals_max_string=1000,
    )
    for stack in trace.stacks:
        for frame in stack.frames:
            if not frame.filename.startswith(APPLICATION):
                for name, node in (frame.locals or {}).items():
                    assert isinstance(node, Node)
                    yield f"rich {frame.name} {name} = {node}"


def _by_sentry(exc: BaseException) -> Iterator[str]:
    events: list[Any] = []
    client = sentry_sdk.Client(
        dsn="https://key@localhost/1",
        before_send=lambda event, _: events.append(event),
        default_integrations=False,
        max_value_length=100_000,
    )
    with sentry_sdk.new_scope() as scope:
        scope.set_client(client)
        scope.capture_exception(exc)
    client.close(timeout=0)
    for value in events[0]["exception"]["values"]:
        for frame in value.get("stacktrace", {}).get("frames", ()):
            if not frame["abs_path"].startswith(APPLICATION):
                for name, told in frame["vars"].items():
                    yield f"sentry {frame['function']} {name} = {json.dumps(told)}"
