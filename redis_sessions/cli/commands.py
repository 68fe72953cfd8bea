"""The commands, as typer has them; of the demo, only how it is served."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer
from redis.exceptions import AuthenticationError
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from redis_sessions import (
    ConfigurationError,
    RedisStore,
    StoredSession,
    StoreError,
    __version__,
)
from redis_sessions.cli import key
from redis_sessions.cli.acl import (
    PLACEHOLDER,
    Role,
    acl_line,
    password_rule,
    rules,
    sentinel_rules,
)
from redis_sessions.cli.demo import demo
from redis_sessions.cli.finding import Finding, Level, merged
from redis_sessions.cli.findings import find
from redis_sessions.cli.gather import gather
from redis_sessions.connect.credentials import read_password
from redis_sessions.lifecycle import enumeration

__all__ = ["app"]

_UsageError: Any = typer.BadParameter.__base__  # typer's own or click's, by its version
_SECRET: Final = re.compile(r"\S*(?:://|@)\S*")


class _Discreet(TyperGroup):
    """Says what is wrong with a command without what may be a URL, and so have a password."""

    def make_context(self, *args: Any, **more: Any) -> Any:
        with _discreetly():
            return super().make_context(*args, **more)

    def invoke(self, ctx: Any) -> Any:
        with _discreetly():
            return super().invoke(ctx)


@contextmanager
def _discreetly() -> Generator[None]:
    try:
        yield
    except _UsageError as exc:
        lost = "No such command" in exc.message and _SECRET.search(exc.message)
        for word in sys.argv[1:]:
            if _SECRET.search(word):  # whole, since it may have blanks
                exc.message = exc.message.replace(word, "…").replace(repr(word)[1:-1], "…")
        exc.message = _SECRET.sub("…", exc.message)
        if lost:
            exc.message = "A URL is no command. To look at a store: redis-sessions check URL"
        raise


app: Final = typer.Typer(
    cls=_Discreet,
    help="Sealed server-side sessions in Redis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # they show local variables, and those may be secret
)
app.command()(key)
app.command()(demo)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Sealed server-side sessions in Redis."""


