"""Which secret keys are in use: each process notes its key's public id in the store, and compares.

For example, one of two processes has another key. It works, but it can't open the other's sessions,
so that every other request finds none; and a script with another key finds no session to revoke.
The log and `ConfigurationError` say so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from redis_sessions.errors import ConfigurationError, StoreError, StoreUnavailableError
from redis_sessions.session.keyring import Keyring
from redis_sessions.stores.protocols import KeyNoting, Store

__all__ = ["RECENT", "KeyNotes"]

_EVERY: Final = 300.0  # seconds
RECENT: Final = 3 * _EVERY
"""Seconds in which a process that stores sessions has renewed its note."""
_GIVE: Final = (
    "make one key with `redis-sessions key`, and give it to all of them as secret_key= (a new one "
    "as [new, old])"
)


class KeyNotes:
    """The notes of one manager. `warn(topic, message, *args)` logs, once for each topic."""

    def __init__(
        self,
        store: Store,
        keyring: Keyring,
        timer: Callable[[], float],
        warn: Callable[..., None],
    ) -> None:
        self._store = store
        self._keyring = keyring
        self._timer = timer
        self._warn = warn
        self._due = float("-inf")
        self._agreed = False

    async def renew(self) -> None:
        """Note the key that this process seals with, and compare. It does so every five minutes."""
        if self._timer() >= self._due:
            self._due = self._timer() + _EVERY
            await self.compare(note=True)

    async def compare(self, *, note: bool = False) -> None:
        """Log it if other processes seal with keys that this process doesn't have."""
        noted = await self._noted(self._keyring.primary.id.hex() if note else None)
        recent = {id for id, age in noted.items() if age < RECENT}
        if others := self._foreign(recent):
            self._warn(
                "keys",
                "sessions: under the prefix %r processes use different secret keys (other ids "
                "are %s, and this process has %s). A session opens only with the key that stored "
                "it. If these are processes of one application, %s. If not, give each application "
                "its own prefix= and session_cookie=",
                self._store.prefix,
                ", ".join(others),
                ", ".join(key.id.hex() for key in self._keyring.keys),
                _GIVE,
            )

    async def check(self) -> None:
        """Raise `ConfigurationError` if all keys that were noted are missing here.

        It is for those who found no session of a user, since there may be some under these keys.
        """
        if self._agreed:
            return
        noted = await self._noted()
        if noted and len(others := self._foreign(noted)) == len(noted):
            raise ConfigurationError(
                f"no session can be found with this secret key: those under {self._store.prefix!r} "
                f"are stored with {', '.join(others)}, and the manager has {self._keyring!r}; give "
                "it the application's secret_key="
            )
        self._agreed = bool(noted)

    def _foreign(self, ids: Mapping[str, float] | set[str]) -> list[str]:
        return sorted(id for id in ids if self._keyring.get(bytes.fromhex(id)) is None)

    async def _noted(self, note: str | None = None) -> Mapping[str, float]:
        if not isinstance(self._store, KeyNoting):
            return {}
        try:
            return await self._store.key_ids(note)
        except StoreUnavailableError as exc:
            if exc.reason == "refused":  # rules of the server forbid it, so it isn't asked again
                self._due, self._agreed = float("inf"), True
            return {}  # those who need the store get the error
        except StoreError:
            return {}
