"""What the doubles of servers that are not oVirt's share: HTTP, and a list of the requests.

These are doubles, not the servers: each was written from the source of the server that its module
names, and answers as that source does.
"""

from __future__ import annotations

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import NamedTuple

import trustme
from typing_extensions import Self

authority = trustme.CA()


class Request(NamedTuple):
    """A request as it arrived."""

    method: str
    path: str  # with the query
    range: str | None


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection; a subclass has an `answer_` for each method."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Double

    def __getattr__(self, name: str) -> object:
        if name.startswith("do_"):
            return getattr(self, f"answer_{name.removeprefix('do_').lower()}")
        raise AttributeError(name)

    def parse_request(self) -> bool:
        parsed = super().parse_request()
        if parsed:
            request = Request(self.command, self.path, self.headers.get("Range"))
            self.server.requests.append(request)
        return parsed

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep quiet."""

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Send a reply with a length."""
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        """The body of the request."""
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))


class Double(ThreadingHTTPServer):
    """A server for the time of a `with`.

    Args:
        handler: Answers.
        tls: True for https, with a certificate of `authority`.

    Attributes:
        requests: The requests so far.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, handler: type[Handler], *, tls: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.scheme = "https" if tls else "http"
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert("127.0.0.1").configure_cert(context)
            self.socket = context.wrap_socket(  # the handshake is for the thread of the connection
                self.socket, server_side=True, do_handshake_on_connect=False
            )
        self.requests: list[Request] = []
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no error."""

    def url(self, path: str) -> str:
        """The URL of a path on this server."""
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}{path}"

    def count(self, method: str, end: str = "") -> int:
        """How many requests so far had this method and a path that ends so."""
        return sum(r.method == method and r.path.endswith(end) for r in self.requests)


def to_json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
