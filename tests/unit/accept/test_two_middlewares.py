"""Two applications with one manager, each with sources of its own: neither takes the other's."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any, Final

import pytest
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from redis_sessions import Session, SessionMiddleware, get_session
from tests.support.asgi import Reply, ask, cookie
from tests.unit.accept.elsewhere import Elsewhere, names_in
from tests.unit.accept.together import ALICE, Together, add
from tests.unit.setting import START, Setting

ACT: Final = "tests.act"


async def handler(scope: Scope, receive: Receive, send: Send) -> None:
    """The handler of both: it does what the request says."""
    scope[ACT](get_session(HTTPConnection(scope)))
    await send(START)
    await send({"type": "http.response.body", "body": b""})


class Two(Setting):
    """Two applications, `a` and `b`, with one manager. Their cookies have the same name, or not."""

    def __init__(self, sources: Sequence[Any], *, one_cookie: bool = True) -> None:
        super().__init__()
        names = ["__Host-session"] * 2 if one_cookie else ["__Host-a", "__Host-b"]
        self.names = dict(zip("ab", names, strict=True))
        self.apps: dict[str, ASGIApp] = {
            app: SessionMiddleware(
                handler,
                manager=self.manager,
                session_cookie=name,
                accept=[source] if source else (),
            )
            for (app, name), source in zip(self.names.items(), sources, strict=True)
        }

    async def visit(
        self,
        app: str,
        act: Callable[[Session], object] = dict,
        *,
        theirs: tuple[str, str] | None = None,
        ours: str | None = None,
    ) -> Reply:
        """A request to one of them, with the cookie of a source, and with ours."""
        sent = [] if theirs is None else [(b"cookie", cookie(theirs[1], theirs[0]))]
        if ours is not None:
            sent.append((b"cookie", cookie(ours, self.names[app])))
        fields: dict[str, Any] = {ACT: act}
        return (await ask(self.apps[app], sent, **fields)).checked()

    def token(self, app: str, reply: Reply) -> str:
        """The token of our cookie in a reply."""
        begins = f"{self.names[app]}="
        (value,) = (text for text in reply.cookies if text.startswith(begins))
        return value.removeprefix(begins).split(";")[0]


def followed(cookie_name: str) -> Elsewhere:
    source = Elsewhere(follow=True)
    source.cookie = cookie_name
    return source


def shared(cookie_name: str, **sessions: dict[str, Any]) -> Together:
    source = Together(**sessions)
    source.cookie = cookie_name
    return source


def sign_out(session: Session) -> None:
    session.sign_out()


HOW: Final[dict[str, Callable[[Session], object]]] = {
    "sign_out": sign_out,
    "clear": lambda s: s.clear(),
    "switch": lambda s: s.sign_in("bob"),
}


@pytest.mark.parametrize("app", ["a", "b"])
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("one_cookie", [True, False])
@pytest.mark.parametrize("one_name", [True, False])
async def test_a_sign_out_ends_the_session_at_its_source(
    app: str, how: str, one_cookie: bool, one_name: bool
) -> None:
    """Whichever application was made last, and also if the sources have the same name."""
    sources = {"a": followed("x"), "b": followed("x" if one_name else "y")}
    at = Two(list(sources.values()), one_cookie=one_cookie)
    theirs = sources[app].cookie, "s1"
    token = at.token(app, await at.visit(app, theirs=theirs))
    await at.visit(app, HOW[how], theirs=theirs, ours=token)
    assert {name: source.ended for name, source in sources.items()} == {
        "a": [],
        "b": [],
        app: ["s1"],
    }


@pytest.mark.parametrize("app", ["a", "b"])
async def test_a_sign_out_without_a_request(app: str) -> None:
    """A task of the same process ends the session. The source ends it, too."""
    sources = {"a": followed("x"), "b": followed("y")}
    at = Two(list(sources.values()))
    token = at.token(app, await at.visit(app, theirs=(sources[app].cookie, "s1")))
    session = await at.load(token)
    session.clear()
    await at.commit(session)
    assert {name: source.ended for name, source in sources.items()} == {
        "a": [],
        "b": [],
        app: ["s1"],
    }


@pytest.mark.parametrize("sources", ["both", "one"])
async def test_a_sign_out_in_the_other_application(sources: str) -> None:
    """They have one cookie, and the one that was used last doesn't know the source."""
    source = followed("x")
    at = Two([source, followed("y") if sources == "both" else None])
    token = at.token("a", await at.visit("a", theirs=("x", "s1")))
    await at.visit("b", sign_out, ours=token)
    assert source.ended == ["s1"]


