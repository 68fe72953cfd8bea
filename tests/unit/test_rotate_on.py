"""`rotate_on=`: a change of these keys gives the session a new token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest

from redis_sessions import ConfigurationError, MemoryStore, Session, SessionError, SessionManager
from redis_sessions.session.outcome import Outcome
from tests.unit.setting import DUE, KEY, Setting, stored, token_of

DATA = {"user_id": "alice", "role": "user", "tenant": {"id": 1}, "cart": 1}

Act = Callable[[Session], object]

RIGHTS: Final[dict[str, Act]] = {
    "set": lambda s: s.update(role="admin"),
    "removed": lambda s: s.pop("role"),
    "inside": lambda s: s["tenant"].update(id=2),
    "with another": lambda s: s.update(role="admin", cart=2),
}
OTHERS: Final[dict[str, tuple[Act, Outcome]]] = {
    "another key": (lambda s: s.update(cart=2), Outcome.CHANGE),
    "the same again": (lambda s: s.update(role="user", tenant={"id": 1}), Outcome.NOTHING),
    "modified": (lambda s: s.mark_modified(), Outcome.CHANGE),
    "nothing": (lambda s: None, Outcome.NOTHING),
}
BESIDE: Final[dict[str, tuple[Act, int, Outcome]]] = {
    "authenticated": (lambda s: s.authenticated(), 200, Outcome.REAUTHENTICATE),
    "sign out": (lambda s: s.sign_out(), 200, Outcome.LOSE),
    "switch": (lambda s: s.sign_in("bob"), 200, Outcome.SWITCH),
    "rotate": (lambda s: s.rotate(), 200, Outcome.ROTATE),
    "expire_in": (lambda s: s.expire_in(60), 200, Outcome.ROTATE),
    "404": (lambda s: None, 404, Outcome.ROTATE),
    "500": (lambda s: None, 500, Outcome.NOTHING),
}


@pytest.fixture
def at() -> Setting:
    return Setting(rotate_on=("role", "tenant"))


@pytest.mark.standard(9)
@pytest.mark.parametrize("data", [DATA, {k: v for k, v in DATA.items() if k != "user_id"}])
@pytest.mark.parametrize("act", RIGHTS.values(), ids=RIGHTS)
async def test_a_change_of_rights_rotates(at: Setting, act: Act, data: dict[str, Any]) -> None:
    """Same id, new secret, the data are stored; the token of before opens nothing."""
    token = await at.begin(data)
    session = await at.load(token)
    act(session)

    answer = await at.commit(session)

    assert answer.outcome is Outcome.ROTATE
    assert (token_of(answer)[:20], token_of(answer) != token) == (token[:20], True)
    assert await at.data(token_of(answer)) == dict(session)
    assert await at.data(token) == {}


@pytest.mark.parametrize(("act", "outcome"), OTHERS.values(), ids=OTHERS)
async def test_what_does_not_rotate(at: Setting, act: Act, outcome: Outcome) -> None:
    """Values are compared as they are stored, as for every change."""
    session = await at.load(await at.begin(DATA))
    act(session)
    answer = await at.commit(session)
    assert (answer.outcome, answer.token) == (outcome, None)


@pytest.mark.parametrize(("act", "status", "outcome"), BESIDE.values(), ids=BESIDE)
async def test_beside_other_wishes(at: Setting, act: Act, status: int, outcome: Outcome) -> None:
    """What gives a new token anyhow stays what it is; a request that failed rotates nothing."""
    session = await at.load(await at.begin(DATA))
    session["role"] = "admin"
    act(session)
    answer = await at.commit(session, status)
    assert answer.outcome is outcome
    assert (answer.token is None) == (status == 500)


async def test_a_first_visit_is_created(at: Setting) -> None:
    """It gets a token anyhow."""
    session = await at.load(None)
    session["role"] = "guest"
    assert (await at.commit(session)).outcome is Outcome.CREATE


async def test_with_a_touch(at: Setting) -> None:
    """A rotation renews the session's time, too."""
    session = await at.load(await at.begin(DATA))
    at.clock.advance(DUE)
    session["role"] = "admin"
    session = await at.load(token_of(await at.commit(session)))
    at.clock.advance(DUE - 1)
    assert (await at.commit(session)).outcome is Outcome.NOTHING


async def test_another_request_s_change_is_merged(at: Setting) -> None:
    """What was stored before the rotation is kept; what comes after it finds no session."""
    token = await at.begin(DATA)
    first, second, third = [await at.load(token) for _ in range(3)]
    first["cart"], second["role"], third["cart"] = 2, "admin", 3
    await at.commit(first)
    new = token_of(await at.commit(second))
    assert (await at.commit(third)).outcome is Outcome.DROP
    assert at.reported("dropped") == ["ended elsewhere"]
    assert await at.data(new) == {**DATA, "role": "admin", "cart": 2}


# -- where there is no response that could carry the token


async def test_save_leaves_it_to_the_response(at: Setting) -> None:
    """Before the response nothing is stored under the old token, also not after `exclusive()`."""
    token = await at.begin(DATA)
    session = await at.load(token)
    async with session.exclusive():
        session["role"] = "admin"
    await session.save()
    assert await at.data(token) == DATA
    answer = await at.commit(session)
    assert answer.outcome is Outcome.ROTATE
    assert await at.data(token_of(answer)) == {**DATA, "role": "admin"}


async def test_too_late(at: Setting) -> None:
    """After the start of the response it is an error that names the key, and nothing is stored."""
    token = await at.begin(DATA)
    told: list[str] = []

    async def act(session: Session) -> None:
        session["cart"] = 2
        await session.save()
        session["role"] = "admin"
        with pytest.raises(SessionError, match=r"has started.*rotate_on= .* 'role'") as raised:
            await session.save()
        told.append(str(raised.value))
        session["role"] = "user"
        await session.save()

    await at.request(act, token, late=True)
    assert len(told) == 1
    assert await at.data(token) == {**DATA, "cart": 2}


async def test_update_can_not_rotate(at: Setting) -> None:
    """It stores at once, and has no response: an error that says what to write."""
    token = await at.begin(DATA)
    session = await at.load(token)
    with pytest.raises(SessionError, match=r"set session\['role'\] instead"):
        await at.manager.update(session, lambda data: data.update(role="admin"))
    await at.manager.update(session, lambda data: data.update(cart=2))
    assert await at.data(token) == {**DATA, "cart": 2}


# -- the option


@pytest.mark.parametrize(
    "wrong", ["role", b"role", ["user.role"], [""], [1], [None], None, 5], ids=repr
)
def test_what_is_refused(wrong: Any) -> None:
    """By `ConfigurationError`: a text alone, and paths, since only whole keys are compared."""
    with pytest.raises(ConfigurationError, match="rotate_on="):
        SessionManager(MemoryStore(), KEY, rotate_on=wrong)


@pytest.mark.parametrize("given", [["role"], {"role"}, ("role", "role")], ids=repr)
async def test_what_is_taken(given: Any) -> None:
    """A list, a set or a tuple."""
    manager = SessionManager(MemoryStore(), KEY, rotate_on=given)
    session = await manager.load(await stored(manager, role="user"))
    session["role"] = "admin"
    assert (await manager.commit(session)).outcome is Outcome.ROTATE
