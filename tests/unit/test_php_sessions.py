"""`PhpSessions` without PHP: what its options may be, and which cookies name no session."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any, Final
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_sessions import ConfigurationError
from redis_sessions.php import PhpObject, PhpSessions
from redis_sessions.php.laravel import laravel_cookie

NOWHERE: Final = "redis://127.0.0.1:1"
"""Nobody listens there: whatever is asked of this Redis fails."""
KEY: Final = "base64:" + b64encode(bytes(range(32))).decode()
ID: Final = "a" * 40


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"prefix": "é"}, "prefix="),
        ({"serializer": "pickle"}, "serializer="),
        ({"compression": "gzip"}, "compression="),
        ({"write_back": "cart"}, "write_back="),
        ({"write_back": {"cart"}, "follow": False}, "write_back= needs follow=True"),
        ({"write_back": {"cart"}, "map": {"user_id": "user"}}, r"write_back=\['cart'\]"),
        ({"write_back": {"cart"}, "map": dict}, "write_back= needs map= as a dict"),
        ({"gc_maxlifetime": 0}, "gc_maxlifetime=0"),
        ({"app_key": "base64:AAAA"}, "app_key="),
        ({"app_key": "base64:?"}, "app_key="),
        ({"cookie": "a b"}, "cookie"),
        ({"map": 7}, "map=7"),
    ],
)
def test_options(options: dict[str, Any], says: str) -> None:
    """What can't work is a ConfigurationError that names the option."""
    with pytest.raises(ConfigurationError, match=says):
        PhpSessions(NOWHERE, **options)


@pytest.mark.parametrize(
    "value", ["", "a" * 21, "a" * 257, "../" + ID, ID + "\n", "*" * 32, "é" * 32, ID + "_LOCK"]
)
async def test_what_is_no_id_is_not_asked_for(value: str) -> None:
    """A cookie that PHP's ids can't be sends no command."""
    assert await PhpSessions(NOWHERE).find(value) == "malformed"


@given(st.text() | st.binary().map(lambda raw: b64encode(raw).decode()))
def test_whatever_laravel_s_cookie_is(value: str) -> None:
    """What isn't sealed by the application's key is no id, and raises nothing."""
    assert laravel_cookie(KEY, "laravel_session").open(value) is None


@pytest.mark.parametrize(
    "json", [b"[]", b"7", b'{"iv":1,"value":2,"mac":3}', b'{"iv":"","value":"","mac":""}', b"{"]
)
async def test_altered_cookies_of_laravel(json: bytes) -> None:
    """Nor does JSON of another form; and each byte of a cookie counts."""
    ours = laravel_cookie(KEY, "laravel_session")
    assert ours.open(b64encode(json).decode()) is None
    sealed = ours.seal(ID)
    assert ours.open(sealed) == ID
    assert laravel_cookie(KEY, "another").open(sealed) is None
    raw = b64decode(unquote(sealed))
    for at in range(raw.index(b'"value"') + 10, len(raw) - 14):
        altered = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        assert ours.open(quote(b64encode(altered).decode())) is None
    source = PhpSessions(NOWHERE, app_key=KEY, cookie="laravel_session")
    assert await source.find(ID) == "bad signature"


def test_paths_into_lists() -> None:
    """An array with the keys 0, 1, 2 … is a list, and the path has its number."""
    paths = {"user_id": "user.0", "no": "user.9", "none": "user.x", "item": "cart.1.sku"}
    data = {"user": [7, "Ada"], "cart": [{"sku": "tea"}, {"sku": "milk"}]}
    assert PhpSessions(NOWHERE, map=paths).map(data) == {"user_id": 7, "item": "milk"}


def test_only_plain_data() -> None:
    """Keys that have an object anywhere in them stay there, but a callable may take them."""
    item = PhpObject("Item", {"name": "tea"})
    data: dict[Any, Any] = {"a": [1, {"b": "c"}], "item": item, "list": [{"x": [item]}], b"\xff": 1}
    assert PhpSessions(NOWHERE).map(data) == {"a": [1, {"b": "c"}]}
    paths = {"a": "a", "item": "item", "seen": "list", "name": "item.name"}
    assert PhpSessions(NOWHERE, map=paths).map(data) == {"a": data["a"]}
    named = PhpSessions(NOWHERE, map=lambda data: {"name": data["item"].get("name")})
    assert named.map(data) == {"name": "tea"}
