"""One connection to a transfer. Foreign errors end here.

What leaves is a `TransferError`, and its text never holds the ticket. Data goes from the socket
straight into our buffers.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from ..errors import (
    CertificateError,
    ServerError,
    ServerProtocolError,
    TicketError,
    TransferError,
)
from .capabilities import Capabilities
from .endpoint import Endpoint
from .http import Exchange, HeadTooLong

# What is read only to be dropped is read in pieces of this size.
DROPPED = 256 * 1024
# All replies but those with data and the extents have some hundred bytes.
SMALL_REPLY = 128 * 1024
# Enough of an error's text to see what is wrong; the rest could be anything.
MAX_ERROR_TEXT = 1000
DAEMON_LOG = "On the host, /var/log/ovirt-imageio/daemon.log says why."

# The body of a reply may not be compressed on the way.
PLAIN = {"Accept-Encoding": "identity"}

_CONTENT_RANGE = r"bytes (?:([0-9]{1,19})-([0-9]{1,19})|\*)/([0-9]{1,19}|\*)"


class Reply(NamedTuple):
    """A whole reply of the server."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Connection:
    """One connection to a transfer, used by one thread. Reconnects when needed.

    Every method raises a `TransferError`. The connection is then closed, and the requests and
    replies under way are lost. It can be used again, but not to upload.

    Args:
        endpoint: The server.
        can: What it can do.

    Attributes:
        backend_is_gone: True when the last write failed since what serves the disk to the server
            is gone.
    """

    # Bytes of a reply without data.
    largest_reply = SMALL_REPLY
    # Of a list of extents. That of ten million is smaller: no list may fill our memory.
    largest_list = 1024**3

    def __init__(self, endpoint: Endpoint, can: Capabilities) -> None:
        self.endpoint = endpoint
        self.can = can
        self._exchange = Exchange(endpoint.connect, endpoint.host)
        self._cancelled = threading.Event()
        self._putting: deque[str] = deque()  # what is not yet replied to
        self.backend_is_gone = False

    @property
    def connects(self) -> int:
        """How often it was connected: after another time, another process may answer."""
        return self._exchange.connects

    @property
    def is_open(self) -> bool:
        """True while it is connected, as far as we know."""
        return self._exchange.sock is not None

    @property
    def is_dropped(self) -> bool:
        """True when nothing is under way, and the server has hung up."""
        return self._exchange.is_dropped

    @property
    def under_way(self) -> int:
        """How many uploads have no reply yet."""
        return len(self._putting)

    @property
    def outstanding(self) -> int:
        """How many ranges were requested and not opened; 0 when the connection broke, or ended."""
        return self._exchange.under_way

    @property
    def can_pipeline(self) -> bool:
        """True when a range may be requested while the replies to others are outstanding."""
        return self._exchange.persists and not self._exchange.is_cut

    def request_range(self, start: int, end: int) -> None:
        """Request the bytes from `start` up to, not including, `end`; do not wait for them.

        Several ranges may be requested; they come in the same order.
        """
        with self.foreign_errors(f"cannot read bytes {start} to {end}"):
            headers = {"Range": f"bytes={start}-{end - 1}"}
            self._send("GET", headers=headers)

    def open_range(self, start: int, end: int) -> http.client.HTTPResponse:
        """Wait for the reply to `request_range`; read it with `read_body`."""
        doing = f"cannot read bytes {start} to {end}"
        with self.foreign_errors(doing):
            response = self._exchange.reply()
            if response.status not in (200, 206):
                self.check(self.read_reply(response), 206, doing)
            _check_range(response, start, end)
            return response

    def read_body(self, response: http.client.HTTPResponse, buffer: memoryview) -> int:
        """Read the next bytes of a download into the buffer: at least one."""
        # Not response.readinto(): what it has read before an error is lost.
        count = 0
        try:
            with self.foreign_errors("the download broke"):
                left = response.length or 0
                for step in self._exchange.receive(buffer[:left]):
                    if step == 0:
                        raise http.client.IncompleteRead(b"")
                    count += step
                response.length = left - count
        except TransferError:
            if count == 0:
                raise
        if response.length == 0:
            self._exchange.end_reply()
        return count

    def read_away(self, start: int, end: int) -> None:
        """Read bytes of the image, as far as they come, and drop them."""
        self.request_range(start, end)
        response = self.open_range(start, end)
        buffer = memoryview(bytearray(DROPPED))
        while not response.isclosed():
            self.read_body(response, buffer)

    def put(self, start: int, data: memoryview, *, under_way: int, flush: bool = False) -> None:
        """Upload bytes: they are on their way when this returns, and `end_puts` must follow.

        Args:
            start: Where they belong.
            data: The bytes.
            under_way: How many uploads may be, with this one, before the oldest is waited for.
            flush: Put them on storage before the reply.
        """
        self.end_puts(under_way - 1 if self._exchange.persists else 0)
        doing = f"cannot write {len(data)} bytes at {start}"
        headers = {
            "Content-Length": str(len(data)),
            "Content-Range": f"bytes {start}-{start + len(data) - 1}/*",
        }
        # A server that cannot flush does so after every upload, as others do by default.
        suffix = "?flush=n" if self.can.flush and not flush else ""
        with self.foreign_errors(doing):
            self._send("PUT", suffix, headers, data)
        self._putting.append(doing)
        if self._exchange.is_cut:
            self.end_puts()

    def end_puts(self, most: int = 0) -> None:
        """Wait until the bytes of uploads are in the server's hands; not on storage.

        Args:
            most: How many may still be on their way.
        """
        # What has come is taken: after it the server may have hung up, if the last was long ago.
        while self._putting and (len(self._putting) > most or self._exchange.has_unread_input):
            self._end_put()

    def _end_put(self) -> None:
        doing = self._putting.popleft()
        with self.foreign_errors(doing):
            reply = self.read_reply(self._exchange.reply())
        self._check_done(reply, doing)

    def zero(self, start: int, length: int, *, flush: bool = False) -> None:
        """Make a range read as zeros; any length goes in one request."""
        self._patch(
            {"op": "zero", "offset": start, "size": length, "flush": flush},
            f"cannot zero {length} bytes at {start}",
        )

    def flush(self) -> None:
        """Put everything that was written here on storage."""
        if self.can.flush:
            self._patch({"op": "flush"}, "cannot flush the disk")

    def ask(
        self,
        method: str,
        suffix: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        body: memoryview | None = None,
        timeout: float | None = None,
        largest: int | None = None,
    ) -> Reply:
        """Send a request, and wait for the whole reply, whatever its status.

        Args:
            method: As in "GET".
            suffix: What follows the transfer's URL.
            headers: Those of the request, besides the usual ones.
            body: What is sent.
            timeout: Seconds to wait for the reply; None for those in which data must come.
            largest: Bytes of the reply; None for those of a reply without data.
        """
        self.end_puts()
        with self.foreign_errors(f"{method} failed"):
            response = self.open(method, suffix, headers=headers, body=body, timeout=timeout)
            return self.read_reply(response, largest)

    def open(
        self,
        method: str,
        suffix: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        body: memoryview | None = None,
        timeout: float | None = None,
    ) -> http.client.HTTPResponse:
        """Send a request, and wait for the head of the reply; `read_reply`, or `close`, follows.

        Raises what sockets and http.client raise, too: call it within `foreign_errors`.
        """
        self._send(method, suffix, headers, body, timeout)
        return self._exchange.reply()

    def read_reply(self, response: http.client.HTTPResponse, largest: int | None = None) -> Reply:
        """Read the rest of a reply: all of it, or enough of an error."""
        body = _body(response, self.largest_reply if largest is None else largest)
        if response.isclosed():
            self._exchange.end_reply()
        else:
            self.close()  # nobody wants the rest
        return Reply(response.status, response.headers, body)

    def check(self, reply: Reply, wanted: int, doing: str) -> None:
        """Raise the error for a reply with another status."""
        if reply.status == wanted:
            return
        self.close()
        what = f"{self.endpoint}: {doing}: {self.explain(reply)}"
        if reply.status == 403:
            raise TicketError(what)
        if reply.status == 404:
            raise ServerError(
                what,
                status=404,
                hint="The server does not know this transfer. Check that it was not finalized or "
                "cancelled, and that the URL's path is /images/TICKET.",
            )
        if reply.status >= 500:
            raise ServerError(what, status=reply.status, hint=DAEMON_LOG)
        raise ServerError(what, status=reply.status)

    def explain(self, reply: Reply) -> str:
        """Status and text of an error, without the ticket."""
        text = " ".join(reply.body[:MAX_ERROR_TEXT].decode(errors="replace").split())
        return self.endpoint.url.redact(f"{reply.status} {text}".strip())

    @contextmanager
    def foreign_errors(self, doing: str) -> Iterator[None]:
        """Turn what sockets, TLS and http.client raise into our errors."""
        doing = f"{self.endpoint}: {doing}"
        try:
            yield
        except ServerProtocolError as e:
            self.close()
            e.add_context(str(self.endpoint))
            raise
        except TransferError:
            raise
        except TimeoutError as e:
            self.close()
            raise ServerError(f"{doing}: the server did not answer in time") from e
        except HeadTooLong as e:
            self.close()
            raise ServerProtocolError(f"{doing}: {e}") from None
        except http.client.IncompleteRead:
            self.close()
            raise ServerError(f"{doing}: the server's reply ended too early") from None
        except (OSError, http.client.HTTPException, ValueError) as e:
            # ValueError: what the ssl module raises for a socket that another thread cancelled.
            self.close()
            reason = self.endpoint.url.redact(str(e)[:MAX_ERROR_TEXT]) or type(e).__name__
            # Not "from e": what http.client found on the line may be the ticket.
            raise ServerError(f"{doing}: the connection broke: {reason}") from None

    def is_local(self) -> bool:
        """True when the server runs on this host; asked while connected."""
        sock = self._exchange.sock
        if sock is None or sock.family == socket.AF_UNIX:
            return False
        try:
            return bool(sock.getpeername()[0] == sock.getsockname()[0])
        except OSError:
            return False  # the server has hung up

    @property
    def is_cancelled(self) -> bool:
        """True after `cancel`."""
        return self._cancelled.is_set()

    def pause(self, seconds: float) -> None:
        """Wait, but not longer than until `cancel`."""
        self._cancelled.wait(seconds)

    def cancel(self) -> None:
        """Make a call that waits for the server, in another thread, fail."""
        self._cancelled.set()
        sock = self._exchange.sock
        if sock is not None:
            try:
                # Close it with a RST: after a mere FIN, and with all its buffers full, the server
                # would hold on to the ticket until the kernel gives up, a minute later.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                # Not SSLSocket.shutdown, which pulls the rug from under a thread inside it.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            except OSError:
                return  # it is closed already

    def close(self) -> None:
        """Close the connection; the next use opens it again."""
        self._putting.clear()
        self._exchange.close()

    def _patch(self, message: Mapping[str, object], doing: str) -> None:
        body = memoryview(json.dumps(message).encode())
        headers = {"Content-Length": str(len(body)), "Content-Type": "application/json"}
        reply = self.ask("PATCH", headers=headers, body=body, timeout=self.endpoint.timeouts.slow)
        self._check_done(reply, doing)

    def _send(
        self,
        method: str,
        suffix: str = "",
        headers: Mapping[str, str] | None = None,
        body: memoryview | None = None,
        timeout: float | None = None,
    ) -> None:
        """Send a request; its reply must follow."""
        self.backend_is_gone = False
        self._connect(self.endpoint.timeouts.read if timeout is None else timeout)
        headers = {**(PLAIN if body is None else {}), **(headers or {})}
        self._exchange.send(method, self.endpoint.url.path + suffix, headers, body)

    def _connect(self, timeout: float) -> None:
        if self._cancelled.is_set():
            raise ServerError("cancelled")
        try:
            sock = self._exchange.connect()
        except ssl.SSLCertVerificationError as e:
            raise CertificateError(
                f"the certificate of {self.endpoint.url} cannot be verified: {e.verify_message}"
            ) from e
        except OSError as e:
            raise self.endpoint.unreachable(e) from e
        sock.settimeout(timeout)
        if self._cancelled.is_set():  # while it connected: cancel() saw no socket
            self.close()
            raise ServerError("cancelled")

    def _check_done(self, reply: Reply, doing: str) -> None:
        """Make sure that something was written: servers say so by 200, 201 or 204."""
        self.backend_is_gone = reply.status >= 500 and self._cannot_read()
        self.check(reply, reply.status if 200 <= reply.status < 300 else 200, doing)

    def _cannot_read(self) -> bool:
        """Whether the server fails to read over this connection, too, right after a write failed.

        imageio opens one NBD connection for each of ours. When qemu-nbd dies, all that comes over
        ours fails; when the storage refuses a write, because it is full, reading goes on.
        """
        try:
            while self._putting:
                self._putting.popleft()
                self.read_reply(self._exchange.reply())
            if not self.is_open or self.is_dropped:
                return False  # not to be known: another connection has another backend
            return self.open("GET", headers={"Range": "bytes=0-0"}).status >= 500
        except (TransferError, OSError, http.client.HTTPException, ValueError):
            return False


