"""The command `redis-sessions`: its start, and the one command that needs nothing installed.

What needs an extra is in modules that are imported only once the extra is known to be there.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

from redis_sessions.session.keyring import generate_key

__all__ = ["key", "main", "require"]


def main() -> None:
    """Run the command line."""
    if sys.argv[1:] == ["key"]:  # a deployment's first step: it works without any extra
        key()
        return
    require("cli", "rich", "typer")
    from redis_sessions.cli.commands import app

    app(prog_name="redis-sessions")


def key() -> None:
    """Print a new secret key."""
    print(generate_key())


def require(extra: str, *modules: str) -> None:
    """Unless these modules are installed, say how to get them and exit with status 2."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        print(
            f"redis-sessions: this needs {', '.join(missing)}: "
            f"pip install 'redis-sessions[{extra}]'",
            file=sys.stderr,
        )
        sys.exit(2)
