"""Sockets to a server: TCP, with or without TLS, and the unix socket of the daemon on this host."""

from __future__ import annotations

import errno
import os
import pwd
import select
import socket
import ssl
import struct
import threading
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from ..errors import LocalIOError, UsageError

# Zeroing or flushing can take the server minutes, in which it sends nothing. TCP keep-alive shows
# whether it is busy or dead.
OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 8),
)

# The users that we trust on the unix socket, besides root and our own: those that run the daemon on
# oVirt's hosts, now and in 4.3. Anybody can bind an abstract address, and would get the ticket in
# clear text.
DAEMON_USERS = ("ovirtimg", "vdsm")

_PEER = struct.Struct("3i")  # ucred: pid, uid and gid of the process that listens, see unix(7)


# Seconds between two checks whether a wait was cancelled.
WAKE_UP = 0.1


class Cancellation:
    """Lets another thread end a call that waits for a connection, or that makes it.

    It has no lock, because a signal handler may call `cancel`.

    Attributes:
        is_cancelled: True after `cancel`.
    """

    def __init__(self) -> None:
        self.is_cancelled = False
        self._sock: socket.socket | None = None

    def watch(self, sock: socket.socket) -> None:
        """Let `cancel` shut down this socket from now on. Call this before anything waits for it.

        Raises:
            ConnectionAbortedError: It was cancelled before.
        """
        self._sock = sock
        self.check()

    def check(self) -> None:
        """Raise if this was cancelled.

        Raises:
            ConnectionAbortedError: It was cancelled.
        """
        if self.is_cancelled:
            raise ConnectionAbortedError("cancelled")

    def cancel(self) -> None:
        """Make a wait for the connection fail, now and later."""
        self.is_cancelled = True
        sock = self._sock
        if sock is not None:
            try:
                # Close it with a RST. After a FIN alone, a server whose send buffers are full
                # would hold on to the ticket until its kernel gives up, a minute later.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                # Not SSLSocket.shutdown: it removes the TLS object that another thread is using.
                # This also ends a connect, see inet_shutdown() in the kernel.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            except OSError:
                return  # it is closed already


def connect_tcp(
    host: str,
    port: int,
    timeout: float,
    tls: ssl.SSLContext | None = None,
    cancellation: Cancellation | None = None,
) -> socket.socket:
    """Connect to a host, and set up TLS if there is a context for it.

    Args:
        host: A name, as ASCII, or an address.
        port: The port.
        timeout: Seconds to wait for each address of the host, and for the handshake.
        tls: How to check the server's certificate; None for plain TCP.
        cancellation: Ends the connect, and later shuts down the socket. None for a new one.

    Raises:
        OSError: The connect failed, or was cancelled; an `ssl.SSLError` if the handshake failed.
    """
    cancellation = cancellation or Cancellation()
    sock = _connect_to_any(_addresses(host, port, cancellation), timeout, cancellation)
    try:
        if tls is None:
            return sock
        # The zone of an IPv6 address and the dot after a full name are in no certificate.
        name = host.partition("%")[0] if ":" in host else host.rstrip(".")
        # As bytes: for a str, Python would load the codec for international names, here and below.
        sock = secure = tls.wrap_socket(
            sock, server_hostname=name.encode("ascii"), do_handshake_on_connect=False
        )
        cancellation.watch(secure)
        secure.do_handshake()
    except BaseException:
        sock.close()
        raise
    return secure


def _connect_to_any(
    addresses: list[tuple[Any, ...]], timeout: float, cancellation: Cancellation
) -> socket.socket:
    """Connect to the first address that answers; raise the last error if none does."""
    error: OSError = OSError("the name has no address")
    for family, kind, protocol, _, address in addresses:
        sock = socket.socket(family, kind, protocol)
        try:
            _connect(sock, address, timeout, cancellation)
        except OSError as e:
            sock.close()
            error = e
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise error


def _connect(
    sock: socket.socket, address: object, timeout: float, cancellation: Cancellation
) -> None:
    for option in OPTIONS:
        sock.setsockopt(*option)
    # The connect begins before the socket is watched: a shutdown before it would have no effect.
    sock.setblocking(False)
    error = sock.connect_ex(address)  # type: ignore[arg-type]
    cancellation.watch(sock)
    if error == errno.EINPROGRESS:
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        if not poll.poll(timeout * 1000):
            raise TimeoutError("timed out")
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    cancellation.check()
    if error:
        raise OSError(error, os.strerror(error))
    sock.settimeout(timeout)


