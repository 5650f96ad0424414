"""One transfer of an imageio server: its URL, what it can do, and connections to it.

Data goes from the socket straight into our buffers. Foreign exceptions end here: what leaves is a
`TransferError`, and its text never holds the ticket.
"""

from __future__ import annotations

import http.client
import json
import logging
import math
import os
import re
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from typing_extensions import Self
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from .._version import __version__
from ..arguments import flag, number, path
from ..errors import (
    CertificateError,
    LocalIOError,
    ServerError,
    ServerProtocolError,
    ServerUnreachableError,
    TicketError,
    TransferError,
    UnsupportedError,
    UsageError,
)
from ..model.blockhash import ALGORITHM, BLOCK_SIZE, BlockHash
from .http import Exchange, HeadTooLong
from .unix import UnixHTTPConnection, trusted_users

log = logging.getLogger("tapestream.imageio")

T = TypeVar("T")

# Of all requests of more than 128 KiB, one of this size should come first. qemu-nbd gets a buffer
# for each from malloc, and glibc's malloc gives it back to the kernel each time, until it has freed
# a larger one (mallopt(3): the dynamic mmap threshold). Without, qemu-nbd has 262,000 page faults
# and 0.45 CPU seconds more per GiB, which is as much as all its other work; with it, it keeps up
# to 160 MiB. oVirt starts a qemu-nbd for each transfer (vdsm, storage/nbd.py), so nobody has sent
# it a large one before; but the backup of a running VM is served by its own qemu, of which neither
# was measured. It is the server's whole buffer: a larger request would come to qemu in parts.
FIRST_REQUEST = 8 * 1024**2

# Connections that a server allows and we leave free. oVirt's host serves a disk with `qemu-nbd
# --shared=8`, imageio opens one NBD connection for each of ours, and the ninth hangs. The daemon
# finds out late that we have left a broken connection, so one that replaces it comes on top.
ROOM = 2

MAX_SECONDS = 365 * 86400  # a socket takes no timeout much longer
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 10.0
# What is read only to be dropped is read in pieces of this size.
DROPPED = 256 * 1024
# Of ten million extents, the list is smaller: whoever sends more must not fill our memory.
MAX_REPLY = 1024**3
# All other replies without data have some hundred bytes.
SMALL_REPLY = 128 * 1024
# Enough of an error's text to see what is wrong; the rest could be anything.
MAX_ERROR_TEXT = 1000

_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,19})-(\d{1,19})|\*)/(\d{1,19}|\*)", re.ASCII)

_DAEMON_LOG = "On the host, /var/log/ovirt-imageio/daemon.log says why."
_CANNOT_OPEN = (
    "The server runs, but cannot open the disk. Check in the engine whether the VM was switched "
    "off or died, and whether its backup was stopped or cancelled: then a new backup is needed. "
    f"{_DAEMON_LOG}"
)
_CANNOT_READ = (
    "The server can open the disk, but this failed: look for an error of the storage, with dmesg "
    f"or journalctl -k on the host. {_DAEMON_LOG}"
)
_CANNOT_TRANSFER = (
    "The server answers other requests: its storage may be too slow for the timeouts, or something "
    f"on the network may cut connections. {_DAEMON_LOG}"
)
_COMPUTE_IT_HERE = "copy(..., block_hash=True) computes them from what it reads."

LONGEST_PATH = 108  # of a unix socket, see unix(7)

# The body of a reply may not be compressed on the way.
PLAIN = {"Accept-Encoding": "identity"}

# Zeroing or flushing can take the server minutes, during which nothing is sent: keep-alive
# distinguishes a busy server from a dead one.
SOCKET_OPTIONS = [
    *HTTPConnection.default_socket_options,
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 8),
]


