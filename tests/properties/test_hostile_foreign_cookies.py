"""Cookies of other libraries that are none: they read as no session, whoever has signed them."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from typing import Any, Final

from hypothesis import example, given
from hypothesis import strategies as st
from itsdangerous import TimestampSigner

from redis_sessions.accept import Found, RedisSdk, StarletteCookie, Starsessions
from tests.properties.strategies import examples
from tests.unit.accept.elsewhere import Place

KEY: Final = "the key of Starlette's own middleware"
COOKIE: Final = StarletteCookie(KEY)
SIGNER: Final = TimestampSigner(KEY)

plain: Final[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
"""What JSON may hold, also integers and texts that MessagePack can't."""


def as_payload(value: Any) -> bytes:
    return b64encode(json.dumps(value).encode())


def as_signed(payload: bytes, cut: int) -> str:
    return SIGNER.sign(payload).decode("latin-1")[: cut or None]


signed: Final = st.builds(
    as_signed,
    st.binary(max_size=60)
    | plain.map(as_payload)
    | st.sampled_from([b64encode(b"[" * 100_000), b64encode(b'{"a":' * 3000), b"9" * 5000]),
    st.just(0) | st.integers(-40, -1),
)


@examples
@given(value=st.text(max_size=200) | signed)
@example(value="")
@example(value="null")
@example(value=SIGNER.sign(b64encode(b'{"user_id": "\\ud800"}')).decode())
@example(value=SIGNER.sign(b64encode(b'{"user_id": ' + b"9" * 5000 + b"}")).decode())
@example(value=SIGNER.sign(b64encode(b'{"user_id": NaN}')).decode())
@example(value=f"a.{'z' * 20}.{SIGNER.get_signature(b'a.' + b'z' * 20).decode()}")
@example(value=f"a.{'_' * 6}.{SIGNER.get_signature(b'a.' + b'_' * 6).decode()}")
def test_any_cookie_is_a_session_or_none(value: str) -> None:
    """It is plain data, a reason, or nothing; and a request with it is answered."""

    async def find() -> None:
        found = await COOKIE.find(value)
        assert found is None or isinstance(found, (str, Found))
        if isinstance(found, Found):
            assert found.signed_for > 0
            assert type(found.data) is dict
        place = Place([COOKIE])
        cookie = f"session={value}".encode("latin-1", "replace").replace(b"\n", b" ")
        reply = (await place.visit(theirs=None, headers=[(b"cookie", cookie)])).checked()
        assert reply.status == 200
        assert not {"malformed token"} & {*place.reported("rejected")}

    asyncio.run(find())


@examples
@given(value=st.text(max_size=200))
@example(value="x" * 300)
@example(value="a" * 32 + "\n")
@example(value="٣" * 32)
def test_an_id_of_another_form_is_not_looked_up(value: str) -> None:
    """Nothing is asked of a Redis, where there is none."""

    async def find() -> None:
        for source in (Starsessions("redis://localhost:1"), RedisSdk("redis://localhost:1")):
            assert await source.find(f"!{value}") == "malformed"
            assert await source.find(f"{value}\n") == "malformed"

    asyncio.run(find())
