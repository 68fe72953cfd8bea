"""Two requests whose changes fit one by one, and are too much together."""

from __future__ import annotations

import pytest

from redis_sessions import SessionEncodeError
from tests.unit.setting import Setting, count

HALF = "x" * 200


@pytest.mark.parametrize("how", ["change", "rotate", "authenticated"])
async def test_a_merge_keeps_to_max_size(how: str) -> None:
    """The later one is refused, and what the earlier one stored stays as it is."""
    at = Setting(max_size=300)
    token = await at.begin({"user_id": "alice"})
    one, other = await at.load(token), await at.load(token)
    one["a"] = HALF
    await at.commit(one)
    other["b"] = HALF
    if how != "change":
        getattr(other, how)()
    with pytest.raises(SessionEncodeError, match="max_size=300"):
        await at.commit(other)
    assert await at.data(token) == {"user_id": "alice", "a": HALF}


async def test_update_keeps_to_max_size() -> None:
    """The function's result is measured with what another request stored meanwhile."""
    at = Setting(max_size=300)
    token = await at.begin({"a": ""})
    session, other = await at.load(token), await at.load(token)
    other["a"] = HALF
    await at.commit(other)
    with pytest.raises(SessionEncodeError, match="max_size=300"):
        await at.manager.update(session, lambda data: data.update(b=HALF))
    assert await at.data(token) == {"a": HALF}
    assert await at.manager.update(session, count) == 1
