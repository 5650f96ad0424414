"""Downloads ranges of a disk over several connections, and resumes a download that broke."""

from __future__ import annotations

from collections import deque
from itertools import islice

from .._typing import override
from ..backend.abilities import Shape
from ..backend.protocols import Reader
from ..errors import TransferError
from .keepalive import KeptConnection
from .queries import get_capabilities
from .response import Response
from .retry import Tries
from .transfer import CONNECTIONS, FIRST_REQUEST, PIPELINED, Transfer

# Bytes per GET. The server reads this much from storage before it sends the first byte. Over TLS,
# 2 MiB are 0.92 times as fast, and take more work of the client; larger ones are no faster.
GET_SIZE = 4 * 1024**2
# What the server may be asked for, if another size or number of connections is faster. The first
# size and number are used until then, and the others are tried in this order: more connections gain
# most, where the line or a policy of the server limits each of them.
NUMBERS = CONNECTIONS, 4, 1
SIZES = GET_SIZE, 16 * 1024**2
# Bytes of GETs on all connections of a reader. A copy announces as much to it: if they were larger,
# some connections would have none.
MAX_WANTED = 32 * 1024**2
# How many large GETs may be under way on one connection: with two, the server continues with the
# next without waiting for us.
AHEAD = 2
# Bytes. GETs of up to this size go over one connection (measured: 16 KiB to 1 MiB). The server
# spends more time on such a GET itself than on its bytes, and more connections only make its
# threads get in each other's way.
SMALL = 128 * 1024


class HTTPReader(Reader):
    """Downloads the announced ranges over several connections.

    While the reply to one GET is received, the server works on the next. A range that was not
    announced is requested when it is read.
    """

    prefetch_depth = PIPELINED

    def __init__(self, transfer: Transfer, retries: int) -> None:
        self._most = transfer.can.max_readers
        # A connection is made when it is first used.
        self.downloads = [Download(transfer, retries) for _ in range(min(max(NUMBERS), self._most))]
        self._shape = self.shapes(1)[0]
        self._wanted: deque[tuple[int, int]] = deque()
        self._requested: deque[tuple[int, Download]] = deque()  # (end of the range, download)
        self._last = self.downloads[-1]
        # Bytes of the largest GET so far. It starts at half of GET_SIZE: for less than twice this,
        # no GET is made as large as FIRST_REQUEST.
        self._largest = GET_SIZE // 2
        self.is_closed = False

    def shapes(self, readers: int) -> list[Shape]:
        """The sizes of GETs, and the numbers of connections that the server allows each reader."""
        numbers = [n for n in NUMBERS if n * readers <= self._most] or [1]
        return [Shape(s, n) for s in SIZES for n in numbers if s * n <= MAX_WANTED]

    def use(self, shape: Shape) -> None:
        """Use up to this many connections from now on, and GETs of up to this many bytes.

        What was announced before is requested in the pieces into which it was cut then. A
        connection that is no longer used stays open until it was idle for a while: a trial may need
        it again.
        """
        self._shape = shape
        for number, download in enumerate(self.downloads):
            download.is_spare = number >= shape.connections

    def prefetch(self, start: int, length: int) -> None:
        """Request a range: immediately if possible, otherwise after earlier ranges were read."""
        end = start + length
        while start < end:
            size = self._get_size(end - start)
            self._wanted.append((start, start + size))
            start += size
        self._request()

    @override
    def readinto(self, start: int, buffer: memoryview) -> None:
        while buffer:
            if not self._requested:
                self.prefetch(start, len(buffer))
            end, download = self._requested[0]
            count = download.readinto(start, buffer[: end - start])
            start, buffer = start + count, buffer[count:]
            if start == end:
                self._requested.popleft()
                self._request()

    def cancel(self) -> None:
        """Make the calls that wait for the server fail."""
        for download in self.downloads:
            download.cancel()

    @override
    def close(self) -> None:
        self.is_closed = True
        for download in self.downloads:
            download.close()

    def _get_size(self, wanted: int) -> int:
        """Bytes of the next GET; more than usual if none was large so far: see `FIRST_REQUEST`."""
        is_larger = self._largest < FIRST_REQUEST and wanted >= 2 * self._largest
        size = min(wanted, FIRST_REQUEST if is_larger else self._shape.size)
        self._largest = max(self._largest, size)
        return size

    def _request(self) -> None:
        while self._wanted:
            start, end = self._wanted[0]
            download = self._free(end - start)
            if download is None:
                return
            self._wanted.popleft()
            download.request(start, end)
            self._requested.append((end, download))
            self._last = download

    def _free(self, length: int) -> Download | None:
        """The connection for a GET of this many bytes; None if all have enough to do."""
        if length <= SMALL:
            first = self.downloads[0]
            return first if first.ranges < PIPELINED else None
        # If both have as few, take the one that was not used last: its earlier replies come first.
        idlest = min(
            self.downloads[: self._shape.connections], key=lambda d: (d.ranges, d is self._last)
        )
        return idlest if idlest.ranges < AHEAD else None


