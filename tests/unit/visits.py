"""Sign-ins and visits by a token, and the request that a session is served in."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import NamedTuple

from redis_sessions import Session
from redis_sessions.session.serving import serving
from tests.support.asgi import Reply
from tests.support.served import served
from tests.unit.setting import Setting, token_of


@contextmanager
def in_request(*sessions: Session) -> Generator[None]:
    """As the middleware has it while a request with these sessions is served."""
    token = serving.set(served(*sessions))
    try:
        yield
    finally:
        serving.reset(token)


class Peer(NamedTuple):
    """Who asks."""

    address: str
    user_agent: str


async def signed_in(at: Setting, user: object = "alice", peer: Peer | None = None) -> str:
    """The token of a session in which a user signed in, from where `peer` says."""
    if peer is not None:
        reply = await from_peer(at, peer, lambda session: session.update(user_id=user))
        return reply.token.value
    session = await at.load(None)
    session["user_id"] = user
    return token_of(await at.commit(session))


async def visit(at: Setting, token: str, peer: Peer | None = None) -> None:
    """A request that reads."""
    if peer is not None:
        await from_peer(at, peer, dict, token)
    else:
        await at.commit(await at.load(token))


async def from_peer(
    at: Setting, peer: Peer, act: Callable[[Session], object], token: str | None = None
) -> Reply:
    """A request from an address, by a browser."""
    headers = [(b"user-agent", peer.user_agent.encode())]
    reply = await at.request(act, token, headers=headers, client=(peer.address, 1))
    return reply.checked()


async def ids(at: Setting, who: str = "alice") -> list[str]:
    return [info.id for info in await at.manager.sessions_of(who)]


async def alive(at: Setting, *tokens: str) -> list[bool]:
    return [bool(await at.data(token)) for token in tokens]
