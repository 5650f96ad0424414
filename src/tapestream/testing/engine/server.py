"""The HTTPS server of the double: connections, logins, tokens; what is asked goes to the routes."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

from ..._typing import override
from . import vocabulary
from .entities import EngineCall
from .faults import DroppedError, FaultError, Script, invalid
from .routes import Reply, Request

LOGIN = "/ovirt-engine/sso/oauth/token"
LOGOUT = "/ovirt-engine/services/sso-logout"
_TLS_TIMEOUT = 10.0


@dataclass
class Tokens:
    """Who may come in, and until when by the virtual clock.

    Attributes:
        username: The one user.
        password: The password.
        lifetime: Seconds that a new token is valid.
        now: The virtual clock, in seconds.
        issued: All tokens so far.
    """

    username: str
    password: str = field(repr=False)
    lifetime: float
    now: float = 0.0
    issued: set[str] = field(default_factory=set, repr=False)
    _ends: dict[str, float] = field(default_factory=dict, repr=False)

    @property
    def valid(self) -> int:
        """How many tokens are valid."""
        return sum(end > self.now for end in self._ends.values())

    def log_in(self, form: dict[str, str]) -> tuple[int, dict[str, str]]:
        """Return the status and the reply to a login."""
        if form.get("grant_type") != "password" or form.get("scope") != "ovirt-app-api":
            return 400, _sso_error("invalid_request", "Missing parameter: 'grant_type' or 'scope'")
        if (form.get("username"), form.get("password")) != (self.username, self.password):
            text = f"Cannot authenticate user '{form.get('username')}'"
            return 401, _sso_error("access_denied", text)
        token = secrets.token_urlsafe(32)
        self._ends[token] = self.now + self.lifetime
        self.issued.add(token)
        expires = str(int(self.lifetime * 1000))
        login = {"access_token": token, "token_type": "bearer", "exp": expires}
        return 200, {**login, "scope": "ovirt-app-api"}

    def log_out(self, form: dict[str, str]) -> tuple[int, dict[str, str]]:
        """Return the status and the reply to a logout."""
        if self._ends.pop(form.get("token", ""), None) is None:
            return 400, _sso_error("invalid_grant", "The provided token is not valid")
        return 200, {}

    def good(self, authorization: str) -> bool:
        """Whether a request with this header is let in."""
        kind, _, token = authorization.partition(" ")
        return kind == "Bearer" and self._ends.get(token, self.now) > self.now

    def expire(self) -> None:
        """Let all tokens expire."""
        self._ends = dict.fromkeys(self._ends, self.now)


def _sso_error(code: str, text: str) -> dict[str, str]:
    return {"error_code": code, "error": text}


@dataclass
class Desk:
    """What each request is handled with, one after the other.

    Attributes:
        tokens: Who may come in.
        answer: Carries out a request.
        scripts: What happens to requests instead.
        calls: The requests so far.
        lock: Held while a request is handled.
    """

    tokens: Tokens
    answer: Callable[[Request], Reply]
    scripts: list[Script] = field(default_factory=list)
    calls: list[EngineCall] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)


class EngineServer(ThreadingHTTPServer):
    """Listens on a free port of 127.0.0.1, with TLS.

    None of its threads keeps a program from ending that does not stop it.

    Args:
        context: The server's certificate.
        desk: What requests are handled with.
    """

    daemon_threads = True

    def __init__(self, context: ssl.SSLContext, desk: Desk) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.desk = desk
        self._context = context
        self._open: set[socket.socket] = set()
        self._ending = False
        self._changed = threading.Condition()

    @override
    def finish_request(self, request: Any, client_address: Any) -> None:
        # The handshake is here, in the connection's thread: a slow client delays no other.
        request.settimeout(_TLS_TIMEOUT)
        with (
            contextlib.suppress(OSError),  # of a client that goes away
            self._context.wrap_socket(request, server_side=True) as connection,
        ):
            connection.settimeout(None)
            with self._changed:
                if self._ending:
                    return
                self._open.add(connection)
            try:
                super().finish_request(connection, client_address)
            finally:
                with self._changed:
                    self._open.discard(connection)
                    self._changed.notify_all()

    def end_connections(self) -> None:
        """Close the connections that clients keep open, take no more, and wait for their ends."""
        with self._changed:
            self._ending = True
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._open)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body are sent together. Otherwise, the client's TCP waits 40 ms for more of them.
    wbufsize = -1

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: the double keeps its own log of calls."""

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_DELETE(self) -> None:
        self._handle()

    def do_PUT(self) -> None:
        self._handle()

    def _handle(self) -> None:
        desk = cast("EngineServer", self.server).desk
        length = int(self.headers.get("Content-Length") or 0)
        if length > vocabulary.MAX_BODY:
            self.close_connection = True
            return
        body = self.rfile.read(length)
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        with desk.lock:
            if url.path in (LOGIN, LOGOUT):
                self._sso(desk, url.path, body)
            else:
                self._api(desk, url.path, query, body)

    def _sso(self, desk: Desk, path: str, body: bytes) -> None:
        form = dict(parse_qsl(body.decode(errors="replace")))
        status, reply = (desk.tokens.log_in if path == LOGIN else desk.tokens.log_out)(form)
        desk.calls.append(EngineCall(str(self.command), path, {}, "", status))
        self._reply(status, json.dumps(reply).encode(), "application/json")

    def _api(self, desk: Desk, path: str, query: dict[str, str], body: bytes) -> None:
        below = path.removeprefix(vocabulary.API)
        method = str(self.command)
        status = 0
        try:
            reply = self._answer(
                desk, Request(method, below, query, body, self._all_content(query))
            )
            status, element = reply.status, reply.body
        except DroppedError:
            self.close_connection = True
            return
        except FaultError as e:
            status = e.status
            is_action = below.endswith(("/finalize", "/cancel", "/extend"))
            element = vocabulary.action(e) if is_action else vocabulary.fault(e)
        except Exception as e:  # noqa: BLE001 - a client of the double shows what is wrong with it
            status = 500
            element = vocabulary.fault(FaultError(500, f"{type(e).__name__} in the double: {e}"))
        finally:
            text = body.decode(errors="replace")
            desk.calls.append(EngineCall(method, below, query, text, status))
        self._reply(status, vocabulary.to_text(element), "application/xml;charset=UTF-8")

    def _answer(self, desk: Desk, request: Request) -> Reply:
        if not self.path.startswith(vocabulary.API):
            raise FaultError(404, f"nothing is at {request.path}", "Not found")
        if not desk.tokens.good(self.headers.get("Authorization", "")):
            raise FaultError(401, "The access token is missing or expired", "Unauthorized")
        if request.body and "xml" not in self.headers.get("Content-Type", ""):
            raise invalid("the body has to be application/xml")
        script = next((s for s in desk.scripts if s.takes(request.method, request.path)), None)
        if script is None:
            return desk.answer(request)
        return cast("Reply", script.act(lambda: desk.answer(request)))

    def _all_content(self, query: dict[str, str]) -> bool:
        # The SDK sends it as a header, too, as earlier engines wanted it.
        return "true" in (query.get("all_content"), self.headers.get("All-Content"))

    def _reply(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
