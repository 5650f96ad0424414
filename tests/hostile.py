"""A double of the imageio server, for what the real one will not do on demand.

Whatever can be tested against the real ovirt-imageio daemon is. This raw-socket server exists for
the rest: it cuts, stalls, resets, lies about ranges and lengths, refuses, or is very old.

What it imitates of the real server (2.5): OPTIONS, GET, PUT and PATCH of ``/images/TICKET``, and
GET of ``/images/TICKET/extents``; the status codes; the texts of its errors, which name the ticket;
that a request refused before its body was read closes the connection; that a chunked PUT gets a 400
and its body is then taken for the next request. What it does not: PUT must carry a Content-Range
here; there is no ``/checksum``, TLS, unix socket or timeout.

    cut_once = lambda n, start, length: Cut(2) if n == 1 else None
    with HostileServer(b"disk", on_get=cut_once) as server:
        ...  # the first GET of server.url ends after two bytes of its body

A request that meets a fault leaves the image as it was, unless the fault is a mere `Stall`.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, Protocol
from urllib.parse import parse_qsl, urlsplit

from typing_extensions import Self

PIECE = 1024**2
CLUSTER = 64 * 1024
BINARY = {"Content-Type": "application/octet-stream"}


# --- Images ---


class Image(Protocol):
    """The disk behind the ticket."""

    @property
    def size(self) -> int: ...
    def read(self, start: int, length: int) -> bytes: ...
    def write(self, start: int, data: bytes) -> None: ...


class BytesImage(bytearray):
    """A small image in memory; compares equal to its content."""

    @property
    def size(self) -> int:
        return len(self)

    def read(self, start: int, length: int) -> bytes:
        return bytes(self[start : start + length])

    def write(self, start: int, data: bytes) -> None:
        self[start : start + len(data)] = data


class SparseImage:
    """A virtual image of any size: the chunks (start -> data), and zeros that take no memory."""

    def __init__(self, size: int, chunks: Mapping[int, bytes]) -> None:
        self.size = size
        # In the order written, the later over the earlier. Without data: zeros.
        self._writes: list[tuple[int, int, bytes | None]] = []
        for start, data in chunks.items():
            self.write(start, data)

    def read(self, start: int, length: int) -> bytes:
        out = bytearray(length)
        for at, size, data in self._writes:
            a, b = max(at, start), min(at + size, start + length)
            if a < b:
                out[a - start : b - start] = data[a - at : b - at] if data else bytes(b - a)
        return bytes(out)

    def write(self, start: int, data: bytes) -> None:
        self._writes.append((start, len(data), data))

    def zero(self, start: int, length: int) -> None:
        self._writes.append((start, length, None))

    def clusters(self) -> list[int]:
        """The numbers of the clusters that may hold data."""
        written = ((at, size) for at, size, data in self._writes if data)
        return sorted({n for at, size in written for n in _cluster_range(at, size)})


def _cluster_range(start: int, length: int) -> range:
    return range(start // CLUSTER, -(-(start + length) // CLUSTER))


def _zero(image: Image, start: int, length: int) -> None:
    if isinstance(image, SparseImage):
        image.zero(start, length)
        return
    for at, n in _pieces(start, length):
        image.write(at, bytes(n))


def _data_runs(image: Image) -> Iterator[tuple[int, int]]:
    everywhere = _cluster_range(0, image.size)
    candidates = image.clusters() if isinstance(image, SparseImage) else everywhere
    clusters = [n for n in candidates if image.read(n * CLUSTER, CLUSTER).strip(b"\0")]
    # Neighbours have the same distance from their place in the list.
    for _, group in itertools.groupby(enumerate(clusters), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        yield run[0] * CLUSTER, min((run[-1] + 1) * CLUSTER, image.size)


def honest_extents(image: Image) -> list[dict[str, object]]:
    """The zero extents of the image, as the server's JSON has them."""

    def extent(start: int, end: int, zero: bool) -> dict[str, object]:
        return {"start": start, "length": end - start, "zero": zero, "hole": False}

    extents, at = [], 0
    for start, end in _data_runs(image):
        extents += [extent(at, start, True), extent(start, end, False)]
        at = end
    extents.append(extent(at, image.size, True))
    return [e for e in extents if e["length"]]


