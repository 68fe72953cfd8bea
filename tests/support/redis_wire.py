"""A test's own look into a Redis server, without any client library."""

from __future__ import annotations

import socket
from typing import Any, Self


class Wire:
    """A connection of the test's own to a Redis server, without any client library."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._file = self._socket.makefile("rb")

    @classmethod
    def of(cls, url: str) -> Self:
        return cls(int(url.partition("127.0.0.1:")[2].partition("/")[0]))

    def ask(self, *command: str | bytes | int) -> Any:
        parts = [p if isinstance(p, bytes) else str(p).encode() for p in command]
        packed = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)
        self._socket.sendall(packed)
        return self.read()

    def read(self) -> Any:
        line = self._file.readline().rstrip(b"\r\n")
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            size = int(rest)
            return None if size < 0 else self._file.read(size + 2)[:-2]
        if kind == b"*":
            return [self.read() for _ in range(int(rest))]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        return int(rest) if kind == b":" else rest.decode()

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def keys(self, prefix: str) -> list[str]:
        """All keys under a prefix, sorted."""
        return sorted(key.decode() for key in self.ask("KEYS", f"{prefix}*"))

    def records(self, prefix: str) -> list[str]:
        """The keys of live records: tombstones are 33 bytes long, records longer."""
        strings = [key for key in self.keys(prefix) if self.ask("TYPE", key) == "string"]
        return [key for key in strings if self.ask("STRLEN", key) > 33]

    def clients(self) -> int:
        """How many connections the server has besides this one."""
        return len(self.ask("CLIENT", "LIST").splitlines()) - 1


_GREETINGS = {"CLIENT", "HELLO", "AUTH", "SELECT"}


class Monitor:
    """MONITOR: what the clients of one server send, without what its scripts do."""

    def __init__(self, port: int) -> None:
        self._watch = Wire(port)
        self._mark = Wire(port)
        self._marks = 0
        self._watch.ask("MONITOR")

    def commands(self) -> list[list[str]]:
        """What was sent since the last call: each command's words, its name first.

        Without what redis-py says at connecting.
        """
        return [words for words in self.everything() if words[0] not in _GREETINGS]

    def everything(self) -> list[list[str]]:
        """The same, with what is said at connecting."""
        self._marks += 1
        mark = f"mark-{self._marks}"
        self._mark.ask("ECHO", mark)
        seen: list[list[str]] = []
        while True:
            line = self._watch.read()
            source, _, rest = line.partition("] ")
            words = rest[1:-1].split('" "')
            if words[-1] == mark:
                return seen
            name = words[0].upper()
            if not source.endswith(" lua"):
                seen.append([name, *words[1:]])

    def names(self) -> list[str]:
        """The names of these commands."""
        return [words[0] for words in self.commands()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.close()
        self._mark.close()
