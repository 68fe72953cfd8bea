"""Tokens: their shape, where their randomness comes from, and what isn't one."""

from __future__ import annotations

import copy
import json
import re
import secrets
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_sessions import SessionToken
from redis_sessions.session import token

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def test_a_token_is_64_characters() -> None:
    """64 base64url characters; the first 20 are the id."""
    made = SessionToken.generate()

    assert re.fullmatch(r"[A-Za-z0-9_-]{64}", made.value)
    assert made.id == made.value[:20]


@pytest.mark.standard(1, "ASVS 7.2.3", "ASVS 11.5.1")
def test_its_randomness_is_the_operating_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    """48 bytes of `secrets`: 120 bits of id, 264 of secret; a rotation draws 33 for the secret."""
    assert vars(token)["token_bytes"] is secrets.token_bytes
    drawn: list[int] = []

    def draw(size: int) -> bytes:
        drawn.append(size)
        return bytes(range(size))

    monkeypatch.setattr(token, "token_bytes", draw)

    fresh = SessionToken.generate()
    rotated = SessionToken.generate(fresh.id)

    assert drawn == [48, 33]
    assert (48 * 8, 33 * 8) == (120 + 264, 264)
    assert fresh.value.startswith("AAECAwQFBgcICQoLDA0O")  # bytes 0 to 14
    assert rotated.value == fresh.id + "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g"


def test_a_rotation_keeps_the_id() -> None:
    """A fresh secret for the same id is another token."""
    old = SessionToken.generate()

    new = SessionToken.generate(old.id)

    assert new.id == old.id
    assert len(new.value) == 64
    assert new.value[20:] != old.value[20:]
    assert new != old


def test_tokens_do_not_repeat() -> None:
    """Neither ids nor secrets, nor any one character's place."""
    tokens = [SessionToken.generate() for _ in range(1000)]

    assert len({made.id for made in tokens}) == 1000
    assert len({made.value[20:] for made in tokens}) == 1000
    assert all(len({made.value[at] for made in tokens}) > 40 for at in range(64))


@given(st.text(ALPHABET, min_size=64, max_size=64))
def test_what_has_the_form_is_a_token(text: str) -> None:
    """Every text of the form is one, and equal texts are equal tokens."""
    parsed = SessionToken.parse(text)

    assert parsed is not None
    assert (parsed.value, parsed.id) == (text, text[:20])
    assert parsed == SessionToken(text)
    assert hash(parsed) == hash(SessionToken(text))


@given(st.one_of(st.text(max_size=70), st.text(ALPHABET + "=+/ \n", min_size=60, max_size=68)))
def test_what_has_not_is_none(text: str) -> None:
    """Anything else, of whatever alphabet and length, is None."""
    well_formed = len(text) == 64 and set(text) <= set(ALPHABET)

    assert (SessionToken.parse(text) is not None) == well_formed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A" * 63,
        "A" * 65,
        "A" * 64 + "\n",
        "\n" + "A" * 63,
        "A" * 63 + "\n",
        "A" * 63 + "=",
        "A" * 63 + "+",
        "A" * 63 + "\u017f",  # folds to "s"
        "A" * 63 + "\u212a",  # the sign of Kelvin
        "٣" * 64,
        "é" * 64,
        " " * 64,
        "A" * 1_000_000,
    ],
    ids=lambda text: f"{len(text)} {text[-1:]!a}",
)
def test_near_misses_are_none(text: str) -> None:
    """Wrong by one character, by case folding, by another script's digits."""
    assert SessionToken.parse(text) is None


def test_nothing_shows_the_secret() -> None:
    """repr, str and format show the id, alone and inside of others; equality needs all of it."""
    made = SessionToken.generate()

    for shown in (repr(made), str(made), f"{made}", f"{made!r:>80}", "%s" % made, repr([made])):  # noqa: UP031
        assert made.value[20:] not in shown
        assert made.id in shown
    assert made != made.value
    assert made != made.id
    assert not hasattr(made, "__dict__")
    assert copy.copy(made) == made


@pytest.mark.parametrize("encode", [json.dumps, msgspec.json.encode, msgspec.msgpack.encode])
def test_nothing_encodes_it(encode: Callable[[Any], object]) -> None:
    """A log that writes JSON, or a session in which it was put, would hold the secret."""
    with pytest.raises(TypeError):
        encode({"token": SessionToken.generate()})