def _pieces(start: int, length: int) -> Iterator[tuple[int, int]]:
    for at in range(start, start + length, PIECE):
        yield at, min(PIECE, start + length - at)


# --- Requests and replies ---


@dataclass(frozen=True)
class Request:
    """A request as it arrived; recorded before it is answered, whether or not its body is read."""

    method: str
    path: str  # With the query.
    headers: Mapping[str, str]  # In lower case.
    body_length: int  # As declared; 0 if not declared.
    connection: int  # Number of the connection that carried it, from 1.


@dataclass(frozen=True)
class Reply:
    """An honest reply. The body is `length` bytes of `image` from `start`."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    image: Image = field(default_factory=BytesImage)
    start: int = 0
    length: int = 0

    def head(self, framing: str | None = None) -> bytes:
        lines = [f"HTTP/1.1 {self.status} {http.client.responses.get(self.status, '')}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.status != 204:
            lines.append(framing or f"Content-Length: {self.length}")
        return "\r\n".join([*lines, "", ""]).encode()

    def body(self, first: int = 0, last: int | None = None) -> Iterator[bytes]:
        last = self.length if last is None else min(last, self.length)
        for at, n in _pieces(self.start + first, last - first):
            yield self.image.read(at, n).ljust(n, b"\0")


def _reply(status: int, body: bytes, content_type: str, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {"Content-Type": content_type, **named}, BytesImage(body), 0, len(body))


def _text(status: int, message: str, **headers: str) -> Reply:
    return _reply(status, f"{message}\n".encode(), "text/plain; charset=UTF-8", **headers)


def _partial(image: Image, start: int, length: int) -> Reply:
    content_range = f"bytes {start}-{start + length - 1}/{image.size}"
    return Reply(206, {**BINARY, "Content-Range": content_range}, image, start, length)


def _json(body: bytes, **headers: str) -> Reply:
    return _reply(200, body, "application/json", **headers)


class _RefusedError(Exception):
    """An honest refusal."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.reply = _text(status, message, **headers)


def _not_allowed(request: Request, status: int = 405) -> _RefusedError:
    return _RefusedError(status, f"Method {request.method!r} not defined for {request.path!r}")


def _beyond(size: int) -> _RefusedError:
    message = "Requested range out of allowed range"
    return _RefusedError(416, message, Content_Range=f"bytes */{size}")


def _forbidden(reason: str) -> _RefusedError:
    message = f"You are not allowed to access this resource: {reason}"
    return _RefusedError(403, message, Connection="close")


# --- Faults ---


class Fault:
    """A way for an honest reply to go wrong."""

    @property
    def spoils(self) -> bool:
        """The request has no effect on the image."""
        return True

    def play(self, connection: Connection, reply: Reply) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class Cut(Fault):
    """Send the head and `after` bytes of the body, then close cleanly."""

    after: int

    def play(self, connection: Connection, reply: Reply) -> None:
        connection.send(reply.head(), reply.body(0, self.after))
        connection.hang_up()


@dataclass(frozen=True)
class Reset(Fault):
    """As `Cut`, but with a RST; bytes that the client has no room for yet are lost."""

    after: int

    def play(self, connection: Connection, reply: Reply) -> None:
        connection.send(reply.head(), reply.body(0, self.after))
        connection.hang_up(reset=True)


@dataclass(frozen=True)
class Stall(Fault):
    """Send the head and `after` bytes of the body, or nothing if None; sleep; send the rest."""

    after: int | None
    seconds: float

    @property
    def spoils(self) -> bool:
        return False

    def play(self, connection: Connection, reply: Reply) -> None:
        if self.after is None:
            connection.pause(self.seconds)
        connection.send(reply.head(), reply.body(0, self.after or 0))
        if self.after is not None:
            connection.pause(self.seconds)
        connection.send(b"", reply.body(self.after or 0))


@dataclass(frozen=True)
class Status(Fault):
    """Send an error. Early: without reading the body of the request, then close."""

    code: int
    body: str = ""
    early: bool = False

    def play(self, connection: Connection, reply: Reply) -> None:
        headers = {"Connection": "close"} if self.early else {}
        HONEST.play(connection, _text(self.code, self.body, **headers))
        if self.early:
            connection.hang_up()


