"""Requests for what a server can do, and for the size, the extents and the hash of the disk.

All functions raise a `TransferError` if the server refuses or fails.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from .._log import Log
from .._version import __version__
from ..errors import ServerError, ServerProtocolError, UnsupportedError
from ..model.blockhash import ALGORITHM, BLOCK_SIZE, BlockHash
from .capabilities import Capabilities
from .connection import DAEMON_LOG, Connection, content_length, total_size

log = Log("tapestream.imageio")

CANNOT_OPEN = (
    "The server runs, but cannot open the disk. Check in the engine whether the VM was switched "
    "off or died, and whether its backup was stopped or cancelled: then a new backup is needed. "
    f"{DAEMON_LOG}"
)
COMPUTE_IT_HERE = "copy(..., block_hash=True) computes them from what it reads."


class Beyond(NamedTuple):
    """What a server says about the byte at an offset.

    Attributes:
        has_more: Whether the byte exists; None when the server does not say.
        size: How many bytes there are, or the ticket allows; None when the server does not say.
    """

    has_more: bool | None
    size: int | None


def get_capabilities(connection: Connection) -> Capabilities:
    """Ask what the server can do. This request also keeps the ticket alive."""
    reply = connection.ask("OPTIONS", headers={"User-Agent": f"tapestream/{__version__}"})
    if reply.status in (204, 405, 501):
        log.info("%s is an old server: it can only read and write", connection.endpoint.url)
        return Capabilities()
    if reply.status >= 500:
        connection.close()
        raise ServerError(
            f"{connection.endpoint}: cannot use the transfer: {connection.explain(reply)}",
            status=reply.status,
            hint=CANNOT_OPEN,
        )
    connection.check(reply, 200, "cannot use the transfer")
    return Capabilities.parse(reply.body, reply.headers.get("allow"))


def get_extents(connection: Connection, context: str) -> bytes:
    """The extents of the whole image, as JSON."""
    reply = connection.ask(
        "GET",
        f"/extents?context={context}",
        timeout=connection.endpoint.timeouts.slow,
        largest=connection.largest_list,
    )
    if reply.status == 404 and context == "dirty":
        raise UnsupportedError(
            f"this disk has no dirty extents: {connection.explain(reply)}",
            hint="It is new, raw, or was not in the parent checkpoint: take a full backup.",
        )
    connection.check(reply, 200, "cannot get the extents")
    return reply.body


def get_block_hash(connection: Connection) -> BlockHash:
    """Have the server compute the block hash of the whole image.

    Raises:
        UnsupportedError: It cannot.
    """
    if not connection.can.checksum:
        raise UnsupportedError("the server cannot compute block hashes", hint=COMPUTE_IT_HERE)
    reply = connection.ask(
        "GET",
        f"/checksum?algorithm={ALGORITHM}&block_size={BLOCK_SIZE}",
        timeout=connection.endpoint.timeouts.checksum,
    )
    if reply.status in (404, 405, 501):
        # Some servers list a feature that they do not have. But if the server does not know the
        # transfer, this raises the better error.
        get_capabilities(connection)
        raise UnsupportedError(
            f"the server cannot compute block hashes: {connection.explain(reply)}",
            hint=COMPUTE_IT_HERE,
        )
    connection.check(reply, 200, "cannot get the block hash")
    return _parse_block_hash(reply.body)


def get_size(connection: Connection) -> int:
    """The size of the image, without its extents: start a download, and stop after the head."""
    doing = "cannot get the size"
    with connection.foreign_errors(doing):
        response = connection.open("GET")
        if response.status != 200:
            size = total_size(response)
            reply = connection.read_reply(response)
            if reply.status == 416 and size is not None:
                return size  # this server refuses a GET without a range
            connection.check(reply, 200, doing)
        try:
            return content_length(response)
        finally:
            connection.close()


def look_beyond(connection: Connection, offset: int) -> Beyond:
    """Download one byte, to see whether it exists and how many bytes there are."""
    doing = f"cannot find out whether the disk has a byte {offset}"
    with connection.foreign_errors(doing):
        response = connection.open("GET", headers={"Range": f"bytes={offset}-{offset}"})
        size = total_size(response)
        if response.status in (200, 206):
            connection.close()  # nobody needs the byte
            if response.status == 200 and response.length is not None:
                size = response.length
                return Beyond(offset < size, size)
            return Beyond(response.length != 0, size)
        reply = connection.read_reply(response)
        if reply.status == 416:
            return Beyond(False, size)
        connection.check(reply, 206, doing)
        raise AssertionError("the check raises")


def _parse_block_hash(text: bytes) -> BlockHash:
    try:
        found = BlockHash.from_dict(json.loads(text))
    except (ValueError, RecursionError):
        # Not "from e": it shows what the server sent.
        raise ServerProtocolError("the server's block hash makes no sense") from None
    if (found.algorithm, found.block_size, len(found.checksum)) != (ALGORITHM, BLOCK_SIZE, 64):
        raise ServerProtocolError("the server sent another block hash than was asked for")
    return found
