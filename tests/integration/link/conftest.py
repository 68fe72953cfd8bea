"""A queue before a link, with a proxy between."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.integration.link.asking import Asking
from tests.support.proxy import Proxy
from tests.support.servers import as_owner


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Proxy]:
    with Proxy(int(redis_url.rpartition(":")[2].partition("/")[0])) as proxy:
        yield proxy


@pytest.fixture
def url(proxy: Proxy) -> str:
    return as_owner(proxy.url)


@pytest.fixture
async def at(url: str) -> AsyncIterator[Asking]:
    at = Asking(url)
    assert await at.replies("first") == [b"first"]
    at.batches.clear()
    yield at
    await at.close()
