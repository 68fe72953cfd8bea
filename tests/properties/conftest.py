"""A site on real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from redis_sessions import RedisStore
from tests.properties.sealed_records import Vault
from tests.support.servers import as_owner
from tests.support.site import Site


@pytest.fixture
async def vault(redis_url: str, prefix: str) -> AsyncIterator[Vault]:
    store = RedisStore(redis_url, prefix=prefix)
    async with Redis.from_url(as_owner(redis_url)) as client:
        yield Vault(Site(store), client)
    await store.close()
