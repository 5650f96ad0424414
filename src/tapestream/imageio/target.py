"""Asks a server what the disk of an upload holds, and how much of it may be written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from .._log import Log
from ..errors import ExtentsError, ServerError, TargetSizeError, TicketError, TransferError
from ..model.extents import Extent, Extents, Kind
from .connection import Connection
from .queries import Beyond, get_extents, get_size, look_beyond
from .retry import retry
from .transfer import FIRST_REQUEST
from .upload import NOT_IMPLEMENTED

log = Log("tapestream.imageio")

T = TypeVar("T")


class Target:
    """Asks a server about the disk of an upload.

    Args:
        connection: A connection to the transfer.
        retries: How often in a row to try again.
    """

    # Bytes of data from which a restore is worth one more large request: see `warm_up`.
    warm_up_from = 256 * 1024**2

    def __init__(self, connection: Connection, retries: int) -> None:
        self._connection = connection
        self._retries = retries

    def extents(self) -> Extents | None:
        """The extents of the disk, without "extents" all data; None if a server refuses all reads.

        Raises:
            TransferError: The server fails.
        """
        if self._connection.can.extents:
            try:
                return self._retry(self._listed)
            except ServerError as e:
                if e.status not in NOT_IMPLEMENTED:
                    raise
                log.warning("The server says that it has extents, but refuses them: %s", e.message)
        try:
            size = self._retry(lambda: get_size(self._connection))
        except TicketError:
            return None
        except ServerError as e:
            if e.is_transient:
                raise
            return None
        return Extents.of([Extent(0, size)] if size else [])

    def writable(self, held: Extents | None, wanted: int) -> int:
        """How many bytes may be written to the disk; grows a file that is too small.

        A volume may be larger than the disk that the ticket allows, because LVM rounds up. A file
        may be smaller, and grow; its new end then reads as zeros.

        Args:
            held: What the disk holds, if that is known.
            wanted: Bytes of the backup's disk.

        Raises:
            TargetSizeError: They are fewer than `wanted`. If the server does not report the size,
                this shows only when it refuses a write.
            TransferError: The server fails.
        """
        listed = wanted if held is None else held.size
        size = self._after_growing(listed, wanted) if listed < wanted else listed
        if listed > wanted:
            size = self._allowed(listed, wanted)
        if size < wanted:
            raise TargetSizeError(f"the disk has {size} bytes, but the backup is of {wanted} bytes")
        return size

    def warm_up(self, size: int) -> None:
        """Make the server's first request a large one: see `FIRST_REQUEST`."""
        try:
            self._connection.read_away(0, min(size, FIRST_REQUEST))
        except TransferError as e:
            log.info("The restore continues, but more slowly: %s", e.message)

    def _listed(self) -> Extents:
        text = get_extents(self._connection, "zero")
        try:
            return Extents.parse(text)
        except ExtentsError:
            # imageio lists an empty file as one extent of length 0.
            if look_beyond(self._connection, 0) == Beyond(False, 0):
                return Extents.of([])
            raise

    def _allowed(self, listed: int, wanted: int) -> int:
        beyond = self._look(listed - 1)
        if beyond.has_more is not False or beyond.size:
            return beyond.size if beyond.has_more is False and beyond.size else listed
        # The server does not say how much it allows. If it allows nothing after the backup's end,
        # that is enough.
        return wanted if self._look(wanted).has_more is False else listed

    def _after_growing(self, listed: int, wanted: int) -> int:
        if not self._connection.can.zero or (listed and (self._look(0).size or 0) < wanted):
            return listed
        try:
            self._connection.zero(listed, wanted - listed, flush=True)
        except ServerError as e:
            if e.status is None:
                raise
            log.info("What the server writes to cannot grow: %s", e.message)
            return listed
        return wanted

    def _look(self, offset: int) -> Beyond:
        """Look for a byte. A server that refuses that may still accept writes."""
        try:
            return self._retry(lambda: look_beyond(self._connection, offset))
        except (ServerError, TicketError) as e:
            log.info("The server does not say how much the ticket allows: %s", e.message)
            return Beyond(None, None)

    def _retry(self, work: Callable[[], T]) -> T:
        return retry(self._connection, work, self._retries)


def not_zero(held: Extents | None, size: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of what may not be zero on a disk: all of it if `held` is None."""
    runs = [(0, size, Kind.DATA)] if held is None else held.runs()
    return ((start, start + length) for start, length, kind in runs if kind is not Kind.ZERO)