def _body(response: http.client.HTTPResponse, most: int) -> bytes:
    """The body of a reply: all of it, or enough of an error."""
    if response.status >= 400:
        return _error_text(response)
    if response.length is not None:
        _check_length(response.length, most)
        return response.read()
    body = bytearray()
    while piece := response.read(DROPPED):
        body += piece
        _check_length(len(body), most)
    return bytes(body)


def _error_text(response: http.client.HTTPResponse) -> bytes:
    """Read an error's text. The status counts even if its text does not come, or not in time."""
    try:
        return response.read(MAX_ERROR_TEXT)
    except (OSError, http.client.HTTPException, ValueError):
        return b""


def _check_length(length: int, most: int) -> None:
    if length > most:
        raise ServerProtocolError(f"the server sends a reply of more than {most} bytes")


def _check_range(response: http.client.HTTPResponse, start: int, end: int) -> None:
    """Make sure that the reply is what was requested: anything else would corrupt the disk."""
    length = content_length(response)
    if length != end - start:
        raise ServerProtocolError(f"asked for {end - start} bytes, the server sends {length}")
    if response.status == 200:
        if start != 0:
            raise ServerProtocolError("the server ignores ranges: it sends all from the start")
        return
    found = re.fullmatch(_CONTENT_RANGE, response.getheader("content-range", ""))
    # The total that it names is the ticket's size: what can be read may end before.
    if found is None or (found[1], found[2]) != (str(start), str(end - 1)):
        raise ServerProtocolError(f"asked for bytes {start} to {end - 1}, the server sends others")


def total_size(response: http.client.HTTPResponse) -> int | None:
    """The size that a "Content-Range" names: in a reply to a refused range, too."""
    found = re.fullmatch(_CONTENT_RANGE, response.getheader("content-range", ""))
    return None if found is None or found[3] == "*" else int(found[3])


def content_length(response: http.client.HTTPResponse) -> int:
    """The length of the body that a reply announces."""
    if response.chunked or response.length is None:
        raise ServerProtocolError("the server does not say how many bytes it sends")
    return response.length
