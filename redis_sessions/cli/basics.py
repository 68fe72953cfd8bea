"""The commands for the first day: `key`, `check`, `acl`, and `completion`."""

from __future__ import annotations

import asyncio
import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from redis_sessions.cli.acl import (
    PLACEHOLDER,
    Role,
    acl_line,
    password_rule,
    rules,
    sentinel_rules,
)
from redis_sessions.cli.finding import Finding, Level, merged
from redis_sessions.cli.findings import find
from redis_sessions.cli.gather import gather
from redis_sessions.cli.output import has_rich, printable, write_json
from redis_sessions.cli.parser import Commands
from redis_sessions.cli.setting import add_json, add_store, prefix_of, url_of
from redis_sessions.cli.trials import PARTS
from redis_sessions.connect.credentials import read_password
from redis_sessions.errors import ConfigurationError
from redis_sessions.session.keyring import generate_key

__all__ = ["add", "require"]

SHELLS: Final = ("bash", "zsh", "fish")


def add(commands: Commands) -> None:
    """Add the commands of this module."""
    commands.add(
        "key",
        _key,
        "Make a secret key.",
        """
        It prints 32 random bytes in base64url. All processes of an application
        need the same one. Keep it as secret as a password:

            export SESSION_SECRET_KEY=$(redis-sessions key)

        `redis-sessions keys` tells how to replace it later.
        """,
    )

    check = commands.add(
        "check",
        _check,
        "Look whether a Redis is fit for sessions, and say what to do about what isn't.",
        """
        It writes a record, an index, a lock, a lease and a schedule under the prefix,
        which are gone after a second, and sends itself a message. Use the application's
        user in the URL: then it tells whether this user has its rights, which the one of
        `acl --role admin` hasn't. A user who may do everything finds out the most.
        What the user may not ask is shown as unknown, which is no fault.

            redis-sessions check redis://app:password@localhost:6379/0

        What sessions can do without is tried, too: leaders, on_expired=, messages, and notices
        of changes. What doesn't work of it is a warning that leaves the exit status as it is.
        Say what the application uses: that has to work, and nothing else is tried.

            redis-sessions check --uses on_expired --uses messages
            redis-sessions check --uses sessions

        Exit status: 0 if all is well, 1 if there is a warning about sessions, and 2
        if something has failed or the URL can't be read.
        """,
    )
    add_store(check, argument=True)
    check.add_argument(
        "--timeout", type=float, default=2.0, help="seconds for each question, up to 2.5"
    )
    check.add_argument(
        "--uses",
        action="append",
        default=[],
        choices=["sessions", *PARTS],
        help="what the application uses; may be repeated; by default everything is tried",
    )
    add_json(check)

    acl = commands.add(
        "acl",
        _acl,
        "Print the ACL SETUSER command that gives a Redis user the least that its role needs.",
        """
        Write > and the password in the place of #PASSWORD. Send the line to each
        server as an administrator, and keep it with ACL SAVE or CONFIG REWRITE.
        Or put the password into a file that only you can read (openssl rand
        -base64 33 makes a good one), and give the file as --password-file:

            redis-sessions acl --role admin --password-file redis-password | redis-cli

        The roles:

            app      the application
            admin    the other commands of redis-sessions: it lists, counts and ends
                     sessions, and measures; it can't sign anybody in (`check` is
                     for the application's user, and says so)
            monitor  reads INFO and counts keys, and sees none of them
        """,
    )
    acl.add_argument("--role", type=Role, choices=list(Role), default=Role.APP, help="default: app")
    acl.add_argument("--user", default="", help="the user's name; by default the role's")
    acl.add_argument("--prefix", help="as the application's prefix=; by default session:")
    acl.add_argument(
        "--password-file",
        type=Path,
        metavar="FILE",
        help="it has the password, in one line; the rule has its SHA-256 alone",
    )
    acl.add_argument("--cluster", action="store_true", help="for the nodes of a Cluster")
    acl.add_argument(
        "--replicas", action="store_true", help="with replicas=read or wait_replicas= in use"
    )
    acl.add_argument(
        "--sentinel",
        action="store_true",
        help="for the Sentinels themselves; the servers that they watch need the line without it",
    )
    acl.add_argument("--file", action="store_true", help="a line of an ACL file")
    acl.add_argument(
        "--no-setinfo", dest="setinfo", action="store_false", help="for Redis 7.0 and 7.1"
    )
    acl.add_argument(
        "--no-sharded",
        dest="sharded",
        action="store_false",
        help="with --cluster: for Redis 6.2",
    )

    completion = commands.add(
        "completion",
        _completion,
        "Print what makes a shell complete these commands.",
        """
        It needs the extra `cli`. For example, for bash, and for zsh:

            redis-sessions completion bash >> ~/.bash_completion
            redis-sessions completion zsh > ~/.zfunc/_redis-sessions
        """,
    )
    completion.add_argument("shell", choices=SHELLS)
    completion.set_defaults(commands=commands)


