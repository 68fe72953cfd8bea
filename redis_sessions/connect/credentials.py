"""Names and passwords from files and the environment, which a URL names. None is ever shown."""

from __future__ import annotations

import os
from pathlib import Path

from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError

__all__ = ["Credentials", "read_password"]


class Credentials(CredentialProvider):
    """Reads user and password anew for each connection, since they may have been changed."""

    def __init__(
        self,
        *,
        path: str | None,
        variable: str | None,
        password: str | None,
        user_variable: str | None,
        user: str | None,
    ) -> None:
        self._path = path
        self._variable = variable
        self._password = password
        self._user_variable = user_variable
        self._user = user

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """(password,) or (user, password); `AuthenticationError` if they can't be read."""
        user = self._user
        if self._user_variable is not None:
            user = _variable(self._user_variable, "username_env")
        if self._path is not None:
            password = read_password(self._path, "password_file=")
        elif self._variable is not None:
            password = _variable(self._variable, "password_env")
        else:
            password = self._password or ""
        return (password,) if user is None else (user, password)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()


def read_password(path: str | Path, option: str) -> str:
    """The only line of a file. The `AuthenticationError` has no path, which may be a secret."""
    try:
        text = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is no text in UTF-8"
        raise AuthenticationError(f"{option}: the file can't be read: {why}") from None
    if not text:
        raise AuthenticationError(f"{option}: the file is empty")
    if "\n" in text:
        raise AuthenticationError(f"{option}: the file has several lines; write the password alone")
    return text


def _variable(name: str, option: str) -> str:
    text = os.environ.get(name)
    if not text:
        raise AuthenticationError(f"{option}=: there is no environment variable of that name")
    return text
