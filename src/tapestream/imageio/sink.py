"""ImageioUploadSink: restore into a new disk through an upload transfer."""

from __future__ import annotations

import os
from contextlib import closing
from heapq import merge

from .._log import Log
from .._process import OfThisProcess
from .._typing import override
from ..arguments import flag, number
from ..backend.protocols import Sink
from ..cancel import Cancel
from ..errors import (
    BlockHashMismatchError,
    LostWritesError,
    TicketError,
    UsageError,
)
from ..model.blockhash import BlockHash
from ..model.extents import Extents, Kind
from ..model.info import BackupInfo
from .endpoint import Timeouts
from .keepalive import keep_alive
from .ledger import Ledger, Stretches
from .queries import get_block_hash
from .target import Target, not_zero
from .transfer import CONNECTIONS, open_transfer
from .writer import HTTPWriter

log = Log("tapestream.imageio")

MIB = 1024**2

# Bytes. Zeroing this much takes a server about as long as one more request.
_NEAR = 64 * MIB


class ImageioUploadSink(OfThisProcess, Sink):
    """Write a disk through an ovirt-imageio server.

    The server zeroes the ranges that are zero in the backup. Before that, the sink gets the extents
    of the disk, and leaves ranges alone that already read as zeros, as in a new disk. Nobody else
    may write to the disk. It is flushed before `copy` returns. After an error its contents are
    undefined: cancel the transfer, and oVirt removes the disk that was to be restored.

    When a connection is lost, for whatever reason, everything written over it since its last flush
    may be lost, too. `copy` then reads those ranges again and sends them again. If the source can
    be read only once, it raises a `LostWritesError` instead.

    Args:
        url: The `transfer_url` of an upload transfer in phase "transferring".
        cafile: Path of the CA that signed the server's certificate, which is the engine's internal
            CA; None for the CAs of the system.
        secure: False to accept any certificate, and URLs that are not https.
        proxy_url: Used instead of `url` if no connection to `url` can be made at the start. `url`
            is tried again for up to `connect_timeout` seconds before.
        disk_is_zero: True if the disk is known to read as zeros everywhere. Nothing is then zeroed
            for a full backup, whatever the server reports. This helps only if the server does not
            know it: with preallocated disks, or with an old server. If the disk does hold data, the
            restored disk will be wrong.
        max_gap: Upload up to this many bytes of zeros as data, if there is data on both sides,
            instead of one more request. This is faster for a fragmented disk, but the zeros are
            then allocated on the disk.
        use_unix_socket: False to use TCP even if the server runs on this host.
        unix_socket_owner: A user, by name or uid, who runs ovirt-imageio on this host. The unix
            socket is used, and gets the ticket, only if root, oVirt's users for the daemon, your
            own user or this one listens there.
        connect_timeout: Seconds to wait for a connection.
        read_timeout: Seconds to wait until the server accepts the next bytes, or replies to them.
        zero_timeout: Seconds to wait for a request to zero or to flush: storage that cannot zero
            fast writes all the zeros.
        checksum_timeout: Seconds to wait for the block hash: the server reads the whole disk.
        retries: How often in a row to try again, with growing pauses, after a broken connection
            or an error of the server (5xx). This is done before anything was written, and after the
            server died, because the server or its storage may be starting.
        cancel: Ends what waits for the server outside a copy: this constructor, `check` and
            `block_hash`. A copy is ended by its own.

    Raises:
        UsageError: An argument cannot work.
        OperationCancelledError: It was cancelled.
        TransferError: The server cannot be reached, is not trusted, or refuses the ticket.
        TicketError: The ticket does not allow writing.
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
        unix_socket_owner: str | int | None = None,
        connect_timeout: float = 10,
        read_timeout: float = 60,
        zero_timeout: float = 3600,
        checksum_timeout: float = 86400,
        retries: int = 8,
        cancel: Cancel | None = None,
    ) -> None:
        self._disk_is_zero = flag("disk_is_zero", disk_is_zero)
        self._max_gap = number("max_gap", max_gap)
        self._retries = retries
        self._may_hold_data = Stretches([])
        self._begun = False
        self._writers: list[HTTPWriter] = []
        self._size = self._wanted = self._surplus = 0
        self._is_zero = False
        self._transfer = open_transfer(
            url,
            proxy_url=proxy_url,
            cafile=cafile,
            secure=secure,
            use_unix_socket=use_unix_socket,
            unix_socket_owner=unix_socket_owner,
            timeouts=Timeouts(connect_timeout, read_timeout, zero_timeout, checksum_timeout),
            retries=retries,
            cancel=cancel,
        )
        if not self._transfer.can.writable:
            self._transfer.close()
            raise TicketError("the ticket does not allow to write: it is that of a download")
        self._ledger = Ledger(self._transfer.can)

    @property
    def max_writers(self) -> int:
        """Most writers: each uses two connections, and two that the server allows stay free."""
        return max(1, self._transfer.can.max_writers // CONNECTIONS)

    @property
    def server_is_local(self) -> bool:
        """True when the server runs on this host."""
        return self._transfer.is_local

    @property
    def place(self) -> str:
        """The server's URL, without the ticket."""
        return str(self._transfer.endpoint.url)

    @property
    def coalesce_zeros(self) -> int:
        """Write up to this many bytes of zeros as data: the `max_gap` argument."""
        return self._max_gap

    @property
    def over_unix_socket(self) -> bool:
        """True when the data goes over the unix socket of this host."""
        return self._transfer.over_unix_socket

    @override
    def begin(self, info: BackupInfo, extents: Extents) -> None:
        """Get the extents of the disk, and check that the backup fits.

        Raises:
            TargetSizeError: The disk is smaller than the backup's. If an old server does not report
                the size, it refuses writes that do not fit, and the end of a larger disk stays as
                it is.
            TransferError: The server does not give its size or extents.
        """
        if self._begun:
            raise UsageError("an ImageioUploadSink takes one backup: make a new one")
        self._begun = True
        # After this, no connection is kept: what is written goes over connections of its own.
        with closing(self._transfer), self._transfer.connection() as connection:
            target = Target(connection, self._retries)
            held = target.extents()
            size = target.writable(held, info.size)
            self._size, self._wanted, self._surplus = size, info.size, size - info.size
            self._is_zero = self._disk_is_zero and info.context == "zero"
            if info.context == "dirty" and held is not None and not held.tally(Kind.DATA).extents:
                log.warning(
                    "An incremental backup goes into a disk of zeros, which will lack all that did "
                    "not change: restore_chain restores it together with the backups before"
                )
            # An old server without extents may refuse to read from an upload's disk.
            if extents.tally(Kind.DATA).bytes >= target.warm_up_from and self._transfer.can.extents:
                target.warm_up(size)
            if self._is_zero:
                return
            self._may_hold_data = Stretches(not_zero(held, size), near=_NEAR)
        if self._surplus and info.context == "zero":
            self._zero_surplus(info.size)

    @override
    def open_writer(self) -> HTTPWriter:
        if not self._begun:
            raise UsageError("the sink has not begun")
        self._writers = [writer for writer in self._writers if not writer.is_closed]
        writer = HTTPWriter(self._transfer, self._may_hold_data, self._ledger, self._retries)
        self._writers.append(writer)
        return writer

    def cancel(self) -> None:
        """Make calls that wait for the server fail, in `begin`, `block_hash` or a writer."""
        self._transfer.cancel()
        for writer in self._writers:
            writer.cancel()

    def lost(self) -> list[tuple[int, int]]:
        """Return the ranges that were written over a lost connection and not flushed before.

        The server may have been restarted, and have lost zeros as well as data. So this gets the
        extents of the disk again, and the next writers zero what must be zero and is not.

        Raises:
            TransferError: The server does not give the extents.
        """
        lost = self._ledger.take_lost()
        if lost:
            self._ledger.flush_each = self._ledger.is_repair = True
            if not self._is_zero:
                with self._transfer.connection() as connection:
                    held = Target(connection, self._retries).extents()
                # Zeros in the lost ranges may not be on storage although they can be read.
                self._may_hold_data = Stretches(merge(not_zero(held, self._size), lost), near=0)
        return lost

    @override
    def commit(self) -> None:
        """Make sure that nothing was lost; every writer has flushed what it wrote before.

        Raises:
            LostWritesError: Some writes were lost and were not sent again.
            UsageError: A writer was closed before it had flushed.
        """
        if self._ledger.is_unflushed:
            raise UsageError(
                "the disk was written, but not flushed: it may lack some of its data",
                hint="A sink that wraps an upload must have its writers' flush(), too.",
            )
        lost = self._ledger.take_lost()
        if lost:
            raise LostWritesError.of(lost, "it was not sent again")

    @override
    def abort(self) -> None:
        """Do nothing: writes cannot be undone. The owner of the transfer cancels it."""

    def keep_alive(self) -> None:
        """Use the ticket, so that it does not expire, and every connection.

        Idle connections are flushed. A new connection is made only if none is open.
        """
        keep_alive(self._transfer, [each for writer in self._writers for each in writer.uploads])

    def block_hash(self) -> BlockHash:
        """The block hash of the disk as it is now. The server reads the whole disk to compute it.

        This takes minutes to hours, in which the server sends nothing. The ticket stays active
        during this time, and is renewed at the end. If it expires before, the server refuses other
        requests until the end.

        Raises:
            UnsupportedError: The server cannot compute it.
            ServerError: The server did not reply in time.
        """
        with self._transfer.connection() as connection:
            return get_block_hash(connection)

    def check(self, expected: BlockHash | None) -> None:
        """Check that the disk on the server has this block hash.

        Call it after `copy`, before the transfer is finalized. No data is read over the network.
        See `block_hash` for how long it takes.

        Args:
            expected: The `block_hash` of the backup's info, or of a `CopyResult`.

        Raises:
            BlockHashMismatchError: The disk has other contents; cancel the transfer.
            UsageError: There is nothing to compare: the block hash was not recorded, or was made
                by another algorithm than the server's; or the volume is larger than the backup's
                disk.
            TransferError: The server cannot compute it.
        """
        if expected is None:
            raise UsageError(
                "the backup has no block hash",
                hint="Pass record_block_hash=True to the source, or block_hash=True to copy.",
            )
        if not isinstance(expected, BlockHash):
            raise UsageError(f"a BlockHash is needed to compare with, not {expected!r}")
        self._check_size()
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

    @override
    def close(self) -> None:
        """Close the connection that was kept for `begin`; the writers have closed theirs."""
        if hasattr(self, "_transfer"):  # otherwise, the constructor failed
            self._transfer.close()

    def __repr__(self) -> str:
        transfer = getattr(self, "_transfer", None)
        return f"<ImageioUploadSink {transfer.endpoint.url if transfer else 'without a transfer'}>"

    def _zero_surplus(self, start: int) -> None:
        for _ in range(1 + self._retries):
            with closing(self.open_writer()) as writer:
                writer.zero(start, self._surplus)
                writer.flush()
            lost = self._ledger.take_lost()
            if not lost:
                return
        raise LostWritesError.of(lost, "each time that it was written")

    def _check_size(self) -> None:
        """Make sure that the volume, which the server hashes, is as large as the backup's disk."""
        if not self._begun or not self._transfer.can.extents:
            return
        with self._transfer.connection() as connection:
            held = Target(connection, self._retries).extents()
        if held is not None and held.size != self._wanted:
            more = held.size - self._wanted
            raise UsageError(
                f"the volume is {abs(more)} bytes {'larger' if more > 0 else 'smaller'} than the "
                f"backup's disk, and the server computes the block hash of all {held.size} bytes",
                hint="Use tapestream.compare(): it reads the disk and compares it with the backup.",
            )
