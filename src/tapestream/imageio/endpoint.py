"""The address of a transfer, the timeouts, and how a connection to it is made."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, NamedTuple

from ..errors import ServerUnreachableError, UsageError
from .sockets import Cancellation, connect_tcp, connect_unix
from .url import TransferURL

if TYPE_CHECKING:
    import ssl

MAX_SECONDS = 365 * 86400  # sockets do not accept much longer timeouts
LONGEST_PATH = 108  # bytes of a unix socket's path, see unix(7)


class Timeouts:
    """How long to wait for the server, in seconds.

    Attributes:
        connect: For a connection and its TLS handshake.
        read: For the next bytes of data, or for the reply to an upload.
        slow: For the reply to extents, zero and flush requests.
        checksum: For the block hash: the server reads the whole disk before it replies.
    """

    def __init__(self, connect: float, read: float, slow: float, checksum: float) -> None:
        for seconds in (connect, read, slow, checksum):
            if type(seconds) not in (int, float) or not 0 < seconds <= MAX_SECONDS:
                raise UsageError(f"a timeout must be more than 0 seconds, not {seconds!r}")
        self.connect, self.read, self.slow, self.checksum = connect, read, slow, checksum


class Endpoint(NamedTuple):
    """The server of a transfer.

    Attributes:
        url: The URL of the transfer there.
        timeouts: How long to wait for the server.
        tls: How to check the server's certificate; None for plain HTTP.
        users: The uids of the users that we trust to listen on a unix socket.
        disk: The disk's name for errors; "" if it is not known.
        unix_socket: Path or abstract address of the unix socket to use instead of TCP.
    """

    url: TransferURL
    timeouts: Timeouts
    tls: ssl.SSLContext | None
    users: frozenset[int]
    disk: str = ""
    unix_socket: str | None = None

    def __str__(self) -> str:
        return f"disk {self.disk} at {self.url}" if self.disk else str(self.url)

    @property
    def host(self) -> str:
        """The value of the "Host" header."""
        return "localhost" if self.unix_socket else self.url.authority

    def connect(self, cancellation: Cancellation) -> socket.socket:
        """Connect to the server.

        Args:
            cancellation: Ends the connect, and later what waits for the connection.

        Raises:
            OSError: It failed, or was cancelled.
        """
        seconds = self.timeouts.connect
        if self.unix_socket is not None:
            return connect_unix(self.unix_socket, seconds, self.users, cancellation)
        return connect_tcp(self.url.host, self.url.port, seconds, self.tls, cancellation)

    def unreachable(self, error: Exception) -> ServerUnreachableError:
        """Make the error for a failure to connect."""
        if self.unix_socket is None:
            return ServerUnreachableError(f"cannot connect to {self.url}: {error}")
        # The server chose this path, so it may hold anything: shorten and redact it.
        path = self.url.redact(self.unix_socket.replace("\0", "@")[:LONGEST_PATH])
        return ServerUnreachableError(
            f"cannot connect to {path} of {self.url}: {error}",
            hint="Is ovirt-imageio still running on this host?",
        )