async def test_a_sign_out_before_the_other_application_has_a_middleware() -> None:
    """As a mounted one after a restart. The source ends the session at the next visit there."""
    source = followed("x")
    at = Two([source, None])
    token = at.token("a", await at.visit("a", theirs=("x", "s1")))
    del at.apps["a"]
    gc.collect()
    await at.visit("b", sign_out, ours=token)
    assert source.ended == []
    at.apps["a"] = SessionMiddleware(handler, manager=at.manager, accept=[source])
    seen = list[str | None]()
    await at.visit("a", lambda session: seen.append(session.principal), theirs=("x", "s1"))
    assert (source.ended, seen) == (["s1"], [None])


@pytest.mark.parametrize("app", ["a", "b"])
async def test_a_revocation_ends_it_at_the_next_request(app: str) -> None:
    """It knows no foreign ids. The marker leads to the source of either application."""
    sources = {"a": followed("x"), "b": followed("y")}
    at = Two(list(sources.values()))
    theirs = sources[app].cookie, "s1"
    token = at.token(app, await at.visit(app, theirs=theirs))
    await at.manager.revoke(token[:20], "alice")
    await at.visit(app, theirs=theirs, ours=token)
    assert sources[app].ended == ["s1"]


@pytest.mark.parametrize("app", ["a", "b"])
@pytest.mark.parametrize("one_name", [True, False])
async def test_what_is_shared_is_stored_at_its_own_source(app: str, one_name: bool) -> None:
    """A change, a sign-in and a sign-out reach one of the two."""
    names = "x", "x" if one_name else "y"
    sources = {k: shared(name, s1={"cart": ["tea"]}) for k, name in zip("ab", names, strict=True)}
    at = Two(list(sources.values()))
    here, there = sources[app], sources["b" if app == "a" else "a"]
    token = at.token(app, await at.visit(app, theirs=(here.cookie, "s1")))
    await at.visit(app, add, theirs=(here.cookie, "s1"), ours=token)
    assert here.sessions["s1"]["cart"] == ["tea", "milk"]
    reply = await at.visit(
        app, lambda s: s.sign_in("alice"), theirs=(here.cookie, "s1"), ours=token
    )
    token = at.token(app, reply)
    assert here.sessions == {"new1": {"user_id": "alice", "cart": ["tea", "milk"]}}
    await at.visit(app, sign_out, theirs=(here.cookie, "new1"), ours=token)
    assert (here.sessions, there.sessions) == ({}, {"s1": {"cart": ["tea"]}})


async def test_an_application_that_shares_nothing() -> None:
    """A sign-in there begins no session at the source of the other one, and sets no such cookie."""
    source = shared("x", s1=dict(ALICE))
    at = Two([source, None], one_cookie=False)
    reply = await at.visit("b", lambda s: s.sign_in("bob"))
    assert names_in(reply) == ["__Host-b"]
    assert source.sessions == {"s1": ALICE}


async def test_a_sign_in_in_the_other_application() -> None:
    """The session that was shared with one source ends there, and begins at the other one."""
    sources = shared("x", s1=dict(ALICE)), shared("y")
    at = Two(sources)
    token = at.token("a", await at.visit("a", theirs=("x", "s1")))
    await at.visit("b", lambda s: s.sign_in("bob"), ours=token)
    assert [source.sessions for source in sources] == [{}, {"new0": {"user_id": "bob"}}]


async def test_a_task_that_saves_after_the_response() -> None:
    """What it changes is stored at the source of the middleware that had loaded the session."""
    sources = shared("x", s1=dict(ALICE)), shared("x", s1=dict(ALICE))
    at = Two(sources)
    kept = list[Session]()
    await at.visit("a", kept.append, theirs=("x", "s1"))
    add(kept[0])
    await kept[0].save()
    assert [source.sessions["s1"]["cart"] for source in sources] == [["tea", "milk"], ["tea"]]
