"""What of another library's session becomes ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from redis_sessions.errors import ConfigurationError
from redis_sessions.events import is_sync

__all__ = ["MapOption", "Mapped", "mapped_by"]

Mapped = Callable[[dict[str, Any]], Mapping[str, Any] | None]

MapOption = Mapping[str, str] | Mapped
"""`{"user_id": "user.id"}`: our key, and the dotted path of their value; or a callable that returns
our data, or None if the session isn't accepted."""


def mapped_by(option: MapOption | None) -> Mapped:
    """What `map=` says, as a callable. None: the data are as they are."""
    if option is None:
        return lambda data: data
    if isinstance(option, Mapping):
        given = cast("Any", option)
        paths = {str(ours): str(theirs).split(".") for ours, theirs in given.items()}
        return lambda data: _picked(data, paths)
    if is_sync(option):
        return option
    raise ConfigurationError(
        f"map={option!r}: write a dict such as {{'user_id': 'user.id'}}, or a callable that isn't "
        "async"
    )


def _picked(data: dict[str, Any], paths: Mapping[str, list[str]]) -> dict[str, Any]:
    """The values at these paths. What isn't there is left out."""
    picked = dict[str, Any]()
    for ours, path in paths.items():
        value: Any = data
        for step in path:
            value = _inside(value, step)
        if value is not None:
            picked[ours] = value
    return picked


def _inside(value: Any, step: str) -> Any:
    if isinstance(value, Mapping):
        return cast("Any", value).get(step)
    values: Any = value
    is_there = isinstance(value, list) and step.isdecimal() and int(step) < len(values)
    return values[int(step)] if is_there else None
