"""The placeholder that stands where no session is loaded."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import pprint
import string
from collections import ChainMap, Counter, OrderedDict, UserDict
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import msgspec
import pydantic
import pytest
from fastapi.encoders import jsonable_encoder
from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from redis_sessions import (
    Keyring,
    MemoryStore,
    Session,
    SessionError,
    SessionManager,
    SessionMiddleware,
    StoreUnavailableError,
    generate_key,
    get_session,
)
from redis_sessions.lifecycle.loading import unloaded
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.session.placeholder import Unloaded
from redis_sessions.session.session import services_of
from tests.support.asgi import COOKIE, ask
from tests.unit.setting import WHY, stored


def placeholder(manager: SessionManager) -> Session:
    session = unloaded(backend_of(manager), [], SessionError(WHY))
    assert isinstance(session, Unloaded)
    return session


def matched(session: Any) -> object:
    match session:
        case {"user_id": _}:
            return True
        case _:
            return False


def unpacked(session: Any) -> Any:
    def function(**options: object) -> object:
        return options

    return function(**session)


WAYS: dict[str, Callable[[Any], Any]] = {
    "dict()": dict,
    "{**s}": lambda s: {**s},
    "f(**s)": unpacked,
    "dict.update": {}.update,
    "list()": list,
    "[*s]": lambda s: [*s],
    "tuple()": tuple,
    "set()": set,
    "sorted()": sorted,
    "iter()": iter,
    "for": lambda s: [key for key in s],  # noqa: C416
    "reversed()": reversed,
    "len()": len,
    "bool()": bool,
    "not": lambda s: not s,
    "any()": any,
    "in": lambda s: "user_id" in s,
    "[]": lambda s: s["user_id"],
    "[] =": lambda s: s.__setitem__("a", 1),
    "del": lambda s: s.__delitem__("a"),
    "get": lambda s: s.get("user_id"),
    "|": lambda s: s | {},
    "reversed |": lambda s: {} | s,
    "|=": lambda s: s.__ior__({}),
    "OrderedDict |": lambda s: OrderedDict() | s,
    "==": lambda s: s == {},
    "reversed ==": lambda s: {} == s,  # noqa: SIM300
    "!=": lambda s: s != {},
    "reversed !=": lambda s: {} != s,  # noqa: SIM300
    "match": matched,
    "copy()": copy.copy,
    "deepcopy()": copy.deepcopy,
    "deepcopy() of a container": lambda s: copy.deepcopy([s]),
    "s.copy()": lambda s: s.copy(),
    "pickle": pickle.dumps,
    "pickle, the oldest protocol": lambda s: pickle.dumps(s, 0),
    "json.dumps": json.dumps,
    "json.dumps, indented": lambda s: json.dumps(s, indent=1),
    "json.dumps, nested": lambda s: json.dumps({"session": s}),
    "json.dumps, in Python": lambda s: "".join(json.JSONEncoder(indent=1).iterencode(s)),
    "JSONResponse": JSONResponse,
    "msgspec.json": msgspec.json.encode,
    "msgspec.msgpack": msgspec.msgpack.encode,
    "msgspec.to_builtins": msgspec.to_builtins,
    "msgspec, nested": lambda s: msgspec.json.encode([s]),
    "msgspec.convert": lambda s: msgspec.convert(s, dict[str, int]),
    "pydantic": lambda s: pydantic.TypeAdapter(dict[str, int]).validate_python(s),
    "pydantic's to_json": to_json,
    "pydantic's dump": pydantic.TypeAdapter(dict[str, Any]).dump_json,
    "jsonable_encoder": jsonable_encoder,
    "ChainMap": lambda s: dict(ChainMap(s)),
    "Counter": Counter,
    "OrderedDict": OrderedDict,
    "UserDict": UserDict,
    "MappingProxyType": lambda s: list(MappingProxyType[str, Any](s)),
    "dict.fromkeys": dict.fromkeys,
    "%": lambda s: "%(user_id)s" % s,  # noqa: UP031
    "format_map": "{user_id}".format_map,
    "Template": lambda s: string.Template("$user_id").substitute(s),
    "pprint": pprint.pformat,
    "id": lambda s: s.id,
    "is_new": lambda s: s.is_new,
    "created_at": lambda s: s.created_at,
    "expires_at": lambda s: s.expires_at,
    "idle_expires_at": lambda s: s.idle_expires_at,
    "authenticated_at": lambda s: s.authenticated_at,
    "principal": lambda s: s.principal,
    "getattr with a default": lambda s: getattr(s, "principal", None),
    "hasattr": lambda s: hasattr(s, "is_new"),
}


@pytest.mark.parametrize("read", WAYS.values(), ids=WAYS)
def test_a_placeholder_never_reads_as_empty(
    read: Callable[[Any], Any], manager: SessionManager
) -> None:
    """Whoever reads it past its methods meets an entry that nothing can encode."""
    if read is pprint.pformat:
        assert read(placeholder(manager)) == f"<Session not loaded: {WHY}>"
        return
    with pytest.raises(Exception, match=r".") as caught:
        read(placeholder(manager))

    # Encoders written in C don't call methods: what stops them is the entry, whose name says why.
    assert any(told in str(caught.value) for told in (WHY, "_NotLoaded", "Expected `int`"))


HARMLESS = {
    # what any object has, and what tells nothing of the data
    *("__class__", "__class_getitem__", "__delattr__", "__dir__", "__format__"),
    *("__getattribute__", "__init__", "__init_subclass__", "__new__"),
    *("__repr__", "__setattr__", "__sizeof__", "__str__", "__subclasshook__"),
    *("__rich_repr__", "__sentry_repr__", "refresh", "untouched"),
}


def methods(kind: type[Any]) -> set[str]:
    """The names of all methods and properties, those of its bases as well."""
    return {
        name
        for name in dir(kind)
        if name.startswith("__") or not name.startswith("_")
        if callable(found := getattr(kind, name)) or isinstance(found, property)
    }


@pytest.mark.parametrize("name", sorted(methods(Session) - HARMLESS))
def test_every_method_of_a_placeholder_raises(name: str, manager: SessionManager) -> None:
    """Each of dict's and each of our own says why, but `refresh()` and `untouched()`."""
    session = placeholder(manager)

    with pytest.raises(SessionError, match=WHY):
        asyncio.run(found) if asyncio.iscoroutine(found := getattr(session, name)()) else None


