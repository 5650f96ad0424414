"""A transfer: chooses the URL, proxy or unix socket to use, and makes connections to it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from .._log import Log
from ..arguments import flag, number, path
from ..cancel import Cancel, check_cancel, ended_by
from ..errors import ServerUnreachableError, TransferError
from .capabilities import Capabilities
from .connection import Connection
from .endpoint import Endpoint, Timeouts
from .idle import IdleConnection
from .queries import get_capabilities
from .retry import retry
from .sockets import tls_context, trusted_users
from .url import TransferURL

log = Log("tapestream.imageio")

# How many connections a reader or a writer uses in turn: the server works on one while the data of
# the other is under way. More are no faster, and cost the server more.
CONNECTIONS = 2
# How many small requests may be under way on one connection.
PIPELINED = 8
# The first request of more than 128 KiB should have this many bytes. qemu-nbd gets a buffer for
# each request from malloc, and glibc's malloc returns it to the kernel each time, until a larger
# buffer was freed once (mallopt(3): the dynamic mmap threshold). Without such a first request,
# qemu-nbd has 262,000 page faults and 0.45 CPU seconds more per GiB, as much as all its other work;
# with it, qemu-nbd keeps up to 160 MiB. oVirt starts a qemu-nbd for each transfer (vdsm,
# storage/nbd.py), so nobody has sent it a large request before. The backup of a running VM is
# served by its own qemu, for which neither was measured. This size is the server's whole buffer: it
# would pass a larger request to qemu in parts.
FIRST_REQUEST = 8 * 1024**2


class Transfer:
    """A transfer that answered. Use `open_transfer` to get one.

    Args:
        endpoint: Where it is.
        cancel: Ends what waits for the server in a `connection`.

    Attributes:
        endpoint: Where it is.
        can: What the server can do with it.
        is_local: True when the server runs on this host.
    """

    def __init__(self, endpoint: Endpoint, cancel: Cancel | None = None) -> None:
        self.endpoint = endpoint
        self._cancel = cancel
        self.can = Capabilities()
        self.is_local = False
        self._asking: set[Connection] = set()
        self._idle = IdleConnection()

    def connect(self) -> Connection:
        """Make a connection; it connects when first used."""
        return Connection(self.endpoint, self.can)

    def take(self) -> Connection:
        """The connection that was kept after a few requests, or else a new one.

        Whoever gets it closes it.
        """
        connection = self._idle.take()
        if connection is None:
            return self.connect()
        connection.can = self.can
        return connection

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection for a few requests, which is then kept; `cancel` makes them fail.

        Raises:
            OperationCancelledError: They were cancelled by the argument `cancel`.
        """
        connection = self.take()
        self._asking.add(connection)
        try:
            with ended_by(self._cancel, connection.cancel):
                yield connection
        except BaseException:
            connection.close()
            raise
        finally:
            self._asking.discard(connection)
        self._idle.keep(connection)

    def close(self) -> None:
        """Close the connection that was kept, and keep none from now on."""
        self._idle.close()

    def cancel(self) -> None:
        """Make other threads' calls that wait for the server in a `connection` fail."""
        # list() copies a set in one step, also without the GIL. tuple() iterates over it.
        for connection in list(self._asking):
            connection.cancel()

    def keep_alive(self) -> None:
        """Use the ticket, so that it does not expire; getting the extents does not count as use.

        Raises:
            TransferError: The server cannot be reached, or refuses.
        """
        with self.connection() as connection:
            get_capabilities(connection)

    @property
    def over_unix_socket(self) -> bool:
        """True when connections go over the unix socket."""
        return self.endpoint.unix_socket is not None

    def negotiate(self, *, use_unix_socket: bool, retries: int, patience: float) -> None:
        """Ask what the server can do, and switch to its unix socket if it is on this host.

        Args:
            use_unix_socket: False to stay with TCP.
            retries: How often to ask again: the server may be starting.
            patience: Seconds after which it is not asked again.

        Raises:
            TransferError: The server cannot be reached, or refuses.
        """
        with self.connection() as connection:
            ask = partial(get_capabilities, connection)
            self.can = retry(connection, ask, retries, patience)
            self.is_local = connection.is_local()
        if use_unix_socket and self.is_local and self.can.unix_socket:
            over_tcp = self.endpoint
            self._idle.close()
            self._idle = IdleConnection()
            self.endpoint = over_tcp._replace(unix_socket=self.can.unix_socket)
            try:
                self.keep_alive()
            except TransferError as e:
                self.endpoint = over_tcp
                log.warning("The unix socket of %s cannot be used: %s", over_tcp.url, e)


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
    cancel: Cancel | None,
    disk: str = "",
) -> Transfer:
    """Connect to a transfer: through its host, the proxy, or a local unix socket.

    The choice is made once, here, and does not change during the transfer. So a host that cannot be
    reached is tried again before the proxy is used, but only for as long as the timeout of one
    connection.

    Raises:
        UsageError: A URL, the CA file or the number of retries cannot be used.
        OperationCancelledError: It was cancelled.
        TransferError: The server cannot be reached, or refuses.
    """
    check_cancel(cancel)
    number("retries", retries)
    flag("secure", secure)
    flag("use_unix_socket", use_unix_socket)
    ca = None if cafile is None else path("cafile", cafile)
    urls = [url] if proxy_url is None else [url, proxy_url]
    users = trusted_users(unix_socket_owner)
    addresses = [TransferURL.parse(each, secure=secure) for each in urls]
    for address in addresses:
        tls = tls_context(ca, secure=secure) if address.scheme == "https" else None
        transfer = Transfer(Endpoint(address, timeouts, tls, users, disk), cancel)
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
