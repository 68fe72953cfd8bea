"""Whatever secret is tried, a near copy opens by its own token only."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from redis_sessions import SessionToken
from tests.unit.near_copies.near import Processes


@given(where=st.integers(20, 63), letter=st.sampled_from("AZaz09-_"))
async def test_no_other_secret_opens_a_copy(where: int, letter: str) -> None:
    """A token that differs in one letter of its secret is rejected, whatever was opened before."""
    at = Processes()
    token = await at.begin(n=1)
    await at.here.visit(token)
    other = token[:where] + letter + token[where + 1 :]
    assert SessionToken.parse(other) is not None
    result, loads = await at.here.asked(at.here.visit(other))
    assert (result, loads) == (({"n": 1}, 0) if other == token else ({}, 1))
