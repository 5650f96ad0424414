"""HTTP requests and replies over one connection, with several requests under way (pipelining).

`http.client` sends a request only after the reply to the previous one was read. Here requests can
follow each other immediately (HTTP pipelining, RFC 9112, 9.3.2). A server that works on the
requests of a connection one after the other, as imageio's does, then finds the next one waiting,
and does not stand idle for a round trip.
"""

from __future__ import annotations

import io
import select
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from .response import BadReplyError, DisconnectedError, HeadReader, Response

if TYPE_CHECKING:
    from typing_extensions import Buffer

# Bytes of a body per send call. The timeout is for each of them: a large body may take longer.
SENT = 256 * 1024
# Bytes of a body that are sent together with the head over TLS, which copies them: few enough for
# that to take less time than another TLS record.
TLS_FIRST = 64 * 1024
# Most bytes of a reply's head; it has a few hundred. Without a limit, a server that keeps sending
# "100 Continue" would keep us here forever.
MAX_HEAD = 256 * 1024


class HeadTooLongError(BadReplyError):
    """The head of a reply is longer than `MAX_HEAD`."""


class Exchange:
    """One connection, used by one thread; another thread may shut its socket down.

    Methods raise the errors of sockets, and a `BadReplyError`. Call `close` after an error.

    Args:
        connect: Makes a socket that is connected to the server.
        host: The value of the "Host" header.

    Attributes:
        sock: The socket while it is connected.
        connects: How often it was connected; after a new connect, another process may answer.
        under_way: How many requests have no reply yet.
        persists: True after a reply that keeps the connection open: only then may requests follow
            each other without waiting.
        is_cut: True when the server did not accept all of the last request: its reply may say why.
    """

    def __init__(self, connect: Callable[[], socket.socket], host: str) -> None:
        self.sock: socket.socket | None = None
        self._connect = connect
        self._host = host
        self._poll = select.poll()
        self._replies: _Replies | None = None
        self._heads = HeadReader()
        self._reply: Response | None = None
        self._buffered: int | None = None  # bytes of the body that were read together with the head
        self.under_way = 0
        self.persists = False
        self.is_cut = False
        self.connects = 0

    @property
    def is_idle(self) -> bool:
        """True when nothing is under way."""
        return self.under_way == 0 and (self._reply is None or self._reply.is_closed)

    @property
    def is_dropped(self) -> bool:
        """True when nothing is under way, and the server has hung up."""
        return self.sock is not None and self.is_idle and self.has_unread_input

    @property
    def has_unread_input(self) -> bool:
        """True when the server sent something, or hung up.

        It need not be a reply: it can be a TLS session ticket. Replies that were received together
        with an earlier one are in our buffer, and do not count here.
        """
        if self.sock is None:
            return True
        if isinstance(self.sock, ssl.SSLSocket) and self.sock.pending():
            return True  # the rest of a TLS record, which the poll does not see
        return bool(self._poll.poll(0))

    def connect(self) -> socket.socket:
        """Return the socket; connect if there is none, or if the server has hung up."""
        if self.is_dropped:
            self.close()  # servers drop idle connections: this is normal
        if self.sock is None:
            sock = self._connect()
            self._poll = select.poll()
            self._poll.register(sock, select.POLLIN)
            self.sock = sock
            self.connects += 1
        return self.sock

    def send(
        self, method: str, target: str, headers: Mapping[str, str], body: memoryview | None = None
    ) -> None:
        """Send a request. Call `reply` once for each request; replies come in the same order.

        There are few headers, because six of them take a tenth of the server's time for a small
        upload.
        """
        if self.is_cut or self.sock is None:
            raise ConnectionResetError("the server did not accept the previous request")
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._host}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join([*lines, "", ""]).encode("ascii")
        self.under_way += 1
        try:
            if body is None:
                self.sock.sendall(head)
                return
            for start in range(_send_first(self.sock, head, body), len(body), SENT):
                self.sock.sendall(body[start : start + SENT])
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
            # The server closed the connection, maybe after a reply that says why.
            self.is_cut = True

    def reply(self) -> Response:
        """Wait for the reply to the oldest request that has none.

        Read it to its end and call `end_reply`, or close the connection. The socket's timeout
        limits the wait for the first byte, and then the time for all the rest of the reply, so that
        a server cannot send it byte by byte forever. In `receive` it is for each read.
        """
        if self.under_way == 0 or self.sock is None:
            raise DisconnectedError("the server closed the connection")
        if self._replies is None:
            self._replies = _Replies(self.sock)
        self._replies.bound.begin(self.sock.gettimeout())
        self._reply = response = self._heads.read(self._replies)
        self._replies.bound.end_head()
        self._buffered = None
        self.under_way -= 1
        self.persists = not response.will_close
        if self.is_cut and self.under_way == 0 and response.status < 400:
            # It reports success, but it cannot have received everything.
            raise ConnectionResetError("the server did not take all of the request")
        return response

    def end_reply(self) -> None:
        """Finish the last reply, which was read to its end; close the connection if it must end."""
        if self._reply is not None:
            self._reply.close()
        if not self.persists:
            self.close()
        elif self.under_way == 0:
            self._drop_replies()  # nobody asked for what is left in the buffer

    def receive(self, buffer: memoryview) -> Iterator[int]:
        """Read the body of the last reply into the buffer until that is full.

        This is a faster way than the reply's own `read`: after the bytes that are already in our
        buffers, it reads directly from the socket. The buffer must not be longer than the rest of
        the body.

        Yields:
            How many bytes each step read; 0, without end, when the server has hung up.
        """
        sock, replies = self.sock, self._replies
        if sock is None or replies is None:
            raise DisconnectedError("the connection was closed")
        if self._buffered is None:
            replies.bound.end()
            self._buffered = len(replies.peek())
        while buffer and self._buffered:
            count = replies.readinto1(buffer[: self._buffered])
            self._buffered -= count
            buffer = buffer[count:]
            yield count
        # A TLS record has 16 KiB, so this loop runs 65,000 times for a GiB.
        step = _read_tls(sock) if isinstance(sock, ssl.SSLSocket) else sock.recv_into
        while buffer:
            count = step(buffer)
            buffer = buffer[count:]
            yield count

    def close(self) -> None:
        """Close the connection; `connect` opens it again. Replies under way are lost."""
        self.under_way = 0
        self.persists = self.is_cut = False
        if self._reply is not None:
            self._reply.close()
            self._reply = None
        self._drop_replies()
        if self.sock is not None:
            with suppress(OSError):  # all that we need was confirmed by replies before
                self.sock.close()
            self.sock = None

    def _drop_replies(self) -> None:
        if self._replies is not None:
            self._replies.close()
            self._replies = None