class Download(KeptConnection):
    """One connection and the ranges requested over it; it resumes at the byte where it broke.

    Attributes:
        is_spare: True if the reader requests nothing more over it for now.
    """

    def __init__(self, transfer: Transfer, retries: int) -> None:
        super().__init__(transfer.take())
        self.is_spare = False
        self._tries = Tries(self._connection, retries)
        self._ranges: deque[tuple[int, int]] = deque()
        self._response: Response | None = None  # the reply for the first range
        self._is_broken = False

    @property
    def ranges(self) -> int:
        """How many ranges were requested and are not yet read to their end."""
        return len(self._ranges)

    def request(self, start: int, end: int) -> None:
        """Send a GET: immediately if possible, otherwise after the earlier ones."""
        with self._lock:
            self._was_used = True
            self._ranges.append((start, end))
            if self._is_broken:
                return
            try:
                self._send()
            except TransferError:
                # `readinto` will meet the same error, and try again or raise it.
                self._drop()

    def readinto(self, start: int, buffer: memoryview) -> int:
        """Fill the buffer from the first range, which must have that many bytes left."""
        with self._lock:
            self._was_used = True
            return self._readinto(start, buffer)

    def _use(self) -> None:
        """Send a request, although nothing is read just now; close a spare connection.

        If a reply waits because the sink is slow, give it up, and request it again later: the
        server would not wait much longer, and a firewall may have forgotten the connection.
        """
        if self.is_spare and not self._ranges:
            self._connection.close()
            return
        if self._ranges and not self._is_broken:
            self._drop()
        get_capabilities(self._connection)

    def _readinto(self, start: int, buffer: memoryview) -> int:
        position, end = self._ranges[0]
        if start != position:
            raise RuntimeError(f"offset {start} is not the next of the announced ranges")
        while buffer:
            try:
                count = self._read_some(buffer)
            except TransferError as e:
                self._drop()
                self._tries.failed(e)
            else:
                self._tries.worked()
                position, buffer = position + count, buffer[count:]
                self._ranges[0] = position, end
        if position == end:
            self._ranges.popleft()
        return position - start

    def _drop(self) -> None:
        """Close the connection, and with it the replies under way; `_send` requests them again."""
        self._is_broken = True
        self._response = None
        self._connection.close()

    def _read_some(self, buffer: memoryview) -> int:
        self._is_broken = False
        self._send()
        if self._response is None:
            self._response = self._connection.open_range(*self._ranges[0])
        count = self._connection.read_body(self._response, buffer)
        if self._response.is_closed:
            self._response = None
        return count

    def _send(self) -> None:
        """Request the ranges that are not yet requested over this connection, if it allows that."""
        connection = self._connection
        opened = 0 if self._response is None else 1
        for start, end in islice(self._ranges, opened + connection.outstanding, None):
            if (opened or connection.outstanding) and not connection.can_pipeline:
                return
            connection.request_range(start, end)
