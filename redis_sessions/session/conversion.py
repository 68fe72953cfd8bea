"""Stored values as typed objects: Structs, dataclasses, attrs, pydantic, and a `dec_hook`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

__all__ = ["DecHook", "convert", "name_of"]

T = TypeVar("T")

DecHook = Callable[[type, Any], Any]

# The end of msgspec's message: the place in the value that doesn't fit.
_PATH: Final = re.compile(r" - at `(\$[^`]*)`$")


def convert(
    key: str, value: Any, type: type[T], dec_hook: DecHook | None, where: str = "session"
) -> T:
    """The value of a key, as it was loaded, as a `type`. ValueError if it doesn't fit.

    The error names the key, the place in the value and the type, but nothing of the value itself,
    since errors end up in logs.
    """
    if value.__class__ is type:
        same: T = value
        return same

    def restore(kind: Any, each: Any) -> Any:
        if isinstance(each, kind):
            return each
        if hasattr(kind, "model_validate"):
            return _validate(kind, each)
        if dec_hook is not None:
            return dec_hook(kind, each)
        raise NotImplementedError(f"no dec_hook restores a {name_of(kind)}")

    try:
        return msgspec.convert(value, type, dec_hook=restore)
    except msgspec.ValidationError as exc:
        # Neither its text nor the chain of its causes: pydantic quotes the value.
        path = _PATH.search(str(exc))
        at = f" at {path[1]}" if path else ""
        fields = f": {exc.__cause__}" if isinstance(exc.__cause__, _MisfitError) else ""
        raise ValueError(
            f"{where}[{key!r}], as it is stored, doesn't fit {name_of(type)}{at}{fields}"
        ) from None


class _MisfitError(ValueError):
    """The names of the fields that a pydantic model refuses."""


def _validate(model: Any, value: Any) -> Any:
    try:
        return model.model_validate(value, by_name=True, by_alias=False, strict=False)
    except ValueError as exc:
        errors: list[Any] = getattr(exc, "errors", list)()
        fields = {".".join(map(str, error["loc"])) for error in errors} - {""}
        raise _MisfitError(", ".join(sorted(fields)) or "its validator refuses it") from None


def name_of(type: type[Any]) -> str:
    """The name of a type for an error, with its module unless it is built in."""
    module = type.__module__
    return type.__qualname__ if module == "builtins" else f"{module}.{type.__qualname__}"
