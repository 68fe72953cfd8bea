"""Metrics, attributes and spans through OpenTelemetry's API. Without its SDK nothing happens.

    manager = SessionManager("redis://localhost:6379/0", secret_key)
    instrument(manager)
    app.add_middleware(SessionMiddleware, manager=manager)

It measures from outside: it hands the manager and its store an observer. A manager that isn't
instrumented has none, and its requests do nothing for it. `docs/observability.md` has all names.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from hashlib import blake2b
from typing import Any, Final, ParamSpec
from weakref import WeakKeyDictionary

from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.trace import Span, SpanKind, Tracer, TracerProvider
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redis_sessions.http.connection import SCOPE_KEY, Connection, Connections
from redis_sessions.lifecycle.backend import Backend
from redis_sessions.lifecycle.manager import SessionManager, backend_of
from redis_sessions.session.outcome import Outcome
from redis_sessions.session.placeholder import Unloaded
from redis_sessions.session.session import state_of
from redis_sessions.session.state import Status
from redis_sessions.stores import RedisStore, Store
from redis_sessions.stores.observing import Operation
from redis_sessions.tracebacks import stripped

__all__ = ["hashed_id", "instrument"]

_SCOPE: Final = "redis_sessions"

_logger: Final = logging.getLogger("redis_sessions")

SESSION_ID: Final = "session.id"
PREVIOUS_ID: Final = "session.previous_id"
"""Names of OpenTelemetry's semantic conventions."""

_SECONDS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1, 2.5, 5),
)
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128)

Attributes = dict[str, str]


def hashed_id(id: str) -> str:
    """What telemetry has instead of a session's id: 16 hexadecimal digits, always the same.

    An id is random (120 bits), so nobody finds it by its hash (BLAKE2b, of 8 bytes).
    """
    return blake2b(id.encode(), digest_size=8, person=b"redis-sessions").hexdigest()


@stripped
def instrument(
    manager: SessionManager,
    *,
    meter_provider: MeterProvider | None = None,
    tracer_provider: TracerProvider | None = None,
    spans: bool = False,
) -> None:
    """Measure what a manager and its store do. Call it before the first request.

    The current span of each request, such as that of FastAPI's own instrumentation, has the
    attribute `session.id`, which is `hashed_id()` of the id. No token, principal or data is told.

    - `meter_provider`, `tracer_provider`: by default the global ones, also if they are set later
    - `spans=True`: loads and writes of records have a span each, named `redis_sessions.load` and
      `redis_sessions.commit`

    A second call for the same manager does nothing.
    """
    backend = backend_of(manager)
    if backend.observer is not None:
        return
    meters = _meters_of(meter_provider)
    backend.observer = observer = _Observer(backend, meters)
    meters.observers.append(weakref.ref(observer))
    store = manager.store
    if isinstance(store, RedisStore) and store.observation.observer is None:
        store.observation.observer = observer
    if spans:
        _trace(store, trace.get_tracer(_SCOPE, tracer_provider=tracer_provider))


P = ParamSpec("P")
_has_failed: Final = threading.Event()


