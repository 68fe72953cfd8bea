"""A security key in software, for tests of passkeys."""

from __future__ import annotations

import json
import secrets
from hashlib import sha256
from typing import Any, Final

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from webauthn.helpers import bytes_to_base64url

_USER_PRESENT: Final = 0x01
_USER_VERIFIED: Final = 0x04
_HAS_KEY: Final = 0x40


class SecurityKey:
    """What `navigator.credentials` would ask, with one credential on it (WebAuthn Level 3, §6)."""

    def __init__(self, rp_id: str) -> None:
        self._rp_id = rp_id
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._id = secrets.token_bytes(16)
        self._uses = 0

    def create(self, options: dict[str, Any]) -> dict[str, Any]:
        point = self._key.public_key().public_numbers()
        x, y = (number.to_bytes(32) for number in (point.x, point.y))
        cose = cbor2.dumps({1: 2, 3: -7, -1: 1, -2: x, -3: y})
        attested = bytes(16) + len(self._id).to_bytes(2) + self._id + cose
        data = self._data(_HAS_KEY) + attested
        attestation = cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": data})
        said = self._said("webauthn.create", options)
        return self._credential(clientDataJSON=said, attestationObject=attestation)

    def get(self, options: dict[str, Any]) -> dict[str, Any]:
        self._uses += 1
        data, said = self._data(), self._said("webauthn.get", options)
        signature = self._key.sign(data + sha256(said).digest(), ec.ECDSA(SHA256()))
        return self._credential(clientDataJSON=said, authenticatorData=data, signature=signature)

    def _data(self, flags: int = 0) -> bytes:
        flags |= _USER_PRESENT | _USER_VERIFIED
        return sha256(self._rp_id.encode()).digest() + bytes([flags]) + self._uses.to_bytes(4)

    def _said(self, kind: str, options: dict[str, Any]) -> bytes:
        origin = f"https://{self._rp_id}"
        said = {"type": kind, "challenge": options["challenge"], "origin": origin}
        return json.dumps(said).encode()

    def _credential(self, **response: bytes) -> dict[str, Any]:
        id = bytes_to_base64url(self._id)
        answered = {name: bytes_to_base64url(value) for name, value in response.items()}
        return {"id": id, "rawId": id, "type": "public-key", "response": answered}
