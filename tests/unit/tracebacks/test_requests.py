"""Tracebacks with local variables, of whatever a request may run into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from redis_sessions import CookieTransport, Session, SessionToken
from tests.unit.tracebacks.troubled_request import MARK, Act, Visit

DUE = 301


def fail(*_: Any) -> Any:
    raise ZeroDivisionError


def same(value: Any) -> Any:
    return value


def write(session: Session) -> None:
    session["more"] = MARK


def sign_in(session: Session) -> None:
    session.update(user_id="b", more=MARK)


def sign_out(session: Session) -> None:
    session.pop("user_id", None)
    session["more"] = MARK


def rotate(session: Session) -> None:
    session["more"] = MARK
    session.rotate()


def again(session: Session) -> None:
    session["more"] = MARK
    session.authenticated()


def clear(session: Session) -> None:
    session.clear()
    session["more"] = MARK


async def save(session: Session) -> None:
    session["more"] = MARK
    await session.save()


async def refresh(session: Session) -> None:
    session["more"] = MARK
    await session.refresh()


async def exclusive(session: Session) -> None:
    async with session.exclusive():
        session["more"] = MARK


class Sealed(msgspec.Struct):
    text: str

    def __repr__(self) -> str:
        return self.text


class Opened(msgspec.Struct):
    text: str
    inner: Any = msgspec.field(default_factory=object)


class Big:
    """What no hook knows, and shows what it holds."""

    def __repr__(self) -> str:
        return MARK


@pytest.mark.parametrize("signed_in", [False, True], ids=["anonymous", "signed in"])
@pytest.mark.parametrize("method", ["load", "commit", "end", "enter", "mark", "touch"])
@pytest.mark.parametrize(
    "act", [write, sign_in, sign_out, rotate, again, clear, save, refresh, exclusive]
)
async def test_a_store_that_is_away(
    act: Act, method: str, signed_in: bool, tokens: list[SessionToken]
) -> None:
    """Wherever a request asks it; a touch is due, too."""
    visit = Visit()
    await visit.begin(**({"user_id": "a"} if signed_in else {}))
    visit.clock.advance(DUE)

    def act_and_fail(session: Session) -> Any:
        return act(session)

    await visit.ask(act_and_fail, failing=[method])
    if visit.caught:
        visit.check(tokens)
    else:  # it wasn't asked for that
        assert method != "load"
    visit.caught.clear()
    visit.token = None
    await visit.ask(act_and_fail, failing=[method])
    if visit.caught:
        visit.check(tokens)


def too_large(session: Session) -> None:
    session["more"] = MARK * 10_000


def too_many(session: Session) -> None:
    session["more"] = [[MARK]] * 5_000


def too_deep(session: Session) -> None:
    value: Any = MARK
    for _ in range(200):
        value = [value]
    session["more"] = value


def endless(session: Session) -> None:
    session["more"] = [MARK, Big(), MARK]


def misfit_that_is_unknown(session: Session) -> None:
    session["more"] = Sealed(MARK)
    session.get_as("more", Opened)


def unknown(session: Session) -> None:
    session["more"] = [{"a": MARK, "b": Big()}]


def unpaired(session: Session) -> None:
    session["more"] = [MARK, "\udc00"]


def no_principal(session: Session) -> None:
    session["user_id"] = {"name": MARK}


def misfit(session: Session) -> None:
    session.get_as("mark", int)


def raises(session: Session) -> None:
    session["more"] = MARK
    raise ZeroDivisionError


@pytest.mark.parametrize(
    "act",
    [
        *(too_large, too_many, too_deep, unknown, unpaired, no_principal, misfit, raises),
        misfit_that_is_unknown,
    ],
)
async def test_a_bug_of_the_application(act: Act, tokens: list[SessionToken]) -> None:
    """What can't be stored, is no principal, or doesn't fit; with a token and without."""
    for begun in (True, False):
        visit = Visit()
        if begun or act is misfit:
            await visit.begin(user_id="a")
        await visit.ask(act)
        visit.check(tokens)


@pytest.mark.parametrize("act", [write, save, sign_out, rotate])
@pytest.mark.parametrize("theirs", [{"their": MARK}, {"user_id": "c"}, {"more": MARK}])
async def test_a_conflict(act: Act, theirs: dict[str, Any], tokens: list[SessionToken]) -> None:
    """Another request changed the session, and the store goes away while it is merged."""
    visit = Visit(on_conflict="error")
    await visit.begin()

    async def meanwhile() -> None:
        visit.store.failing = set()
        other = await visit.manager.load(visit.token)
        other.update(theirs)
        await visit.manager.commit(other)
        visit.store.failing = {"end", "mark", "enter"}

    def act_after(session: Session) -> Any:
        visit.store.meanwhile = meanwhile
        return act(session)

    await visit.ask(act_after)
    if visit.caught:  # else it was merged
        visit.check(tokens)


async def test_an_application_s_own_functions(tokens: list[SessionToken]) -> None:
    """A principal, hook, binding or `on_unavailable` that raises; what they hold is theirs."""

    def principal(data: Any) -> Any:
        if len(data) > len(told):
            told.clear()
            del data
            raise ZeroDivisionError
        return None

    told = ["mark", "one more"]
    visit = Visit(principal=principal, enc_hook=fail)
    await visit.begin()
    await visit.ask(lambda session: session.update(a=MARK, b=MARK))
    visit.check(tokens)
    visit.caught.clear()
    await visit.ask(write)  # at once, when it is loaded
    visit.check(tokens)
    visit = Visit()
    await visit.begin()
    await visit.ask(write, binding=fail)
    visit.check(tokens)
    visit.caught.clear()
    await visit.ask(write, failing=["load"], on_unavailable=fail)
    visit.check(tokens)
    for method in ("read", "send", "expire"):
        visit = Visit()
        await visit.begin()
        await visit.ask(
            lambda session: session.clear() if method == "expire" else session.rotate(),  # noqa: B023
            transport=type("Broken", (CookieTransport,), {method: fail})(),
        )
        visit.check(tokens)
    visit = Visit(enc_hook=same)
    await visit.begin()
    await visit.ask(endless)
    visit.check(tokens)
    visit = Visit(enc_hook=fail, dec_hook=fail)
    await visit.begin()
    await visit.ask(unknown)
    visit.check(tokens)
    visit.caught.clear()
    await visit.ask(lambda session: session.get_as("mark", Big))
    visit.check(tokens)


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_a_client_that_is_gone(kind: str, tokens: list[SessionToken]) -> None:
    """The server raises while a new token is on its way, also out of a middleware in between."""
    for act in (write, sign_in, rotate, clear):
        visit = Visit()
        await visit.begin()
        await visit.ask(act, kind=kind, client_is_gone=True)
        visit.check(tokens)


@pytest.mark.parametrize("failing", [[], ["load"], ["commit"], ["touch"]], ids="".join)
async def test_update(failing: list[str], tokens: list[SessionToken]) -> None:
    """The function raises, or the store does before or after it."""
    visit = Visit()
    await visit.begin(user_id="a")
    visit.clock.advance(DUE)

    def function(data: dict[str, Any]) -> str:
        data["more"] = MARK
        if not failing:
            del data
            raise ZeroDivisionError
        return MARK

    async def act(session: Session) -> None:
        if failing == ["load"]:
            visit.store.meanwhile = meanwhile
        visit.store.failing = set(failing)
        await visit.manager.update(session, function)

    async def meanwhile() -> None:
        visit.store.failing = set()
        await visit.manager.update(await visit.manager.load(visit.token), lambda data: data.clear())
        visit.store.failing = set(failing)

    await visit.ask(act)
    if failing != ["load"]:
        visit.check(tokens)


@pytest.mark.parametrize("method", ["load", "end", "mark"])
async def test_revoking(method: str, tokens: list[SessionToken]) -> None:
    """Listing and ending a principal's sessions."""
    visit = Visit()
    await visit.begin(user_id="a")

    async def act(session: Session) -> None:
        session["more"] = MARK
        visit.store.failing = {method}
        if method == "load":
            await visit.manager.sessions_of("a")
        else:
            await visit.manager.revoke(session.id or "", principal="a")

    await visit.ask(act)
    visit.check(tokens)


@pytest.mark.parametrize("texts", [["bad"], []])
async def test_loading_by_hand(texts: list[str], tokens: list[SessionToken]) -> None:
    """By several tokens, as a browser sends that has several cookies."""
    visit = Visit()
    await visit.begin()
    visit.store.failing = {"load"}

    def given() -> Callable[[], Any]:
        brought = [str(visit.token), *texts]
        return lambda: visit.manager.load(brought)

    try:
        await given()()
    except Exception as exc:  # noqa: BLE001 - whatever it is
        visit.catch(exc)
    visit.check(tokens)
