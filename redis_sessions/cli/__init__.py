"""The command `redis-sessions`. It works without any extra.

With the extra `cli` there are also tables and colours (rich), and completion (shtab).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from redis.exceptions import AuthenticationError

from redis_sessions.cli import basics, bench, demo, events, leaders, records, rotation, stats, users
from redis_sessions.cli.output import complain
from redis_sessions.cli.parser import Commands
from redis_sessions.errors import SessionError

__all__ = ["commands", "main", "run"]

BROKEN_PIPE = 141
INTERRUPTED = 130
_RIGHTS = "`redis-sessions acl --role admin`"


def main() -> None:
    """Run the command line, and exit with its status."""
    sys.exit(run(sys.argv[1:]))


def commands() -> Commands:
    """All commands, in the order of the help."""
    all_of_them = Commands()
    for module in (basics, users, records, rotation, leaders, events, stats, bench, demo):
        module.add(all_of_them)
    return all_of_them


def run(arguments: Sequence[str]) -> int:
    """The exit status of the command with these arguments."""
    try:
        status = commands().run(arguments)
        sys.stdout.flush()
    except (SessionError, AuthenticationError) as exc:
        complain(_with_rights(str(exc)))
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # as in `redis-sessions list | head`
        _write_no_more()
        return BROKEN_PIPE
    except OSError as exc:  # such as a disk that is full
        _write_no_more()
        complain(str(exc))
        return 2
    return status


def _with_rights(message: str) -> str:
    """The message, and where the rights are that the Redis user lacks."""
    if "no permissions" not in message or _RIGHTS in message:
        return message
    return f"{message}; this command needs the rights of {_RIGHTS}"


def _write_no_more() -> None:
    """Else Python writes what is left when it ends, and tells that this failed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