@dataclass(frozen=True)
class Endless(Fault):
    """A reply of a terabyte, so it says, of which the beginning comes, and then nothing."""

    code: int
    body: str

    def play(self, connection: Connection, reply: Reply) -> None:
        error = _text(self.code, self.body.ljust(8 * 1024))
        connection.send(error.head("Content-Length: 1000000000000"), error.body())
        connection.pause(60)


@dataclass(frozen=True)
class WrongLength(Fault):
    """A body that is `delta` bytes longer (or shorter) than asked for, and says so."""

    delta: int

    def play(self, connection: Connection, reply: Reply) -> None:
        HONEST.play(connection, replace(reply, length=reply.length + self.delta))


@dataclass(frozen=True)
class Whole(Fault):
    """200 and the whole image, whatever the range."""

    def play(self, connection: Connection, reply: Reply) -> None:
        HONEST.play(connection, Reply(200, BINARY, reply.image, 0, reply.image.size))


@dataclass(frozen=True)
class WrongRange(Fault):
    """206 with a range, and its data, `shift` bytes off."""

    shift: int

    def play(self, connection: Connection, reply: Reply) -> None:
        HONEST.play(connection, _partial(reply.image, reply.start + self.shift, reply.length))


@dataclass(frozen=True)
class Chunked(Fault):
    """The right data, but chunked, without a length."""

    def play(self, connection: Connection, reply: Reply) -> None:
        chunks = (b"%x\r\n%b\r\n" % (len(piece), piece) for piece in reply.body())
        head = reply.head("Transfer-Encoding: chunked")
        connection.send(head, itertools.chain(chunks, [b"0\r\n\r\n"]))


@dataclass(frozen=True)
class Garbage(Fault):
    """Bytes that are not HTTP, then close."""

    def play(self, connection: Connection, reply: Reply) -> None:
        connection.send(b"\x15\x03\x03 this is not HTTP\r\n\r\n")
        connection.hang_up()


@dataclass(frozen=True)
class CloseBeforeReply(Fault):
    """Read the whole request, then close without a word."""

    def play(self, connection: Connection, reply: Reply) -> None:
        connection.hang_up()


HONEST = Stall(0, 0)

RangeHook = Callable[[int, int, int], "Fault | None"]  # (n, start, length), n from 1.
Hook = Callable[[int], "Fault | None"]


def _never(*_: int) -> None:
    return None


@dataclass(frozen=True)
class Behaviour:
    """What kind of server this is; by default a well-behaved modern one."""

    options_status: int = 200  # 204 and 405: an old server, which has none of the features.
    features: tuple[str, ...] = ("extents", "zero", "flush", "checksum")
    max_readers: int | None = 8
    max_writers: int | None = 8
    unix_socket: str | None = None
    extents: bytes | Mapping[str, bytes] | None = (
        None  # JSON; or by context; None: honest, no dirty.
    )
    extents_status: int = 200
    ops: tuple[str, ...] = ("read", "write")
    ticket_known: bool = True
    close_after_each: bool = False  # Close after every reply, unannounced.
    on_options: Hook = _never
    on_extents: Hook = _never
    on_get: RangeHook = _never
    on_put: RangeHook = _never
    on_patch: Hook = _never

    def supports(self, feature: str) -> bool:
        return self.options_status not in (204, 405) and feature in self.features


# --- The server ---


class _HangUpError(Exception):
    """The connection is to be closed at once."""


