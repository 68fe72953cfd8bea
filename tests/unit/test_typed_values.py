"""Typed values: get_as() restores their types, and reading one is no change."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from decimal import Decimal
from typing import Any
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest

from redis_sessions import Keyring, MemoryStore, Session, SessionManager
from redis_sessions.session.outcome import Outcome
from tests.unit.application_types import Color, Point


class Line(msgspec.Struct, rename="camel"):
    unit_price: int
    how_many: int = 1


class StructCart(msgspec.Struct, rename="camel"):
    order_name: str
    lines: list[Line] = msgspec.field(default_factory=list[Line])
    note: str = "none"


@dataclass
class Owner:
    name: str
    age: int = 7


@dataclass
class DataclassCart:
    order_name: str
    lines: list[Owner] = dataclass_field(default_factory=list[Owner])
    note: str = "none"


@attrs.define
class AttrsCart:
    order_name: str
    lines: list[Owner] = attrs.field(factory=list[Owner])
    note: str = "none"


class ModelLine(pydantic.BaseModel):
    unit_price: int = pydantic.Field(alias="unitPrice")
    how_many: int = 1


class ModelCart(pydantic.BaseModel):
    order_name: str = pydantic.Field(alias="orderName")
    lines: list[ModelLine] = []
    note: str = "none"
    at: dt.datetime | None = None


TYPED: list[Any] = [
    pytest.param(
        StructCart, {"orderName": "a", "lines": [{"unitPrice": 3}]}, "orderName", id="struct"
    ),
    pytest.param(
        DataclassCart, {"order_name": "a", "lines": [{"name": "b"}]}, "order_name", id="dataclass"
    ),
    pytest.param(
        AttrsCart, {"order_name": "a", "lines": [{"name": "b"}]}, "order_name", id="attrs"
    ),
    pytest.param(
        ModelCart,
        {"order_name": "a", "lines": [{"unit_price": 3}], "at": "2026-01-01T00:00:00Z"},
        "order_name",
        id="pydantic",
    ),
]


class Loaded:
    """A stored session, loaded again and again."""

    def __init__(self, **options: Any) -> None:
        self.manager = SessionManager(
            MemoryStore(), Keyring("a secret key for the tests, long enough"), **options
        )
        self._token: str | None = None

    async def load(self) -> Session:
        return await self.manager.load(self._token)

    async def store(self, session: Session) -> Outcome:
        answer = await self.manager.commit(session)
        if answer.token is not None:
            self._token = answer.token.value
        return answer.outcome

    async def with_data(self, data: dict[str, Any]) -> Session:
        session = await self.load()
        session.update(data)
        await self.store(session)
        return await self.load()


@pytest.mark.parametrize(("kind", "stored", "name"), TYPED)
@pytest.mark.parametrize("dropped", [{}, {"gone": [1, 2]}], ids=["defaults", "dropped fields"])
async def test_reading_a_typed_value_is_no_change(
    kind: type[Any], stored: dict[str, Any], name: str, dropped: dict[str, Any]
) -> None:
    """Although converting adds defaults, drops fields, and may write them in another order."""
    session = await (kept := Loaded()).with_data({"cart": {**stored, **dropped}, "n": 1})

    cart = session.get_as("cart", kind)

    assert cart is not None
    assert type(cart) is kind
    assert (cart.order_name, cart.note, len(cart.lines)) == ("a", "none", 1)
    assert session["cart"] is cart
    assert session.get_as("cart", kind) is cart
    assert await kept.store(session) is Outcome.NOTHING


@pytest.mark.parametrize(("kind", "stored", "name"), TYPED)
async def test_changing_a_typed_value_is_a_change(
    kind: type[Any], stored: dict[str, Any], name: str
) -> None:
    """A field set after reading is stored; so is one inside of a nested value."""
    session = await (kept := Loaded()).with_data({"cart": stored})
    cart = session.get_as("cart", kind)
    assert cart is not None

    cart.order_name = "b"
    assert await kept.store(session) is Outcome.CHANGE
    assert (await kept.load())["cart"][name] == "b"

    session = await kept.load()
    again = session.get_as("cart", kind)
    assert again is not None
    again.lines.append(again.lines[0])
    assert await kept.store(session) is Outcome.CHANGE
    assert len((await kept.load())["cart"]["lines"]) == 2


@pytest.mark.parametrize(("kind", "stored", "name"), TYPED)
async def test_a_change_before_reading_stays_one(
    kind: type[Any], stored: dict[str, Any], name: str
) -> None:
    """A value that had been changed when it was converted is stored."""
    session = await (kept := Loaded()).with_data({"cart": stored})
    session["cart"][name] = "b"

    cart = session.get_as("cart", kind)

    assert cart is not None
    assert cart.order_name == "b"
    assert await kept.store(session) is Outcome.CHANGE
    assert (await kept.load())["cart"][name] == "b"


@pytest.mark.parametrize(("kind", "stored", "name"), TYPED)
async def test_a_typed_value_comes_back(kind: type[Any], stored: dict[str, Any], name: str) -> None:
    """An object that was put into a session is equal to what `get_as` gives later."""
    first = await (kept := Loaded()).with_data({"cart": stored})
    made = first.get_as("cart", kind)

    session = await kept.with_data({"copy": made})

    assert session.get_as("copy", kind) == made
    assert await kept.store(session) is Outcome.NOTHING


@pytest.mark.parametrize(("kind", "stored", "name"), TYPED)
@pytest.mark.parametrize("wrong", [None, 1, "a", [], {}, {"lines": 1}], ids=repr)
async def test_a_value_of_a_wrong_shape(
    kind: type[Any], stored: dict[str, Any], name: str, wrong: object
) -> None:
    """It is a ValueError, and the value stays what it was."""
    session = await (kept := Loaded()).with_data({"cart": wrong, "n": 1})

    with pytest.raises(ValueError, match=r"."):
        session.get_as("cart", kind)

    assert session["cart"] == wrong
    assert await kept.store(session) is Outcome.NOTHING


async def test_the_error_names_the_key() -> None:
    """Where several values are read, it says which one doesn't fit, and what it should be."""
    session = await Loaded().with_data({"age": "hunter2"})
    with pytest.raises(ValueError, match=r"^session\['age'\], .* doesn't fit int\n"):
        session.get_as("age", int)