@dataclass(frozen=True)
class TransferURL:
    """The URL of a transfer. Its last part, the ticket, is a secret: `str` leaves it out."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str, *, secure: bool) -> TransferURL:
        """Take a `transfer_url` or `proxy_url` apart.

        Raises:
            UsageError: It is none, or not https although `secure`.
        """
        if not isinstance(url, str):
            raise UsageError(
                f"a transfer URL is a str, not a {type(url).__name__}",
                hint="oVirt gives it when the transfer is in phase 'transferring', not before.",
            )
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
            if not re.fullmatch(r"[!-~]+", _ascii(host or "")):
                host = None
        except ValueError:
            host = None
        # The text of the URL is not repeated: it may hold the ticket whatever is wrong with it.
        if not host or parts.scheme not in ("http", "https"):
            raise UsageError("the transfer URL is not of the form https://HOST:PORT/images/TICKET")
        if not re.fullmatch(r"/[!-~]*[!-.0-~]", parts.path) or parts.query or parts.fragment:
            raise UsageError("the transfer URL must end in /images/TICKET and nothing else")
        if parts.scheme == "http" and secure:
            raise UsageError(
                "the transfer URL is not https: the ticket and the disk would travel in clear text",
                hint="Pass secure=False if that is what you want.",
            )
        default = 443 if parts.scheme == "https" else 80
        return cls(parts.scheme, host, port or default, parts.path)

    @property
    def authority(self) -> str:
        """Host and port, as a request names them."""
        # The zone of an IPv6 address means something on this host only.
        host = f"[{self.host.partition('%')[0]}]" if ":" in self.host else _ascii(self.host)
        return f"{host}:{self.port}"

    def redact(self, text: str) -> str:
        """Take the ticket, and any large part of it, out of a text."""
        ticket = self.path.rpartition("/")[2]
        parts = {re.escape(ticket[i : i + 8]) for i in range(max(1, len(ticket) - 7))}
        around = r"[^()\[\]\"'\s]*"
        return re.sub(f"{around}(?:{'|'.join(parts)}){around}", "TICKET", text, flags=re.IGNORECASE)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"<TransferURL {self}>"


# Loads the codec and all that it needs: with the first URL there may be no descriptor free for it.
"ü".encode("idna")


def _ascii(host: str) -> str:
    return host.encode("idna").decode()


@dataclass(frozen=True)
class Timeouts:
    """Seconds to wait for the server.

    Attributes:
        connect: For a connection and its TLS handshake.
        read: For the next bytes of data, or the reply to sent data.
        slow: For the reply to work without data: extents, zero, flush.
        checksum: For the block hash: the server reads the whole disk before it replies.
    """

    connect: float
    read: float
    slow: float
    checksum: float

    def __post_init__(self) -> None:
        for seconds in (self.connect, self.read, self.slow, self.checksum):
            if type(seconds) not in (int, float) or not 0 < seconds <= MAX_SECONDS:
                raise UsageError(f"a timeout must be more than 0 seconds, not {seconds!r}")


@dataclass(frozen=True)
class Capabilities:
    """What the server says it can do with this transfer, in its reply to OPTIONS.

    Attributes:
        max_readers: Most connections to read over: what the server allows, less `ROOM`.
        max_writers: The same for writing.
    """

    extents: bool = False
    zero: bool = False
    flush: bool = False
    checksum: bool = False
    max_readers: int = 1
    max_writers: int = 1
    unix_socket: str | None = None
    writable: bool = True

    @classmethod
    def parse(cls, text: bytes, allow: str | None) -> Capabilities:
        """Read the reply; what old servers leave out has a safe default."""
        try:
            options = json.loads(text)
            features = frozenset(options.get("features", ()))
            unix_socket = options.get("unix_socket")
            if not isinstance(unix_socket, str | None):
                raise TypeError("unix_socket is not a string")
            capabilities = cls(
                extents="extents" in features,
                zero="zero" in features,
                flush="flush" in features,
                checksum="checksum" in features,
                max_readers=max(1, int(options.get("max_readers", 1)) - ROOM),
                max_writers=max(1, int(options.get("max_writers", 1)) - ROOM),
                unix_socket=unix_socket,
                # Some servers say "read only" by their limit, and others by their "allow".
                writable=(allow is None or "PUT" in allow.upper())
                and int(options.get("max_writers", 1)) > 0,
            )
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            # Not "from e": it shows what the server sent.
            raise ServerProtocolError("the server's reply to OPTIONS makes no sense") from None
        return capabilities


class Reply(NamedTuple):
    """A whole reply of the server."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Beyond(NamedTuple):
    """What a server says of the byte at some offset.

    Attributes:
        has_more: True when it is there, False when not, None when the server does not say.
        size: How many bytes there are, or the ticket allows; None when the server does not say.
    """

    has_more: bool | None
    size: int | None


