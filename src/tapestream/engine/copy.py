"""copy(): one source into one sink."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .._readable import count_text, rate_text, seconds_text, size_text
from .._shown import Shown
from .._typing import override
from ..backend.abilities import Digests, FindsMissing, HasReadOrder, ability
from ..backend.checks import (
    check_piece_size,
    check_sink,
    check_source,
    check_unchanged,
    done,
    extents_of,
    finish,
    info_of,
    new_hash_of,
    read_order,
    sink_of,
    source_of,
)
from ..backend.protocols import SinkLike, SourceLike
from ..backend.running import Running, running
from ..cancel import Cancel, check_cancel
from ..errors import UsageError
from ..model.blockhash import BlockHash
from ..model.extents import Extents, Kind
from .ending import cancel_wins, stopping
from .keepalive import INTERVAL, PATIENCE, keep_alive_during
from .missing import MissingAsZeros
from .mover import Mover
from .options import BUFFER_MEMORY, BUFFER_SIZE, CopyOptions
from .progress import Progress, ReportsStatus, Watch
from .rate import RateLimit
from .repair import send_lost_again
from .samples import CopySample
from .threads import enough_memory, logged

if TYPE_CHECKING:
    from .hashing import HashingSource


@dataclass(frozen=True, repr=False)
class CopyResult(Shown):
    """What a copy did. Its sink is committed: the result is final.

    Attributes:
        size: Virtual size of the disk in bytes.
        context: "zero" for a full backup, "dirty" for an incremental one.
        extents: Number of extents of the disk.
        data_extents: Number of extents that were data.
        data_bytes: Bytes of data written.
        zero_bytes: Bytes in zero extents: not written, but announced to the sink.
        read_bytes: Bytes read from the source: the data, and the gaps that were read through.
        requests: Number of reads that the plan requested from the source.
        seconds: Time from the request of the extents to the end of the commit.
        checksum: Name of the digest that the sink recorded of all data; None for none.
        verified: Name of the digest that the source compared all data with, as its `finish` said;
            None for none. If the streams of a chain have different digests, all their names,
            separated by commas.
        underruns: How often the sink had to wait for data, after the first data had arrived.
        stalled: How long it waited, in seconds.
        receipt: What the sink's `commit` returned. For a backup to tape, this is the `TapeReport`,
            which says where the backup is, and how many records were written, and how fast. For our
            other sinks, it is None.
        block_hash: Block hash of the disk that was read; None if it was not asked for.
        samples: Up to 512 samples of how far the copy was, in order, for a chart. The first is
            taken at the beginning, and the last at the end.
    """

    size: int
    context: str
    extents: int
    data_extents: int
    data_bytes: int
    zero_bytes: int
    read_bytes: int
    requests: int
    seconds: float
    checksum: str | None
    verified: str | None
    underruns: int = 0
    stalled: float = 0.0
    receipt: Any = None
    block_hash: BlockHash | None = None
    samples: tuple[CopySample, ...] = ()

    @property
    def rate(self) -> float:
        """Bytes of data per second."""
        return self.data_bytes / self.seconds if self.seconds else 0.0

    @override
    def _in_short(self) -> str:
        waits = f", {count_text(self.underruns, 'underrun')}" if self.underruns else ""
        return (
            f"{size_text(self.data_bytes)} of {size_text(self.size)} in "
            f"{seconds_text(self.seconds)}, {rate_text(self.rate)}{waits}"
        )


@enough_memory()
def copy(
    src: SourceLike,
    dst: SinkLike,
    *,
    max_workers: int | None = None,
    buffer_size: int = BUFFER_SIZE,
    buffer_memory: int = BUFFER_MEMORY,
    max_gap: int | Literal["auto"] = "auto",
    block_hash: bool = False,
    progress: Progress | ReportsStatus | None = None,
    max_rate: int | RateLimit | None = None,
    cancel: Cancel | None = None,
) -> CopyResult:
    """Copy a disk, or a backup of one, from a source to a sink, and commit the sink.

    Only the data is written, each byte once. Source and sink stay open: closing them is the
    caller's job, best with `with`.

    Args:
        src: Where to read.
        dst: Where to write. The sink must be new: it takes one copy.
        max_workers: The most readers, and the most writers, that work at the same time. Source and
            sink may allow fewer. None: one reader for every processor, or for every two if a
            server on this host needs some itself, but at most four; and four writers, or
            for such a server one for every two processors, but at least two.
        buffer_size: Bytes in one buffer, a multiple of 4096. If this and `buffer_memory` are the
            defaults, each buffer has 4 MiB for a sink that writes to a server, as for an upload.
        buffer_memory: Bytes in all buffers together, at least two buffers. This bounds the
            memory for data, whatever the size of the disk.
        max_gap: If there are up to this many bytes between two data extents, read them, too, and
            drop them, rather than make another request; 0 never does. "auto" chooses what is
            faster, by the time that requests take.
        block_hash: Compute the block hash of the disk from what is read, as imageio's server
            does, and compare it with the one in the backup's info, if there is one. For full
            backups only.
        progress: An object whose `update` is called with the number of bytes that were written, see
            `Progress`; or whose `report_status` is called with a `CopyStatus`, see `ReportsStatus`;
            or both.
        max_rate: The most bytes per second to read, and to write: a number, at least 4096, or a
            `RateLimit`, which several copies may share. The copy waits before it requests a range,
            which is at most half a buffer long. Gaps that are read through count. For a sequential
            sink, only reading is limited. None for no limit.
        cancel: Its `cancel` ends the copy within about a second, whatever the copy waits for. Only
            a call of the operating system that cannot be interrupted ends first, such as an fsync,
            or a record or a filemark of a tape. If it is cancelled before the sink's `commit`
            begins, the sink is aborted. If it is cancelled during the commit, the copy succeeds if
            the commit does.

    Returns:
        What was done. The sink is committed: file fsynced and renamed, disk flushed.

    Raises:
        BlockHashMismatchError: What was read is not the disk that was backed up; the sink was
            aborted.
        BackendError: Source or sink broke its contract; the sink was aborted.
        ClosedError: Source or sink was closed meanwhile; the sink was aborted.
        OperationCancelledError: The copy was cancelled: all threads have ended, and the sink was
            aborted. If it was cancelled before it began, nothing was done.
        UsageError: An argument cannot work, or another copy uses the source or the sink.
        TapestreamError: The copy failed; all threads have ended and the sink was aborted.
        KeyboardInterrupt: The copy was interrupted: all threads have ended and the sink was
            aborted.
    """
    with copying(src, dst, cancel=cancel) as run:
        options = CopyOptions(
            max_workers,
            buffer_size,
            buffer_memory,
            max_gap,
            block_hash,
            progress,
            max_rate,
            cancel,
        )
        return transfer(src, dst, options, run)


@contextmanager
def copying(
    src: SourceLike,
    dst: SinkLike,
    *,
    cancel: Cancel | None = None,
    interval: float = INTERVAL,
    patience: float = PATIENCE,
) -> Iterator[Running]:
    """Make this block a copy from a source to a sink. An error aborts the sink.

    Args:
        src: The source.
        dst: The sink.
        cancel: Ends the copy; None if nothing does.
        interval: See `keep_alive_during`.
        patience: See `keep_alive_during`.

    Raises:
        UsageError: These are not a source and a sink, or another copy uses one of them.
        OperationCancelledError: It was cancelled.
    """
    check_cancel(cancel)
    with running(sink_of(dst), cancel=cancel) as run, aborted_on_error(dst, run):
        run.check()
        run.use(source_of(src))
        # These end before the sink is aborted: nothing uses or cancels it then.
        with (
            stopping(run, cancel),
            keep_alive_during(src, dst, run=run, interval=interval, patience=patience),
        ):
            yield run


@contextmanager
def aborted_on_error(dst: SinkLike, run: Running) -> Iterator[None]:
    """Abort the sink of a copy if this block raises."""
    uncommitted = True
    try:
        try:
            with cancel_wins(run):
                yield
            uncommitted = False
        finally:
            run.is_ending = True
            if uncommitted:
                _abort(dst)
                uncommitted = False
    finally:
        # An interrupt may have come in the middle.
        run.is_ending = True
        if uncommitted:
            _abort(dst)


def _abort(dst: SinkLike) -> None:
    with logged("the sink could not be aborted cleanly"):
        dst.abort()


def transfer(src: SourceLike, dst: SinkLike, options: CopyOptions, run: Running) -> CopyResult:
    """Do what `copy` does, but leave it to the caller to keep both alive and to abort the sink."""
    check_source(src)
    check_sink(dst)
    watch = Watch(options.progress, run)
    extents = extents_of(src)
    info = info_of(src)
    data, zero = extents.tally(Kind.DATA), extents.tally(Kind.ZERO)
    passes = read_order(src, extents)
    if dst.sequential or options.block_hash:
        require_disk_order(src)
    hashing = _hashing(src, extents) if options.block_hash else None
    report = watch.begin(data.bytes)
    pace = options.pace()
    with closing(options.pool(dst, pace)) as pool:
        check_piece_size(dst, pool.size)
        run.check()
        done(dst, "begin", info, extents)
        mover = Mover.of(src, dst, options, pool, run, pace=pace)
        finds = None if dst.sequential else ability(hashing or src, FindsMissing)
        left = MissingAsZeros(finds, extents) if finds else None
        moved = mover._replace(src=hashing or src).move(
            passes or [left.runs() if left else extents.runs()],
            new_hash=new_hash_of(dst),
            progress=report,
            watch=watch.tick,
            total=data.bytes,
        )
        watch.tick(moved.written, moved.stalled)
        missing = left.missing if left else 0
        if moved.written + missing != data.bytes:
            raise RuntimeError(f"{moved.written} of {data.bytes} bytes of data were written")
        run.check()
        watch.enter("check")
        verified = finish(src)
        check_unchanged(src, info)
        if not send_lost_again(mover, extents, verified):
            verified = None
    block_hash = hashing.block_hash() if hashing else None
    watch.enter("commit")
    run.check()  # only now: the report of the phase is the user's last chance to cancel
    receipt = done(dst, "commit")
    samples = watch.end(moved.written, moved.stalled)
    digests = ability(dst, Digests) if moved.digested == moved.written else None
    return CopyResult(
        size=info.size,
        context=info.context,
        extents=len(extents),
        data_extents=data.extents,
        data_bytes=moved.written,
        zero_bytes=zero.bytes + missing,
        # A stream has no gaps to read through.
        read_bytes=data.bytes if src.sequential else moved.read,
        requests=moved.requests,
        seconds=samples[-1].seconds,
        checksum=digests.digest_name if digests else None,
        verified=verified,
        underruns=moved.underruns,
        stalled=moved.stalled,
        receipt=receipt,
        block_hash=block_hash,
        samples=samples,
    )


def _hashing(src: SourceLike, extents: Extents) -> HashingSource:
    from .hashing import HashingSource  # noqa: PLC0415 - few copies compute a block hash

    return HashingSource(src, extents)


def require_disk_order(source: SourceLike) -> None:
    """Make sure that a source can be read in the order of the disk.

    Raises:
        UsageError: It cannot.
    """
    ordered = ability(source, HasReadOrder)
    if ordered is not None and ordered.read_order() is not None:
        raise UsageError(
            "the streams of the chain are on one tape drive: they come one after another, but a "
            "tar, a block hash and a comparison need the data in the order of the disk",
            hint="Restore to a disk or a raw image, or copy all but one of the streams to files.",
        )