@app.command()
def acl(
    role: Annotated[
        Role,
        typer.Option(
            help="app: the application. admin: lists and ends sessions, and counts them. "
            "monitor: reads INFO and counts keys, and sees none of them."
        ),
    ] = Role.APP,
    user: Annotated[str, typer.Option(help="The user's name; by default the role's.")] = "",
    prefix: Annotated[str, typer.Option(help="As the application's prefix=.")] = "session:",
    password_file: Annotated[
        Path | None,
        typer.Option(
            help="It has the password, in one line; the rule has its SHA-256 alone.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    cluster: Annotated[bool, typer.Option("--cluster", help="For the nodes of a Cluster.")] = False,
    replicas: Annotated[
        bool,
        typer.Option("--replicas", help="With replicas=read or wait_replicas= in use."),
    ] = False,
    sentinel: Annotated[
        bool,
        typer.Option(
            "--sentinel",
            help="For the Sentinels themselves. The servers that they watch need the line "
            "without it.",
        ),
    ] = False,
    file: Annotated[bool, typer.Option("--file", help="A line of an ACL file.")] = False,
    setinfo: Annotated[
        bool,
        typer.Option("--setinfo/--no-setinfo", help="--no-setinfo: for Redis 7.0 and 7.1."),
    ] = True,
) -> None:
    """Print the ACL SETUSER command that gives a Redis user the least that its role needs.

    Write > and the password in the place of #PASSWORD. Send the line to each
    server as an administrator, and keep it with ACL SAVE or CONFIG REWRITE.
    Or put the password into a file that only you can read (openssl rand
    -base64 33 makes a good one), and give the file as --password-file.
    """
    try:
        if sentinel and (cluster or replicas):
            raise ConfigurationError("--sentinel is for Sentinels: leave the other options out")
        password = PLACEHOLDER
        if password_file is not None:
            password = password_rule(read_password(password_file, "--password-file"))
        allowed = (
            sentinel_rules(setinfo=setinfo)
            if sentinel
            else rules(role, prefix=prefix, cluster=cluster, replicas=replicas, setinfo=setinfo)
        )
        print(acl_line(user or role.value, password, allowed, file=file))
    except (AuthenticationError, ConfigurationError) as exc:
        _refuse(exc)


@app.command()
def check(
    url: Annotated[str, typer.Argument(help="The store's URL, as the application has it.")],
    prefix: Annotated[str, typer.Option(help="As the application's prefix=.")] = "session:",
    timeout: Annotated[float, typer.Option(help="Seconds for each question, up to 2.5.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one object.")] = False,
) -> None:
    """Look whether a Redis is fit for sessions, and say what to do about what isn't.

    It writes a record, an index and a lock under the prefix, which are gone
    after a second. With the application's user in the URL it tells whether
    this user has its rights; with an administrator it finds out the most.
    What the user may not ask is shown as unknown, which is no fault.

    The exit status is 0 if all is well, 1 if there is a warning, and 2 if
    something has failed or the URL can't be read.
    """
    logging.getLogger("redis_sessions").addHandler(logging.NullHandler())  # it is all in here
    try:
        facts = asyncio.run(gather(url, prefix=prefix, timeout=timeout))
        findings = find(facts)
    except ConfigurationError as exc:
        if not as_json:
            _refuse(exc)
        findings = [Finding("url", Level.FAIL, str(exc))]
    worst = max(Level.OK, *(finding.level for finding in findings))
    if as_json:
        print(json.dumps({"status": worst.word, "findings": [_plain(f) for f in findings]}))
    else:
        _show(merged(findings))
    raise typer.Exit(worst)


def _plain(finding: Finding) -> dict[str, object]:
    return {**vars(finding), "level": finding.level.word, "details": dict(finding.details)}


_STYLES: Final = {
    Level.OK: "green",
    Level.WARN: "yellow",
    Level.FAIL: "bold red",
    Level.UNKNOWN: "dim",
}


def _show(findings: Sequence[Finding]) -> None:
    console = Console(highlight=False)
    for finding in findings:
        style, word = _STYLES[finding.level], f"{finding.level.word:8}"
        where = f" ({finding.server})" if finding.server else ""
        console.print(
            f"[{style}]{word}[/] {finding.check + ':':16} {escape(finding.text + where)}",
            soft_wrap=True,
        )
        if finding.advice:
            console.print(f"{'':26}{escape(finding.advice)}", soft_wrap=True)


def _refuse(exc: AuthenticationError | ConfigurationError | StoreError) -> NoReturn:
    Console(stderr=True).print(f"redis-sessions: {escape(str(exc))}", soft_wrap=True)
    raise typer.Exit(2) from exc


_Url = Annotated[str, typer.Argument(help="The store's URL, as the application has it.")]
_Prefix = Annotated[str, typer.Option(help="As the application's prefix=.")]


@app.command()
def count(
    url: _Url,
    prefix: _Prefix = "session:",
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one object.")] = False,
) -> None:
    """Count the sessions in a store, those of visitors who aren't signed in, too.

    It needs no secret key, and reads nobody's data. It looks at all keys of
    the database, a few hundred at a time, so that nobody has to wait. The
    user needs the rights of `redis-sessions acl --role admin`.

    It also tells with which secret keys they are sealed. A retired key may
    be removed once no session is sealed with it.

    The exit status is 0, or 2 if the store can't be read.
    """
    keys = Counter[str]()
    _each_session(url, prefix, lambda info: keys.update([info.key_id]))
    if as_json:
        print(json.dumps({"sessions": keys.total(), "by_key": dict(keys.most_common())}))
        return
    print(f"{keys.total()} sessions")
    for key_id, number in keys.most_common():
        print(f"{number:8} sealed with the key {key_id}")


@app.command("list")
def list_sessions(
    url: _Url,
    prefix: _Prefix = "session:",
    as_json: Annotated[
        bool, typer.Option("--json", help="For programs: one object in each line.")
    ] = False,
) -> None:
    """List the sessions in a store, in no order: ids and times, but not whose they are.

    For each session: its id; when it ends unless it is used; when its token
    was last replaced; the id of the secret key that it is sealed with; and
    its size. A few may come twice. It needs no secret key, and the rights of
    `redis-sessions acl --role admin`.

    The exit status is 0, or 2 if the store can't be read.
    """
    _each_session(url, prefix, _print_json if as_json else _print_line)


def _each_session(url: str, prefix: str, act: Callable[[StoredSession], None]) -> None:
    async def go_through() -> None:
        store = RedisStore(url, prefix=prefix)
        try:
            async with aclosing(enumeration.sessions(store, store.server_clock.now)) as found:
                async for info in found:
                    act(info)
        finally:
            await store.close()

    try:
        asyncio.run(go_through())
    except (ConfigurationError, StoreError) as exc:
        _refuse(exc)


def _print_line(info: StoredSession) -> None:
    print(
        f"{info.id}  expires {_shown(info.idle_expires_at)}  rotated {_shown(info.rotated_at)}  "
        f"key {info.key_id}  {info.size} bytes"
    )


def _print_json(info: StoredSession) -> None:
    times = {"idle_expires_at": _shown(info.idle_expires_at), "rotated_at": _shown(info.rotated_at)}
    print(json.dumps({**asdict(info), **{k: v for k, v in times.items() if v != "never"}}))


def _shown(moment: datetime | None) -> str:
    return "never" if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"