class Connection:
    """One client connection, one request after the other."""

    def __init__(self, server: HostileServer, sock: socket.socket, number: int) -> None:
        self.socket = sock
        self._server = server
        self._number = number
        self._file = sock.makefile("rb")
        self._unread = 0  # Of the current request's body.

    def run(self) -> None:
        # An OSError: the client has left. Anything else is a bug of the test, for pytest to report.
        with self.socket, self._file, contextlib.suppress(_HangUpError, OSError):
            while True:
                self._serve(self._receive())

    def send(self, head: bytes, body: Iterable[bytes] = ()) -> None:
        for piece in itertools.chain([head], body):
            self.socket.sendall(piece)

    def pause(self, seconds: float) -> None:
        self._server.closing.wait(seconds)

    def hang_up(self, *, reset: bool = False) -> NoReturn:
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise _HangUpError

    def body(self) -> Iterator[bytes]:
        """What is left of the request's body."""
        while self._unread:
            piece = self._file.read(min(PIECE, self._unread))
            if not piece:
                self.hang_up()
            self._unread -= len(piece)
            yield piece

    def _receive(self) -> Request:
        line = self._file.readline(4097)
        if not line:
            self.hang_up()
        words = line.decode("latin1").split()
        if len(words) != 3:
            self.send(b"<!DOCTYPE HTML>Bad request syntax\n")  # HTTP 0.9, as the real one.
            self.hang_up()
        headers = {k.lower(): v for k, v in http.client.parse_headers(self._file).items()}
        self._unread = int(headers.get("content-length", 0))
        return Request(words[0], words[1], headers, self._unread, self._number)

    def _serve(self, request: Request) -> None:
        try:
            reply, fault = self._server.answer(request, self.body())
        except _RefusedError as refused:
            reply, fault = refused.reply, HONEST
            if self._unread:
                reply = replace(reply, headers={**reply.headers, "Connection": "close"})
        fault.play(self, reply)
        last = "close" in (request.headers.get("connection"), reply.headers.get("Connection"))
        if last or self._unread or self._server.behaviour.close_after_each:
            self.hang_up()


Answer = tuple[Reply, Fault]


def _query(request: Request) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(request.path).query))


