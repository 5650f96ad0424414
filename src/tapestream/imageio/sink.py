"""ImageioUploadSink: restore into a new disk through an upload transfer."""

from __future__ import annotations

import logging
import os
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import cycle

from ..arguments import flag, number
from ..blockhash import BlockHash
from ..errors import (
    BlockHashMismatchError,
    ServerError,
    TargetSizeError,
    TicketError,
    TransferError,
    UsageError,
)
from ..extents import Extent, Extents, Kind
from ..info import BackupInfo
from ..protocols import Sink, Writer
from .connection import FIRST_REQUEST, Connection, Timeouts, Transfer, open_transfer

log = logging.getLogger("tapestream.imageio")

MIB = 1024**2

# What a server that cannot zero is sent, in pieces.
_ZEROS = bytes(4 * MIB)
# So many connections a writer uses in turn: it sends the next bytes while the server stores others.
CONNECTIONS = 2
# As for downloads, but storing takes longer than reading (measured: 4 KiB to 4 MiB).
SMALL = 64 * 1024
PIPELINED = 8
# A restore of so much data is worth one large request more.
_MUCH = 256 * MIB
# Zeroing this much takes a server about as long as one more request does.
_NEAR = 64 * MIB


class ImageioUploadSink(Sink):
    """Write a disk through an ovirt-imageio server.

    The server zeroes what is zero in the backup, whatever its size; it is first asked for the
    extents of the disk, and what reads as zeros already, as a new disk does, is left alone. The
    disk must not be written by others. It is flushed before `copy` returns. After an error its
    contents are undefined: cancel the transfer, and oVirt removes the disk that was to be
    restored.

    Args:
        url: The `transfer_url` of an upload transfer in phase "transferring".
        cafile: Path of the CA that signed the server's certificate: the engine's internal CA;
            None for the system's.
        secure: False to accept any certificate, and URLs that are not https.
        proxy_url: Used instead of `url` when no connection to `url` can be made at the start: it is
            tried for as long as `connect_timeout`.
        disk_is_zero: True when the disk is known to read as zeros everywhere: nothing of a full
            backup is then zeroed, whatever the server says. Only needed where the server does
            not know: with preallocated disks, or an old server. On a disk that holds data the
            restored disk would be wrong.
        max_gap: Upload up to this many bytes of zeros as data, if there is data on both sides,
            rather than make another request: faster for a fragmented disk, but the zeros are
            then allocated on the disk.
        use_unix_socket: False to stay with TCP.
        connect_timeout: Seconds for a connection.
        read_timeout: Seconds for the server to take the next bytes.
        zero_timeout: Seconds for one request to zero or to flush: storage that cannot zero
            fast writes them all.
        checksum_timeout: Seconds for the block hash, for which the server reads the whole disk.
        retries: How often in a row to try again, with growing pauses, after a broken connection
            or an error of the server (5xx), before anything was written: the server or its storage
            may be starting.

    Raises:
        UsageError: An argument cannot work.
        TransferError: The server cannot be reached, is not trusted, or refuses the ticket.
        TicketError: The ticket does not allow to write.
    """

    sequential = False

    def __init__(
        self,
        url: str,
        *,
        cafile: str | os.PathLike[str] | None = None,
        secure: bool = True,
        proxy_url: str | None = None,
        disk_is_zero: bool = False,
        max_gap: int = 0,
        use_unix_socket: bool = True,
        connect_timeout: float = 10,
        read_timeout: float = 60,
        zero_timeout: float = 3600,
        checksum_timeout: float = 86400,
        retries: int = 8,
    ) -> None:
        self._disk_is_zero = flag("disk_is_zero", disk_is_zero)
        self._max_gap = number("max_gap", max_gap)
        self._retries = retries
        self._stale = _Stretches([])
        self._begun = False
        self._surplus = 0
        self._transfer = open_transfer(
            url,
            proxy_url=proxy_url,
            cafile=cafile,
            secure=secure,
            use_unix_socket=use_unix_socket,
            timeouts=Timeouts(connect_timeout, read_timeout, zero_timeout, checksum_timeout),
            retries=retries,
        )
        if not self._transfer.can.writable:
            raise TicketError("the ticket does not allow to write: it is that of a download")

    @property
    def max_writers(self) -> int:
        """Most writers: each takes two connections, and two that the server allows stay free."""
        return max(1, self._transfer.can.max_writers // CONNECTIONS)

    @property
    def join_gap(self) -> int:
        """See `Sink.join_gap`: the `max_gap` that was asked for."""
        return self._max_gap

    @property
    def over_unix_socket(self) -> bool:
        """True when the data goes over the unix socket of this host."""
        return self._transfer.over_unix_socket

    def begin(self, info: BackupInfo, extents: Extents) -> None:
        """See `Sink.begin`.

        Raises:
            TargetSizeError: The disk is smaller than the backup's. Where an old server does not
                tell its size, it refuses what does not fit, and a larger disk keeps its end.
            TransferError: Its size or extents cannot be had.
        """
        if self._begun:
            raise UsageError("an ImageioUploadSink takes one backup: make a new one")
        self._begun = True
        with self._transfer.connect() as connection:
            held = self._extents_of_disk(connection)
            size = info.size if held is None else held.size
            if size < info.size:
                raise TargetSizeError(
                    f"the disk has {size} bytes, but the backup is of {info.size} bytes"
                )
            self._surplus = size - info.size
            if info.context == "dirty" and held is not None and not held.tally(Kind.DATA).extents:
                log.warning(
                    "An incremental backup goes into a disk of zeros, which will lack all that did "
                    "not change: restore_chain restores it together with the backups before"
                )
            # An old server may refuse to read from a disk that is written.
            if extents.tally(Kind.DATA).bytes >= _MUCH and self._transfer.can.extents:
                _warm_up(connection, size)
            if self._disk_is_zero and info.context == "zero":
                return
            runs = [(0, info.size, Kind.DATA)] if held is None else held.runs()
            self._stale = _Stretches(
                (start, start + length) for start, length, kind in runs if kind is not Kind.ZERO
            )
        if size > info.size and info.context == "zero":
            with closing(self.open_writer()) as writer:
                writer.zero(info.size, size - info.size)
                writer.flush()

    def open_writer(self) -> Writer:
        """See `Sink.open_writer`."""
        if not self._begun:
            raise UsageError("the sink has not begun")
        return _HTTPWriter(self._transfer, self._stale)

    def cancel(self) -> None:
        """See `Sink.cancel`: ends a wait for the extents of the disk, or for its zeros."""
        self._transfer.cancel()

    def commit(self) -> None:
        """See `Sink.commit`: every writer has flushed what it wrote."""

    def abort(self) -> None:
        """See `Sink.abort`: nothing can be taken back; the transfer's owner cancels it."""

    def keep_alive(self) -> None:
        """See `Sink.keep_alive`: uses the ticket, which would expire."""
        self._transfer.keep_alive()

    def block_hash(self) -> BlockHash:
        """The block hash of the disk as it is now, computed by the server, which reads all of it.

        Takes minutes to hours, until when nothing comes from the server. The ticket is active
        meanwhile, and renewed at the end; if it expires before, other requests are refused until
        then.

        Raises:
            UnsupportedError: The server cannot compute it.
            ServerError: It was not there in time.
        """
        return self._transfer.block_hash()

    def check(self, expected: BlockHash | None) -> None:
        """Check that the disk on the server is the one with this block hash.

        For after `copy`, and before the transfer is finalized: nothing is read over the network.
        See `block_hash` for how long it takes.

        Args:
            expected: The `block_hash` of the backup's info, or of a `CopyResult`.

        Raises:
            BlockHashMismatchError: It is another disk; cancel the transfer.
            UsageError: There is nothing to compare: the block hash was not recorded, or is not of
                the server's kind; or the disk is larger than the backup's.
            TransferError: The server cannot compute it.
        """
        if expected is None:
            raise UsageError(
                "the backup has no block hash",
                hint="Pass record_block_hash=True to the source, or block_hash=True to copy.",
            )
        if self._surplus:
            raise UsageError(
                f"the disk is {self._surplus} bytes larger than the backup's: it has another block "
                "hash"
            )
        found = self.block_hash()
        if not found.is_comparable(expected):
            raise UsageError(
                f"a block hash by {expected.algorithm} of blocks of {expected.block_size} bytes "
                "cannot be compared with the server's"
            )
        if found != expected:
            raise BlockHashMismatchError(
                "the disk on the server", expected.checksum, found.checksum
            )

    def close(self) -> None:
        """See `Sink.close`: the connections were the writers'."""

    def __repr__(self) -> str:
        return f"<ImageioUploadSink {self._transfer.url}>"

    def _extents_of_disk(self, connection: Connection) -> Extents | None:
        """What the disk holds; None where an old server takes only PUT, and refuses to tell."""
        if self._transfer.can.extents:
            return connection.retry(
                lambda: Extents.parse(connection.extents("zero")), self._retries
            )
        try:
            size = connection.retry(connection.size, self._retries)
        except TicketError:
            return None
        except ServerError as e:
            if e.is_transient:
                raise
            return None
        return Extents.of([Extent(0, size)] if size else [])


def _warm_up(connection: Connection, size: int) -> None:
    """Make the server's first request a large one: see `FIRST_REQUEST`."""
    try:
        connection.read_away(0, min(size, FIRST_REQUEST), size)
    except TransferError as e:
        log.info("The restore goes on, only slower: %s", e.args[0])


class _Stretches:
    """Ordered stretches of a disk; what lies near to each other counts as one."""

    def __init__(self, stretches: Iterable[tuple[int, int]]) -> None:
        self._starts = array("q")
        self._ends = array("q")
        for start, end in stretches:
            if self._ends and start - self._ends[-1] <= _NEAR:
                self._ends[-1] = end
            else:
                self._starts.append(start)
                self._ends.append(end)

    def within(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of every overlap with a range."""
        i = bisect_right(self._ends, start)
        while i < len(self._starts) and self._starts[i] < end:
            yield max(start, self._starts[i]), min(end, self._ends[i])
            i += 1


class _HTTPWriter(Writer):
    """Uploads over several connections.

    While the server stores what came over one, the next bytes are sent.

    Args:
        transfer: The transfer.
        stale: What may not read as zeros on the disk.
    """

    def __init__(self, transfer: Transfer, stale: _Stretches) -> None:
        self._can = transfer.can
        self._stale = stale
        number = min(CONNECTIONS, transfer.can.max_writers)
        self._connections = [transfer.connect() for _ in range(number)]
        self._turns = cycle(self._connections)
        self._used: set[Connection] = set()

    def write(self, start: int, buffer: memoryview) -> None:
        """See `Writer.write`."""
        if len(buffer) <= SMALL:
            connection, under_way = self._connections[0], PIPELINED
        else:
            connection, under_way = next(self._turns), 1
        self._used.add(connection)
        connection.put(start, buffer, under_way=under_way)

    def zero(self, start: int, length: int) -> None:
        """See `Writer.zero`."""
        stale = list(self._stale.within(start, start + length))
        if not stale:
            return
        # One connection may overtake another, so nothing is on its way meanwhile: what was written
        # may be zeroed now, and what is zeroed be written next.
        self._end_puts()
        connection = self._connections[0]
        self._used.add(connection)
        for first, end in stale:
            if self._can.zero:
                connection.zero(first, end - first, flush=not self._can.flush)
            else:
                self._put_zeros(first, end)
        self._end_puts()

    def flush(self) -> None:
        """See `Writer.flush`."""
        self._end_puts()
        for connection in self._used:
            connection.flush()

    def cancel(self) -> None:
        """See `Writer.cancel`."""
        for connection in self._connections:
            connection.cancel()

    def close(self) -> None:
        """See `Writer.close`."""
        for connection in self._connections:
            connection.close()

    def _end_puts(self) -> None:
        for connection in self._connections:
            connection.end_puts()

    def _put_zeros(self, start: int, end: int) -> None:
        while start < end:
            step = min(len(_ZEROS), end - start)
            self.write(start, memoryview(_ZEROS)[:step])
            start += step
