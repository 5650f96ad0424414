"""HTTP over the unix socket of the daemon on this host, if it is the daemon that listens there."""

from __future__ import annotations

import os
import pwd
import socket
import struct
from contextlib import suppress

from urllib3.connection import HTTPConnection

from ..errors import UsageError

# Who may listen, besides root and our own user: the users that run the daemon on oVirt's hosts,
# now and in 4.3. Anybody can bind an abstract address, and would get the ticket in clear.
DAEMON_USERS = ("ovirtimg", "vdsm")

_PEER = struct.Struct("3i")  # ucred: pid, uid and gid of the process that listens, see unix(7)


def trusted_users(owner: str | int | None) -> frozenset[int]:
    """The uids of those who may listen on the daemon's socket.

    Args:
        owner: One more, by name or uid.

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


class UnixHTTPConnection(HTTPConnection):
    """HTTP over a unix socket, to one of these users.

    Connecting raises a PermissionError, before anything is sent, when somebody else listens.

    Args:
        path: Path of the socket, or an abstract address, which begins with a NUL character.
        timeout: Seconds to wait for the connection.
        users: The uids of those who may listen.
    """

    def __init__(self, path: str, timeout: float, users: frozenset[int]) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path
        self._seconds = timeout
        self._users = users

    def _new_conn(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(self._seconds)
            sock.connect(self._path)
            self._check_peer(sock)
        except BaseException:
            sock.close()
            raise
        return sock

    def _check_peer(self, sock: socket.socket) -> None:
        peer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        _, uid, _ = _PEER.unpack(peer)
        if uid % 2**32 not in self._users:
            raise PermissionError(
                f"{_name(uid % 2**32)} listens there, not a user who runs ovirt-imageio; if "
                "that is right, pass unix_socket_owner="
            )


def _name(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
