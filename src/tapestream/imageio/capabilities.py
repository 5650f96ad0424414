"""What a server can do with a transfer."""

from __future__ import annotations

import json
from typing import NamedTuple

from ..errors import ServerProtocolError

# How many of the connections that a server allows we leave free. oVirt's host serves a disk with
# `qemu-nbd --shared=8`, and imageio opens one NBD connection for each of ours: the ninth hangs. The
# daemon notices late that we gave up a broken connection, so for a while both it and its
# replacement count.
ROOM = 2


class Capabilities(NamedTuple):
    """What the server says it can do with this transfer, in its reply to OPTIONS.

    Attributes:
        max_readers: How many connections we may open to read: what the server allows, minus `ROOM`.
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
        """Parse the reply. A field that an old server leaves out gets a safe default."""
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
                # Some servers show "read only" by max_writers 0, others by their "Allow" header.
                writable=(allow is None or "PUT" in allow.upper())
                and int(options.get("max_writers", 1)) > 0,
            )
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            # Not "from e": it shows what the server sent.
            raise ServerProtocolError("the server's reply to OPTIONS makes no sense") from None
        return capabilities