@pytest.mark.parametrize("why", [SessionError(WHY), StoreUnavailableError(WHY, reason="timeout")])
async def test_each_access_raises_an_error_of_its_own(
    why: SessionError, manager: SessionManager
) -> None:
    """Outside of a request, too: no traceback grows with each access, and none causes itself."""
    why.__cause__ = cause = OSError("refused")
    session = unloaded(backend_of(manager), [], why)
    seen: list[BaseException] = [why]
    for _ in range(3):
        with pytest.raises(type(why), match=WHY) as caught:
            session.get("user_id")
        assert all(caught.value is not each for each in seen)
        assert vars(caught.value).items() >= vars(why).items()
        assert caught.value.__cause__ is cause
        seen.append(caught.value)
    with pytest.raises(type(why), match=WHY) as caught:
        await services_of(session).save(session)
    assert caught.value not in seen
    assert why.__traceback__ is None


async def test_an_update_s_error_does_not_cause_itself(manager: SessionManager) -> None:
    """Outside of a request it is the error itself that is raised."""
    session = await manager.load(await stored(manager, n=1))

    def sign_in(data: dict[str, Any]) -> None:
        data["user_id"] = "ann"

    with pytest.raises(SessionError, match="can't sign in") as caught:
        await manager.update(session, sign_in)
    assert caught.value.__cause__ is None


