"""The pytest plugin: its fixtures in tests of others, and what it costs whoever doesn't use it."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.types import ASGIApp

from redis_sessions import ConfigurationError, SessionMiddleware
from redis_sessions.testing.session_client import SessionClient, in_memory
from tests.support import ROOT
from tests.support.asgi import KEY

PAGES = [ROOT / "docs" / "testing.md", ROOT / "redis_sessions" / "SKILL.md"]
NAMED = re.compile(r"^```python\n# (\w+\.py)(?::[^\n]*)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)

APP = """
from fastapi import FastAPI
from redis_sessions import SessionMiddleware
from redis_sessions.fastapi import PrincipalDep, SessionDep

told = []
app = FastAPI()
app.add_middleware(
    SessionMiddleware, "a secret key of 32 characters or more", store="redis://127.0.0.1:1",
    max_age=3600, idle_timeout=600, prefix="shop:", on_event=told.append, %s
)

@app.get("/me")
async def me(user: PrincipalDep) -> str:
    return user

@app.post("/cart")
async def add(session: SessionDep) -> list[str]:
    session.setdefault("cart", []).append("tea")
    return session["cart"]

@app.post("/sign-out")
async def sign_out(session: SessionDep) -> None:
    session.clear()
"""
CONFTEST = """
import main, pytest

@pytest.fixture
def session_app():
    return main.app
"""


# Here once, and not in each of the runs within.
importlib.import_module("redis_sessions.fastapi")


@pytest.fixture(autouse=True)
def only_this_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests within load no other plugins, some of which take seconds to import."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def run(pytester: pytest.Pytester, *, passed: int, **files: str) -> pytest.RunResult:
    """Run these files' tests with the plugin. Warnings are errors there, too."""
    pytester.makepyfile(**files)
    done = pytester.runpytest_inprocess(
        *("-p", "pytest_redis_sessions", "-p", "anyio", "-p", "no:cacheprovider"),
        *("-W", "error", "-W", "ignore:The anyio.abc.BlockingPortal:DeprecationWarning"),
    )
    done.assert_outcomes(passed=passed)
    return done


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documented_files_pass(pytester: pytest.Pytester, page: Path) -> None:
    """The files of each page, put into one folder, are tests that pass."""
    files = {name.removesuffix(".py"): code for name, code in NAMED.findall(page.read_text())}
    tests = [name for name in files if name.startswith("test_")]
    assert tests

    count = sum(len(re.findall(r"^(?:async )?def test_", files[n], re.MULTILINE)) for n in tests)
    run(pytester, passed=count, **files)


def test_an_application_as_it_is(pytester: pytest.Pytester) -> None:
    """An application over Redis is tested in memory, with its other options, and restored."""
    test = """
        import main

        def test_signed_in(session_client, session_clock, session_events):
            assert session_client.get("/me").status_code == 401
            session_client.sign_in(1, cart=["milk"])
            assert session_client.get("/me").json() == "1"
            assert session_client.post("/cart").json() == ["milk", "tea"]
            with session_client.session() as session:
                assert session == {"user_id": 1, "cart": ["milk", "tea"]}
            assert session_client.manager.store.prefix == "shop:"
            assert [e.name for e in session_events] == [e.name for e in main.told]
            assert "signed_in" in [event.name for event in session_events]
            session_clock.advance(600)
            assert session_client.get("/me").status_code == 401

        def test_ends(session_client):
            assert len(session_client.manager.store) == 0
            session_client.sign_in("ada")
            session_client.post("/sign-out")
            with session_client.session() as session:
                assert session == {} and session.principal is None
                session["cart"] = ["a"]
            assert session_client.post("/cart").json() == ["a", "tea"]
            with session_client.session() as session:
                session.clear()
            assert not list(session_client.cookies.jar)

        def test_restored():
            [entry] = main.app.user_middleware
            assert entry.kwargs["store"] == "redis://127.0.0.1:1"
            assert main.app.middleware_stack is None
    """
    run(pytester, passed=3, main=APP % "", conftest=CONFTEST, test_main=test)


def test_reading_is_no_use(pytester: pytest.Pytester) -> None:
    """A test that looks at the session doesn't renew its idle timeout."""
    test = """
        def test_idle(session_client, session_clock):
            session_client.sign_in(1)
            session_clock.advance(599)
            with session_client.session() as session:
                assert session["user_id"] == 1
            session_clock.advance(1)
            with session_client.session() as session:
                assert session == {}
    """
    run(pytester, passed=1, main=APP % "", conftest=CONFTEST, test_main=test)


