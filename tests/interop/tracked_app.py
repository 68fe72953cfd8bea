"""An application with Sentry in it, and what Sentry is sent of a request that fails.

python -m tests.interop.tracked_app OPTIONS

OPTIONS are those of `sentry_sdk.init()`, as JSON. It is a program of its own because Sentry changes
Starlette for all that the process has. It prints, as JSON, the secrets of the request by name, and
what was sent.
"""

from __future__ import annotations

import json
import secrets
import sys
from typing import Any, Final

import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from redis_sessions import SessionMiddleware, generate_key

sent: Final = list[str]()


class Recorder(Transport):
    def capture_envelope(self, envelope: Envelope) -> None:
        sent.append(envelope.serialize().decode())


sentry_sdk.init(
    dsn="https://key@localhost/1",
    transport=Recorder,
    traces_sample_rate=1.0,
    **json.loads(sys.argv[1]),
)


async def sign_in(request: Request) -> Response:
    request.session["user_id"] = 1
    return Response()


async def fail(request: Request) -> None:
    """It raises while it holds a form, as a login may do."""
    form = await request.form()
    sentry_sdk.capture_message("before")
    raise LookupError(f"there are {len(form)} fields")


app: Any = Starlette(
    routes=[Route("/sign-in", sign_in), Route("/fail", fail, methods=["POST"])],
    middleware=[Middleware(SessionMiddleware, store="memory://", secret_key=generate_key())],
)
with TestClient(app, base_url="https://testserver", raise_server_exceptions=False) as client:
    client.get("/sign-in")
    told = {"__Host-session": client.cookies["__Host-session"]}
    for cookie in ("sid", "visit"):
        told[cookie] = secrets.token_hex()
        client.cookies.set(cookie, told[cookie])
    headers = {name: secrets.token_hex() for name in ("X-Session-Token", "X-Visit")}
    fields = {name: secrets.token_hex() for name in ("password", "code")}
    assert client.post("/fail", headers=headers, data=fields).status_code == 500
sentry_sdk.flush()
print(json.dumps([told | headers | fields, "\n".join(sent)]))