class Transfer:
    """A transfer that answered: makes connections to it.

    Use `open_transfer` to get one.

    Attributes:
        url: Where it is.
        can: What the server can do with it.
        is_local: True when the server runs on this host.
        disk: The disk's name, for errors, if it is known.
        timeouts: How long to wait.
    """

    def __init__(
        self,
        url: TransferURL,
        timeouts: Timeouts,
        tls: ssl.SSLContext | None,
        users: frozenset[int],
    ) -> None:
        self.url = url
        self._users = users
        self.timeouts = timeouts
        self.can = Capabilities()
        self.is_local = False
        self.disk = ""
        self._tls = tls
        self._unix_socket: str | None = None
        self._entered: WeakValueDictionary[int, Connection] = WeakValueDictionary()

    def __str__(self) -> str:
        return f"disk {self.disk} at {self.url}" if self.disk else str(self.url)

    def connect(self) -> Connection:
        """Make a connection; it connects when first used."""
        host = "localhost" if self._unix_socket else self.url.authority
        return Connection(self, Exchange(self._new_http(), host))

    def cancel(self) -> None:
        """Make what waits for the server in a `with` block of a connection, elsewhere, fail."""
        for found in self._entered.valuerefs():
            connection = found()
            if connection is not None:
                connection.cancel()

    def enter(self, connection: Connection) -> None:
        """Let `cancel` end what this connection waits for."""
        self._entered[id(connection)] = connection

    def leave(self, connection: Connection) -> None:
        """The opposite of `enter`."""
        self._entered.pop(id(connection), None)

    def keep_alive(self) -> None:
        """Use the ticket: this, unlike getting the extents, lets it live on.

        Raises:
            TransferError: The server cannot be reached, or refuses.
        """
        with self.connect() as connection:
            connection.options()

    def block_hash(self) -> BlockHash:
        """Let the server compute the block hash of the disk.

        Raises:
            UnsupportedError: It cannot.
            TransferError: It cannot be reached, refuses, or does not answer in time. It is asked
                only once, for it goes on computing when nobody waits for it any more.
        """
        if not self.can.checksum:
            raise UnsupportedError("the server cannot compute block hashes", hint=_COMPUTE_IT_HERE)
        with self.connect() as connection:
            return connection.checksum()

    def negotiate(self, *, use_unix_socket: bool, retries: int, patience: float) -> None:
        """Ask what the server can do, and go over to its unix socket if it is on this host.

        Args:
            use_unix_socket: False to stay with TCP.
            retries: How often to ask again: the server may be starting.
            patience: Seconds after which it is not asked again.

        Raises:
            TransferError: The server cannot be reached, or refuses.
        """
        with self.connect() as connection:
            self.can = connection.retry(connection.options, retries, patience)
            self.is_local = connection.is_local()
        if use_unix_socket and self.is_local and self.can.unix_socket:
            self._unix_socket = self.can.unix_socket
            try:
                with self.connect() as connection:
                    connection.options()
            except TransferError as e:
                self._unix_socket = None
                log.warning("The unix socket of %s cannot be used: %s", self.url, e)

    @property
    def over_unix_socket(self) -> bool:
        """True when connections go over the unix socket."""
        return self._unix_socket is not None

    def unreachable(self, error: Exception) -> ServerUnreachableError:
        """What a failure to connect is raised as."""
        if self._unix_socket is None:
            return ServerUnreachableError(f"cannot connect to {self.url}: {error}")
        # The server chose it: it may be anything.
        path = self.url.redact(self._unix_socket.replace("\0", "@")[:LONGEST_PATH])
        return ServerUnreachableError(
            f"cannot connect to {path} of {self.url}: {error}",
            hint="Is ovirt-imageio still running on this host?",
        )

    def _new_http(self) -> HTTPConnection:
        timeout = self.timeouts.connect
        if self._unix_socket is not None:
            return UnixHTTPConnection(self._unix_socket, timeout, self._users)
        host, port = self.url.host, self.url.port
        if self._tls is None:
            return HTTPConnection(host, port, timeout=timeout, socket_options=SOCKET_OPTIONS)
        return HTTPSConnection(
            host, port, timeout=timeout, socket_options=SOCKET_OPTIONS, ssl_context=self._tls
        )


