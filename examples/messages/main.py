"""“Your export is ready”, in all tabs and devices of a user, whichever worker has made it."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from html import escape
from typing import Annotated, Any

from fastapi import BackgroundTasks, Depends, FastAPI, Form, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, StreamingResponse

from redis_sessions import Session, SessionMiddleware, safe_next
from redis_sessions.fastapi import MessagesDep, PrincipalDep, SessionDep, login_required
from redis_sessions.messages import Messages, Missed

app = FastAPI(default_response_class=HTMLResponse)
app.add_middleware(
    SessionMiddleware,
    store=os.environ.get("REDIS_URL", "embedded://"),
    secret_key=os.environ["SESSION_SECRET_KEY"],
    https_only="DEVELOPMENT" not in os.environ,
)

UserDep = Annotated[str, Depends(login_required("/login"))]
PASSWORDS = {"ada": "engine", "bob": "builder"}  # your database, which keeps slow hashes

PAGE = """<!doctype html><html lang="en"><title>Exports</title>
<meta name="viewport" content="width=device-width">
<h1>{user}</h1><p>Listens to process <b id="process"></b></p>
<button id="make">Export</button> <button id="greet">Greet everybody</button>
<ol id="news" aria-live="polite"></ol>
<form method="post" action="/logout"><button>Sign out</button></form>
<script>
const find = (id) => document.getElementById(id);
const news = new EventSource("/news");  // it connects again by itself
news.onmessage = (event) => {{
    const message = JSON.parse(event.data);
    if (message.kind === "exports") {{  // all that are ready
        find("news").replaceChildren();
        find("process").textContent = message.process;
    }}
    for (const number of message.numbers ?? [])
        find("news").insertAdjacentHTML("beforeend",
            `<li><a href="/exports/${{number}}">Export ${{number}}</a> is ready`);
    if (message.kind === "greeting")
        find("news").appendChild(document.createElement("li")).textContent =
            `${{message.from}} greets, by process ${{message.process}}`;
}};
news.onerror = () => {{
    if (news.readyState === EventSource.CLOSED) location.reload();  // signed out
}};
find("make").onclick = () => fetch("/exports", {{method: "POST"}});
find("greet").onclick = () => fetch("/greetings", {{method: "POST"}});
</script>"""


async def make_export(session: Session, messages: Messages, user: str) -> None:
    await asyncio.sleep(float(os.environ.get("SECONDS", "2")))  # the work
    async with session.exclusive():
        session["exports"] = number = session.get("exports", 0) + 1
    await messages.to_principal(user, {"kind": "export", "numbers": [number]})


@app.post("/exports", status_code=202)
async def exports(
    session: SessionDep, messages: MessagesDep, user: PrincipalDep, tasks: BackgroundTasks
) -> str:
    tasks.add_task(make_export, session, messages, user)
    return "it will be ready soon"


@app.post("/greetings")
async def greetings(messages: MessagesDep, user: PrincipalDep) -> str:
    await messages.to_all({"kind": "greeting", "from": user, "process": os.getpid()})
    return "sent"


@app.get("/news")
async def news(session: SessionDep, _: PrincipalDep) -> StreamingResponse:
    async def all_exports() -> dict[str, Any]:
        await session.refresh()
        numbers = list(range(1, session.get("exports", 0) + 1))
        return {"kind": "exports", "numbers": numbers, "process": os.getpid()}

    async def events() -> AsyncIterator[str]:
        async with session.messages() as messages:  # first this, and then what is there already
            yield f"data: {json.dumps(await all_exports())}\n\n"
            async for message in messages:  # until the tab is closed, or the session ends
                data = await all_exports() if isinstance(message, Missed) else message
                yield f"data: {json.dumps(data)}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


@app.get("/exports/{number}")
async def export(number: int, user: UserDep) -> PlainTextResponse:
    return PlainTextResponse(f"export {number} of {user}\n")


@app.get("/")
async def home(user: UserDep) -> str:
    return PAGE.format(user=escape(user))


@app.get("/login")
async def login_page() -> str:
    return (
        '<!doctype html><html lang="en"><title>Exports</title>'
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
