"""A site whose users have passkeys and no passwords, with py_webauthn."""

import os
import secrets
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import webauthn
from fastapi import Body, FastAPI, HTTPException, Response
from fastapi.responses import FileResponse
from webauthn.helpers import bytes_to_base64url, structs
from webauthn.helpers.exceptions import WebAuthnException

from redis_sessions import Session, SessionMiddleware
from redis_sessions.fastapi import OptionalPrincipalDep, PrincipalDep, SessionDep

ORIGIN = os.environ.get("ORIGIN", "http://localhost:8000")  # as browsers see it
RP_ID = urlsplit(ORIGIN).hostname or ""
REQUIRED = structs.UserVerificationRequirement.REQUIRED
ON_THE_KEY = structs.AuthenticatorSelectionCriteria(
    resident_key=structs.ResidentKeyRequirement.REQUIRED, user_verification=REQUIRED
)  # so that nobody has to type a name to sign in
EXPECTED: dict[str, Any] = {
    "expected_rp_id": RP_ID,
    "expected_origin": ORIGIN,
    "require_user_verification": True,
}

app = FastAPI()
app.add_middleware(
    SessionMiddleware,
    store=os.environ.get("REDIS_URL", "embedded://"),
    secret_key=os.environ["SESSION_SECRET_KEY"],
    https_only="DEVELOPMENT" not in os.environ,
)
# Your database.
handles: dict[str, bytes] = {}  # a user's name to authenticators: random, and the same for ever
passkeys: dict[str, dict[str, Any]] = {}  # by the credential's id


def taken(session: Session, key: str) -> Any:
    kept = session.pop(key, None)  # once
    if kept is None:
        raise HTTPException(400, "begin again")
    return kept


@app.get("/")
async def home() -> FileResponse:
    return FileResponse(Path(__file__).parent / "index.html")


@app.get("/me")
async def me(user: PrincipalDep) -> dict[str, Any]:
    return {"name": user, "passkeys": sum(each["user"] == user for each in passkeys.values())}


@app.post("/passkeys/options")
async def registration_options(
    session: SessionDep,
    signed_in: OptionalPrincipalDep,
    name: Annotated[str, Body(embed=True, max_length=80)] = "",
) -> Response:
    user = signed_in or name  # a further passkey, or a new user's first one
    if not user or (user in handles and user != signed_in):
        raise HTTPException(409, "choose another name")
    handle = handles.get(user) or secrets.token_bytes(16)
    options = webauthn.generate_registration_options(
        rp_id=RP_ID,
        rp_name="Passkeys",
        user_id=handle,
        user_name=user,
        authenticator_selection=ON_THE_KEY,
    )
    session["registering"] = {"challenge": options.challenge, "user": user, "handle": handle}
    return Response(webauthn.options_to_json(options), media_type="application/json")


@app.post("/passkeys")
async def register(session: SessionDep, credential: dict[str, Any]) -> None:
    kept = taken(session, "registering")
    user = kept["user"]
    if user in handles and user != session.principal:  # somebody else was faster
        raise HTTPException(409, "choose another name")
    try:
        verified = webauthn.verify_registration_response(
            credential=credential, expected_challenge=kept["challenge"], **EXPECTED
        )
    except WebAuthnException:
        raise HTTPException(400, "not verified") from None
    handles[user] = kept["handle"]
    passkeys[bytes_to_base64url(verified.credential_id)] = {
        "user": user,
        "public_key": verified.credential_public_key,
        "count": verified.sign_count,
    }
    if session.principal is None:
        session.sign_in(user, methods=["hwk", "user"])


@app.post("/login/options")
async def login_options(session: SessionDep) -> Response:
    options = webauthn.generate_authentication_options(rp_id=RP_ID, user_verification=REQUIRED)
    session["signing_in"] = options.challenge
    return Response(webauthn.options_to_json(options), media_type="application/json")


@app.post("/login")
async def login(session: SessionDep, credential: dict[str, Any]) -> None:
    challenge = taken(session, "signing_in")
    passkey = passkeys.get(str(credential.get("id")))
    if passkey is None:
        raise HTTPException(400, "unknown passkey")
    try:
        verified = webauthn.verify_authentication_response(
            credential=credential,
            expected_challenge=challenge,
            credential_public_key=passkey["public_key"],
            credential_current_sign_count=passkey["count"],
            **EXPECTED,
        )
    except WebAuthnException:
        raise HTTPException(400, "not verified") from None
    passkey["count"] = verified.new_sign_count
    session.sign_in(passkey["user"], methods=["hwk", "user"])


@app.post("/logout")
async def logout(session: SessionDep) -> None:
    session.clear()