def _safe(function: Callable[P, None]) -> Callable[P, None]:
    """What an SDK raises, or a processor of somebody's, fails no request: it is logged once."""

    def safe(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except Exception as exc:  # noqa: BLE001 - whatever it is
            if not _has_failed.is_set():
                _has_failed.set()
                _logger.warning("telemetry failed, and no request: %r", exc)

    return safe


class _Observer:
    """What is counted for one manager, beside the counts of its events."""

    def __init__(self, backend: Backend, meters: _Meters) -> None:
        self._backend = weakref.ref(backend)
        self._meters = meters
        self.common = {"redis_sessions.prefix": backend.store.prefix}
        self.loads = Counter[tuple[str, str]]()
        """Of requests, by the source and by what was found."""
        self.commits = Counter[str]()
        self.conflicts = 0

    def around(self, app: ASGIApp) -> ASGIApp:
        return _Around(app, self)

    def on_commit(self, outcome: Outcome) -> None:
        self.commits[outcome.name.lower()] += 1

    def on_conflict(self) -> None:
        self.conflicts += 1

    @_safe
    def on_batch(
        self,
        operation: Operation,
        size: int,
        waited: float,
        took: float,
        error: BaseException | None,
    ) -> None:
        attributes = {**self.common, "redis_sessions.operation": operation}
        self._meters.sizes.record(size, attributes)
        self._meters.waits.record(waited, attributes)
        if error is not None:
            attributes["error.type"] = type(error).__qualname__
        self._meters.times.record(took, attributes)

    # Another thread may call these. `dict(…)` copies in one step, whatever happens meanwhile.

    def observe_loads(self) -> Iterator[tuple[int, Attributes]]:
        for (source, result), count in dict(self.loads).items():
            yield count, {"redis_sessions.source": source, "redis_sessions.result": result}

    def observe_commits(self) -> Iterator[tuple[int, Attributes]]:
        for outcome, count in dict(self.commits).items():
            yield count, {"redis_sessions.outcome": outcome}

    def observe_conflicts(self) -> Iterator[tuple[int, Attributes]]:
        yield self.conflicts, {}

    def observe_events(self) -> Iterator[tuple[int, Attributes]]:
        backend = self._backend()
        if backend is None:
            return
        counts = dict(backend.reporter.counts)
        with_reason = {key.partition(": ")[0] for key in counts if ": " in key}
        for key, count in counts.items():
            name, _, reason = key.partition(": ")
            if reason:
                yield count, {"redis_sessions.event": name, "redis_sessions.reason": reason}
            elif name not in with_reason:
                yield count, {"redis_sessions.event": name}

    def observe_watched(self) -> Iterator[tuple[int, Attributes]]:
        backend = self._backend()
        if backend is not None:
            yield backend.watched, {}


_COUNTERS: Final = (
    ("redis_sessions.loads", _Observer.observe_loads, "{session}", "Sessions that were asked for"),
    ("redis_sessions.commits", _Observer.observe_commits, "{commit}", "Commits carried out"),
    ("redis_sessions.conflicts", _Observer.observe_conflicts, "{conflict}", "Writes that lost"),
    ("redis_sessions.events", _Observer.observe_events, "{event}", "Events, as on_event= has them"),
)


class _Meters:
    """The instruments of one meter provider. All managers share them."""

    def __init__(self, provider: MeterProvider | None) -> None:
        self.observers: list[weakref.ref[_Observer]] = []
        meter = metrics.get_meter(_SCOPE, meter_provider=provider)
        self.sizes = meter.create_histogram(
            "redis_sessions.batch.size",
            "{operation}",
            "Operations that were sent to the server together",
            explicit_bucket_boundaries_advisory=_SIZES,
        )
        self.waits = meter.create_histogram(
            "redis_sessions.queue.duration",
            "s",
            "How long the first operation of a batch waited until it was sent",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self.times = meter.create_histogram(
            "redis_sessions.server.duration",
            "s",
            "From sending a batch to its answer",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        for name, observe, unit, description in _COUNTERS:
            meter.create_observable_counter(name, [self._all(observe)], unit, description)
        meter.create_observable_up_down_counter(
            "redis_sessions.watches",
            [self._all(_Observer.observe_watched)],
            "{connection}",
            "Open WebSockets and event streams that end with their session, and uses of changes()",
        )

    def _all(
        self, observe: Callable[[_Observer], Iterable[tuple[int, Attributes]]]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        """A callback: managers with the same prefix are one."""

        def callback(_: CallbackOptions) -> list[Observation]:
            sums = Counter[tuple[tuple[str, str], ...]]()
            for known in list(self.observers):
                observer = known()
                if observer is not None:
                    for count, attributes in observe(observer):
                        sums[(*observer.common.items(), *attributes.items())] += count
            return [Observation(count, dict(attributes)) for attributes, count in sums.items()]

        return callback


_known: Final[WeakKeyDictionary[object, _Meters]] = WeakKeyDictionary()
_lock: Final = threading.Lock()


def _meters_of(provider: MeterProvider | None) -> _Meters:
    # The global provider may be set later, and is another object then.
    with _lock:
        key: Any = metrics if provider is None else provider
        if key not in _known:
            _known[key] = _Meters(provider)
        return _known[key]


class _Around:
    """Runs the application. Each request's span gets the session's id, and its load is counted."""

    def __init__(self, app: ASGIApp, observer: _Observer) -> None:
        self._app = app
        self._observer = observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found: Connections = () if scope["type"] == "lifespan" else scope.get(SCOPE_KEY, ())
        # None: it is no request. Twice the same: another of our middlewares is around this one.
        connection = found[-1] if found else None
        if connection is None or (len(found) > 1 and any(connection is c for c in found[:-1])):
            await self._app(scope, receive, send)
            return
        counted = self._count(connection)
        current = trace.get_current_span()
        span = _RequestSpan(connection, current) if current.is_recording() else None
        try:
            await self._app(scope, receive, send)
        finally:
            if not counted:
                self._count(connection)
            if span is not None:
                span.leave()

    def _count(self, connection: Connection) -> bool:
        """Count the load, unless the session isn't loaded."""
        session = connection.session
        status = state_of(session).status
        if isinstance(session, Unloaded) and status is not Status.UNAVAILABLE:
            return False
        if connection.tokens:
            source = "near_copy" if connection.near else "store"
            if status is Status.LIVE:
                result = "found"
            else:
                result = "unavailable" if status is Status.UNAVAILABLE else "none"
            self._observer.loads[source, result] += 1
        return True


class _RequestSpan:
    """Puts the session's id on the current span: at once, and again when the response starts.

    The span of an ASGI instrumentation ends with the last part of the response. So the id is put
    there after the commit, and before anything goes out.
    """

    __slots__ = ("_connection", "_id", "_send", "_span")

    def __init__(self, connection: Connection, span: Span) -> None:
        self._span = span
        self._connection = connection
        self._send = connection.send
        self._id: str | None = None
        connection.send = self._on_send
        self._tell()

    async def _on_send(self, message: Message) -> None:
        """What the connection calls as its `send` for the first message, and for no other."""
        self._give_back()
        self._tell()
        await self._send(message)

    def leave(self) -> None:
        """The application has returned."""
        self._give_back()
        self._tell()

    def _give_back(self) -> None:
        if self._connection.send == self._on_send:
            self._connection.send = self._send

    @_safe
    def _tell(self) -> None:
        stored = state_of(self._connection.session).stored
        if stored is None or not self._span.is_recording():
            return
        id = stored.token.id
        if id != self._id:
            before, self._id = self._id, id
            self._span.set_attribute(SESSION_ID, hashed_id(id))
            if before is not None:
                self._span.set_attribute(PREVIOUS_ID, hashed_id(before))


_traced: Final = weakref.WeakSet[Any]()


def _trace(store: Store, tracer: Tracer) -> None:
    """Have loads and writes of records by this store make spans."""
    if store in _traced:
        return
    _traced.add(store)
    for name in ("load", "commit"):
        # On the object itself, so that stores of others do nothing for it.
        setattr(store, name, _spanned(tracer, f"redis_sessions.{name}", getattr(store, name)))


def _spanned(
    tracer: Tracer, name: str, call: Callable[..., Awaitable[Any]]
) -> Callable[..., Awaitable[Any]]:
    async def spanned(id: str, *arguments: Any, **named: Any) -> Any:
        with _StoreSpan(tracer, name, id):
            return await call(id, *arguments, **named)

    return spanned


class _StoreSpan:
    """A span around a call of the store, which is made all the same if the SDK fails."""

    def __init__(self, *arguments: Any) -> None:
        self._arguments = arguments
        self._span: AbstractContextManager[Any] | None = None

    @_safe
    def __enter__(self) -> None:
        tracer, name, id = self._arguments
        span = tracer.start_as_current_span(
            name,
            kind=SpanKind.CLIENT,
            attributes={SESSION_ID: hashed_id(id)},
            record_exception=False,  # the status says which; a traceback would only be long
        )
        span.__enter__()
        self._span = span

    @_safe
    def __exit__(self, *raised: Any) -> None:  # noqa: PYI036 - as they come
        if self._span is not None:
            self._span.__exit__(*raised)
