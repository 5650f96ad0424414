"""What a server can do with a transfer."""

from __future__ import annotations

import json
from typing import NamedTuple

from ..errors import ServerProtocolError

# Connections that a server allows and we leave free. oVirt's host serves a disk with `qemu-nbd
# --shared=8`, imageio opens one NBD connection for each of ours, and the ninth hangs. The daemon
# finds out late that we have left a broken connection, so one that replaces it comes on top.
ROOM = 2


class Capabilities(NamedTuple):
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
