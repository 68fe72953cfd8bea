"""A shop with a cart and a devices page: forms that work as they are, and better with htmx."""

import os
from html import escape
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, Form, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from redis_sessions import Session, SessionManager, SessionMiddleware, safe_next
from redis_sessions.fastapi import SessionDep, SessionManagerDep, login_required, untouched

app = FastAPI(default_response_class=HTMLResponse)
app.add_middleware(
    SessionMiddleware,
    store=os.environ.get("REDIS_URL", "embedded://"),
    secret_key=os.environ["SESSION_SECRET_KEY"],
    https_only="DEVELOPMENT" not in os.environ,
)

UserDep = Annotated[str, Depends(login_required("/login"))]
PASSWORDS = {"ada": "engine", "bob": "builder"}  # your database, which keeps slow hashes
PRICES = {"apple": 1, "pear": 2, "quince": 4}
HTMX = Path(__file__).with_name("htmx.min.js")


def page(body: str) -> str:
    script = '<script src="/htmx.min.js" defer></script>' if HTMX.is_file() else ""
    return (
        f'<!doctype html><html lang="en"><title>Shop</title>{script}'
        '<meta name="viewport" content="width=device-width">'
        f'<nav><a href="/">Shop</a> <a href="/devices">Devices</a></nav><main>{body}</main>'
    )


def form(action: str, fields: str, text: str, target: str) -> str:
    """Without htmx it is an ordinary form. With it, the answer replaces the target."""
    return (
        f'<form method="post" action="{action}" hx-post="{action}" hx-target="{target}"'
        f' hx-swap="outerHTML">{fields}<button>{escape(text)}</button></form>'
    )


def hidden(name: str, value: str) -> str:
    return f'<input type="hidden" name="{name}" value="{escape(value)}">'


def answer(request: Request, part: str, shown: str) -> Response:
    """Of a POST: the part of the page for htmx, else the way back to the page."""
    if "HX-Request" in request.headers:
        return HTMLResponse(part)
    return RedirectResponse(shown, 303)


def cart(session: Session) -> str:
    items: dict[str, int] = session.get("cart", {})
    rows = "".join(
        f"<li>{name}: {count}" + form("/remove", hidden("item", name), "Remove one", "#cart")
        for name, count in items.items()
    )
    total = sum(PRICES[name] * count for name, count in items.items())
    return f'<section id="cart"><h2>Cart</h2><ul>{rows}</ul><p>Total: {total}</p></section>'


async def devices(user: str, manager: SessionManager) -> str:
    rows = "".join(
        f"<li>{escape(info.browser or 'a browser')}, seen {info.last_seen_at:%H:%M}"
        + (
            " (this one)"
            if info.current
            else form("/devices/end", hidden("id", info.id), "Sign out", "#devices")
        )
        for info in await manager.sessions_of(user)
    )
    poll = 'hx-get="/devices/list" hx-trigger="every 5s" hx-swap="outerHTML"'
    return (
        f'<section id="devices" {poll}><h2>Devices of {escape(user)}</h2><ul>{rows}</ul></section>'
    )


@app.get("/htmx.min.js", response_class=FileResponse)
async def htmx() -> Response:
    return FileResponse(HTMX) if HTMX.is_file() else Response(status_code=404)


@app.get("/")
async def shop(session: SessionDep) -> str:
    goods = "".join(
        f"<li>{name}, {price}" + form("/add", hidden("item", name), "Into the cart", "#cart")
        for name, price in PRICES.items()
    )
    return page(f"<h1>Shop</h1><ul>{goods}</ul>{cart(session)}")


@app.post("/add")
async def add(request: Request, session: SessionDep, item: Annotated[str, Form()]) -> Response:
    if item in PRICES:
        items = session.setdefault("cart", {})
        items[item] = items.get(item, 0) + 1
    return answer(request, cart(session), "/")


@app.post("/remove")
async def remove(request: Request, session: SessionDep, item: Annotated[str, Form()]) -> Response:
    items = session.get("cart", {})
    if items.get(item, 0) > 1:
        items[item] -= 1
    else:
        items.pop(item, None)
    return answer(request, cart(session), "/")


@app.get("/login")
async def login_page() -> str:
    return page(
        '<form method="post"><label>Name <input name="name" autocomplete="username"></label>'
        '<label>Password <input name="password" type="password" autocomplete="current-password">'
        "</label><button>Sign in</button></form>"
    )


@app.post("/login")
async def login(
    request: Request,
    session: SessionDep,
    name: Annotated[str, Form()],
    password: Annotated[str, Form()],
) -> RedirectResponse:
    if PASSWORDS.get(name) != password:
        return RedirectResponse(request.url, 303)
    session.sign_in(name)  # the cart of the visitor stays
    return RedirectResponse(safe_next(request), 303)


@app.get("/devices")
async def devices_page(user: UserDep, manager: SessionManagerDep) -> str:
    sign_out = '<form method="post" action="/logout"><button>Sign out</button></form>'
    return page(await devices(user, manager) + sign_out)


@app.get("/devices/list", dependencies=[Depends(untouched)])  # a poll is no use of the session
async def devices_list(user: UserDep, manager: SessionManagerDep) -> str:
    return await devices(user, manager)


@app.post("/devices/end")
async def end(
    request: Request, user: UserDep, manager: SessionManagerDep, id: Annotated[str, Form()]
) -> Response:
    await manager.revoke(id, principal=user)
    return answer(request, await devices(user, manager), "/devices")


@app.post("/logout")
async def logout(session: SessionDep) -> RedirectResponse:
    session.clear()
    return RedirectResponse("/", 303)
