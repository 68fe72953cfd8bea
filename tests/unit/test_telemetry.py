"""Metrics, the request's span and spans of our own, as OpenTelemetry's SDK gets them."""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
import weakref
from typing import Annotated, Any

import pytest
from fastapi import Body, FastAPI
from fastapi.testclient import TestClient
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.metrics import NoOpMeter, NoOpMeterProvider
from opentelemetry.sdk.trace import Span, SpanProcessor

from redis_sessions import (
    Keyring,
    MemoryStore,
    Session,
    SessionManager,
    SessionMiddleware,
    StoreUnavailableError,
    generate_key,
    telemetry,
)
from redis_sessions.fastapi import SessionDep
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.telemetry import hashed_id, instrument
from tests.support.near import soon
from tests.support.telemetry import Measured
from tests.unit.setting import ALICE, DUE, Setting

EVENT = ("redis_sessions.event", "redis_sessions.reason")
LOAD = ("redis_sessions.source", "redis_sessions.result")


@pytest.fixture
def measured() -> Measured:
    return Measured()


@pytest.fixture
def at(measured: Measured) -> Setting:
    at = Setting()
    instrument(at.manager, meter_provider=measured.meter_provider)
    return at


async def test_what_becomes_of_requests_is_counted(at: Setting, measured: Measured) -> None:
    """Loads count by what they found, commits by their outcome, and events by their reason."""
    token = await at.begin(ALICE)
    await at.request(len, token)
    await at.request(lambda session: session.update(a=1), token)
    at.clock.advance(DUE)
    await at.request(len, token)
    await at.request(len, "f" * 64)
    await at.request(len, "no token")
    await at.request(len)  # it asks for no session
    at.store.away = True
    await at.request(lambda session: None, token)

    assert measured.values("redis_sessions.loads", *LOAD) == {
        ("store", "found"): 3,
        ("store", "none"): 2,
        ("store", "unavailable"): 1,
    }
    assert measured.values("redis_sessions.commits", "redis_sessions.outcome") == {
        ("gain",): 1,
        ("change",): 1,
        ("touch",): 1,
    }
    assert measured.values("redis_sessions.events", *EVENT) == {
        ("created", "gain"): 1,
        ("signed_in", "gain"): 1,
        ("touched", "None"): 1,
        ("rejected", "unknown id"): 1,
        ("rejected", "malformed token"): 1,
        ("unavailable", "server"): 1,
    }


async def test_conflicts_are_counted(at: Setting, measured: Measured) -> None:
    """A write that came second is a conflict, whether it could be merged or not."""
    token = await at.begin(ALICE)

    async def crossed(session: Session) -> None:
        await at.put(token, {"theirs": 1})
        session["mine"] = 2

    await at.request(crossed, token)
    session = await at.load(token)
    await at.put(token, {"more": 1})
    await at.manager.update(session, lambda data: data.update(n=1))

    assert measured.values("redis_sessions.conflicts") == {(): 2}
    assert measured.values("redis_sessions.events", *EVENT)["merged", "None"] == 1
    assert measured.values("redis_sessions.commits", "redis_sessions.outcome")["change",] == 4


async def test_watched_connections_are_counted(at: Setting, measured: Measured) -> None:
    """What watches its session counts until it stops."""
    token = await at.begin(ALICE)
    changes = (await at.load(token)).changes()
    waiting = asyncio.ensure_future(anext(changes))
    await soon(lambda: measured.values("redis_sessions.watches")[()])
    await at.put(token, {"a": 1})
    assert await waiting == {"a"}
    assert measured.values("redis_sessions.watches") == {(): 1}
    await changes.aclose()
    assert measured.values("redis_sessions.watches") == {(): 0}