def open_transfer(
    url: str,
    *,
    proxy_url: str | None,
    cafile: str | os.PathLike[str] | None,
    secure: bool,
    use_unix_socket: bool,
    unix_socket_owner: str | int | None,
    timeouts: Timeouts,
    retries: int,
) -> Transfer:
    """Find the way to a transfer: its host, or the proxy, or a local unix socket.

    The way is chosen once, here, and does not change during the transfer. So a host that cannot be
    reached is tried again before the proxy is used, but only for as long as one connection may
    take.

    Raises:
        UsageError: A URL, the CA file or the number of retries cannot be used.
        TransferError: The server cannot be reached, or refuses.
    """
    number("retries", retries)
    flag("secure", secure)
    flag("use_unix_socket", use_unix_socket)
    ca = None if cafile is None else path("cafile", cafile)
    urls = [url] if proxy_url is None else [url, proxy_url]
    users = trusted_users(unix_socket_owner)
    addresses = [TransferURL.parse(each, secure=secure) for each in urls]
    for address in addresses:
        tls = _tls_context(ca, secure=secure) if address.scheme == "https" else None
        transfer = Transfer(address, timeouts, tls, users)
        is_last = address is addresses[-1]
        try:
            transfer.negotiate(
                use_unix_socket=use_unix_socket,
                retries=retries,
                patience=math.inf if is_last else timeouts.connect,
            )
        except ServerUnreachableError as e:
            if is_last:
                raise
            log.warning("Using the proxy: %s", e)
        else:
            return transfer
    raise AssertionError("there is always a last address")


