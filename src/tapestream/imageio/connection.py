"""One connection to a transfer: it sends imageio's requests and checks the replies.

Errors of sockets, TLS and HTTP become a `TransferError` here, whose text never holds the
ticket. Data goes from the socket directly into our buffers.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import time
from collections import deque
from collections.abc import Mapping
from functools import partial
from types import TracebackType
from typing import NamedTuple

from ..errors import (
    CertificateError,
    ServerError,
    ServerProtocolError,
    TicketError,
    TransferError,
    UnsupportedError,
)
from .capabilities import Capabilities
from .endpoint import Endpoint
from .http import Exchange, HeadTooLongError
from .response import BadReplyError, EndedEarlyError, Response
from .sockets import WAKE_UP, Cancellation

# Bytes per read of a reply that is dropped, or whose length is not known.
DROPPED = 256 * 1024
# All replies but data and extents have a few hundred bytes.
SMALL_REPLY = 128 * 1024
# Bytes of an error's text that we show: enough to see what is wrong; the rest could be anything.
MAX_ERROR_TEXT = 1000
CANNOT_WRITE = (
    "Some servers can only be read, or accept a disk only in a single request. Restore to a raw "
    "image or a block device, with RawImageSink."
)
DAEMON_LOG = "On the host, /var/log/ovirt-imageio/daemon.log says why."

# The body of a reply may not be compressed on the way.
PLAIN = {"Accept-Encoding": "identity"}

_CONTENT_RANGE = r"bytes (?:([0-9]{1,19})-([0-9]{1,19})|\*)/([0-9]{1,19}|\*)"


class Reply(NamedTuple):
    """A whole reply of the server."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """One connection to a transfer, used by one thread. Reconnects when needed.

    Every method may raise a `TransferError`. The connection is then closed, and the requests and
    replies that were under way are lost. It can be used again for anything but an upload.

    Args:
        endpoint: The server.
        can: What it can do.

    Attributes:
        backend_is_gone: True when the last write failed because the program that serves the disk
            to imageio (qemu-nbd) is gone.
    """

    # Most bytes of a reply without data.
    largest_reply = SMALL_REPLY
    # Most bytes of a list of extents, so that no list can fill our memory. A list of ten million
    # extents is smaller.
    largest_list = 1024**3

    def __init__(self, endpoint: Endpoint, can: Capabilities) -> None:
        self.endpoint = endpoint
        self.can = can
        self._cancellation = Cancellation()
        self._exchange = Exchange(partial(endpoint.connect, self._cancellation), endpoint.host)
        self._putting: deque[str] = deque()  # descriptions of the uploads without a reply
        self.backend_is_gone = False

    @property
    def connects(self) -> int:
        """How often it was connected; after a new connect, another server process may answer."""
        return self._exchange.connects

    @property
    def is_open(self) -> bool:
        """True while it is connected, as far as we know."""
        return self._exchange.sock is not None

    @property
    def is_idle(self) -> bool:
        """True while it is connected, as far as we know, and nothing is under way."""
        return self.is_open and self._exchange.is_idle

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
        """How many ranges were requested and not opened yet; 0 after the connection was closed."""
        return self._exchange.under_way

    @property
    def can_pipeline(self) -> bool:
        """True when a range may be requested while the replies to others are outstanding."""
        return self._exchange.persists and not self._exchange.is_cut

    def request_range(self, start: int, end: int) -> None:
        """Request the bytes from `start` up to, but not including, `end`, without waiting for them.

        Several ranges may be requested; the replies come in the same order.
        """
        with self.foreign_errors(f"cannot read bytes {start} to {end}"):
            headers = {"Range": f"bytes={start}-{end - 1}"}
            self._send("GET", headers=headers)

    def open_range(self, start: int, end: int) -> Response:
        """Wait for the reply to `request_range`; read it with `read_body`."""
        doing = f"cannot read bytes {start} to {end}"
        with self.foreign_errors(doing):
            response = self._exchange.reply()
            if response.status not in (200, 206):
                self.check(self.read_reply(response), 206, doing)
            _check_range(response, start, end)
            return response

    def read_body(self, response: Response, buffer: memoryview) -> int:
        """Read the next bytes of a download into the buffer, at least one; return their number."""
        count = 0
        try:
            with self.foreign_errors("the download broke"):
                left = response.length or 0
                for step in self._exchange.receive(buffer[:left]):
                    if step == 0:
                        raise EndedEarlyError
                    count += step
                response.length = left - count
        except TransferError:
            if count == 0:
                raise
        if response.length == 0:
            self._exchange.end_reply()
        return count

    def read_away(self, start: int, end: int) -> None:
        """Download bytes of the image and drop them."""
        self.request_range(start, end)
        response = self.open_range(start, end)
        buffer = memoryview(bytearray(DROPPED))
        while not response.is_closed:
            self.read_body(response, buffer)

    def put(self, start: int, data: memoryview, *, under_way: int, flush: bool = False) -> None:
        """Send bytes to be written, without waiting for the reply; `end_puts` must follow.

        Args:
            start: Their offset on the disk.
            data: The bytes.
            under_way: How many uploads, including this one, may be without a reply; with more, this
                first waits for the oldest.
            flush: Ask the server to put the bytes on storage before it replies.
        """
        self._wait_for_puts(under_way - 1 if self._exchange.persists else 0)
        doing = f"cannot write {len(data)} bytes at {start}"
        headers = {
            "Content-Length": str(len(data)),
            "Content-Range": f"bytes {start}-{start + len(data) - 1}/*",
        }
        # A server without the flush feature flushes after every upload, and knows no "?flush=n".
        # imageio's server flushes unless it gets "?flush=n", CloudStack's only if it gets "y".
        suffix = f"?flush={'y' if flush else 'n'}" if self.can.flush else ""
        with self.foreign_errors(doing):
            self._send("PUT", suffix, headers, data)
        self._putting.append(doing)
        if self._exchange.is_cut:
            self.end_puts()

    def end_puts(self, most: int = 0) -> None:
        """Wait until the server has replied to uploads: it has their bytes, storage may not.

        Args:
            most: How many uploads may stay without a reply.
        """
        # Replies that have arrived are read in any case: after a long pause the server may have
        # hung up, and that shows only after them.
        self._wait_for_puts(most)
        while self._putting and self._exchange.has_unread_input:
            self._end_put()

    def _wait_for_puts(self, most: int) -> None:
        while len(self._putting) > most:
            self._end_put()

    def _end_put(self) -> None:
        doing = self._putting.popleft()
        with self.foreign_errors(doing):
            reply = self.read_reply(self._exchange.reply())
        if reply.status in (405, 501):
            what = f"{self.endpoint}: {doing}: {self.explain(reply)}"
            self.close()
            raise UnsupportedError(what, hint=CANNOT_WRITE)
        try:
            self._check_done(reply, doing)
        except ServerError as e:
            if e.status == 400:
                e.hint = CANNOT_WRITE
            raise

    def zero(self, start: int, length: int, *, flush: bool = False) -> None:
        """Make a range read as zeros, with one request for any length."""
        self._patch(
            {"op": "zero", "offset": start, "size": length, "flush": flush},
            f"cannot zero {length} bytes at {start}",
        )

    def flush(self) -> None:
        """Have the server put everything that was written over this connection on storage."""
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
        """Send a request, wait for the whole reply, and return it whatever its status is.

        Args:
            method: The HTTP method, for example "GET".
            suffix: What to append to the transfer's URL.
            headers: Headers of the request, besides the usual ones.
            body: The body of the request.
            timeout: Seconds to wait for the reply; None for the `read` timeout.
            largest: Most bytes of the reply; None for `largest_reply`.
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
    ) -> Response:
        """Send a request and wait for the head of the reply. Call `read_reply` or `close` next.

        This also raises the errors of sockets and HTTP: call it within `foreign_errors`.
        """
        self._send(method, suffix, headers, body, timeout)
        return self._exchange.reply()

    def read_reply(self, response: Response, largest: int | None = None) -> Reply:
        """Read the body of a reply: all of it, or the beginning of an error's text."""
        body = _body(response, self.largest_reply if largest is None else largest)
        if response.is_closed:
            self._exchange.end_reply()
        else:
            self.close()  # nobody needs the rest
        return Reply(response.status, response.headers, body)

    def check(self, reply: Reply, wanted: int, doing: str) -> None:
        """Raise a `ServerError` or `TicketError` if the reply does not have the wanted status."""
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
        """The status and the text of an error reply, without the ticket."""
        text = " ".join(reply.body[:MAX_ERROR_TEXT].decode(errors="replace").split())
        return self.endpoint.url.redact(f"{reply.status} {text}".strip())

    def foreign_errors(self, doing: str) -> _ForeignErrors:
        """Turn the errors of sockets, TLS and HTTP in a block into a `TransferError`."""
        return _ForeignErrors(self, doing)

    def raise_foreign(self, error: BaseException, doing: str) -> None:
        """Close the connection, and raise a `TransferError` for an error of sockets, TLS or HTTP.

        Returns for any other error.
        """
        if isinstance(error, ServerProtocolError):
            self.close()
            error.add_context(str(self.endpoint))
            return
        if isinstance(error, TransferError):
            return
        # The ssl module raises a ValueError for a socket that another thread cancelled.
        if not isinstance(error, (OSError, BadReplyError, ValueError)):
            return
        self.close()
        doing = f"{self.endpoint}: {doing}"
        if isinstance(error, TimeoutError):
            raise ServerError(f"{doing}: the server did not answer in time") from error
        if isinstance(error, HeadTooLongError):
            raise ServerProtocolError(f"{doing}: {error}") from None
        if isinstance(error, EndedEarlyError):
            raise ServerError(f"{doing}: the server's reply ended too early") from None
        reason = self.endpoint.url.redact(str(error)[:MAX_ERROR_TEXT]) or type(error).__name__
        # Not "from error": its text may show what the server sent, maybe the ticket.
        raise ServerError(f"{doing}: the connection broke: {reason}") from None

    def is_local(self) -> bool:
        """True when the connection is open, over TCP, and the server runs on this host."""
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
        return self._cancellation.is_cancelled

    def pause(self, seconds: float) -> None:
        """Wait, or return early when `cancel` is called."""
        until = time.monotonic() + seconds
        while not self.is_cancelled and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, WAKE_UP))

    def cancel(self) -> None:
        """Make another thread's call that waits for the server fail, and every later call.

        This also ends a connect and a TLS handshake. A signal handler may call it.
        """
        self._cancellation.cancel()

    def begin_anew(self) -> None:
        """Let the next user find out whether replies to its requests keep the connection open."""
        self._exchange.persists = False

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
        if self.is_cancelled:
            raise ServerError("cancelled")
        try:
            sock = self._exchange.connect()
        except ssl.SSLCertVerificationError as e:
            raise CertificateError(
                f"the certificate of {self.endpoint.url} cannot be verified: {e.verify_message}"
            ) from e
        except OSError as e:
            if self.is_cancelled:
                raise ServerError("cancelled") from e
            raise self.endpoint.unreachable(e) from e
        if sock.gettimeout() != timeout:  # setting it is a call of the operating system
            sock.settimeout(timeout)

    def _check_done(self, reply: Reply, doing: str) -> None:
        """Raise if a write failed. Servers report success as 200, 201 or 204."""
        self.backend_is_gone = reply.status >= 500 and self._cannot_read()
        self.check(reply, reply.status if 200 <= reply.status < 300 else 200, doing)

    def _cannot_read(self) -> bool:
        """Whether the server, right after a write failed, fails to read over this connection, too.

        imageio opens one NBD connection for each of ours. When qemu-nbd dies, every request over
        our connection fails. When the storage only refuses a write, as when it is full, reads
        still work.
        """
        try:
            while self._putting:
                self._putting.popleft()
                self.read_reply(self._exchange.reply())
            if not self.is_open or self.is_dropped:
                return False  # unknown: a new connection gets a new NBD connection
            return self.open("GET", headers={"Range": "bytes=0-0"}).status >= 500
        except (TransferError, OSError, BadReplyError, ValueError):
            return False