def _send_first(sock: socket.socket, head: bytes, body: memoryview) -> int:
    """Send the head of a request and the beginning of its body; return how much of the body.

    They go together: the head alone would wake up the server, only for it to wait for the body.
    """
    if isinstance(sock, ssl.SSLSocket):
        first = body[:TLS_FIRST]
        sock.sendall(head + first)
        return len(first)
    sent = sock.sendmsg([head, body[:SENT]])
    if sent < len(head):
        sock.sendall(head[sent:])
        return 0
    return sent - len(head)


def _read_tls(sock: ssl.SSLSocket) -> Callable[[memoryview], int]:
    """The function that `recv_into` calls in the end: this saves a call per TLS record."""
    return lambda buffer: cast(int, sock.read(len(buffer), buffer))


class _Bound(io.RawIOBase):
    """Reads from a socket, and limits the time for a reply and the length of its head."""

    def __init__(self, sock: socket.socket) -> None:
        self._file = sock.makefile("rb", buffering=0)
        self._seconds: float | None = None
        self._deadline: float | None = None  # set when the first bytes arrive
        self._head = 0  # how many more bytes the head may have

    def begin(self, seconds: float | None) -> None:
        """Begin a reply, which must be complete up to `seconds` after its first bytes."""
        self._seconds = seconds
        self._deadline = None
        self._head = MAX_HEAD

    def end_head(self) -> None:
        """The head was read: the body may have any length."""
        self._head = sys.maxsize

    def end(self) -> None:
        """Set no time limit for the rest of the reply."""
        self._seconds = None

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Buffer) -> int | None:
        """Read the bytes that have arrived, or wait for some."""
        count = self._file.readinto(buffer)
        if self._seconds is not None:
            now = time.monotonic()
            if self._deadline is None:
                self._deadline = now + self._seconds
            elif now > self._deadline:
                raise TimeoutError("the reply was not complete in time")
        self._head -= count or 0
        if self._head < 0:
            raise HeadTooLongError(f"the head of the reply has more than {MAX_HEAD} bytes")
        return count

    def close(self) -> None:
        """Close it; the socket stays open."""
        self._file.close()
        super().close()


class _Replies(io.BufferedReader):
    """The replies that come over a connection: its buffer may hold the beginning of the next."""

    def __init__(self, sock: socket.socket) -> None:
        self.bound = _Bound(sock)
        super().__init__(self.bound)
