"""A process of PHP that reads and writes sessions with PHP's own session extension."""

from __future__ import annotations

import base64
import json
import struct
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from redis_sessions.php.data import PhpObject, key_of

_SCRIPT: Final = Path(__file__).with_name("php_sessions.php")


class Php:
    """PHP, with one question a line and one answer a line."""

    def __init__(self, program: Path, *settings: str) -> None:
        options = [part for setting in settings for part in ("-d", setting)]
        self._process = subprocess.Popen(
            [program, *options, _SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._process.communicate()
        assert self._process.returncode == 0

    def wrote(self, serializer: str, code: str) -> tuple[bytes, Any]:
        """What PHP stores after this code has run, and what `described` says of its session."""
        answer = self._ask(serializer=serializer, code=code, payload="")
        return base64.b64decode(answer["payload"]), answer["data"]

    def read(self, serializer: str, payload: bytes) -> tuple[bytes, Any]:
        """What PHP stores again of this payload, and what `described` says of what it has read."""
        answer = self._ask(
            serializer=serializer, code="", payload=base64.b64encode(payload).decode()
        )
        return base64.b64decode(answer["payload"]), answer["data"]

    def _ask(self, **question: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def described(value: Any) -> Any:
    """The value as `php_sessions.php` describes it: no type and no byte is left out."""
    match value:
        case None | bool():
            return value
        case int():
            return ["int", str(value)]
        case float():
            return ["float", struct.pack(">d", value).hex()]
        case str() | bytes():
            return ["string", _base64(value)]
        case PhpObject(name, state, "object"):
            return ["object", _base64(name), _described(state)]
        case PhpObject(name, state, "enum"):
            return ["enum", _base64(name), _base64(state)]
        case list() | tuple() | dict():
            return ["array", _described(value)]
        case _:
            raise TypeError


def _described(value: Any) -> list[Any]:
    array: Any = value
    pairs: Any = array.items() if isinstance(value, dict) else enumerate(array)
    return [[described(key_of(key)), described(each)] for key, each in pairs]


def _base64(value: str | bytes) -> str:
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode()
