"""Requests and replies over one connection, of which several may be under way at the same time.

`http.client` sends a request only when the reply to the one before was read. Here one may follow
the other immediately (HTTP pipelining, RFC 9112, 9.3.2): a server that works on one request of a
connection after the other, as imageio's does, finds the next one waiting, and no reply travels in
vain. `http.client` parses the replies.
"""

from __future__ import annotations

import http.client
import io
import select
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from typing_extensions import Buffer

# The timeout is for so many bytes of a body: a large one may take longer.
SENT = 256 * 1024
# The head of a reply has some hundred bytes. Without a limit, a server that goes on sending "100
# Continue" would never come to its end.
MAX_HEAD = 256 * 1024


class HeadTooLong(http.client.HTTPException):
    """The head of a reply does not end."""


class Exchange:
    """One connection, used by one thread; another thread may shut its socket down.

    Raises what sockets and http.client raise. Close it then.

    Args:
        connect: Makes a socket that is connected to the server.
        host: What the requests name as the server's host.

    Attributes:
        sock: The socket while it is connected.
        connects: How often it was connected: after another time, another process may answer.
        under_way: How many requests have no reply yet.
        persists: True once a reply came that is not the last: only then may requests follow each
            other.
        is_cut: True when the server did not take all of the last request: its reply may say why.
    """

    def __init__(self, connect: Callable[[], socket.socket], host: str) -> None:
        self.sock: socket.socket | None = None
        self._connect = connect
        self._host = host
        self._replies: _Replies | None = None
        self._reply: http.client.HTTPResponse | None = None
        self._buffered: int | None = None  # bytes of a body that were not left to the socket
        self.under_way = 0
        self.persists = False
        self.is_cut = False
        self.connects = 0

    @property
    def is_dropped(self) -> bool:
        """True when nothing is under way, and the server has hung up."""
        return self.sock is not None and self._is_idle() and self.has_unread_input

    @property
    def has_unread_input(self) -> bool:
        """True when the server sent something, or hung up.

        What came may be no reply, but a ticket for later TLS sessions; and replies that were
        received together do not show.
        """
        if self.sock is None:
            return True
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(0))

    def connect(self) -> socket.socket:
        """Connect, unless that was done, and the server has not hung up meanwhile."""
        if self.is_dropped:
            self.close()  # the server dropped an idle connection: normal life
        if self.sock is None:
            self.sock = self._connect()
            self.connects += 1
        return self.sock

    def send(
        self, method: str, target: str, headers: Mapping[str, str], body: memoryview | None = None
    ) -> None:
        """Send a request; `reply` must follow, once for each, in their order.

        With few headers: of a small upload, the server spends a tenth of its time on six of them.
        """
        if self.is_cut or self.sock is None:
            raise ConnectionResetError("the server did not take the request before")
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._host}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.under_way += 1
        try:
            self.sock.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
            if body is not None:
                for start in range(0, len(body), SENT):
                    self.sock.sendall(body[start : start + SENT])
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
            # The server closed its side, and perhaps said why before.
            self.is_cut = True

    def reply(self) -> http.client.HTTPResponse:
        """Wait for the reply to the oldest request that has none.

        Read it to its end, and call `end_reply`, or close the connection. The socket's timeout is
        for the first byte, and then for all of the rest, however slowly it drips: only what
        `receive` reads may take that long again and again.
        """
        if self.under_way == 0 or self.sock is None:
            raise http.client.RemoteDisconnected("the server closed the connection")
        if self._replies is None:
            self._replies = _Replies(self.sock)
        self._reply = response = http.client.HTTPResponse(cast(socket.socket, self._replies))
        self._replies.bound.begin(self.sock.gettimeout())
        response.begin()
        self._replies.bound.end_head()
        self._buffered = None
        self.under_way -= 1
        self.persists = not response.will_close
        if self.is_cut and self.under_way == 0 and response.status < 400:
            # Whatever it says, it has not got everything.
            raise ConnectionResetError("the server did not take all of the request")
        return response

    def end_reply(self) -> None:
        """The last reply was read to its end: more may follow on this connection, or not."""
        if self._reply is not None:
            self._reply.close()
        if not self.persists:
            self.close()
        elif self.under_way == 0:
            self._drop_replies()  # whatever is left in its buffer was not asked for

    def receive(self, buffer: memoryview) -> Iterator[int]:
        """Read the body of the last reply, if not with its `read`, until the buffer is full.

        Goes past the layers between us and the socket once they hold no more bytes. The buffer must
        end where the body does, at the latest.

        Yields:
            How many bytes each step read; 0, again and again, where the server has hung up.
        """
        sock, replies = self.sock, self._replies
        if sock is None or replies is None:
            raise http.client.RemoteDisconnected("the connection was closed")
        if self._buffered is None:
            replies.bound.end()
            self._buffered = len(replies.peek())
        while buffer and self._buffered:
            count = replies.readinto1(buffer[: self._buffered])
            self._buffered -= count
            buffer = buffer[count:]
            yield count
        # A TLS record has 16 KiB: this is done 65,000 times for a GiB.
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
            with suppress(OSError):  # nothing that was agreed on depends on it
                self.sock.close()
            self.sock = None

    def _drop_replies(self) -> None:
        if self._replies is not None:
            self._replies.end()
            self._replies = None

    def _is_idle(self) -> bool:
        return self.under_way == 0 and (self._reply is None or self._reply.isclosed())


def _read_tls(sock: ssl.SSLSocket) -> Callable[[memoryview], int]:
    """What `recv_into` comes to, one call earlier."""
    return lambda buffer: cast(int, sock.read(len(buffer), buffer))


class _Bound(io.RawIOBase):
    """Reads from a socket, with limits for the time of a reply and the length of its head."""

    def __init__(self, sock: socket.socket) -> None:
        self._file = sock.makefile("rb", buffering=0)
        self._seconds: float | None = None
        self._deadline: float | None = None  # known when the first bytes have come
        self._head = 0  # how many bytes it may have

    def begin(self, seconds: float | None) -> None:
        """A reply comes: all of it within so many seconds after its first bytes."""
        self._seconds = seconds
        self._deadline = None
        self._head = MAX_HEAD

    def end_head(self) -> None:
        """The body comes, of any length."""
        self._head = sys.maxsize

    def end(self) -> None:
        """What comes may take its time."""
        self._seconds = None

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Buffer) -> int | None:
        """Read what is there, or wait for it."""
        count = self._file.readinto(buffer)
        if self._seconds is not None:
            now = time.monotonic()
            if self._deadline is None:
                self._deadline = now + self._seconds
            elif now > self._deadline:
                raise TimeoutError("the reply was not complete in time")
        self._head -= count or 0
        if self._head < 0:
            raise HeadTooLong(f"the head of the reply has more than {MAX_HEAD} bytes")
        return count

    def close(self) -> None:
        """Close it; the socket stays open."""
        self._file.close()
        super().close()


class _Replies(io.BufferedReader):
    """What `http.client` takes for the socket of one reply, and its file. Only `end` closes it."""

    def __init__(self, sock: socket.socket) -> None:
        self.bound = _Bound(sock)
        super().__init__(self.bound)

    def makefile(self, mode: str) -> _Replies:
        """What a reply is read from."""
        return self

    def close(self) -> None:
        """Do nothing: `http.client` does this at the end of a reply, and more may follow."""

    def end(self) -> None:
        """Close it."""
        super().close()