async def test_managers_share_the_instruments(measured: Measured) -> None:
    """Managers with other prefixes have series of their own, and one that is gone has none."""
    first, second = (
        SessionManager(MemoryStore(prefix=prefix), Keyring(generate_key()))
        for prefix in ("a:", "b:")
    )
    for manager in (first, second, first):
        instrument(manager, meter_provider=measured.meter_provider)
        await manager.load("no token")

    by = ("redis_sessions.prefix", "redis_sessions.reason")
    assert measured.values("redis_sessions.events", *by) == {
        ("a:", "malformed token"): 2,
        ("b:", "malformed token"): 1,
    }
    gone = weakref.ref(second)
    del second, manager
    gc.collect()
    assert gone() is None
    assert list(measured.values("redis_sessions.events", *by)) == [("a:", "malformed token")]


async def test_nothing_happens_without_an_sdk() -> None:
    """With OpenTelemetry's API alone requests are served, and nothing is recorded anywhere."""
    at = Setting()
    instrument(at.manager, spans=True)
    token = await at.begin(ALICE)
    reply = await at.request(lambda session: session.update(a=1), token)
    assert reply.status == 200
    assert await at.data(token) == {**ALICE, "a": 1}


def test_without_it_nothing_is_observed() -> None:
    """A manager that isn't instrumented has no observer, and its store's methods are its own."""
    at = Setting()
    assert backend_of(at.manager).observer is None
    assert not {"load", "commit"} & vars(at.store).keys()


# -- with FastAPI's own telemetry


def application(
    measured: Measured, *, spans: bool = False, lazy: bool = False, by: str = "contrib"
) -> FastAPI:
    manager = SessionManager(MemoryStore(), Keyring(generate_key()))
    instrument(
        manager,
        meter_provider=measured.meter_provider,
        tracer_provider=measured.tracer_provider,
        spans=spans,
    )
    providers: dict[str, Any] = {
        "tracer_provider": measured.tracer_provider,
        "meter_provider": measured.meter_provider,
    }
    if by == "FastAPI" and "telemetry" not in inspect.signature(FastAPI).parameters:
        pytest.skip("this FastAPI has no telemetry of its own")
    options: dict[str, Any] = {"telemetry": providers} if by == "FastAPI" else {}
    app = FastAPI(**options)
    app.add_middleware(SessionMiddleware, manager=manager, lazy=lazy)

    @app.post("/in")
    async def sign_in(session: SessionDep, user: Annotated[str, Body()]) -> None:
        session.sign_in(user)

    @app.get("/id")
    async def id_of(session: SessionDep) -> str | None:
        session.setdefault("here", 1)
        return session.id

    @app.get("/plain")
    async def plain() -> None:
        pass

    if by == "contrib":
        FastAPIInstrumentor.instrument_app(app, **providers)
    elif by == "Starlette":
        module = pytest.importorskip("starlette.middleware.opentelemetry")
        app.add_middleware(module.OpenTelemetryMiddleware, **providers)
    return app


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("by", ["FastAPI", "Starlette", "contrib"])
def test_the_request_s_span_has_the_session(measured: Measured, lazy: bool, by: str) -> None:
    """The server's span has the hashed id; at a sign-in also the id before; and never a token."""
    app = application(measured, lazy=lazy, by=by)
    with TestClient(app, base_url="https://testserver") as client:
        client.get("/plain")  # and once more after the lifespan
    with TestClient(app, base_url="https://testserver") as client:
        client.get("/id")
        anonymous = client.get("/id").json()
        client.post("/in", json="alice")
        signed_in = client.get("/id").json()
        client.get("/plain")
        token = client.cookies["__Host-session"]

    ids = [dict(span.attributes or {}).get("session.id") for span in measured.spans("GET /id")]
    # The first request has one, too, since its session is stored before the response starts.
    assert ids == [hashed_id(anonymous), hashed_id(anonymous), hashed_id(signed_in)]
    (at_sign_in,) = measured.spans("POST /in")
    told = dict(at_sign_in.attributes or {})
    assert told["session.id"] == hashed_id(signed_in)
    # With lazy=True nobody has looked at the session before the handler did.
    assert told.get("session.previous_id") == (None if lazy else hashed_id(anonymous))
    _, plain = measured.spans("GET /plain")
    assert ("session.id" in (plain.attributes or {})) is not lazy
    assert measured.values("redis_sessions.loads", *LOAD) == {
        ("store", "found"): 3 if lazy else 4,
    }
    everything = measured.told()
    for secret in (token, token[20:], signed_in, anonymous, "alice"):
        assert secret not in everything


