"""Sign-ins and visits by a token, and the request that a session is served in."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from redis_sessions import Session, SessionError
from redis_sessions.session.session import serving, state_of
from redis_sessions.session.state import Peer
from tests.unit.setting import Setting, token_of


@contextmanager
def in_request(*sessions: Session) -> Generator[None]:
    """As the middleware has it while a request with these sessions is served."""
    token = serving.set(sessions)
    try:
        yield
    finally:
        serving.reset(token)


class Visiting:
    """A request, as far as a session asks for it."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def peer(self) -> Peer:
        return self._peer

    def as_seen(self, error: SessionError) -> SessionError:
        return error


async def signed_in(at: Setting, user: object = "alice", peer: Peer | None = None) -> str:
    session = await at.load(None)
    session["user_id"] = user
    if peer is not None:
        state_of(session).request.context = Visiting(peer)
    return token_of(await at.commit(session))


async def visit(at: Setting, token: str) -> None:
    await at.commit(await at.load(token))


async def ids(at: Setting, who: str = "alice") -> list[str]:
    return [info.id for info in await at.manager.sessions_of(who)]


async def alive(at: Setting, *tokens: str) -> list[bool]:
    return [bool(await at.data(token)) for token in tokens]
