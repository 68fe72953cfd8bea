"""Who is signed in: where it is found, and its one canonical form."""

from __future__ import annotations

import datetime as dt
import enum
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest

from redis_sessions import ConfigurationError
from redis_sessions.session import values
from redis_sessions.session.principal import Principal
from redis_sessions.session.values import Values

ID = UUID("12345678-1234-5678-1234-567812345678")
PACK = Values(max_size=1000).encode


class Number(enum.IntEnum):
    ONE = 1


class Name(enum.StrEnum):
    ANN = "ann"


@dataclass
class User:
    sub: Any
    name: str = "Ann"


class Account(msgspec.Struct):
    user: User | None


def by_callable(data: Any) -> Any:
    return data["user_id"]


@pytest.mark.parametrize("option", ["user_id", "user.sub", by_callable])
def test_an_empty_text_names_nobody(option: Any) -> None:
    """The error says what to write, in one sentence."""
    principal = Principal(option)
    with pytest.raises(ConfigurationError, match=r"is an empty str, .*, or remove") as caught:
        principal.find({"user_id": "", "user": {"sub": ""}})
    assert ". " not in str(caught.value)
    with pytest.raises(ConfigurationError, match="is an empty str"):
        principal.canonical("")


@pytest.mark.parametrize(
    ("value", "principal"),
    [
        (1, "1"),
        ("1", "1"),
        (0, "0"),
        (-1, "-1"),
        (2**63, str(2**63)),
        ("ann", "ann"),
        (ID, str(ID)),
        (str(ID), str(ID)),
        (Number.ONE, "1"),
        (Name.ANN, "ann"),
        (None, None),
    ],
    ids=repr,
)
def test_its_canonical_form(value: object, principal: str | None) -> None:
    """int, str and UUID are a str, `0` is somebody, None is nobody; so it is after loading."""
    found = Principal("user_id").find({"user_id": value})

    assert found == principal
    assert found is None or type(found) is str
    codec = Values(max_size=1000)
    loaded = values.decode(codec.encode({"user_id": value}))
    assert Principal("user_id").find(loaded) == principal


def test_an_absent_key_is_nobody() -> None:
    """So is an empty session."""
    assert Principal("user_id").find({}) is None
    assert Principal("user_id").find({"user": 1}) is None


@pytest.mark.parametrize("value", [{"sub": 1}, {}, [1], [], (1,), True, False], ids=repr)
def test_a_container_or_flag_names_the_dotted_path(value: object) -> None:
    """What can't be compared for life is refused, with what to write instead, and not its data."""
    with pytest.raises(ConfigurationError) as caught:
        Principal("user").find({"user": value})

    assert 'principal="user.sub"' in str(caught.value)
    assert "principal='user'" in str(caught.value)
    assert type(value).__name__ in str(caught.value)


@pytest.mark.parametrize(
    "value", [1.0, 1.5, b"ann", Decimal(1), dt.date(2026, 1, 1), User(1), {1}, 1j], ids=repr
)
def test_another_type_needs_a_callable(value: object) -> None:
    """A float, bytes or an object has no one form; the error names the type and a callable."""
    with pytest.raises(ConfigurationError, match=r"callable|user\.sub") as caught:
        Principal("user_id").find({"user_id": value})

    assert type(value).__name__ in str(caught.value)
    assert "Ann" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "principal"),
    [
        ({"account": {"user": {"sub": "ann"}}}, "ann"),
        ({"account": {"user": {"sub": 0}}}, "0"),
        ({"account": {"user": User(7)}, 5: 1}, "7"),
        ({"account": Account(User("ann"))}, "ann"),
        ({"account": Account(None)}, None),
        ({"account": {"user": None}}, None),
        ({"account": {"user": {}}}, None),
        ({"account": {}}, None),
        ({"account": None}, None),
        ({}, None),
    ],
    ids=repr,
)
def test_a_dotted_path(data: dict[str, Any], principal: str | None) -> None:
    """Through dicts, and typed objects as they are stored; nobody where a step is missing."""
    assert Principal("account.user.sub").of(PACK(data)) == principal


@pytest.mark.parametrize("value", ["ann", 5, [1], 1.5], ids=repr)
def test_a_dotted_path_ends_at_plain_values(value: object) -> None:
    """Methods and attributes of built-in types (`str.title`, `list.count`) are nobody."""
    for step in ("title", "count", "real", "sub"):
        assert Principal(f"user.{step}").find({"user": value}) is None


def test_a_callable() -> None:
    """It gets the data, and its answer takes the same form."""
    by_both = Principal(lambda data: data.get("tenant") and f"{data['tenant']}/{data['id']}")

    assert by_both.find({"tenant": "a", "id": 1}) == "a/1"
    assert by_both.find({}) is None
    assert Principal(lambda data: 5).find({}) == "5"
    assert Principal(lambda data: ID).find({}) == str(ID)
    with pytest.raises(ConfigurationError, match="is a float"):
        Principal(lambda data: 1.5).find({})


def test_which_keys_say_who_it_is() -> None:
    """The path's first; of a callable any that changed may."""
    assert Principal("user_id").keys(["a"]) == {"user_id"}
    assert Principal("user.sub").keys(["a"]) == {"user"}
    assert Principal(lambda data: None).keys(["a", "b"]) == {"a", "b"}


@pytest.mark.parametrize("option", ["", ".", "a.", ".a", "a..b"], ids=repr)
def test_a_bad_path_is_refused(option: str) -> None:
    """At construction, with what to write instead."""
    with pytest.raises(ConfigurationError, match=r"write a key, a dotted path .* or a callable"):
        Principal(option)


@pytest.mark.parametrize("option", [None, 5, b"user_id", ["user_id"]], ids=repr)
def test_an_option_of_another_type_is_refused(option: Any) -> None:
    """At construction rather than at the first request."""
    with pytest.raises(ConfigurationError, match=r"write a key, a dotted path .* or a callable"):
        Principal(option)
