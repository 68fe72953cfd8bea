"""A session is a dict to whatever serialises it, C code included; unloaded, it refuses."""

from __future__ import annotations

import copy
import importlib
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from jinja2 import Environment
from pydantic import TypeAdapter
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.testclient import TestClient

from redis_sessions import Session, SessionError, SessionMiddleware, get_session
from redis_sessions.fastapi import SessionDep
from tests.interop.serving import HTTPS, Options

DATA: dict[str, Any] = {
    "user_id": "ann",
    "name": "Höfn </script> 🧂",
    "count": 3,
    "big": 2**53 + 1,
    "ratio": 0.1,
    "on": True,
    "nothing": None,
    "empty": {},
    "cart": [{"sku": "a-1", "options": {"sizes": [1, 2, [3]]}}, []],
}

Copy = Callable[[dict[str, Any]], Any]


def with_jinja(session: dict[str, Any]) -> Any:
    text = Environment(autoescape=True).from_string("{{ session|tojson }}").render(session=session)
    assert "</script>" not in text
    return json.loads(text)


def with_union(session: dict[str, Any]) -> dict[str, Any]:
    return session | dict[str, Any]()


def with_orjson(session: dict[str, Any]) -> Any:
    codec: Any = importlib.import_module("orjson")
    return codec.loads(codec.dumps(session))


def with_msgspec(session: dict[str, Any]) -> Any:
    codec: Any = importlib.import_module("msgspec.json")
    return codec.decode(codec.encode(session))


def with_pydantic(session: dict[str, Any]) -> Any:
    return json.loads(TypeAdapter(dict[str, Any]).dump_json(session))


def with_pickle(session: dict[str, Any]) -> Any:
    return pickle.loads(pickle.dumps(session))  # noqa: S301  # our own, a line before


COPIES: dict[str, Copy] = {
    "dict": dict,
    "items": lambda session: dict(session.items()),
    "spread": lambda session: {**session},
    "union": with_union,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "json.dumps": lambda session: json.loads(json.dumps(session)),
    "json.dumps, indented": lambda session: json.loads(json.dumps(session, indent=2)),
    "jinja2": with_jinja,
    "orjson": with_orjson,
    "msgspec": with_msgspec,
    "pydantic": with_pydantic,
    "pickle": with_pickle,
}
EACH_COPY = pytest.mark.parametrize(
    "copy_of",
    [pytest.param(copy_of, id=name) for name, copy_of in COPIES.items()],
)


class Probe:
    """An application that lets a test at its session: `run` is what the next request does."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.app = FastAPI()
        self.app.add_middleware(SessionMiddleware, **options)
        self.run: Callable[[HTTPConnection], Any] = lambda connection: None

        @self.app.get("/fill")
        async def fill(request: Request) -> None:
            request.session.update(copy.deepcopy(DATA))

        @self.app.get("/run")
        async def run(request: Request) -> None:
            self.run(request)

        @self.app.get("/json-response")
        async def json_response(request: Request) -> JSONResponse:
            return JSONResponse(request.session)

        @self.app.get("/returned")
        async def returned(request: Request) -> dict[str, Any]:
            return request.session

        @self.app.get("/dependency")
        async def dependency(session: SessionDep) -> Any:
            return session

        @self.app.get("/refreshed")
        async def refreshed(request: Request) -> JSONResponse:
            session = get_session(request)
            await session.refresh()
            return JSONResponse(session)

    def browser(self) -> TestClient:
        return TestClient(self.app, base_url=HTTPS.url)


@EACH_COPY
def test_equals_the_data(options: Options, copy_of: Copy) -> None:
    """A loaded session comes out of each serialiser and copy as its data, and as no Session."""
    probe = Probe(options())
    found = list[Any]()
    probe.run = lambda connection: found.append(copy_of(connection.session))
    with probe.browser() as client:
        client.get("/fill")
        client.get("/run")
    assert found == [DATA]
    assert not isinstance(found[0], Session)


@pytest.mark.parametrize("path", ["/json-response", "/returned", "/dependency"])
def test_as_a_response(options: Options, path: str) -> None:
    """Starlette's JSONResponse and what FastAPI makes of a returned session are its data."""
    with Probe(options()).browser() as client:
        assert client.get(path).json() == {}
        client.get("/fill")
        response = client.get(path)
        assert response.json() == DATA
        assert "cookie" in response.headers["vary"].lower()


def test_copies_are_apart(options: Options) -> None:
    """Changing a deep copy changes no session."""
    probe = Probe(options())

    def change(connection: HTTPConnection) -> None:
        copied = copy.deepcopy(connection.session)
        copied["cart"].clear()
        copied.clear()

    probe.run = change
    with probe.browser() as client:
        client.get("/fill")
        client.get("/run")
        assert client.get("/json-response").json() == DATA


@EACH_COPY
def test_unloaded_is_never_empty(options: Options, copy_of: Copy) -> None:
    """With lazy=True, a session that isn't loaded raises in each of them, or can't be encoded."""
    probe = Probe(options(lazy=True))
    found = list[Any]()

    def attempt(connection: HTTPConnection) -> None:
        try:
            found.append(copy_of(connection.scope["session"]))
        except (SessionError, TypeError, ValueError) as exc:
            found.append(exc)

    probe.run = attempt
    with probe.browser() as client:
        client.get("/dependency")
        client.cookies.set(HTTPS.cookie, "A" * 64, domain="testserver.local", path="/")
        client.get("/run")
    assert [type(what) for what in found if isinstance(what, Exception)], found


def test_refreshed_is_loaded(options: Options) -> None:
    """After `await session.refresh()` a lazy session serialises like any other."""
    with Probe(options()).browser() as client:
        client.get("/fill")
        cookies = client.cookies
        with Probe(options(lazy=True)).browser() as lazy:
            lazy.cookies = cookies
            assert lazy.get("/refreshed").json() == DATA
            assert lazy.get("/dependency").json() == DATA
