"""One connection and its session: loaded, put into the scope, committed, and told to the client.

The response's start is held until the body begins, so that generators may still change the
session. An event stream's start isn't held, since its body may begin much later.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Final

import msgspec
from starlette.types import Message, Scope, Send

from redis_sessions.errors import ReplicationError, SessionError, StoreError, StoreUnavailableError
from redis_sessions.http.binding import bound_by, peer_of
from redis_sessions.http.copies import hint, near_session, replica_loader
from redis_sessions.http.cross_site import is_same_site
from redis_sessions.http.errors import as_http, as_raised
from redis_sessions.http.headers import RawHeader, add_vary, forbid_storing, is_event_stream
from redis_sessions.http.live import Live
from redis_sessions.http.replaced import carry_out_replacement, send_outside
from redis_sessions.http.setup import Setup
from redis_sessions.http.transports import Transport
from redis_sessions.lifecycle import loading
from redis_sessions.lifecycle.pending import is_unchanged
from redis_sessions.session.accepted import Accepted
from redis_sessions.session.context import Peer
from redis_sessions.session.outcome import NOTHING, Answer
from redis_sessions.session.placeholder import Unloaded, load_into
from redis_sessions.session.record import Stored
from redis_sessions.session.serving import Served, serving
from redis_sessions.session.session import Session, state_of
from redis_sessions.session.state import ANYWHERE, LIVE, UNAVAILABLE, Bound
from redis_sessions.session.token import SessionToken
from redis_sessions.tracebacks import no_fields, silent_repr, strip

__all__ = ["NONE_YET", "SCOPE_KEY", "Connection", "Connections", "stored_session"]

SCOPE_KEY: Final = "redis_sessions"
_OVER: Final[Scope] = {"type": "over", "headers": []}

# What a connection doesn't have yet: its session, until that is loaded for the first time, and the
# headers of its response.
NONE_YET: Final[Any] = None


async def _too_late(message: Message) -> None:
    raise RuntimeError(f"{message['type']} was sent after the application had returned")


class Connection(msgspec.Struct, eq=False):
    """The session of one HTTP request or WebSocket. The scope has it under `SCOPE_KEY`."""

    __repr__ = silent_repr
    __rich_repr__ = no_fields

    setup: Setup
    scope: Scope
    send: Send
    tokens: Sequence[str]
    """What the request brings as tokens."""
    session: Session = NONE_YET
    """The session, or a placeholder for it."""
    hint: str | None = None
    """What the browser has stored just now. See `Setup.read_with_hint`."""
    stored_before: Stored | None = None
    """The record when the session was loaded. It is noted only if copies are read."""
    near: bool = False
    """Whether the session comes from a near copy."""
    raised: SessionError | None = None
    """The last error of ours that the application got."""
    over: bool = False
    """Whether the request is over."""
    objection: str | None = None
    """Why this request has no session. It is None after it was told, and for all other requests."""

    # The response.
    response_start: str = "http.response.start"
    """The type of the response's first message."""
    held: Message | None = None
    """The response's first message. It is held back until the session is committed."""
    headers: list[RawHeader] = NONE_YET
    """The response's headers, to which ours are added."""
    status: int = 500
    """The response's status code. Without a response it counts as 500."""
    started: bool = False
    """Whether the first message was sent."""
    failure: SessionError | None = None
    """The error of a commit that failed. The response fails, too."""

    live: Live | None = None
    """What ends it when its session has ended, and `changes()` when it is over."""
    watches: bool = True
    """Whether the application wants that its session's end ends it."""
    is_socket: bool = False
    accepted: bool = False
    closed: bool = False
    refused: bool = False
    """Whether it was closed before it was accepted."""

    async def load(self) -> None:
        """Load the session, unless it is loaded. A store that is away raises nothing here."""
        setup, session = self.setup, self.session
        if session is not NONE_YET:
            if not isinstance(session, Unloaded):
                return
            turn = state_of(session).turn
            near = None if turn else near_session(setup, self.scope, self.tokens, self.hint)
            if near is not None:
                self.near = True
                loading.take_place(session, near)
                return
        load: loading.Load = setup.manager.load
        if setup.replicas:
            load = replica_loader(setup, self.scope, self.transport)
        if setup.accepting is not None:
            load = setup.accepting.loader(load, self.scope)
        if setup.personal:
            load = loading.telling(load, self.peer)
        try:
            if session is NONE_YET:
                self.session = session = await load(self.tokens, bound=self._bound())
                if setup.hints:
                    self.stored_before = state_of(session).stored
            else:
                await loading.load_in_turn(session, load)
        except StoreError as exc:
            self.go_on_without(exc)

    def go_on_without(self, why: StoreError) -> None:
        """Do what `on_unavailable` says, since the store is away.

        For "error", a placeholder raises the error as soon as it is used. For "anonymous", the
        session is empty, and can't be stored.
        """
        # Who raises it makes a copy. Its own traceback would lead to this request, which has it.
        why = as_raised(why).with_traceback(None)
        choice = "error" if self.over else self.setup.choice(self.scope)
        backend = self.setup.backend
        if isinstance(why, StoreUnavailableError):
            backend.report("unavailable", why.reason)
        if choice == "error":
            self._stand_in(why)
            return
        empty = loading.anonymous(backend, why)
        if self.session is NONE_YET:
            self.session = empty
        else:
            state_of(empty).request.context = self
            load_into(self.session, empty, state_of(empty))

    async def ask_store(self) -> None:
        """Refresh the session if it comes from a near copy. Raises what `refresh()` raises."""
        if self.near:
            await self.session.refresh()
            self.near = False

    def load_later(self) -> None:
        """Put a placeholder there. `load()` loads it, and so does its own `refresh()`."""
        if self.session is NONE_YET:
            self._stand_in(
                SessionError(
                    "the session isn't loaded (lazy=True): depend on SessionDep, or "
                    "`await get_session(request).refresh()` first"
                )
            )

    def _bound(self) -> Bound:
        """What a session of this connection is bound to."""
        return ANYWHERE if self.setup.binding is None else bound_by(self.setup.binding, self.scope)

    def _stand_in(self, why: SessionError) -> None:
        """Put a placeholder there that raises `why` when it is used."""
        session = self.session
        if session is NONE_YET:
            self.session = loading.unloaded(self.setup.backend, self.tokens, why, self._bound())
        else:
            state = state_of(session)
            state.why, state.status = why, UNAVAILABLE

    # -- what a session asks for

    def peer(self) -> Peer:
        """The client, as the ASGI server gives it."""
        return peer_of(self.scope)

    def as_seen(self, error: SessionError) -> SessionError:
        """The error as one that has an HTTP status. The application gets it, so it is noted."""
        self.raised = as_http(error)
        self.tell_objection()
        return self.raised

    def answer_to(self, error: SessionError) -> SessionError:
        """An error of the manager's. It has an HTTP status unless a response has begun."""
        begun = self.over or self.is_socket or self.started or self.held is not None
        return error if begun else as_http(error)

    def tell_objection(self) -> None:
        """Report and log, once, that another origin caused this request, if it did."""
        objection, self.objection = self.objection, None
        if objection is not None:
            self.setup.cross_site.tell(self.setup.backend.reporter, objection, self.peer)

    def loaded(self, stored: Stored | None) -> None:
        """A placeholder has become the session, of which this is stored."""
        self.stored_before = stored if self.setup.hints else None

    def asking_sources(self, load: loading.Load) -> loading.Load:
        """`load`, which then asks sources of other libraries' sessions, too, if there are any."""
        accepting = self.setup.accepting
        return load if accepting is None else accepting.loader(load, self.scope)

    async def brought(self) -> list[Accepted]:
        """The sessions of other libraries that it brings, whether they may be accepted or not."""
        accepting = self.setup.accepting
        return [] if accepting is None else await accepting.brought(self.scope)

    def opened(self) -> Live:
        """What ends this connection, or is told of its end."""
        if self.live is None:
            self.live = Live(self.setup.backend, self.session, self.send, self.is_socket)
        return self.live

    def watch(self) -> None:
        """End this WebSocket or event stream, which has begun, when its session ends."""
        there = isinstance(self.session, Unloaded) or state_of(self.session).live is not None
        if there and self.watches and self.setup.end_sockets:
            live = self.opened()
            self.send = live.on_send
            live.begin()

    # -- the scope

    def enter(self, outer: Connections | None, before: Any) -> Served:
        """Put the session into the scope, which serves this connection until `leave`.

        `outer` and `before` are what the middlewares around this one have put there: ours, and
        another library's. Returns what `leave` takes.
        """
        scope, session = self.scope, self.session
        if self.setup.touch is not None:
            self.setup.judge(session, self.tokens, scope)
        state_of(session).request.context = self
        if before is not None:
            self.send = send_outside(scope, before, self.send)
        scope["session"] = session
        scope[SCOPE_KEY] = connections = (*outer, self) if outer else (self,)
        return serving.set(connections)

    def leave(self, served: Served) -> None:
        """End the request. It breaks the circles of references, so that nothing is left to `gc`.

        The scope stays with whoever looks at it later. So does this, as a server's own object for
        the request has the scope, and `send` is a method of that object.
        """
        self.over = True
        self.scope, self.send, self.tokens, self.headers = _OVER, _too_late, (), NONE_YET
        if self.live is not None:
            self.live.send = _too_late
        state_of(self.session).request.context = None
        try:  # noqa: SIM105 - on every request
            serving.reset(served)
        except ValueError:
            pass  # a coroutine that is closed from outside runs in another context

    # -- the commit

    def is_settled(self) -> bool:
        """Whether there is nothing to commit."""
        session = self.session
        return self.scope.get("session") is session and is_unchanged(self.setup.backend, session)

    def commit(self, status: int) -> Awaitable[Answer]:
        """Commit the session, for a response with this status."""
        if self.failure is None and self.scope.get("session") is not self.session:
            carry_out_replacement(self.scope, self.session, self.setup.backend)
        state = state_of(self.session)
        lives = state.status is LIVE and not (state.wanted.cleared or state.turn)
        create = lives or self._may_begin()
        return self.setup.manager.commit(self.session, status=status, may_create=create)

    def _may_begin(self) -> bool:
        """Whether an anonymous session may begin. It plays no role while another one lives."""
        if self.is_socket:
            return not self.refused
        return is_same_site(self.scope) or self.transport.cross_site

    async def commit_before_start(self) -> Answer:
        """Commit before anything has gone out. A failure is the response's."""
        try:
            state_of(self.session).request.answering = True
            return await self.commit(self.status)
        except BaseException as exc:
            self._note_failure(exc)
            raise

    def _note_failure(self, exc: BaseException) -> None:
        # If it was cancelled, another response may follow.
        state_of(self.session).request.answering = False
        if isinstance(exc, SessionError):
            self.failure = exc
            if isinstance(exc, (StoreUnavailableError, ReplicationError)):
                self.setup.backend.report("unavailable", exc.reason)

    # -- the response

    async def on_send(self, message: Message) -> None:
        """What the application calls as its `send`.

        The start of the response is held. It is let go, after a commit, by the next message; or at
        once if it announces an event stream.
        """
        try:  # a decorator would cost each message another coroutine
            if self.failure is not None:
                raise self.failure  # the application may go on, but its response can't
            if not self.started:
                begins = self.held is None and message["type"] == self.response_start
                if begins and not is_event_stream(self.hold(message)):
                    return
                held, self.held = self.held, None
                if held is not None:
                    answer = NOTHING
                    if not self.is_settled():
                        request = state_of(self.session).request
                        request.compared = request.answering = True
                        try:  # as `commit_before_start`, which would be another coroutine
                            answer = await self.commit(self.status)
                        except BaseException as exc:
                            self._note_failure(exc)
                            raise
                    await self.send(self.start(held, answer))
                    if held is message:
                        self.watch()
                        return
            await self.send(message)
        except BaseException as exc:
            strip(exc)
            raise

    def hold(self, message: Message) -> list[RawHeader]:
        """Keep the response's first message until the session is committed. Returns its headers."""
        self.held = message
        self.status = message.get("status", 200)  # a WebSocket's acceptance has none
        self.headers = headers = list(message.get("headers", ()))
        return headers

    def start(self, held: Message, answer: Answer) -> Message:
        """The response's first message, with what the client is told about its session."""
        state, headers = state_of(self.session), self.headers
        self.started = state.request.late = True
        # The application may have read a loaded session from the scope, where nobody notices it.
        if state.request.accessed or state.stored is not None or answer is not NOTHING:
            add_vary(headers, self.setup.vary)
        if answer is not NOTHING:
            self._tell(answer, headers)
        if state.status is UNAVAILABLE:
            self._forbid_storing(headers)
        if self.setup.hints and state.stored is not self.stored_before:
            hint(self.stored_before, state.stored, self.transport, headers, answer)
        return {**held, "headers": headers}

    def _tell(self, answer: Answer, headers: list[RawHeader]) -> None:
        headers += answer.headers
        if answer.token is not None:
            headers.append(self.transport.send(answer.token.value, answer.max_age))
            self.setup.warn_if_insecure(self.transport, self.scope)
        elif answer.expire:
            headers.append(self.transport.expire())
        else:
            return
        if answer.ends_session:
            self.setup.clear_browser(self.transport, headers)
        self._forbid_storing(headers)

    def _forbid_storing(self, headers: list[RawHeader]) -> None:
        if forbid_storing(headers):
            self.setup.backend.report("cache_control_replaced")

    @property
    def transport(self) -> Transport:
        """The transport that answers.

        It is the one whose token opened the session. If none did, it is one that brought a token,
        and otherwise the first.
        """
        if self.setup.transport is not None:
            return self.setup.transport
        opened = () if self.session is NONE_YET else state_of(self.session).request.tokens
        return self.setup.answering(self.scope, opened or self.tokens)


def stored_session(setup: Setup, scope: Scope, text: str, sealed: bytes | None) -> Session:
    """The session of a request that has brought one token, of what the store has said of it."""
    bound = ANYWHERE if setup.binding is None else bound_by(setup.binding, scope)
    return loading.opened(setup.backend, SessionToken(text), sealed, bound)


Connections = tuple[Connection, ...]
"""The sessions of one request. The innermost is the last."""