def _tls_context(cafile: str | None, *, secure: bool) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=cafile)
    except (ssl.SSLError, FileNotFoundError, IsADirectoryError, PermissionError) as e:
        raise UsageError(f"the cafile {cafile!r} cannot be loaded: {e}") from e
    except OSError as e:
        raise LocalIOError(f"cannot load the cafile {cafile!r}", e) from e
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not secure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class Connection:
    """One connection to a transfer; used by one thread. Reconnects when needed.

    Every method raises a `TransferError`; the connection is then closed, and what was under way is
    lost. It can be used again, but not to upload.
    """

    def __init__(self, transfer: Transfer, exchange: Exchange) -> None:
        self._transfer = transfer
        self._exchange = exchange
        self._cancelled = threading.Event()
        self._putting: deque[str] = deque()  # what is not yet replied to
        self._backend_is_gone = False

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
    def backend_is_gone(self) -> bool:
        """True when the last write failed since what serves the disk to the server is gone."""
        return self._backend_is_gone

    def options(self) -> Capabilities:
        """Ask what the server can do. This keeps the ticket alive, too."""
        headers = {"User-Agent": f"tapestream/{__version__}"}
        reply = self._ask("OPTIONS", headers=headers, timeout=self._transfer.timeouts.read)
        if reply.status in (204, 405, 501):
            log.info("%s is an old server: it can only read and write", self._transfer.url)
            return Capabilities()
        if reply.status >= 500:
            self.close()
            raise ServerError(
                f"{self._transfer}: cannot use the transfer: {self._explain(reply)}",
                status=reply.status,
                hint=_CANNOT_OPEN,
            )
        self._check(reply, 200, "cannot use the transfer")
        return Capabilities.parse(reply.body, reply.headers.get("allow"))

    def extents(self, context: str) -> bytes:
        """The extents of the whole image, as JSON."""
        reply = self._ask(
            "GET",
            suffix=f"/extents?context={context}",
            timeout=self._transfer.timeouts.slow,
            most=MAX_REPLY,
        )
        if reply.status == 404 and context == "dirty":
            raise UnsupportedError(
                f"this disk has no dirty extents: {self._explain(reply)}",
                hint="It is new, raw, or was not in the parent checkpoint: take a full backup.",
            )
        self._check(reply, 200, "cannot get the extents")
        return reply.body

    def checksum(self) -> BlockHash:
        """The block hash of the whole image."""
        reply = self._ask(
            "GET",
            suffix=f"/checksum?algorithm={ALGORITHM}&block_size={BLOCK_SIZE}",
            timeout=self._transfer.timeouts.checksum,
        )
        if reply.status in (404, 405, 501):
            # Some servers name a feature that they lack. If this is no known transfer, that counts.
            self.options()
            raise UnsupportedError(
                f"the server cannot compute block hashes: {self._explain(reply)}",
                hint=_COMPUTE_IT_HERE,
            )
        self._check(reply, 200, "cannot get the block hash")
        return _parse_block_hash(reply.body)

    def size(self) -> int:
        """The size of the image, without its extents: start to download it, and stop."""
        with self._foreign_errors("cannot get the size"):
            self._send("GET", timeout=self._transfer.timeouts.read)
            response = self._exchange.reply()
            if response.status != 200:
                size = _total(response)
                reply = self._whole(response)
                if reply.status == 416 and size is not None:
                    return size  # of a server that wants to be asked for a range
                self._check(reply, 200, "cannot get the size")
            try:
                return _content_length(response)
            finally:
                self.close()

    def look_beyond(self, offset: int) -> Beyond:
        """Whether there is a byte at this offset, and how many there are, by a download of it."""
        with self._foreign_errors(f"cannot find out whether the disk has a byte {offset}"):
            headers = {"Range": f"bytes={offset}-{offset}"}
            self._send("GET", headers=headers, timeout=self._transfer.timeouts.read)
            response = self._exchange.reply()
            size = _total(response)
            if response.status in (200, 206):
                self.close()  # nobody wants the byte
                if response.status == 200 and response.length is not None:
                    size = response.length
                    return Beyond(offset < size, size)
                return Beyond(response.length != 0, size)
            reply = self._whole(response)
            if reply.status == 416:
                return Beyond(False, size)
            self._check(reply, 206, f"cannot find out whether the disk has a byte {offset}")
            raise AssertionError("the check raises")

    @property
    def can(self) -> Capabilities:
        """What the server can do with the transfer."""
        return self._transfer.can

    @property
    def asked(self) -> int:
        """How many ranges were asked for and not opened; 0 when the connection broke, or ended."""
        return self._exchange.under_way

    @property
    def takes_more(self) -> bool:
        """True when a range may be asked for although others were, and were not opened."""
        return self._exchange.persists and not self._exchange.is_cut

    def ask_for_range(self, start: int, end: int) -> None:
        """Ask for the bytes from `start` up to, not including, `end`, and do not wait for them.

        Several ranges may be asked for; they come in the same order.
        """
        with self._foreign_errors(f"cannot read bytes {start} to {end}"):
            headers = {"Range": f"bytes={start}-{end - 1}"}
            self._send("GET", headers=headers, timeout=self._transfer.timeouts.read)

    def open_range(self, start: int, end: int) -> http.client.HTTPResponse:
        """Wait for the reply to `ask_for_range`; read it with `read_body`."""
        doing = f"cannot read bytes {start} to {end}"
        with self._foreign_errors(doing):
            response = self._exchange.reply()
            if response.status not in (200, 206):
                self._check(self._whole(response), 206, doing)
            _check_range(response, start, end)
            return response

    def read_body(self, response: http.client.HTTPResponse, buffer: memoryview) -> int:
        """Read the next bytes of a download into the buffer: at least one."""
        # Not response.readinto(): what it has read before an error is lost.
        count = 0
        try:
            with self._foreign_errors("the download broke"):
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
        self.ask_for_range(start, end)
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
        suffix = "?flush=n" if self._transfer.can.flush and not flush else ""
        with self._foreign_errors(doing):
            self._send("PUT", suffix, headers, data, timeout=self._transfer.timeouts.read)
        self._putting.append(doing)
        if self._exchange.is_cut:
            self.end_puts()

    def end_puts(self, most: int = 0) -> None:
        """Wait until the bytes of uploads are in the server's hands; not on storage.

        Args:
            most: How many may still be on their way.
        """
        # What has come is taken: after it the server may have hung up, if the last was long ago.
        while self._putting and (len(self._putting) > most or self._exchange.has_news):
            self._end_put()

    def _end_put(self) -> None:
        doing = self._putting.popleft()
        with self._foreign_errors(doing):
            reply = self._whole(self._exchange.reply())
        self._check_done(reply, doing)

    def zero(self, start: int, length: int, *, flush: bool = False) -> None:
        """Make a range read as zeros; any length goes in one request."""
        self._patch(
            {"op": "zero", "offset": start, "size": length, "flush": flush},
            f"cannot zero {length} bytes at {start}",
        )

    def flush(self) -> None:
        """Put everything that was written here on storage."""
        if self._transfer.can.flush:
            self._patch({"op": "flush"}, "cannot flush the disk")

    def is_local(self) -> bool:
        """True when the server runs on this host; asked while connected."""
        sock = self._exchange.sock
        if sock is None or sock.family == socket.AF_UNIX:
            return False
        try:
            return bool(sock.getpeername()[0] == sock.getsockname()[0])
        except OSError:
            return False  # the server has hung up

    def retry(self, work: Callable[[], T], retries: int, patience: float = math.inf) -> T:
        """Do something that may be done again, until it works or is not worth another try."""
        tries = Tries(self, retries, patience)
        while True:
            try:
                return work()
            except TransferError as e:
                tries.failed(e)

    def explained(self, error: TransferError) -> TransferError:
        """The error for a failure that stays; its hint depends on what the server still can do."""
        if not isinstance(error, ServerError) or error.hint == _CANNOT_OPEN:
            return error
        self.close()  # imageio opens the disk again for a new connection
        try:
            self.options()
        except TicketError as e:
            return e
        except TransferError as e:
            error.hint = e.hint
        else:
            error.hint = _CANNOT_READ if error.status else _CANNOT_TRANSFER
        finally:
            self.close()
        return error

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

    def __enter__(self) -> Self:
        self._transfer.enter(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._transfer.leave(self)
        self.close()

    def _patch(self, message: Mapping[str, object], doing: str) -> None:
        body = memoryview(json.dumps(message).encode())
        headers = {"Content-Length": str(len(body)), "Content-Type": "application/json"}
        reply = self._ask("PATCH", headers=headers, body=body, timeout=self._transfer.timeouts.slow)
        self._check_done(reply, doing)

    def _ask(
        self,
        method: str,
        *,
        suffix: str = "",
        headers: Mapping[str, str] | None = None,
        body: memoryview | None = None,
        timeout: float,
        most: int | None = None,
    ) -> Reply:
        self.end_puts()
        with self._foreign_errors(f"{method} failed"):
            self._send(method, suffix, headers, body, timeout=timeout)
            return self._whole(self._exchange.reply(), most)

    def _send(
        self,
        method: str,
        suffix: str = "",
        headers: Mapping[str, str] | None = None,
        body: memoryview | None = None,
        *,
        timeout: float,
    ) -> None:
        """Send a request; its reply must follow."""
        self._backend_is_gone = False
        self._connect(timeout)
        headers = {**(PLAIN if body is None else {}), **(headers or {})}
        self._exchange.send(method, self._transfer.url.path + suffix, headers, body)

    def _connect(self, timeout: float) -> None:
        if self._cancelled.is_set():
            raise ServerError("cancelled")
        try:
            sock = self._exchange.connect()
        except ssl.SSLCertVerificationError as e:
            raise CertificateError(
                f"the certificate of {self._transfer.url} cannot be verified: {e.verify_message}"
            ) from e
        except (OSError, HTTPError) as e:
            raise self._transfer.unreachable(e) from e
        sock.settimeout(timeout)
        if self._cancelled.is_set():  # while it connected: cancel() saw no socket
            self.close()
            raise ServerError("cancelled")

    def _whole(self, response: http.client.HTTPResponse, most: int | None = None) -> Reply:
        body = _body(response, SMALL_REPLY if most is None else most)
        if response.isclosed():
            self._exchange.end_reply()
        else:
            self.close()  # nobody wants the rest
        return Reply(response.status, response.headers, body)

    def _check_done(self, reply: Reply, doing: str) -> None:
        """Make sure that something was written: servers say so by 200, 201 or 204."""
        self._backend_is_gone = reply.status >= 500 and self._cannot_read()
        self._check(reply, reply.status if 200 <= reply.status < 300 else 200, doing)

    def _cannot_read(self) -> bool:
        """Whether the server fails to read over this connection, too, right after a write failed.

        imageio opens one NBD connection for each of ours. When qemu-nbd dies, all that comes over
        ours fails; when the storage refuses a write, because it is full, reading goes on.
        """
        try:
            while self._putting:
                self._putting.popleft()
                self._whole(self._exchange.reply())
            if not self.is_open or self.is_dropped:
                return False  # not to be known: another connection has another backend
            self._send("GET", headers={"Range": "bytes=0-0"}, timeout=self._transfer.timeouts.read)
            return self._exchange.reply().status >= 500
        except (TransferError, OSError, http.client.HTTPException, HTTPError, ValueError):
            return False

    def _check(self, reply: Reply, wanted: int, doing: str) -> None:
        if reply.status == wanted:
            return
        self.close()
        what = f"{self._transfer}: {doing}: {self._explain(reply)}"
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
            raise ServerError(what, status=reply.status, hint=_DAEMON_LOG)
        raise ServerError(what, status=reply.status)

    def _explain(self, reply: Reply) -> str:
        text = " ".join(reply.body[:MAX_ERROR_TEXT].decode(errors="replace").split())
        return self._transfer.url.redact(f"{reply.status} {text}".strip())

    @contextmanager
    def _foreign_errors(self, doing: str) -> Iterator[None]:
        """Turn what sockets, TLS and http.client raise into our errors."""
        doing = f"{self._transfer}: {doing}"
        try:
            yield
        except ServerProtocolError as e:
            self.close()
            e.tell_where(str(self._transfer))
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
        except (OSError, http.client.HTTPException, HTTPError, ValueError) as e:
            # ValueError: what the ssl module raises for a socket that another thread cancelled.
            self.close()
            reason = self._transfer.url.redact(str(e)[:MAX_ERROR_TEXT]) or type(e).__name__
            # Not "from e": what http.client found on the line may be the ticket.
            raise ServerError(f"{doing}: the connection broke: {reason}") from None


class Tries:
    """Counts the tries of something that may be repeated, and its failures in a row.

    Args:
        connection: Whose `cancel` ends the tries.
        retries: How many failures in a row are followed by another try.
        patience: Seconds after which there is no other try.
    """

    def __init__(self, connection: Connection, retries: int, patience: float = math.inf) -> None:
        self._connection = connection
        self._retries = retries
        self._patience = patience
        self._failures = 0
        self._first = datetime.now()
        self._began = time.monotonic()

    def worked(self) -> None:
        """Something was received: count the failures from the beginning again."""
        self._failures = 0

    def failed(self, error: TransferError) -> None:
        """Wait before the next try, or raise the error when there should be none."""
        if self._failures == 0:
            self._first = datetime.now()
        self._failures += 1
        if not error.is_transient or self._connection.is_cancelled:
            raise error
        if self._failures > self._retries or time.monotonic() - self._began >= self._patience:
            if self._failures == 1:
                raise error
            span = f"from {self._first:%H:%M:%S} to {datetime.now():%H:%M:%S}"
            tried = f"tried {self._failures} times {span}"
            error.args = (f"{error.args[0]} ({tried})", *error.args[1:])
            raise self._connection.explained(error)
        log.info("Try %d of %d failed: %s", self._failures, self._retries + 1, error)
        self._connection.pause(min(FIRST_PAUSE * 2 ** (self._failures - 1), LONGEST_PAUSE))


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


def _parse_block_hash(text: bytes) -> BlockHash:
    try:
        found = BlockHash.from_dict(json.loads(text))
    except (ValueError, RecursionError):
        # Not "from e": it shows what the server sent.
        raise ServerProtocolError("the server's block hash makes no sense") from None
    if (found.algorithm, found.block_size, len(found.checksum)) != (ALGORITHM, BLOCK_SIZE, 64):
        raise ServerProtocolError("the server sent another block hash than was asked for")
    return found


def _check_range(response: http.client.HTTPResponse, start: int, end: int) -> None:
    """Make sure that the reply is what was asked for: anything else would corrupt the disk."""
    length = _content_length(response)
    if length != end - start:
        raise ServerProtocolError(f"asked for {end - start} bytes, the server sends {length}")
    if response.status == 200:
        if start != 0:
            raise ServerProtocolError("the server ignores ranges: it sends all from the start")
        return
    found = _CONTENT_RANGE.fullmatch(response.getheader("content-range", ""))
    # The total that it names is the ticket's size: what can be read may end before.
    if found is None or (found[1], found[2]) != (str(start), str(end - 1)):
        raise ServerProtocolError(f"asked for bytes {start} to {end - 1}, the server sends others")


def _total(response: http.client.HTTPResponse) -> int | None:
    """The size that a "Content-Range" names: in a reply to a refused range, too."""
    found = _CONTENT_RANGE.fullmatch(response.getheader("content-range", ""))
    return None if found is None or found[3] == "*" else int(found[3])


def _content_length(response: http.client.HTTPResponse) -> int:
    if response.chunked or response.length is None:
        raise ServerProtocolError("the server does not say how many bytes it sends")
    return response.length