class Account(pydantic.BaseModel):
    password: str = pydantic.Field(max_length=3)


@pydantic.dataclasses.dataclass
class PydanticDataclass:
    password: int


class StructAccount(msgspec.Struct):
    password: int


@pytest.mark.parametrize("kind", [Account, PydanticDataclass, StructAccount])
async def test_the_error_of_a_wrong_shape_holds_no_data(kind: type[Any]) -> None:
    """Errors end in logs; what a session holds mustn't."""
    session = await Loaded().with_data({"a": {"password": "hunter2"}})

    with pytest.raises(ValueError, match=r"password|Input|Expected") as caught:
        session.get_as("a", kind)

    assert "hunter2" not in str(caught.value)


class Login(pydantic.BaseModel):
    name: str
    password: pydantic.SecretStr


async def test_a_secret_of_pydantics_is_kept() -> None:
    """A SecretStr is stored (sealed) in full, not as asterisks, and its change is one."""
    session = await (kept := Loaded()).with_data(
        {"login": Login(name="ann", password=pydantic.SecretStr("hunter2"))}
    )

    login = session.get_as("login", Login)

    assert login is not None
    assert login.password.get_secret_value() == "hunter2"
    assert await kept.store(session) is Outcome.NOTHING
    login.password = pydantic.SecretStr("correct horse")
    assert await kept.store(session) is Outcome.CHANGE
    again = (await kept.load()).get_as("login", Login)
    assert again is not None
    assert again.password.get_secret_value() == "correct horse"


@pytest.mark.parametrize(
    ("stored", "kind", "value"),
    [
        ("2026-01-02", dt.date, dt.date(2026, 1, 2)),
        ("1.50", Decimal, Decimal("1.50")),
        ("red", Color, Color.RED),
        (["a", "a"], set[str], {"a"}),
        ([1, 2], tuple[int, int], (1, 2)),
        ("00000000-0000-0000-0000-000000000001", UUID, UUID(int=1)),
        ([{"x": 1}], list[Point], [Point(1)]),
        ({"a": {"x": 1}}, dict[str, Point], {"a": Point(1)}),
        (3, int, 3),
    ],
    ids=str,
)
async def test_a_builtin_type_is_restored(stored: object, kind: type[Any], value: object) -> None:
    """What lost its type on the way gets it back, and that is no change."""
    session = await (kept := Loaded()).with_data({"a": stored, "n": 1})

    assert session.get_as("a", kind) == value
    assert session["a"] == value
    assert await kept.store(session) is Outcome.NOTHING


async def test_an_absent_key_has_the_default() -> None:
    """None, or what was given; nothing is put into the session."""
    session = await (kept := Loaded()).with_data({"n": 1})
    default = Point(5)

    assert session.get_as("cart", Point) is None
    assert session.get_as("cart", Point, default) is default
    assert "cart" not in session
    assert await kept.store(session) is Outcome.NOTHING


async def test_typed_values_of_a_new_session() -> None:
    """Nothing is stored yet: what was set and converted is a change."""
    kept = Loaded()
    session = await kept.load()
    session["cart"] = {"x": 1}

    assert session.get_as("cart", Point) == Point(1)
    assert await kept.store(session) is Outcome.CREATE
    assert (await kept.load()).get_as("cart", Point) == Point(1)


async def test_a_read_and_a_change_of_different_keys() -> None:
    """Only the changed key counts as one, so that merging keeps what others did to the read one."""
    session = await (kept := Loaded()).with_data({"cart": {"x": 1, "gone": 1}, "n": 1})
    other = await kept.load()
    other["cart"] = {"x": 2, "y": 2}
    await kept.store(other)

    session.get_as("cart", Point)
    session["n"] = 2

    assert await kept.store(session) is Outcome.CHANGE
    assert dict(await kept.load()) == {"cart": {"x": 2, "y": 2}, "n": 2}
