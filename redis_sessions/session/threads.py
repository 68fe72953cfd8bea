"""Methods that are awaited: what they raise in a request, and where no event loop runs.

In a request their errors have an HTTP status, so that a mounted application answers them with it.

In a `def` endpoint no event loop runs. The coroutine that a call makes never runs there, and Python
only warns of it. `asyncio.run()` would run it in another event loop, over a connection of its own.
So the call itself raises.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import wraps
from typing import Any, Final, NoReturn, ParamSpec, TypeVar, cast

from redis_sessions.errors import SessionError
from redis_sessions.tracebacks import strip

__all__ = ["awaited", "raise_answered", "serving"]

P = ParamSpec("P")
R = TypeVar("R")

serving: Final[ContextVar[tuple[Any, ...]]] = ContextVar("redis_sessions_serving", default=())
"""What `serving.serving` is, where the class `Session` isn't known."""


def raise_answered(error: SessionError) -> NoReturn:
    """Raise the error as the request that is being served answers it. Elsewhere it stays as it is.

    `strip` it afterwards.
    """
    served = serving.get()
    seen = served[-1].answer_to(error) if served else error
    if seen is error:
        raise error
    raise seen from error


def awaited(function: Callable[P, R]) -> Callable[P, R]:
    """Decorates an async method of a session, a manager or a part of it: `stripped`, and checked.

    Before Python 3.12 only a session's are checked. The others are given to frameworks, such as
    for background tasks, and most of these ask `inspect` whether a function is to be awaited; a
    checked one can't say so to that version of it.
    """
    run = _answering(function)
    owner = function.__qualname__.partition(".")[0].removeprefix("Session").lower() or "session"
    if owner != "session" and sys.version_info < (3, 12):
        return run
    call = f"{owner}.{function.__name__}"
    if len(inspect.signature(function).parameters) > 1:
        call += ", …"

    @wraps(function)
    def method(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            _check(call)
        except SessionError as exc:
            strip(exc)
            raise
        return run(*args, **kwargs)

    # It counts as a coroutine function, so that Starlette's BackgroundTasks call it in the loop.
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(method)
    else:
        # asyncio's own mark, which has no public name before Python 3.12.
        method._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
    return method


def _answering(function: Callable[P, R]) -> Callable[P, R]:
    """`stripped`, and it raises by `raise_answered`. Two decorators would be two coroutines."""

    @wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        try:
            try:
                return await cast("Awaitable[Any]", function(*args, **kwargs))
            except SessionError as exc:
                raise_answered(exc)
        except BaseException as exc:
            strip(exc)
            raise

    return cast("Callable[P, R]", call)


def _check(call: str) -> None:
    """`SessionError` in a worker thread of a request: one that anyio began, and that has no loop.

    Elsewhere a coroutine may be meant for `asyncio.run()`, as in a script.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        if serving.get() and _is_worker():
            name = call.partition(",")[0]
            raise SessionError(
                f"{name}() has to be awaited, and no event loop runs in this thread: in a `def` "
                f"endpoint write anyio.from_thread.run({call}), or make it `async def`"
            ) from None


def _is_worker() -> bool:
    """Whether `anyio.from_thread.run()` works in this thread."""
    from anyio.from_thread import check_cancelled  # Starlette brings it

    try:
        check_cancelled()
    except RuntimeError:
        return False
    except asyncio.CancelledError:
        return True
    return True