def test_its_repr_shows_why(manager: SessionManager) -> None:
    """repr, str and format don't raise, since logs and debuggers call them, and hold no data."""
    session = placeholder(manager)

    for shown in (repr(session), str(session), f"{session}", repr([session])):
        assert WHY in shown
        assert "{}" not in shown
    with pytest.raises(TypeError, match="unhashable"):
        hash(session)


async def test_refresh_loads_it(manager: SessionManager) -> None:
    """In place: who holds the placeholder holds the session afterwards."""
    token = await stored(manager, user_id="ann", n=1)
    session = unloaded(backend_of(manager), [token], SessionError(WHY))
    held: Any = session

    await session.refresh()

    assert type(held) is Session
    assert dict(held) == json.loads(json.dumps(held)) == {"user_id": "ann", "n": 1}
    assert held.principal == "ann"
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(held)) == {"user_id": "ann", "n": 1}
    held["n"] = 2
    await manager.commit(held)
    assert (await manager.load(token))["n"] == 2


async def test_a_placeholder_commits_nothing(manager: SessionManager) -> None:
    """A request that never touched it stores nothing; `save` of it is an error."""
    token = await stored(manager, n=1)
    session = unloaded(backend_of(manager), [token], SessionError(WHY))

    answer = await manager.commit(session)

    assert (answer.token, answer.expire) == (None, False)
    with pytest.raises(SessionError, match=WHY):
        await services_of(session).save(session)
    assert await manager.load(token) == {"n": 1}


def serve(manager: SessionManager, handler: Callable[[Request], Any], **options: Any) -> Starlette:
    async def endpoint(request: Request) -> Response:
        result = handler(request)
        return JSONResponse(await result if asyncio.iscoroutine(result) else result)

    return Starlette(
        routes=[Route("/", endpoint)],
        middleware=[Middleware(SessionMiddleware, manager=manager, **options)],
    )


LAZY: dict[str, Callable[[Request], Any]] = {
    "request.session": lambda request: request.session,
    "a copy": lambda request: dict(request.session),
    "get": lambda request: request.session.get("n"),
    "the scope's": lambda request: request.scope["session"],
    "a copy of the scope's": lambda request: {**request.scope["session"]},
    "get_session": lambda request: get_session(request).get("n"),
    "a property": lambda request: get_session(request).is_new,
}


@pytest.mark.parametrize("read", LAZY.values(), ids=LAZY)
async def test_a_lazy_session_is_no_empty_one(
    read: Callable[[Request], Any], manager: SessionManager
) -> None:
    """Behind the middleware, too: a handler that forgot to load it gets an error, not `{}`."""
    token = await stored(manager, n=1)

    reply = await ask(serve(manager, read, lazy=True), [(b"cookie", f"{COOKIE}={token}".encode())])

    assert reply.status == 500
    assert isinstance(reply.error, SessionError)
    assert "SessionDep" in str(reply.error)


async def test_a_lazy_session_loads_when_asked(manager: SessionManager) -> None:
    """`await get_session(request).refresh()` makes `request.session` the session."""
    token = await stored(manager, n=1)

    async def handler(request: Request) -> Any:
        await get_session(request).refresh()
        return request.session

    reply = await ask(
        serve(manager, handler, lazy=True), [(b"cookie", f"{COOKIE}={token}".encode())]
    )

    assert (reply.status, json.loads(reply.body)) == (200, {"n": 1})


class Away(MemoryStore):
    """A store that can't be asked."""

    async def load(self, id: str) -> bytes | None:
        raise StoreUnavailableError("it is away")


async def test_an_unavailable_session_is_no_empty_one() -> None:
    """Whoever touches it while the store is away gets 503; who doesn't is served."""
    manager = SessionManager(Away(), Keyring(generate_key()))
    headers = [(b"cookie", f"{COOKIE}={'A' * 64}".encode())]

    touched = await ask(serve(manager, lambda request: request.session), headers)
    untouched = await ask(serve(manager, lambda request: "ok"), headers)

    assert touched.status == 503
    assert (b"retry-after", b"1") in touched.headers
    assert touched.cookies == untouched.cookies == []
    assert untouched.status == 200