def _addresses(host: str, port: int, cancellation: Cancellation) -> list[tuple[Any, ...]]:
    """Look up the addresses of a host, as `socket.getaddrinfo` returns them.

    The system's resolver waits up to half a minute for name servers that do not answer, and nothing
    can interrupt it. So it is called in its own thread, and after a cancel nobody waits for it.
    """
    look_up = partial(socket.getaddrinfo, host.encode("ascii"), port, 0, socket.SOCK_STREAM)
    with suppress(socket.gaierror):  # it is a name
        return look_up(flags=socket.AI_NUMERICHOST)
    results: SimpleQueue[list[tuple[Any, ...]] | OSError] = SimpleQueue()

    def look_up_name() -> None:
        try:
            results.put(look_up())
        except OSError as e:
            results.put(e)

    thread = threading.Thread(target=look_up_name, name="tapestream-resolver", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the machine has no thread left
        return look_up()
    while True:
        with suppress(Empty):
            found = results.get(timeout=WAKE_UP)
            if isinstance(found, OSError):
                raise found
            return found
        cancellation.check()


def tls_context(cafile: str | None, *, secure: bool) -> ssl.SSLContext:
    """Make the context that checks a server's certificate.

    Args:
        cafile: Path of the CA that signed the server's certificate; None for the system's.
        secure: False to accept any certificate.

    Raises:
        UsageError: The file cannot be used.
        LocalIOError: The file system failed.
    """
    try:
        if secure or cafile is not None:
            context = ssl.create_default_context(cafile=cafile)
        else:  # nothing is checked, and loading the CAs of the system would take 0.1 seconds
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    except (ssl.SSLError, FileNotFoundError, IsADirectoryError, PermissionError) as e:
        raise UsageError(f"the cafile {cafile!r} cannot be loaded: {e}") from e
    except OSError as e:
        raise LocalIOError(f"cannot load the cafile {cafile!r}", e) from e
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if not secure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def connect_unix(
    path: str, timeout: float, users: frozenset[int], cancellation: Cancellation | None = None
) -> socket.socket:
    """Connect to a unix socket, if one of these users listens there.

    Args:
        path: Path of the socket, or an abstract address, which begins with a NUL character.
        timeout: Seconds for each later wait, until another is set.
        users: The uids of the users that we trust to listen there.
        cancellation: Ends calls that wait for the connection. None for a new one.

    Raises:
        PermissionError: Another user listens there. Nothing was sent.
        OSError: The connect failed, or was cancelled.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(path)  # never waits: if too many wait for the server, it fails
        (cancellation or Cancellation()).watch(sock)
        _check_peer(sock, users)
    except BaseException:
        sock.close()
        raise
    return sock


def _check_peer(sock: socket.socket, users: frozenset[int]) -> None:
    peer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    uid = _PEER.unpack(peer)[1] % 2**32
    if uid not in users:
        raise PermissionError(
            f"{_name(uid)} listens there, not a user who runs ovirt-imageio; if that is right, "
            "pass unix_socket_owner="
        )


def _name(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def trusted_users(owner: str | int | None) -> frozenset[int]:
    """The uids of the users that we trust to listen on the daemon's socket.

    Args:
        owner: One more user, by name or uid.

    Raises:
        UsageError: There is no such user.
    """
    uids = {0, os.geteuid()}
    for name in DAEMON_USERS:
        with suppress(KeyError):
            uids.add(pwd.getpwnam(name).pw_uid)
    if owner is not None:
        uids.add(_uid(owner))
    return frozenset(uids)


def _uid(owner: object) -> int:
    if isinstance(owner, str):
        with suppress(KeyError, ValueError):
            return pwd.getpwnam(owner).pw_uid
        raise UsageError(f"unix_socket_owner: this host has no user {owner!r}")
    if isinstance(owner, int) and not isinstance(owner, bool) and 0 <= owner < 2**32 - 1:
        return owner
    raise UsageError(f"unix_socket_owner must be the name or the uid of a user, not {owner!r}")
