"""Writes data and zeros to a disk over several connections."""

from __future__ import annotations

import sys
from itertools import cycle

from .._log import Log
from .._typing import override
from ..backend.abilities import Shape
from ..backend.protocols import Writer
from ..errors import ServerError
from .ledger import Ledger, Stretches
from .transfer import CONNECTIONS, PIPELINED, Transfer
from .upload import NOT_IMPLEMENTED, Upload

log = Log("tapestream.imageio")

# Zeros to upload, in pieces of this size, to a server that cannot zero.
_ZEROS = bytes(4 * 1024**2)
# A size of PUTs: all that a call of `write` has, however much that is.
WHOLE = sys.maxsize
# How a server may be sent data, if another size of PUTs or number of connections is faster. The
# first size and number are used until then. More connections gain most, where the storage takes
# long for each write.
NUMBERS = CONNECTIONS, 3, 4, 1
SIZES = WHOLE, 1024**2
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
        self._most = transfer.can.max_writers
        # A connection is made when it is first used.
        number = min(max(NUMBERS), self._most)
        self.uploads = [Upload(transfer, ledger, retries) for _ in range(number)]
        self.use(self.shapes(1)[0])
        self._used: set[Upload] = set()
        self.is_closed = False

    @override
    def write(self, start: int, buffer: memoryview) -> None:
        if len(buffer) <= SMALL:
            self._put(self.uploads[0], start, buffer, under_way=PIPELINED)
            return
        size = self._shape.size
        for at in range(0, len(buffer), size):
            self._put(next(self._turns), start + at, buffer[at : at + size], under_way=1)

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

    def shapes(self, writers: int) -> list[Shape]:
        """The sizes of PUTs, and the numbers of connections that the server allows each writer."""
        numbers = [n for n in NUMBERS if n * writers <= self._most] or [1]
        return [Shape(size, n) for size in SIZES for n in numbers]

    def use(self, shape: Shape) -> None:
        """Use this many connections in turn from now on, and PUTs of up to this many bytes.

        What is under way on another connection stays so. That connection stays open: it may be
        needed again, and is flushed together with the others.
        """
        self._shape = shape
        self._turns = cycle(self.uploads[: shape.connections])

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

    def _put(self, upload: Upload, start: int, data: memoryview, *, under_way: int) -> None:
        self._used.add(upload)
        upload.put(start, data, under_way=under_way)

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
