"""An application that puts something else into the scope in the place of its session."""

from __future__ import annotations

from enum import Enum
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from redis_sessions import SessionError
from tests.unit.edge.edge import BODY, Edge, start


class Theirs(dict[str, Any]):
    """A session of another library's."""


class Empty(Enum):
    """What Litestar writes there to clear a session is such a member."""

    EMPTY = 0


def replacing(value: object, *, when: str = "before", mounted: bool = False) -> Any:
    """An application that writes it there, before its response or after its start."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if mounted:
            scope["app_root_path"] = ""  # as a Starlette Mount does
        if when == "before":
            scope["session"] = value
        await send(start())
        if when == "held":
            scope["session"] = value
        await send(BODY)
        if when == "after":
            scope["session"] = value

    return app


@pytest.mark.parametrize("value", [None, Empty.EMPTY], ids=["None", "member"])
@pytest.mark.parametrize("when", ["before", "held"])
async def test_nothing_in_its_place(at: Edge, value: object, when: str) -> None:
    """That means that the session is to end."""
    token = await at.begin({"x": 1})
    await at.serve(replacing(value, when=when), token)
    assert at.token == "null"
    assert await at.data(token) == {}


async def test_nothing_in_its_place_later(at: Edge) -> None:
    """It ends, though the browser can't be told any more."""
    token = await at.begin({"x": 1})
    await at.serve(replacing(None, when="after"), token)
    assert at.token is None
    assert await at.data(token) == {}


@pytest.mark.parametrize("value", [{"x": 2}, {}, [1], "x"], ids=repr)
@pytest.mark.parametrize("when", ["before", "held", "after"])
async def test_what_nobody_would_store(at: Edge, value: object, when: str) -> None:
    """An error says what to write instead, rather than that it is lost."""
    token = await at.begin({"x": 1})
    with pytest.raises(SessionError, match=r"session\.clear\(\) and session\.update"):
        await at.serve(replacing(value, when=when), token)
    assert at.types == (["start", "body"] if when == "after" else [])
    assert await at.data(token) == {"x": 1}


@pytest.mark.parametrize("when", ["before", "held", "after"])
async def test_another_librarys_session(at: Edge, when: str) -> None:
    """Its own middleware stores it; what this one holds stays as it is."""
    token = await at.begin({"x": 1})
    await at.serve(replacing(Theirs(y=1), when=when), token)
    assert (at.status, at.token) == (200, None)
    assert await at.data(token) == {"x": 1}


async def test_a_mounted_application(at: Edge, caplog: pytest.LogCaptureFixture) -> None:
    """A dict there may be that of its own middleware: it is left alone, and told once."""
    token = await at.begin({"x": 1})
    for _ in range(2):
        await at.serve(replacing({"y": 1}, mounted=True), token)
        assert (at.status, at.token) == (200, None)
    assert await at.data(token) == {"x": 1}
    assert caplog.text.count("was replaced by a value of type dict") == 1
