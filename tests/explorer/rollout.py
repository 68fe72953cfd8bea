"""A key roll-out, of which the explorer's scenarios know nothing: they have one key."""

from __future__ import annotations

from typing import Final

from redis_sessions import Keyring
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.session.session import Session
from redis_sessions.session.token import SessionToken
from tests.explorer.actors import Worker
from tests.explorer.audit import Eager
from tests.explorer.backends import Backend

__all__ = ["NEW", "OLD", "signed_in", "touched_below_the_floor"]

OLD: Final = "the key of last year, which is thirty-two characters or more"
NEW: Final = "the key of this year, which is thirty-two characters or more"


async def signed_in(worker: Worker) -> tuple[Session, SessionToken]:
    """A new session of A."""
    session = await worker.load(None)
    session["user_id"] = "A"
    token = (await worker.commit(session)).token
    assert token is not None
    return session, token


async def touched_below_the_floor(backend: Backend, ring: tuple[str, str]) -> Session:
    """Signed in under the old key; two others' marks raise the floors; touched, and loaded again.

    For indexes that keep one mark.
    """
    store, clock = backend.store, backend.clock
    _, token = await signed_in(Worker(store, clock, lambda _: None, keyring=Keyring(OLD)))
    both = Eager(store, clock, lambda _: None, keyring=Keyring(*ring))
    worker = Worker(store, clock, lambda _: None, keyring=Keyring(*ring))
    others = [(await signed_in(worker))[1].id for _ in range(2)]
    for id in others:
        assert await both.revoke(id, principal="A")
    names = [key.index("A") for key in backend_of(both).keyring.keys]
    assert all([(await backend.seats(name)).floor > 0 for name in names])
    await both.commit(await both.load(token.value))
    touched = await both.load(token.value)
    await backend.wipe([token.id, *others], names)
    return touched