class HostileServer:
    """An imageio server on 127.0.0.1 with the given `Behaviour`; see the top of this module.

    Args:
        image: The disk. Bytes are copied.
        ticket: The ticket's id, a secret.
        behaviour: The fields of `Behaviour`.

    Attributes:
        image: The disk, as the requests left it.
    """

    def __init__(
        self, image: bytes | Image, *, ticket: str = "secret-ticket-0123456789", **behaviour: Any
    ) -> None:
        self.behaviour = Behaviour(**behaviour)
        self.ticket = ticket
        self.image = BytesImage(image) if isinstance(image, bytes) else image
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._requests: list[Request] = []
        self._counts = Counter[str]()
        self._connections: list[tuple[Connection, threading.Thread]] = []
        self._handlers: dict[tuple[str, str], Callable[[Request, Iterator[bytes]], Answer]] = {
            ("OPTIONS", ""): self._options,
            ("GET", "/extents"): self._extents,
            ("GET", ""): self._get,
            ("PUT", ""): self._put,
            ("PATCH", ""): self._patch,
        }

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/images/{self.ticket}"
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)  # Wakes the acceptor.
        self._acceptor.join(1)
        self._listener.close()
        for connection, _thread in self._connections:
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)
        for _connection, thread in self._connections:
            thread.join(1)

    @property
    def requests(self) -> list[Request]:
        """The requests so far, in the order of their arrival: a copy."""
        with self._lock:
            return list(self._requests)

    @property
    def flushed(self) -> int:
        """The number of flushes (PATCH) so far."""
        return self._counts["flushed"]

    @property
    def unflushed_puts(self) -> int:
        """The number of PUTs so far that asked not to be flushed."""
        return self._counts["unflushed_puts"]

    @property
    def flushed_zeros(self) -> int:
        """The number of PATCHes so far that zeroed and asked to be flushed."""
        return self._counts["flushed_zeros"]

    def _count(self, what: str) -> int:
        with self._lock:
            self._counts[what] += 1
            return self._counts[what]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            for number in itertools.count(1):
                sock, _ = self._listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection = Connection(self, sock, number)
                thread = threading.Thread(target=connection.run, daemon=True)
                self._connections.append((connection, thread))
                thread.start()

    def answer(self, request: Request, body: Iterator[bytes]) -> Answer:
        """Carry out the request; the reply and what is to happen to it. Raises `_RefusedError`."""
        with self._lock:
            self._requests.append(request)
        path = urlsplit(request.path).path
        match = re.fullmatch(r"/images/([^/]+)(/extents)?", path)
        if not match:
            raise _RefusedError(404, f"No handler for {path!r}")
        ticket, resource = match.group(1), match.group(2) or ""
        handler = self._handlers.get((request.method, resource))
        if not handler:
            raise _not_allowed(request)
        if not self.behaviour.ticket_known or ticket != self.ticket:
            raise _forbidden(f"No such ticket {ticket}")
        return handler(request, body)

    def _authorize(self, op: str) -> None:
        if op not in self.behaviour.ops and "write" not in self.behaviour.ops:  # Implies read.
            raise _forbidden(f"Transfer=(ticket/{self.ticket[:18]}) forbids {op}")

    def _ask(self, kind: str, hook: Callable[..., Fault | None], *args: int) -> Fault:
        """The fault for this request, if it is to have one."""
        return hook(self._count(kind), *args) or HONEST

    def _options(self, request: Request, body: Iterator[bytes]) -> Answer:
        b = self.behaviour
        fault = self._ask("options", b.on_options)
        if b.options_status == 204:
            return Reply(204), fault
        if b.options_status != 200:
            return _not_allowed(request, b.options_status).reply, fault
        values = {
            "unix_socket": b.unix_socket,
            "features": b.features,
            "max_readers": b.max_readers,
            "max_writers": b.max_writers,
        }
        known = {key: value for key, value in values.items() if value is not None}
        return _json(json.dumps(known).encode(), Allow="OPTIONS,GET,PUT,PATCH"), fault

    def _extents(self, request: Request, body: Iterator[bytes]) -> Answer:
        if not self.behaviour.supports("extents"):
            raise _RefusedError(404, f"No handler for {request.path!r}")
        self._authorize("read")
        fault = self._ask("extents", self.behaviour.on_extents)
        if self.behaviour.extents_status != 200:
            return _text(self.behaviour.extents_status, "The extents are not available"), fault
        found = self._extents_of(_query(request).get("context", "zero"))
        if found is None:
            raise _RefusedError(404, "Ticket does not support dirty extents")
        return _json(found), fault

    def _extents_of(self, context: str) -> bytes | None:
        given = self.behaviour.extents
        if isinstance(given, bytes):
            return given
        if given is not None:
            return given.get(context)
        return json.dumps(honest_extents(self.image)).encode() if context == "zero" else None

    def _get(self, request: Request, body: Iterator[bytes]) -> Answer:
        self._authorize("read")
        size = self.image.size
        wanted = request.headers.get("range")
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted or "bytes=0-")
        if not match:
            raise _beyond(size)
        start, end = int(match[1]), int(match[2]) + 1 if match[2] else size
        if not start <= end <= size:
            raise _beyond(size)
        fault = self._ask("get", self.behaviour.on_get, start, end - start)
        if wanted is None:
            return Reply(200, BINARY, self.image, 0, size), fault
        return _partial(self.image, start, end - start), fault

    def _put(self, request: Request, body: Iterator[bytes]) -> Answer:
        match = re.fullmatch(
            r"bytes (\d+)-(?:\d+|\*)/(?:\d+|\*)", request.headers.get("content-range", "")
        )
        if "content-length" not in request.headers or not match:
            raise _RefusedError(400, "Content-Length and Content-Range headers are required")
        self._authorize("write")
        at, length = int(match[1]), request.body_length
        if at + length > self.image.size:
            raise _beyond(self.image.size)
        fault = self._ask("put", self.behaviour.on_put, at, length)
        if isinstance(fault, Status) and fault.early:
            return Reply(), fault
        for piece in body:
            if not fault.spoils:
                self.image.write(at, piece)
            at += len(piece)
        if not fault.spoils and _query(request).get("flush") == "n":
            self._count("unflushed_puts")
        return Reply(), fault

    def _patch(self, request: Request, body: Iterator[bytes]) -> Answer:
        if not self.behaviour.supports("zero"):
            raise _not_allowed(request)
        self._authorize("write")
        fault = self._ask("patch", self.behaviour.on_patch)
        message = b"".join(body)
        if not fault.spoils:
            try:
                self._operate(**json.loads(message))
            except (ValueError, TypeError) as e:
                raise _RefusedError(400, f"Invalid message {message!r}: {e}") from e
        return Reply(), fault

    def _operate(self, op: str, size: int = -1, offset: int = 0, flush: bool = False) -> None:
        if op == "flush" and self.behaviour.supports("flush"):
            self._count("flushed")
        elif op != "zero" or size < 0:
            raise ValueError("unsupported operation")
        elif offset + size > self.image.size:
            raise _beyond(self.image.size)
        else:
            _zero(self.image, offset, size)
            if flush:
                self._count("flushed_zeros")
