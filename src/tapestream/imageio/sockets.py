"""Sockets to a server: TCP, with or without TLS, and the unix socket of the daemon on this host."""

from __future__ import annotations

import os
import pwd
import socket
import ssl
import struct
from contextlib import suppress
from typing import cast

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


def connect_tcp(
    host: str, port: int, timeout: float, tls: ssl.SSLContext | None = None
) -> socket.socket:
    """Connect to a host, and set up TLS if there is a context for it.

    Args:
        host: A name, as ASCII, or an address.
        port: The port.
        timeout: Seconds to wait for each address of the host, and for each step of the handshake.
        tls: How to check the server's certificate; None for plain TCP.

    Raises:
        OSError: The connect failed; an `ssl.SSLError` if the handshake failed.
    """
    # As bytes: for a str, Python would load the codec for international names, here and below.
    address = cast("tuple[str, int]", (host.encode("ascii"), port))
    sock = socket.create_connection(address, timeout)
    try:
        for option in OPTIONS:
            sock.setsockopt(*option)
        if tls is None:
            return sock
        # The zone of an IPv6 address and the dot after a full name are in no certificate.
        name = host.partition("%")[0] if ":" in host else host.rstrip(".")
        return tls.wrap_socket(sock, server_hostname=name.encode("ascii"))
    except BaseException:
        sock.close()
        raise


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
        context = ssl.create_default_context(cafile=cafile)
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


def connect_unix(path: str, timeout: float, users: frozenset[int]) -> socket.socket:
    """Connect to a unix socket, if one of these users listens there.

    Args:
        path: Path of the socket, or an abstract address, which begins with a NUL character.
        timeout: Seconds to wait for the connection.
        users: The uids of the users that we trust to listen there.

    Raises:
        PermissionError: Another user listens there. Nothing was sent.
        OSError: The connect failed.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(path)
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
