"""Writes data and zeros to a disk over several connections."""

from __future__ import annotations

from itertools import cycle

from .._log import Log
from .._typing import override
from ..backend.protocols import Writer
from ..errors import ServerError
from .ledger import Ledger, Stretches
from .transfer import CONNECTIONS, PIPELINED, Transfer
from .upload import NOT_IMPLEMENTED, Upload

log = Log("tapestream.imageio")

# Zeros to upload, in pieces of this size, to a server that cannot zero.
_ZEROS = bytes(4 * 1024**2)
# Bytes. Uploads of up to this size go over one connection, as for downloads. The limit is lower
# because writing takes the server longer than reading (measured: 4 KiB to 4 MiB).
SMALL = 64 * 1024


class HTTPWriter(Writer):
    """Uploads over several connections.

    While the server stores what it received over one connection, the next bytes are sent over
    another.

    Args:
        transfer: The transfer.
        may_hold_data: The ranges of the disk that may not read as zeros.
        ledger: Shared by all writers.
        retries: How often to try again while a server that died is not running again.
    """

    def __init__(
        self, transfer: Transfer, may_hold_data: Stretches, ledger: Ledger, retries: int
    ) -> None:
        self._may_hold_data = may_hold_data
        self._ledger = ledger
        number = min(CONNECTIONS, transfer.can.max_writers)
        self.uploads = [Upload(transfer, ledger, retries) for _ in range(number)]
        self._turns = cycle(self.uploads)
        self._used: set[Upload] = set()
        self.is_closed = False

    @override
    def write(self, start: int, buffer: memoryview) -> None:
        if len(buffer) <= SMALL:
            upload, under_way = self.uploads[0], PIPELINED
        else:
            upload, under_way = next(self._turns), 1
        self._used.add(upload)
        upload.put(start, buffer, under_way=under_way)

    @override
    def zero(self, start: int, length: int) -> None:
        dirty = list(self._may_hold_data.within(start, start + length))
        if not dirty:
            return
        # A request on one connection may overtake one on another. Nothing else may be under way
        # now: this range may have just been written, or may be written next.
        self._end_puts()
        for first, end in dirty:
            self._zero(first, end)
        self._end_puts()

    def flush(self) -> None:
        """Flush every connection that this writer has used."""
        self._end_puts()
        for upload in self._used:
            upload.flush()

    def cancel(self) -> None:
        """Make the calls that wait for the server fail."""
        for upload in self.uploads:
            upload.cancel()

    @override
    def close(self) -> None:
        self.is_closed = True
        if not all(upload.is_flushed for upload in self._used):
            self._ledger.is_unflushed = True
        for upload in self.uploads:
            upload.close()

    def _end_puts(self) -> None:
        for upload in self._used:
            upload.end_puts()

    def _zero(self, start: int, end: int) -> None:
        upload = self.uploads[0]
        self._used.add(upload)
        if self._ledger.can_zero:
            try:
                upload.zero(start, end)
            except ServerError as e:
                if e.status not in NOT_IMPLEMENTED:
                    raise
                log.warning("The server says that it can zero, but refuses it: %s", e.message)
                self._ledger.can_zero = False
            else:
                return
        while start < end:
            step = min(len(_ZEROS), end - start)
            self.write(start, memoryview(_ZEROS)[:step])
            start += step