@pytest.mark.parametrize(
    ("options", "works"),
    [
        ("path='/cart', https_only=False", True),
        ("domain='testserver.example'", False),
        ("transport=HeaderTransport('X-Session')", False),
        ("session_cookie='shop', same_site='strict'", True),
        ("redis_url='redis://localhost'", False),
    ],
)
def test_the_cookie_is_the_application_s(
    pytester: pytest.Pytester, options: str, works: bool
) -> None:
    """The client holds the cookie as a browser would, or the error says why it can't."""
    test = f"""
        import pytest
        from redis_sessions import ConfigurationError

        def test_cart(request):
            with pytest.raises(ConfigurationError) if not {works} else pytest.MonkeyPatch.context():
                client = request.getfixturevalue("session_client")
                client.sign_in(1)
                assert client.post("/cart").json() == ["tea"]
                assert client.post("/cart").json() == ["tea", "tea"]
                assert len(list(client.cookies.jar)) == 1
    """
    main = "from redis_sessions import HeaderTransport\n" + APP % options
    run(pytester, passed=1, main=main, conftest=CONFTEST, test_main=test)


def test_an_application_with_a_manager(pytester: pytest.Pytester) -> None:
    """An application that is made with `session_manager` keeps it; options are overridden."""
    conftest = """
        import pytest
        from starlette.applications import Starlette
        from redis_sessions import SessionMiddleware

        @pytest.fixture
        def session_options():
            return {"principal": "user.sub", "max_age": 60}

        @pytest.fixture
        def session_app(session_manager):
            app = Starlette()
            app.add_middleware(SessionMiddleware, manager=session_manager)
            return app
    """
    test = """
        def test_it(session_client, session_manager, session_clock):
            session_client.sign_in("a")
            assert session_client.manager is session_manager
            with session_client.session() as session:
                assert session == {"user": {"sub": "a"}}
            session_clock.advance(60)
            with session_client.session() as session:
                assert session.principal is None
    """
    run(pytester, passed=1, conftest=conftest, test_it=test)


def test_without_an_application(pytester: pytest.Pytester) -> None:
    """Without a fixture session_app, the error says that one is to be written."""
    pytester.makepyfile("def test_it(session_client): ...")
    done = pytester.runpytest_inprocess("-p", "pytest_redis_sessions", "-p", "no:cacheprovider")
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*write a fixture session_app that returns it*"])


def test_it_imports_nothing() -> None:
    """To load the plugin imports neither redis_sessions nor anything else but pytest."""
    code = (
        "import sys, pytest; before = set(sys.modules); import pytest_redis_sessions; "
        "print(sorted(set(sys.modules) - before))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout == "['pytest_redis_sessions']\n"


def test_pytest_finds_it() -> None:
    """The distribution names the plugin under the name of its module, and holds the module."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    name = "pytest_redis_sessions"
    assert project["project"]["entry-points"]["pytest11"] == {name: name}
    assert f"{name}.py" in project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]


def test_applications_that_it_cannot_take() -> None:
    """The error says what is wrong with the application, and what to write."""
    bare, several, redis = Starlette(), Starlette(), Starlette()
    for app in (several, several, redis):
        app.add_middleware(SessionMiddleware, store="redis://127.0.0.1:1", secret_key=KEY)
    wrapped = SessionMiddleware(bare, store="memory://", secret_key=KEY)
    wrong: list[ASGIApp] = [bare, several, wrapped]
    for each in wrong:
        with pytest.raises(ConfigurationError, match="times SessionMiddleware"), in_memory(each):
            pass
    with pytest.raises(ConfigurationError, match=r"in_memory\(app\)"):
        SessionClient(redis).sign_in(1)

    with in_memory(redis):
        client = SessionClient(redis)  # not entered: no event loop of the application runs
        client.sign_in(1)
        with pytest.raises(ZeroDivisionError), client.session() as session:
            session["x"] = 1 / 0
        with client.session() as session:
            assert session == {"user_id": 1}


async def test_in_an_async_test() -> None:
    """A client that isn't entered waits beside the test's own event loop, as its requests do."""
    app = Starlette()
    app.add_middleware(SessionMiddleware, store="memory://", secret_key=KEY)
    with in_memory(app):
        client = SessionClient(app)
        client.sign_in(1)
        with client.session() as session:
            assert session.principal == "1"
