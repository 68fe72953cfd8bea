"""`PhpSessions` over Redis, where no PHP has to take part."""

from __future__ import annotations

from typing import Any

import pytest

from redis_sessions import SessionEncodeError
from redis_sessions.accept import Found
from redis_sessions.php import PhpSessions
from redis_sessions.php.session_formats import SERIALIZERS, Serializer

PATHS = {"user_id": "user.0", "name": "user.1", "sku": "cart.2.sku", "deep": "a.b.c"}


@pytest.mark.parametrize("serializer", SERIALIZERS)
async def test_paths_lead_into_arrays(redis_url: str, prefix: str, serializer: Serializer) -> None:
    """What is written at a path is found there, also in a list; None takes it away."""
    source = PhpSessions(
        redis_url, prefix=prefix, map=PATHS, write_back=PATHS, serializer=serializer
    )
    id = source.new_id()

    async def held() -> Any:
        found = await source.find(id)
        assert isinstance(found, Found)
        return source.map(found.data)

    await source.begin(id, {"user": [7, "Ada"], "cart": [1, {}], "a": None}, {"sku": "tea"})
    assert await held() == {"user_id": 7, "name": "Ada", "sku": "tea"}
    assert await source.write(id, {"user_id": "8", "deep": [1], "sku": None})
    assert await held() == {"user_id": "8", "name": "Ada", "deep": [1]}
    assert await source.write(id, {"name": None, "deep": None})
    assert await held() == {"user_id": "8"}
    await source.begin(other := source.new_id(), {"user": "text"}, {})
    with pytest.raises(SessionEncodeError, match="its path isn't an array in PHP"):
        await source.write(other, {"user_id": 7})
    await source.close()