class _ForeignErrors:
    """The block of `Connection.foreign_errors`.

    Four of these are made for each GET. A generator would take four times as long.
    """

    __slots__ = ("_connection", "_doing")

    def __init__(self, connection: Connection, doing: str) -> None:
        self._connection = connection
        self._doing = doing

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._connection.raise_foreign(error, self._doing)


def _body(response: Response, most: int) -> bytes:
    """The body of a reply: all of it, or the beginning of an error's text."""
    if response.length == 0:
        response.close()
        return b""
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


def _error_text(response: Response) -> bytes:
    """Read an error's text; b"" if it does not arrive, for the status alone says enough."""
    try:
        return response.read(MAX_ERROR_TEXT)
    except (OSError, BadReplyError, ValueError):
        return b""


def _check_length(length: int, most: int) -> None:
    if length > most:
        raise ServerProtocolError(f"the server sends a reply of more than {most} bytes")


def _check_range(response: Response, start: int, end: int) -> None:
    """Make sure that the reply is the requested range: anything else would corrupt the disk."""
    length = content_length(response)
    if length != end - start:
        raise ServerProtocolError(f"asked for {end - start} bytes, the server sends {length}")
    if response.status == 200:
        if start != 0:
            raise ServerProtocolError("the server ignores ranges: it sends all from the start")
        return
    found = re.fullmatch(_CONTENT_RANGE, response.headers.get("content-range", ""))
    # The total in it is not checked: it is the ticket's size, and the disk may end earlier.
    if found is None or (found[1], found[2]) != (str(start), str(end - 1)):
        raise ServerProtocolError(f"asked for bytes {start} to {end - 1}, the server sends others")


def total_size(response: Response) -> int | None:
    """The total size in a reply's "Content-Range", if any; a refused range (416) has one, too."""
    found = re.fullmatch(_CONTENT_RANGE, response.headers.get("content-range", ""))
    return None if found is None or found[3] == "*" else int(found[3])


def content_length(response: Response) -> int:
    """The length of a reply's body, from its headers."""
    if response.chunked or response.length is None:
        raise ServerProtocolError("the server does not say how many bytes it sends")
    return response.length
