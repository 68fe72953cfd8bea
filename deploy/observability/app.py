# ruff: noqa: INP001 - not a package: uvicorn finds it by its path
"""The application of compose.yml: counts visits, and its metrics go to Prometheus.

The environment has SESSION_SECRET_KEY, SESSION_STORE, and what OpenTelemetry's exporter reads.
"""

import os

from fastapi import FastAPI
from opentelemetry import metrics
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

from redis_sessions import SessionManager, SessionMiddleware, readiness
from redis_sessions.fastapi import SessionDep
from redis_sessions.telemetry import instrument


def create_app() -> FastAPI:
    """The application, once for each worker."""
    metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())]))
    manager = SessionManager(os.environ["SESSION_STORE"], os.environ["SESSION_SECRET_KEY"])
    instrument(manager)
    app = FastAPI(title="redis-sessions")
    # For plain http on this machine. Leave the last two out behind TLS.
    app.add_middleware(
        SessionMiddleware, manager=manager, session_cookie="session", https_only=False
    )
    app.add_route("/ready", readiness(manager))
    app.get("/")(visit)
    return app


async def visit(session: SessionDep) -> int:
    """Count."""
    session["visits"] = session.get("visits", 0) + 1
    return int(session["visits"])
