"""How the command line is read: argparse, which repeats nothing that may be secret."""

from __future__ import annotations

import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from textwrap import dedent
from typing import Any, Final, NoReturn

from redis_sessions import __version__
from redis_sessions.session.token import is_id

__all__ = ["Commands", "Parser", "positive", "session_id"]

# A URL with a password, a token, or a secret key, as `redis-sessions key` makes it.
_SECRET: Final = re.compile(r"\S*(?:://|@|[\w-]{43})\S*")
_TAKES_ID: Final = ("--id", "--keep")

_ABOUT: Final = """
Sealed server-side sessions in Redis.

    redis-sessions key                                  make a secret key
    redis-sessions check redis://localhost:6379/0       is this Redis fit for sessions?
    redis-sessions sessions 42                          where is user 42 signed in?
    redis-sessions revoke 42 --all                      sign user 42 out everywhere

Most commands need to know where the sessions are, and some need the secret key:

    REDIS_SESSIONS_URL      the store's URL, as the application has it (or --url)
    REDIS_SESSIONS_PREFIX   the application's prefix=, if it has one (or --prefix)
    SESSION_SECRET_KEY      the secret key (or --key-file)
    SESSION_RETIRED_KEYS    older keys, with blanks between them

Other users of the machine see what is on a command line. So a secret key can't be
given there, and a URL with a password belongs into the environment.
"""
_END: Final = """
`redis-sessions COMMAND --help` explains a command, with examples.

Exit status: 0: done. 1: the answer is no, or a warning; the command's help says
which. 2: it can't be done, and standard error says why. 130: Ctrl-C.
"""


class Parser(ArgumentParser):
    """An argument parser whose errors show no URLs, tokens and keys: a log may keep them."""

    def __init__(self, **options: Any) -> None:
        options["formatter_class"] = RawDescriptionHelpFormatter
        super().__init__(**options, allow_abbrev=False)
        self._given: Sequence[str] = ()

    # argparse's own signature is a stub's with overloads; it is called by argparse alone.
    def parse_known_args(self, args: Any = None, namespace: Any = None, **more: Any) -> Any:
        self._given = args
        return super().parse_known_args(args, namespace, **more)

    def error(self, message: str) -> NoReturn:
        for word in self._given:
            for part in (word, word.partition("=")[2]):  # whole, since it may have blanks
                if _SECRET.search(part):
                    message = message.replace(part, "…").replace(repr(part)[1:-1], "…")
        self.exit(
            2, f"{self.prog}: {_SECRET.sub('…', message)}\nTo see how it is used: {self.prog} -h\n"
        )


class Commands:
    """The commands that there are. Each module of commands adds its own."""

    def __init__(self) -> None:
        self.parser = Parser(prog="redis-sessions", description=_ABOUT, epilog=_END)
        self.parser.add_argument("--version", action="version", version=__version__)
        self._added: Any = self.parser.add_subparsers(
            title="commands", metavar="COMMAND", dest="command", parser_class=Parser
        )

    @property
    def names(self) -> list[str]:
        """The names of all commands, in the order of the help."""
        return list(self._added.choices)

    def add(
        self, name: str, act: Callable[[Namespace], int], summary: str, explanation: str
    ) -> Parser:
        """Add a command. `act` does it, and returns the exit status.

        `explanation` is what its help says below the summary; examples are indented there.
        """
        text = f"{summary}\n\n{dedent(explanation).strip()}"
        added: Parser = self._added.add_parser(name, help=summary, description=text)
        added.set_defaults(act=act)
        return added

    def run(self, arguments: Sequence[str]) -> int:
        """Do what the arguments say; the exit status. `SessionError` if it can't be done."""
        try:
            self._look_for_the_command(arguments)
            args, unknown = self.parser.parse_known_args(_with_ids(arguments))
            if unknown:
                command: Parser = self._added.choices.get(args.command, self.parser)
                command.error(f"unrecognized arguments: {' '.join(unknown)}")
            if args.command is None:
                self.parser.print_help()
                return 0
        except SystemExit as exc:  # argparse's
            return int(exc.code or 0)
        return int(args.act(args))

    def _look_for_the_command(self, arguments: Sequence[str]) -> None:
        """Exit if the first word is no command: argparse would list all of them."""
        names = self.names
        word = arguments[0] if arguments else "-"
        if word in names or (word.startswith("-") and not _SECRET.search(word)):
            return
        if "://" in word or "@" in word:
            hint = "A URL is no command. To look at a store: redis-sessions check URL"
        else:
            hint = f"No such command: {_SECRET.sub('…', word)}."
            if close := get_close_matches(word, names, 1):
                hint += f" Did you mean '{close[0]}'?"
        print(f"redis-sessions: {hint}\nTo see all commands: redis-sessions -h", file=sys.stderr)
        sys.exit(2)


def positive(text: str) -> int:
    """The type of an argument: a number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError("write a number from 1 on")
    return int(text)


def session_id(text: str) -> str:
    """The type of an argument: a session's id. Whatever else is given isn't repeated."""
    if not is_id(text):
        raise ArgumentTypeError(
            "this is no session's id: write 20 characters, as `redis-sessions list` shows them, "
            "and never a whole token"
        )
    return text


def _with_ids(arguments: Sequence[str]) -> list[str]:
    """The same, with ids that begin with a hyphen where argparse takes them for no options."""
    found: list[str] = []
    last: list[str] = []
    for word in arguments:
        if not (word.startswith("-") and is_id(word)):
            found.append(word)
        elif found and found[-1] in _TAKES_ID:
            found[-1] += f"={word}"
        else:
            last.append(word)
    return [*found, "--", *last] if last else found
