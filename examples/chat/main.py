"""A chat over WebSockets, each of which ends with its session."""

import asyncio
import os
from contextlib import suppress
from html import escape
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Form, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import HTMLResponse, RedirectResponse

from redis_sessions import SessionMiddleware, safe_next
from redis_sessions.fastapi import SessionDep, SessionManagerDep, login_required

app = FastAPI(default_response_class=HTMLResponse)
app.add_middleware(
    SessionMiddleware,
    store=os.environ.get("REDIS_URL", "embedded://"),
    secret_key=os.environ["SESSION_SECRET_KEY"],
    https_only="DEVELOPMENT" not in os.environ,
)

UserDep = Annotated[str, Depends(login_required("/login"))]
PASSWORDS = {"ada": "engine", "bob": "builder"}  # your database, which keeps slow hashes

Inbox = asyncio.Queue[dict[str, Any]]
tabs: dict[Inbox, str] = {}  # of this process: each open tab, and its user

PAGE = """<!doctype html><html lang="en"><title>Chat</title>
<meta name="viewport" content="width=device-width">
<h1>{user}</h1><p id="here"></p><ol id="said" aria-live="polite"></ol>
<form id="say"><label>Message <input id="text" autocomplete="off"></label>
<button>Send</button></form>
<form method="post" action="/logout"><button>Sign out</button></form>
<form method="post" action="/logout-everywhere"><button>Sign out everywhere</button></form>
<script>
const find = (id) => document.getElementById(id);
let socket;
function connect() {{
    socket = new WebSocket("/chat");
    socket.onmessage = (event) => {{
        const message = JSON.parse(event.data);
        if (message.here) find("here").textContent = "Here: " + message.here.join(", ");
        else find("said").appendChild(document.createElement("li")).textContent =
            message.from + ": " + message.text;
    }};
    socket.onclose = (event) => event.code === 1008
        ? setTimeout(() => location.reload(), 200)  // signed out: to the sign-in page
        : setTimeout(connect, 1000);
}}
connect();
find("say").onsubmit = (event) => {{
    event.preventDefault();
    socket.send(find("text").value);
    find("text").value = "";
}};
</script>"""


def tell(message: dict[str, Any]) -> None:
    for inbox in tabs:
        with suppress(asyncio.QueueFull):  # a tab that doesn't read misses messages
            inbox.put_nowait(message)


def tell_who_is_here() -> None:
    tell({"here": sorted(set(tabs.values()))})


@app.websocket("/chat")
async def chat(socket: WebSocket, user: UserDep) -> None:
    await socket.accept()
    inbox = Inbox(100)

    async def deliver() -> None:
        with suppress(WebSocketDisconnect):
            while True:
                await socket.send_json(await inbox.get())

    tabs[inbox] = user
    tell_who_is_here()
    delivery = asyncio.create_task(deliver())
    try:
        async for text in socket.iter_text():  # until the tab is closed, or the session ends
            tell({"from": user, "text": text[:500]})
    finally:
        delivery.cancel()
        del tabs[inbox]
        tell_who_is_here()


@app.get("/")
async def home(user: UserDep) -> str:
    return PAGE.format(user=escape(user))


@app.get("/login")
async def login_page() -> str:
    return (
        '<!doctype html><html lang="en"><title>Chat</title>'
        '<meta name="viewport" content="width=device-width"><form method="post">'
        '<label>Name <input name="name" autocomplete="username"></label>'
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
    session.sign_in(name)
    return RedirectResponse(safe_next(request), 303)


@app.post("/logout")
async def logout(session: SessionDep) -> RedirectResponse:
    session.clear()
    return RedirectResponse("/login", 303)


@app.post("/logout-everywhere")
async def everywhere(user: UserDep, manager: SessionManagerDep) -> RedirectResponse:
    await manager.revoke_all(user)
    return RedirectResponse("/login", 303)
