"""What becomes of a request that another origin caused: it has no session that came by a cookie."""

from __future__ import annotations

from functools import partial

from starlette.types import ASGIApp

from redis_sessions.errors import CrossSiteError
from redis_sessions.http.connection import Connection
from redis_sessions.lifecycle import loading
from redis_sessions.session.session import state_of

__all__ = ["shut_out"]


def shut_out(connection: Connection, objection: str, app: ASGIApp) -> ASGIApp:
    """Take the cookies from a request. Returns the application that answers it.

    There are three cases:

    1. It brings a header of ours, which no other origin's page can add without being allowed to.
       It is served as if there were no cookies.
    2. The guard refuses. The application doesn't run, and the answer is 403.
    3. It is served with an empty session, which can't be written.
    """
    setup = connection.setup
    others = setup.unguarded
    if others is not None and others.transports.are_used(connection.scope):
        connection.setup, connection.tokens = others, others.read(connection.scope)
        return app
    brought, connection.tokens = connection.tokens, []
    connection.objection = objection
    connection.session = loading.foreign(setup.backend, CrossSiteError(objection))
    if setup.cross_site.choice == "refuse":
        return partial(_refuse, connection)
    if brought:
        connection.tell_objection()
    return app


async def _refuse(connection: Connection, *_: object) -> None:
    """The application that answers 403."""
    state = state_of(connection.session)
    state.raise_as_seen(state.missing())
