"""Sign-ins with aliases, and what a failover may lose of them."""

from __future__ import annotations

from collections.abc import Mapping

from redis_sessions.session.session import state_of
from tests.unit.setting import Setting, token_of

SID = {"sid": "s-1"}


async def signed_in(
    at: Setting,
    aliases: Mapping[str, str] | None = None,
    *,
    user: str = "alice",
    token: str | None = None,
) -> str:
    """The token of a user who signed in with these aliases."""
    session = await at.load(token)
    session.sign_in(user, aliases=aliases)
    return token_of(await at.commit(session))


async def lose_the_end(at: Setting, token: str, record: bytes | None) -> None:
    """A failover lost the tombstone under a token's id."""
    assert record is not None
    at.store.put_back(token[:20], record, 10**9)


async def names(at: Setting, token: str) -> list[str]:
    """The aliases that the record has, in words."""
    stored = state_of(await at.load(token)).stored
    assert stored is not None
    return [alias.text.replace("\0", "=") for alias in stored.record.aliases]
