"""What the imageio tests share: a disk in memory, more faults, and questions to the double."""

from __future__ import annotations

import itertools
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import trustme
from typing_extensions import Self

from tapestream import CopyResult, ImageioHTTPSource, ImageioUploadSink, Sink, Source, copy
from tapestream.testing import ImageioDaemon
from tests.hostile import (
    BytesImage,
    Connection,
    Fault,
    HostileServer,
    RangeHook,
    Reply,
    Request,
    SparseImage,
)

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# Far longer than any test takes: whoever waits for it hangs.
FOREVER = 1000.0


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until something is so that another thread, or a server, is about to do."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


# --- What the daemon was asked ---

CLOSED = re.compile(r"\[read (\d+) ops, [\d.]+ s, [\d.]+ MiB")


def gets_of_connections(daemon: ImageioDaemon, since: int) -> list[int]:
    """How many GETs of data each connection had that was closed after this place in the log."""
    return [int(number) for number in CLOSED.findall(daemon.read_log()[since:])]


# --- Copies with the double ---

SMALL: dict[str, Any] = {"max_workers": 1, "buffer_size": 64 * KIB, "max_gap": 0}


def download(server: HostileServer, sink: Sink, **options: Any) -> CopyResult:
    """Copy the server's disk in one thread and in small blocks; the options are the source's."""
    with ImageioHTTPSource(server.url, **{"secure": False, **options}) as source, sink:
        return copy(source, sink, **SMALL)


def upload(server: HostileServer, source: Source, **options: Any) -> CopyResult:
    """Copy to the server's disk in one thread and in small blocks; the options are the sink's."""
    with ImageioUploadSink(server.url, **{"secure": False, **options}) as sink, source:
        return copy(source, sink, **SMALL)


def gets(server: HostileServer) -> list[tuple[int, int]]:
    """The ranges (start, end) that were asked for, in the order of their arrival."""
    ranges = (request.headers.get("range", "") for request in asked(server, "GET"))
    matches = (re.fullmatch(r"bytes=(\d+)-(\d+)", text) for text in ranges)
    return [(int(match[1]), int(match[2]) + 1) for match in matches if match]


def asked(server: HostileServer, method: str, resource: str = "") -> list[Request]:
    """The requests for the image itself, or for another resource of it such as "/extents".

    Without those for what is after the end of the disk: see `looks_beyond`.
    """
    return [r for r in _requests(server, method, resource) if not _is_beyond(server, r)]


def looks_beyond(server: HostileServer) -> int:
    """How often something after the end of the disk was asked for."""
    return sum(_is_beyond(server, request) for request in _requests(server, "GET", ""))


def _requests(server: HostileServer, method: str, resource: str) -> list[Request]:
    path = re.escape(f"/images/{server.ticket}{resource}")
    found = (r for r in server.requests if r.method == method)
    return [r for r in found if re.fullmatch(path + r"(\?.*)?", r.path)]


def _is_beyond(server: HostileServer, request: Request) -> bool:
    match = re.fullmatch(r"bytes=(\d+)-\d+", request.headers.get("range", ""))
    return match is not None and int(match[1]) >= server.image.size


def on(n: int, fault: Fault) -> Callable[..., Fault | None]:
    """A hook that answers the n-th request with the fault, the others honestly."""
    return lambda count, *_: fault if count == n else None


def always(fault: Fault) -> Callable[..., Fault | None]:
    """A hook that answers every request with the fault."""
    return lambda *_: fault


def in_turn(faults: Sequence[Fault]) -> RangeHook:
    """A hook that answers the first requests with these faults, the rest honestly."""
    return lambda n, *_: faults[n - 1] if n <= len(faults) else None


def content(server: HostileServer) -> bytes:
    """What is on the server's disk."""
    return server.image.read(0, server.image.size)


def to_json(*extents: dict[str, Any]) -> bytes:
    return json.dumps(extents).encode()


# --- More faults ---


@dataclass(frozen=True)
class Say(Fault):
    """Send this reply instead; the lengths are as declared in the headers."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    close: bool = False

    def play(self, connection: Connection, reply: Reply) -> None:
        says = Reply(self.status, self.headers, BytesImage(self.body), 0, len(self.body))
        framing = "X-Framing: none" if self.close else None
        connection.send(says.head(framing), [self.body])
        if self.close:
            connection.hang_up()


@dataclass(frozen=True)
class Speak(Fault):
    """Send these raw bytes instead, then close."""

    text: bytes
    reset: bool = False

    def play(self, connection: Connection, reply: Reply) -> None:
        connection.send(self.text)
        connection.hang_up(reset=self.reset)


@dataclass(frozen=True)
class Last(Fault):
    """A fault in a reply that announces the end of the connection."""

    fault: Fault

    @property
    def spoils(self) -> bool:
        return self.fault.spoils

    def play(self, connection: Connection, reply: Reply) -> None:
        headers = {**reply.headers, "Connection": "close"}
        self.fault.play(connection, replace(reply, headers=headers))
        connection.hang_up()


class StuckImage(SparseImage):
    """A disk that takes no byte: the server stops reading what is sent to it."""

    def __init__(self, size: int) -> None:
        super().__init__(size, {})
        self.released = threading.Event()

    def write(self, start: int, data: bytes) -> None:
        self.released.wait(FOREVER)


class SlowImage(SparseImage):
    """A disk that takes a tenth of a second for each MiB."""

    def write(self, start: int, data: bytes) -> None:
        time.sleep(0.1)
        super().write(start, data)


# --- The double with a checksum ---


class ChecksumServer(HostileServer):
    """The double, which answers a GET of `/checksum` with the fault."""

    def __init__(self, image: bytes, fault: Fault, **behaviour: Any) -> None:
        super().__init__(image, **behaviour)
        self._fault = fault

    def answer(self, request: Request, body: Iterator[bytes]) -> tuple[Reply, Fault]:
        if request.path.partition("?")[0] != f"/images/{self.ticket}/checksum":
            return super().answer(request, body)
        with self._lock:
            self._requests.append(request)
        return Reply(length=100), self._fault


# --- The double behind TLS ---

authority = trustme.CA()


class TLSServer(HostileServer):
    """The double, as https: its certificate is of `authority`."""

    _context: ClassVar[ssl.SSLContext] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(_context)

    def __enter__(self) -> Self:
        super().__enter__()
        self.url = self.url.replace("http:", "https:")
        return self

    def _accept(self) -> None:
        with suppress(OSError):
            for number in itertools.count(1):
                plain, _ = self._listener.accept()
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with suppress(OSError):  # A client that does not trust us.
                    sock = self._context.wrap_socket(plain, server_side=True)
                    connection = Connection(self, sock, number)
                    thread = threading.Thread(target=_run, args=(connection,), daemon=True)
                    self._connections.append((connection, thread))
                    thread.start()


def _run(connection: Connection) -> None:
    # ValueError: what the ssl module says when the server shuts the socket down at its end.
    with suppress(ValueError):
        connection.run()
