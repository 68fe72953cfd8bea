"""Tracebacks without this library's frames.

Some tools print the local variables of each frame, and in ours these are tokens, keys and data.
An exception that leaves the library keeps the frames of the application, of Starlette and of the
server. A note on the exception lists the places in the library that were left out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from inspect import iscoroutinefunction
from types import TracebackType
from typing import Any, Final, ParamSpec, TypeVar, cast

__all__ = ["no_fields", "silent_repr", "strip", "stripped"]

P = ParamSpec("P")
R = TypeVar("R")

MOST: Final = 16
"""How many places a note lists at most: the last ones, where the exception was raised."""

_NOTE: Final = "left out of this traceback: "

# What we call. A frame of theirs is left out if it is below one of ours. Otherwise it is one that
# the application has called.
_BELOW: Final = sys.stdlib_module_names | {
    *("hiredis", "msgspec", "nacl", "pydantic", "redis", "uvloop"),
}


def strip(exc: BaseException) -> None:
    """Remove our frames from the traceback of this exception, and from those of its causes.

    Raise it again by a bare `raise`, which doesn't add the current frame.
    """
    seen, chain = set[int](), [(exc, False)]
    while chain:
        exc, ours = chain.pop()
        if id(exc) in seen:
            continue
        seen.add(id(exc))
        kept, left_out = list[TracebackType](), list[TracebackType]()
        at = exc.__traceback__
        while at is not None:
            root = _module(at).partition(".")[0]
            ours = root == "redis_sessions" or (ours and root in _BELOW)
            (left_out if ours else kept).append(at)
            at = at.tb_next
        if left_out:
            rest = None
            for at in reversed(kept):
                rest = TracebackType(rest, at.tb_frame, at.tb_lasti, at.tb_lineno)
            exc.with_traceback(rest)  # some exceptions refuse an assignment
            if ours and isinstance(exc, Exception):  # it was raised in the library
                _note(exc, left_out)
        linked = [exc.__cause__, exc.__context__]
        if isinstance(exc, BaseExceptionGroup):
            linked += cast("BaseExceptionGroup[BaseException]", exc).exceptions
        chain += [(other, ours) for other in linked if other is not None]


def stripped(function: Callable[P, R]) -> Callable[P, R]:
    """Decorates a function that applications call or await, and strips what it raises."""
    if not iscoroutinefunction(function):

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except BaseException as exc:
                strip(exc)
                raise

        return call

    @wraps(function)
    async def call_async(*args: P.args, **kwargs: P.kwargs) -> Any:
        try:
            return await function(*args, **kwargs)
        except BaseException as exc:
            strip(exc)
            raise

    return cast("Callable[P, R]", call_async)


def _note(exc: Exception, left_out: list[TracebackType]) -> None:
    """Note the places that were left out. Only once: an exception may pass here twice."""
    notes: Any = getattr(exc, "__notes__", ())
    if any(str(note).startswith(_NOTE) for note in notes):
        return
    places = [
        f"{_module(at)}:{at.tb_lineno} in {at.tb_frame.f_code.co_name}"
        for at in left_out
        if _module(at) != __name__
    ]
    if places:  # there are none if the call itself was wrong, such as without an argument
        exc.add_note(_NOTE + ", ".join(["…"] * (len(places) > MOST) + places[-MOST:]))


def _module(at: TracebackType) -> str:
    return str(at.tb_frame.f_globals.get("__name__"))


def silent_repr(self: object) -> str:
    """A `__repr__` that shows no field, for what holds tokens or data: reprs end up in logs."""
    return f"<{type(self).__name__}>"


def no_fields(_: object) -> list[tuple[str, Any]]:
    """A `__rich_repr__` beside it. rich would else take msgspec's, which shows all fields."""
    return []