def require(extra: str, *modules: str) -> None:
    """Raise `ConfigurationError`, which says how to get them, unless these are installed."""
    if missing := [module for module in modules if find_spec(module) is None]:
        raise ConfigurationError(
            f"this needs {', '.join(missing)}: pip install 'redis-sessions[{extra}]'"
        )


def _key(_: Namespace) -> int:
    print(generate_key())
    return 0


def _completion(args: Namespace) -> int:
    require("cli", "shtab")
    import shtab

    print(shtab.complete(args.commands.parser, args.shell))
    return 0


# -- acl


def _acl(args: Namespace) -> int:
    if args.sentinel and (args.cluster or args.replicas):
        raise ConfigurationError("--sentinel is for Sentinels: leave the other options out")
    password = PLACEHOLDER
    if args.password_file is not None:
        password = password_rule(read_password(args.password_file, "--password-file"))
    prefix = "session:" if args.prefix is None else args.prefix
    allowed = (
        sentinel_rules(setinfo=args.setinfo)
        if args.sentinel
        else rules(
            args.role,
            prefix=prefix,
            cluster=args.cluster,
            replicas=args.replicas,
            setinfo=args.setinfo,
            sharded=args.sharded,
        )
    )
    print(acl_line(args.user or args.role.value, password, allowed, file=args.file))
    return 0


# -- check


def _check(args: Namespace) -> int:
    try:
        url, prefix = url_of(args), prefix_of(args)
        findings = find(
            asyncio.run(gather(url, prefix=prefix, timeout=args.timeout, uses=args.uses))
        )
    except ConfigurationError as exc:
        if not args.json:
            raise
        findings = [Finding("url", Level.FAIL, str(exc))]
    status = _status(findings)
    if args.json:
        write_json({"status": status.word, "findings": [_plain(f) for f in findings]})
    else:
        _show(merged(findings))
    return status


def _status(findings: Iterable[Finding]) -> Level:
    """The worst of these. What doesn't work of a part that `--uses` doesn't name isn't counted."""
    counted = [f.level for f in findings if f.level is not Level.WARN or f.check not in PARTS]
    return max(Level.OK, *counted)


def _plain(finding: Finding) -> dict[str, object]:
    return {**vars(finding), "level": finding.level.word, "details": dict(finding.details)}


_STYLES: Final = {
    Level.OK: "green",
    Level.WARN: "yellow",
    Level.FAIL: "bold red",
    Level.UNKNOWN: "dim",
}


def _show(findings: Sequence[Finding]) -> None:
    for finding in findings:
        where = f" ({finding.server})" if finding.server else ""
        text = printable(finding.text + where)
        _print_level(finding.level, f" {finding.check + ':':16} {text}")
        if finding.advice:
            print(f"{'':26}{finding.advice}")


def _print_level(level: Level, rest: str) -> None:
    if not has_rich(sys.stdout):
        print(f"{level.word:8}{rest}")
        return
    from rich.console import Console
    from rich.text import Text

    line = Text.assemble((f"{level.word:8}", _STYLES[level]), rest)
    Console(highlight=False).print(line, soft_wrap=True)
