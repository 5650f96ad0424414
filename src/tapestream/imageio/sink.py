"""ImageioUploadSink: restore into a new disk through an upload transfer."""

from __future__ import annotations

import logging
import os
import threading
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial
from heapq import merge
from itertools import cycle

from ..arguments import flag, number
from ..backend.protocols import Sink, Writer
from ..errors import (
    BlockHashMismatchError,
    ExtentsError,
    LostWritesError,
    ServerError,
    ServerUnreachableError,
    TargetSizeError,
    TicketError,
    TransferError,
    UsageError,
)
from ..model.blockhash import BlockHash
from ..model.extents import Extent, Extents, Kind
from ..model.info import BackupInfo
from .connection import FIRST_REQUEST, Beyond, Connection, Timeouts, Transfer, Tries, open_transfer

log = logging.getLogger("tapestream.imageio")

MIB = 1024**2

# What a server that cannot zero is sent, in pieces.
_ZEROS = bytes(4 * MIB)
# A server that lacks a feature refuses it with one of these.
NOT_IMPLEMENTED = (404, 405, 501)
# Bytes that are written over a connection between two flushes: if it is lost, they are sent again.
# A flush took 0.01 to 0.1 s (measured: qcow2 on a local disk, six connections). Four flushes in
# place of one made no difference beyond the noise; sixteen took up to 1.5 times as long.
FLUSH_AFTER = 256 * MIB
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

    Where a connection is lost, whoever closed it, all that went over it since its last flush may
    be lost, too. `copy` then reads that again and sends it again; a source that can be read only
    once is a `LostWritesError`.

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
        unix_socket_owner: A user, by name or uid, who runs ovirt-imageio on this host. The unix
            socket is used, and gets the ticket, only if root, oVirt's users for the daemon, your
            own user or this one listens there.
        connect_timeout: Seconds for a connection.
        read_timeout: Seconds for the server to take the next bytes.
        zero_timeout: Seconds for one request to zero or to flush: storage that cannot zero
            fast writes them all.
        checksum_timeout: Seconds for the block hash, for which the server reads the whole disk.
        retries: How often in a row to try again, with growing pauses, after a broken connection
            or an error of the server (5xx), before anything was written, or after a server that
            died: the server or its storage may be starting.

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
        unix_socket_owner: str | int | None = None,
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
        self._writers: list[_HTTPWriter] = []
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
        )
        if not self._transfer.can.writable:
            raise TicketError("the ticket does not allow to write: it is that of a download")
        self._ledger = _Ledger(self._transfer)

    @property
    def max_writers(self) -> int:
        """Most writers: each takes two connections, and two that the server allows stay free."""
        return max(1, self._transfer.can.max_writers // CONNECTIONS)

    @property
    def coalesce_zeros(self) -> int:
        """Write zeros of up to this many bytes as data: the `max_gap` that was asked for."""
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
            listed = info.size if held is None else held.size
            size = self._writable(connection, listed, info.size)
            if size < info.size:
                raise TargetSizeError(
                    f"the disk has {size} bytes, but the backup is of {info.size} bytes"
                )
            self._size, self._wanted, self._surplus = size, info.size, size - info.size
            self._is_zero = self._disk_is_zero and info.context == "zero"
            if info.context == "dirty" and held is not None and not held.tally(Kind.DATA).extents:
                log.warning(
                    "An incremental backup goes into a disk of zeros, which will lack all that did "
                    "not change: restore_chain restores it together with the backups before"
                )
            # An old server may refuse to read from a disk that is written.
            if extents.tally(Kind.DATA).bytes >= _MUCH and self._transfer.can.extents:
                _warm_up(connection, size)
            if self._is_zero:
                return
            self._stale = _Stretches(_not_zero(held, size), near=_NEAR)
        if self._surplus and info.context == "zero":
            self._zero_surplus(info.size)

    def open_writer(self) -> _HTTPWriter:
        """See `Sink.open_writer`."""
        if not self._begun:
            raise UsageError("the sink has not begun")
        self._writers = [writer for writer in self._writers if not writer.is_closed]
        writer = _HTTPWriter(self._transfer, self._stale, self._ledger, self._retries)
        self._writers.append(writer)
        return writer

    def cancel(self) -> None:
        """End a wait for the extents of the disk, or for its zeros."""
        self._transfer.cancel()
        for writer in self._writers:
            writer.cancel()

    def lost(self) -> list[tuple[int, int]]:
        """Report what went over a connection that was lost before it was flushed.

        The server may have been restarted, and have lost zeros as well as data. So it is asked
        again for the extents of the disk, and the next writers zero what must be zero and is not.

        Raises:
            TransferError: They cannot be had.
        """
        lost = self._ledger.take_lost()
        if lost:
            self._ledger.flush_each = self._ledger.is_repair = True
            if not self._is_zero:
                with self._transfer.connect() as connection:
                    held = self._extents_of_disk(connection)
                # Zeros in the lost ranges may not be on storage although they can be read.
                self._stale = _Stretches(merge(_not_zero(held, self._size), lost), near=0)
        return lost

    def commit(self) -> None:
        """See `Sink.commit`: every writer has flushed what it wrote.

        Raises:
            LostWritesError: Some of that was lost, and was not sent again.
        """
        lost = self._ledger.take_lost()
        if lost:
            raise LostWritesError.of(lost, "it was not sent again")

    def abort(self) -> None:
        """See `Sink.abort`: nothing can be taken back; the transfer's owner cancels it."""

    def keep_alive(self) -> None:
        """Use the ticket, which would expire, and every connection.

        A connection that is idle is flushed. No other one is made while there is one.
        """
        error: TransferError | None = None
        is_kept = False
        for upload in [upload for writer in self._writers for upload in writer.uploads]:
            try:
                is_kept |= upload.keep_alive()
            except TransferError as e:
                error = e
        if error is not None:
            raise error
        if not is_kept:
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
                the server's kind; or the volume is larger than the backup's disk.
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

    def close(self) -> None:
        """See `Sink.close`: the connections were the writers'."""

    def __repr__(self) -> str:
        transfer = getattr(self, "_transfer", None)  # the constructor may have failed
        return f"<ImageioUploadSink {transfer.url if transfer else 'without a transfer'}>"

    def _zero_surplus(self, start: int) -> None:
        for _ in range(1 + self._retries):
            with closing(self.open_writer()) as writer:
                writer.zero(start, self._surplus)
                writer.flush()
            lost = self._ledger.take_lost()
            if not lost:
                return
        raise LostWritesError.of(lost, "each time that it was written")

    def _writable(self, connection: Connection, listed: int, wanted: int) -> int:
        """How many bytes may be written where the server lists so many.

        A volume may be larger than the disk that the ticket allows, since LVM rounds up. A file may
        be smaller, and grow. Then its new end reads as zeros.
        """
        if listed > wanted:
            beyond = self._look(connection, listed - 1)
            if beyond.has_more is not False or beyond.size:
                return beyond.size if beyond.has_more is False and beyond.size else listed
            # It does not say how much it allows: if nothing after the backup, that is no matter.
            return wanted if self._look(connection, wanted).has_more is False else listed
        if listed == wanted or not self._transfer.can.zero:
            return listed
        if listed and (self._look(connection, 0).size or 0) < wanted:
            return listed
        try:
            connection.zero(listed, wanted - listed, flush=True)
        except ServerError as e:
            if e.status is None:
                raise
            log.info("What the server writes to cannot grow: %s", e.args[0])
            return listed
        return wanted

    def _look(self, connection: Connection, offset: int) -> Beyond:
        """Look for a byte. A server that refuses that may still accept writes."""
        try:
            return connection.retry(lambda: connection.look_beyond(offset), self._retries)
        except (ServerError, TicketError) as e:
            log.info("The server does not say how much the ticket allows: %s", e.args[0])
            return Beyond(None, None)

    def _check_size(self) -> None:
        """Make sure that the server, which reads all there is, computes the hash of the disk."""
        if not self._begun or not self._transfer.can.extents:
            return
        with self._transfer.connect() as connection:
            held = self._extents_of_disk(connection)
        if held is not None and held.size != self._wanted:
            more = held.size - self._wanted
            raise UsageError(
                f"the volume is {abs(more)} bytes {'larger' if more > 0 else 'smaller'} than the "
                f"backup's disk, and the server computes the block hash of all {held.size} bytes",
                hint="Use tapestream.compare(): it reads the disk and compares it with the backup.",
            )

    def _extents_of_disk(self, connection: Connection) -> Extents | None:
        """What the disk holds; None where an old server takes only PUT, and refuses to tell."""
        if self._transfer.can.extents:
            try:
                return connection.retry(lambda: _extents(connection), self._retries)
            except ServerError as e:
                if e.status not in NOT_IMPLEMENTED:
                    raise
                log.warning("The server says that it has extents, but refuses them: %s", e.args[0])
        try:
            size = connection.retry(connection.size, self._retries)
        except TicketError:
            return None
        except ServerError as e:
            if e.is_transient:
                raise
            return None
        return Extents.of([Extent(0, size)] if size else [])


def _extents(connection: Connection) -> Extents:
    text = connection.extents("zero")
    try:
        return Extents.parse(text)
    except ExtentsError:
        # imageio lists an empty file as one extent of length 0.
        if connection.look_beyond(0) == Beyond(False, 0):
            return Extents.of([])
        raise


def _warm_up(connection: Connection, size: int) -> None:
    """Make the server's first request a large one: see `FIRST_REQUEST`."""
    try:
        connection.read_away(0, min(size, FIRST_REQUEST))
    except TransferError as e:
        log.info("The restore goes on, only slower: %s", e.args[0])


def _not_zero(held: Extents | None, size: int) -> Iterator[tuple[int, int]]:
    """What may not read as zeros on a disk with these extents; None if the extents are unknown."""
    runs = [(0, size, Kind.DATA)] if held is None else held.runs()
    return ((start, start + length) for start, length, kind in runs if kind is not Kind.ZERO)


class _Stretches:
    """Stretches of a disk, in the order of their starts.

    Those that overlap, or are not further apart than `near`, count as one.
    """

    def __init__(self, stretches: Iterable[tuple[int, int]], *, near: int = 0) -> None:
        self._starts = array("q")
        self._ends = array("q")
        for start, end in stretches:
            if self._ends and start - self._ends[-1] <= near:
                self._ends[-1] = max(end, self._ends[-1])
            else:
                self._starts.append(start)
                self._ends.append(end)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._ends, strict=True)

    def within(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of every overlap with a range."""
        i = bisect_right(self._ends, start)
        while i < len(self._starts) and self._starts[i] < end:
            yield max(start, self._starts[i]), min(end, self._ends[i])
            i += 1


class _Ledger:
    """What the writers of one sink share: what was lost, and what the server fails to do."""

    def __init__(self, transfer: Transfer) -> None:
        self.can_zero = transfer.can.zero
        self.can_flush = transfer.can.flush
        # True to have every request flushed, so that nothing more can be lost after its reply:
        # where a connection carries a single request, and for what is sent again.
        self.flush_each = False
        self.is_repair = False
        self._lost: list[tuple[int, int]] = []
        self._lock = threading.Lock()

    @property
    def has_lost(self) -> bool:
        """True when something must be written again."""
        return bool(self._lost)

    def lose(self, start: int, end: int) -> None:
        """Note that what was written there may be gone."""
        log.info("A connection was lost before bytes %d to %d of the disk were flushed", start, end)
        with self._lock:
            self._lost.append((start, end))

    def take_lost(self) -> list[tuple[int, int]]:
        """The ordered ranges that were lost, without overlaps; they are forgotten."""
        with self._lock:
            lost, self._lost = self._lost, []
        return list(_Stretches(sorted(lost)))


class _Upload:
    """One connection to write over, and the range that was written and is not flushed yet.

    A server may keep what it acknowledged in memory until it is flushed. When a connection that
    carried such writes is lost, whoever closed it, the next connection may reach a server that was
    restarted and does not have them. They are then noted as lost, and the upload goes on.

    Only a flush over the same connection counts. imageio opens a connection of its own to the disk
    for each of ours, and not every storage promises that a flush over one covers the others.
    """

    def __init__(self, transfer: Transfer, ledger: _Ledger, retries: int) -> None:
        self._retries = retries
        self._can_flush = transfer.can.flush
        self._connection = transfer.connect()
        self._ledger = ledger
        self._unflushed: tuple[int, int] | None = None
        self._amount = 0  # bytes that were written since the last flush
        self._carrier = 0  # which connection carried them
        self._is_replaced = False  # nothing worked yet over the connection that came after a loss
        self._was_used = False  # since the last call of `keep_alive`
        self._error: TransferError | None = None  # met by `keep_alive`
        self._is_closing = False
        # Between the writer's thread, and the one that keeps connections alive.
        self._lock = threading.Lock()

    def put(self, start: int, data: memoryview, *, under_way: int) -> None:
        """Upload bytes; they may be on their way when this returns."""
        with self._lock:
            if self._ledger.flush_each:
                self._do(partial(self._put_and_flush, start, data), repeats=self._ledger.is_repair)
                return
            put = partial(self._connection.put, start, data, under_way=under_way)
            self._do(put, under_way=under_way)
            self._note(start, start + len(data))
            self._amount += len(data)
            if self._amount >= FLUSH_AFTER:
                self._flush()

    def zero(self, start: int, end: int) -> None:
        """Make a range read as zeros."""
        flush = self._ledger.flush_each or not self._can_flush
        with self._lock:
            self._do(partial(self._connection.zero, start, end - start, flush=flush))
            if not flush:
                self._note(start, end)

    def end_puts(self) -> None:
        """Wait until the server has all that is on its way."""
        with self._lock:
            self._do(self._connection.end_puts)
            self._settle()

    def flush(self) -> None:
        """Put on storage what was written here; what was lost meanwhile is noted."""
        with self._lock:
            self._raise_error()
            self._flush()

    def keep_alive(self) -> bool:
        """Use a connection that was idle for a while; False when there is none.

        Flushes what was written over it: while the source pauses, nothing can be lost then.
        """
        if not self._lock.acquire(blocking=False):
            return True  # at work
        try:
            if not self._connection.is_open:
                return False
            if self._was_used:
                self._was_used = False
            else:
                self._keep_alive()
            return self._connection.is_open or self._is_closing
        finally:
            self._lock.release()

    def cancel(self) -> None:
        """Make a call that is blocked now, in another thread, fail soon."""
        self._connection.cancel()

    def close(self) -> None:
        """Close the connection."""
        self._is_closing = True
        if not self._lock.acquire(blocking=False):
            self._connection.cancel()  # it is being kept alive, and nobody waits for that
            self._lock.acquire()
        try:
            self._connection.close()
        finally:
            self._lock.release()

    def _put_and_flush(self, start: int, data: memoryview) -> None:
        self._connection.put(start, data, under_way=1, flush=True)
        self._connection.end_puts()

    def _do(self, act: Callable[[], None], *, under_way: int = 1, repeats: bool = False) -> None:
        """Do something, over another connection if this one was lost.

        Args:
            act: What to do.
            under_way: How many uploads may be, with the one that is begun.
            repeats: Do it again even where nobody knows whether it was done.
        """
        self._raise_error()
        tries = Tries(self._connection, self._retries)
        while True:
            self._was_used = True
            try:
                self._connection.end_puts(under_way - 1)
                self._settle()
                self._leave_if_dropped()
                act()
            except TransferError as e:
                may_repeat = repeats or self._is_about_to_start(e)
                self._lose()
                if not may_repeat:
                    raise
                self._is_replaced = True
                tries.failed(e)
            else:
                self._is_replaced = False
                return

    def _is_about_to_start(self, error: TransferError) -> bool:
        """Whether the server did nothing, because it or its qemu-nbd is not there."""
        is_away = isinstance(error, ServerUnreachableError) or (
            isinstance(error, ServerError) and error.status is not None and error.status >= 500
        )
        return self._connection.backend_is_gone or (self._is_replaced and is_away)

    def _leave_if_dropped(self) -> None:
        if self._connection.is_dropped:
            self._connection.close()
            self._lose()

    def _note(self, start: int, end: int) -> None:
        """Note what the last request wrote."""
        if self._carrier != self._connection.connects:
            self._lose()
        self._carrier = self._connection.connects
        if self._unflushed is not None:
            start, end = min(start, self._unflushed[0]), max(end, self._unflushed[1])
        self._unflushed = start, end
        self._settle()

    def _settle(self) -> None:
        """Forget what is on storage, or note that it is lost, as far as that is known now."""
        if not self._can_flush and not self._connection.under_way:
            self._forget()  # such a server flushes before it replies
        elif not self._connection.is_open:
            if self._unflushed is not None:
                self._ledger.flush_each = True  # it ends connections after a request
            self._lose()

    def _lose(self) -> None:
        """Note as lost what another connection than the one that is open now has carried."""
        if self._connection.is_open and self._carrier == self._connection.connects:
            return
        if self._unflushed is not None:
            self._ledger.lose(*self._unflushed)
        self._is_replaced = self._is_replaced or self._carrier > 0
        self._forget()

    def _forget(self) -> None:
        self._unflushed = None
        self._amount = 0

    def _flush(self) -> None:
        """Flush; a failure is raised unless it means that what is to be flushed was lost."""
        flush = self._connection.flush if self._ledger.can_flush else self._connection.end_puts
        try:
            self._connection.end_puts()
            self._settle()
            self._leave_if_dropped()
            if self._unflushed is not None:
                flush()
            elif not self._ledger.has_lost:  # else that is sent again, and then flushed
                self._do(flush, repeats=self._ledger.is_repair)
        except TransferError as e:
            self._lose()
            if not self._connection.backend_is_gone and not self._cannot_flush(e):
                raise
        else:
            self._lose()
            if self._unflushed is not None and self._can_flush and not self._ledger.can_flush:
                self._ledger.lose(*self._unflushed)
            self._forget()

    def _cannot_flush(self, error: TransferError) -> bool:
        """Whether the server cannot flush, although it says so: then it does with every upload."""
        if not isinstance(error, ServerError) or error.status not in NOT_IMPLEMENTED:
            return False
        log.warning("The server says that it can flush, but refuses it: %s", error.args[0])
        self._ledger.can_flush = False
        self._ledger.flush_each = True
        return True

    def _keep_alive(self) -> None:
        try:
            if self._unflushed is not None:
                self._flush()
            else:
                self._connection.end_puts()
                self._connection.options()
                self._lose()
        except TransferError as e:
            self._lose()
            if self._is_closing:
                return
            if isinstance(e, ServerError) and e.status is not None:
                self._error = e  # something was refused: this is no matter of the connection
            raise

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error


class _HTTPWriter(Writer):
    """Uploads over several connections.

    While the server stores what came over one, the next bytes are sent.

    Args:
        transfer: The transfer.
        stale: What may not read as zeros on the disk.
        ledger: Shared by all writers.
        retries: How often to try again where a server that was lost does not work yet.
    """

    def __init__(
        self, transfer: Transfer, stale: _Stretches, ledger: _Ledger, retries: int
    ) -> None:
        self._stale = stale
        self._ledger = ledger
        number = min(CONNECTIONS, transfer.can.max_writers)
        self.uploads = [_Upload(transfer, ledger, retries) for _ in range(number)]
        self._turns = cycle(self.uploads)
        self._used: set[_Upload] = set()
        self.is_closed = False

    def write(self, start: int, buffer: memoryview) -> None:
        """See `Writer.write`."""
        if len(buffer) <= SMALL:
            upload, under_way = self.uploads[0], PIPELINED
        else:
            upload, under_way = next(self._turns), 1
        self._used.add(upload)
        upload.put(start, buffer, under_way=under_way)

    def zero(self, start: int, length: int) -> None:
        """See `Writer.zero`."""
        stale = list(self._stale.within(start, start + length))
        if not stale:
            return
        # One connection may overtake another, so nothing is on its way meanwhile: what was written
        # may be zeroed now, and what is zeroed be written next.
        self._end_puts()
        for first, end in stale:
            self._zero(first, end)
        self._end_puts()

    def flush(self) -> None:
        """Flush what was written here, over every connection."""
        self._end_puts()
        for upload in self._used:
            upload.flush()

    def cancel(self) -> None:
        """End what waits for the server."""
        for upload in self.uploads:
            upload.cancel()

    def close(self) -> None:
        """See `Writer.close`."""
        self.is_closed = True
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
                log.warning("The server says that it can zero, but refuses it: %s", e.args[0])
                self._ledger.can_zero = False
            else:
                return
        while start < end:
            step = min(len(_ZEROS), end - start)
            self.write(start, memoryview(_ZEROS)[:step])
            start += step
