"""Where a command finds the store and the secret keys: options, the environment, or a file."""

from __future__ import annotations

import logging
import os
import sys
from argparse import Namespace
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from redis_sessions.cli.parser import Parser
from redis_sessions.errors import ConfigurationError
from redis_sessions.lifecycle.expiry import Expired
from redis_sessions.lifecycle.manager import SessionManager
from redis_sessions.session.keyring import Keyring
from redis_sessions.stores.redis import RedisStore

__all__ = [
    "KEY",
    "RETIRED",
    "add_json",
    "add_keys",
    "add_store",
    "from_stdin",
    "keyring_of",
    "manager_of",
    "prefix_of",
    "store_of",
    "url_of",
]

URL: Final = "REDIS_SESSIONS_URL"
PREFIX: Final = "REDIS_SESSIONS_PREFIX"
KEY: Final = "SESSION_SECRET_KEY"
RETIRED: Final = "SESSION_RETIRED_KEYS"

_SILENT: Final = logging.NullHandler()


def add_store(parser: Parser, *, argument: bool) -> None:
    """The options that name the store. `argument`: whether its URL may also stand alone."""
    if argument:
        parser.add_argument("alone", nargs="?", metavar="URL", help="the same as --url")
    parser.add_argument(
        "--url", help=f"the store's URL, as the application has it; by default ${URL}"
    )
    parser.add_argument(
        "--prefix", help=f"as the application's prefix=; by default ${PREFIX}, else session:"
    )


def add_keys(parser: Parser) -> None:
    """The option that says where the secret keys are."""
    parser.add_argument(
        "--key-file",
        metavar="FILE",
        help="the secret keys, one in each line, the first as the application's first; - is "
        f"standard input. By default ${KEY}, and ${RETIRED} with older ones",
    )


def add_json(parser: Parser, what: str = "one object") -> None:
    """The option for programs."""
    parser.add_argument("--json", action="store_true", help=f"for programs: {what}")


def url_of(args: Namespace) -> str:
    """The store's URL; `ConfigurationError` if there is none."""
    url: str | None = getattr(args, "alone", None) or args.url or os.environ.get(URL)
    # Warnings are for applications. What concerns the command, it says itself.
    logging.getLogger("redis_sessions").addHandler(_SILENT)
    if not url:
        raise ConfigurationError(
            f"where are the sessions? Set {URL}, or write --url, such as "
            "--url redis://localhost:6379/0"
        )
    return url


def prefix_of(args: Namespace) -> str:
    """The prefix of all keys."""
    return args.prefix or os.environ.get(PREFIX) or "session:"


@asynccontextmanager
async def store_of(args: Namespace, **options: Any) -> AsyncGenerator[RedisStore]:
    """The store, which is closed at the end. `options` are those of a `RedisStore`."""
    store = RedisStore(url_of(args), prefix=prefix_of(args), **options)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def manager_of(args: Namespace, **options: Any) -> AsyncGenerator[SessionManager]:
    """A manager over the store with the secret keys."""
    keyring = keyring_of(args)
    if keyring is None:
        raise ConfigurationError(
            f"this needs the application's secret key: set {KEY}, or write --key-file FILE"
        )
    async with store_of(args, **options) as store:
        # It tells nobody, but the schedule of an application learns what ends here.
        manager = SessionManager(store, keyring, on_expired=_tell_nobody)
        try:
            yield manager
        finally:
            await manager.close()


def _tell_nobody(_: Expired) -> None:
    """Is never called, since nothing is swept here."""


def keyring_of(args: Namespace) -> Keyring | None:
    """The secret keys, or None if there are none."""
    if args.key_file is not None:
        text = from_stdin("--key-file -") if args.key_file == "-" else _read(args.key_file)
        keys = [line.strip() for line in text.splitlines() if line.strip()]
        if not keys:
            raise ConfigurationError("--key-file: there is no key in it")
        return Keyring(*keys)
    key = os.environ.get(KEY)
    return Keyring(key, *os.environ.get(RETIRED, "").split()) if key else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is no text in UTF-8"
        raise ConfigurationError(f"--key-file: {why}") from exc


def from_stdin(what: str) -> str:
    """All of standard input, which is asked for if it is a terminal; `ConfigurationError`."""
    if sys.stdin.isatty():
        print(f"{what}: type it, and end with Ctrl-D", file=sys.stderr)
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        raise ConfigurationError(f"{what}: it is no text in UTF-8") from None
