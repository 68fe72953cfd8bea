"""Tells an execution of every token that is made in it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from unittest import mock

from redis_sessions.session.token import SessionToken
from tests.explorer.world import World

__all__ = ["watching_tokens"]


@contextmanager
def watching_tokens(world: Callable[[], World | None]) -> Generator[None]:
    """Tell the world of every token that is made."""
    make = SessionToken.generate

    def generate(id: str | None = None) -> SessionToken:
        token = make(id)
        here = world()
        if here is not None:
            here.drew(token)
        return token

    with mock.patch.object(SessionToken, "generate", generate):
        yield