def test_loads_and_commits_have_spans(measured: Measured) -> None:
    """With `spans=True` they are children of the request's span, and have the hashed id."""
    with TestClient(application(measured, spans=True), base_url="https://testserver") as client:
        client.get("/id")
        session = client.get("/id").json()

    requests = {span.context.span_id for span in measured.spans("GET /id") if span.context}
    (load,) = measured.spans("redis_sessions.load")
    (commit,) = measured.spans("redis_sessions.commit")
    for span in (load, commit):
        assert dict(span.attributes or {}) == {"session.id": hashed_id(session)}
        assert span.parent is not None
        assert span.parent.span_id in requests


async def test_spans_tell_of_failures(measured: Measured) -> None:
    """A load that fails has a span with the error, which goes on to the caller."""
    at = Setting()
    instrument(at.manager, tracer_provider=measured.tracer_provider, spans=True)
    token = await at.begin(ALICE)
    at.store.away = True
    with pytest.raises(StoreUnavailableError):
        await at.load(token)
    (load,) = measured.spans("redis_sessions.load")
    assert load.status.status_code.name == "ERROR"
    assert not load.events  # no traceback


class Broken(SpanProcessor):
    """As a processor of the application's own that has a bug."""

    def __init__(self, when: str) -> None:
        self.when = when

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if self.when == "start" and span.name.startswith("redis_sessions."):
            raise ValueError("broken at the start")

    def on_end(self, span: Any) -> None:
        if self.when == "end" and span.name.startswith("redis_sessions."):
            raise ValueError("broken at the end")


@pytest.mark.parametrize("when", ["start", "end"])
async def test_a_broken_processor_fails_no_request(
    measured: Measured, when: str, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    """Loads and commits go on, errors of the store reach the caller, and one warning is logged."""
    monkeypatch.setattr(telemetry, "_has_failed", threading.Event())
    measured.tracer_provider.add_span_processor(Broken(when))
    at = Setting()
    instrument(at.manager, tracer_provider=measured.tracer_provider, spans=True)
    token = await at.begin(ALICE)
    assert (await at.load(token)) == ALICE
    at.store.away = True
    with pytest.raises(StoreUnavailableError):
        await at.load(token)
    assert [record.message for record in caplog.records if "telemetry" in record.message] == [
        f"telemetry failed, and no request: ValueError('broken at the {when}')"
    ]


def test_a_broken_span_fails_no_request(
    measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests are answered, although no attribute can be set."""
    set_attribute = Span.set_attribute

    def fail(self: Span, key: str, value: Any) -> None:
        if key == "session.id":
            raise ValueError("broken")
        set_attribute(self, key, value)

    monkeypatch.setattr(Span, "set_attribute", fail)
    with TestClient(application(measured), base_url="https://testserver") as client:
        assert client.get("/id").status_code == 200


async def test_a_broken_instrument_costs_no_connection() -> None:
    """Whoever counts batches hears of no error by the meter."""

    class Meter(NoOpMeter):
        def create_histogram(self, *_: Any, **__: Any) -> Any:
            return None  # which has no record()

    class Provider(NoOpMeterProvider):
        def get_meter(self, *_: Any, **__: Any) -> Any:
            return Meter("broken")

    at = Setting()
    instrument(at.manager, meter_provider=Provider())
    observer: Any = backend_of(at.manager).observer
    observer.on_batch("load", 1, 0.0, 0.1, None)


def test_a_hash_is_stable() -> None:
    """The same id has always the same hash, in all processes and versions."""
    assert hashed_id("A" * 20) == "1555acb02643d29d"
