"""copy(): one source into one sink."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from functools import partial
from itertools import chain
from typing import Any, Literal, TypedDict

from ..arguments import flag, number
from ..backend.abilities import Digester, Digests, FindsMissing, HasReadOrder, ability
from ..backend.checks import (
    Digesters,
    check_sink,
    check_source,
    check_unchanged,
    coalesce_zeros,
    done,
    extents_of,
    finish,
    info_of,
    is_streaming,
    lost_of,
    place_of,
    read_order,
    reader_of,
    returned_of,
    rewind,
    server_is_local,
    sink_of,
    source_of,
    writer_of,
)
from ..backend.protocols import Reader, Sink, Source, Writer
from ..backend.running import Running, running
from ..errors import BlockHashMismatchError, LostWritesError, UsageError
from ..model.blockhash import BlockHash
from ..model.extents import Extents, Kind, Run
from ..model.info import BackupInfo, disk_of
from . import pipeline
from .buffers import BufferPool
from .gap import AutoGap, FixedGap, Gap
from .hashing import BlockHasher
from .keepalive import keep_alive_during
from .operations import coalesced, one_by_one
from .plan import lost_parts, plan_requests
from .progress import Progress, check_progress, reporter
from .queue import Counts
from .threads import enough_memory

log = logging.getLogger("tapestream.copy")

MIB = 1024**2
PAGE = 4096

# A request may be larger than a buffer: the server's cost per request is paid once, and the
# first bytes go on while the others arrive.
REQUEST_SIZE = 16 * MIB
# Smaller ones cost more hand-overs. While a larger one is digested, nothing is received: over TLS,
# and on a slow line, that costs some per cent (measured: 0.25 to 4 MiB, on 2 cores).
BUFFER_SIZE = 2 * MIB
# Four readers, each one request ahead of the other, and as much again for the writer to lag.
BUFFER_MEMORY = 128 * MIB
MAX_WORKERS = 4
# How often lost data is sent again. A server that restarts again and again must not keep us here.
REPAIRS = 4


@dataclass(frozen=True)
class CopyResult:
    """What a copy did. Its sink is committed: the result is final.

    Attributes:
        size: Virtual size of the disk in bytes.
        context: "zero" for a full backup, "dirty" for an incremental one.
        extents: Number of extents of the disk.
        data_extents: Number of those that were data.
        data_bytes: Bytes of data written.
        zero_bytes: Bytes in zero extents: not written, but announced to the sink.
        read_bytes: Bytes read from the source: the data, and the gaps that were read through.
        requests: Number of reads the plan asked of the source.
        seconds: From the request of the extents to the end of the commit.
        checksum: Name of the digest that the sink recorded of all data; None for none.
        verified: Name of the digest that the source compared all data with, as its `finish` said;
            None for none.
        underruns: How often the sink had to wait for data after the first of it.
        stalled: How long it waited, in seconds.
        receipt: What the sink's `commit` returned: of a backup to tape the `TapeReport`, which
            says where it is, how many records, how fast; None of our other sinks.
        block_hash: Block hash of the disk that was read; None if it was not asked for.
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

    @property
    def rate(self) -> float:
        """Bytes of data per second."""
        return self.data_bytes / self.seconds if self.seconds else 0.0


class CopyOptions(TypedDict, total=False):
    """The options of `copy`, for functions that pass them on."""

    max_workers: int | None
    buffer_size: int
    buffer_memory: int
    max_gap: int | Literal["auto"]
    block_hash: bool
    progress: Progress | None


@enough_memory()
def copy(
    src: Source,
    dst: Sink,
    *,
    max_workers: int | None = None,
    buffer_size: int = BUFFER_SIZE,
    buffer_memory: int = BUFFER_MEMORY,
    max_gap: int | Literal["auto"] = "auto",
    block_hash: bool = False,
    progress: Progress | None = None,
) -> CopyResult:
    """Copy a disk, or a backup of one, from a source to a sink, and commit the sink.

    Only the data is written, each byte once. Source and sink stay open: closing them is the
    caller's job, best with `with`.

    Args:
        src: Where to read.
        dst: Where to write; must be new: a sink takes one copy.
        max_workers: Most readers, and most writers, at the same time; source and sink may allow
            fewer. None for four writers, and one reader for every processor, or every two when a
            server on this host needs some itself; four at most.
        buffer_size: Bytes in one buffer, a multiple of 4096.
        buffer_memory: Bytes in all buffers together, at least two buffers. This bounds the
            memory for data, whatever the size of the disk.
        max_gap: Read through up to this many bytes between two data extents, and drop them,
            rather than make another request; 0 never does. "auto" weighs the one against the
            other by the time that requests take.
        block_hash: Compute the block hash of the disk from what is read, as imageio's server
            does, and compare it with that of the backup's info, if it has one. Of full backups
            only.
        progress: Is called with how much data was written; see `Progress`.

    Returns:
        What was done. The sink is committed: file fsynced and renamed, disk flushed.

    Raises:
        BlockHashMismatchError: What was read is not the disk that was backed up; the sink was
            aborted.
        BackendError: Source or sink broke its contract; the sink was aborted.
        ClosedError: Source or sink was closed meanwhile; the sink was aborted.
        UsageError: An argument cannot work, or another copy uses the source or the sink.
        TapestreamError: The copy failed; all threads have ended and the sink was aborted.
        KeyboardInterrupt: The same, immediately; a connection that is being made is waited for.
    """
    dst = sink_of(dst)
    with running(dst) as run, aborted_on_error(dst, run):
        src = source_of(src)
        run.use(src)
        settings = Settings(max_workers, buffer_size, buffer_memory, max_gap, block_hash, progress)
        with keep_alive_during(src, dst, run=run):
            return transfer(src, dst, settings, run)


@contextmanager
def aborted_on_error(dst: Sink, run: Running) -> Iterator[None]:
    """Abort the sink of a copy when this block raises."""
    uncommitted = True
    try:
        try:
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


def _abort(dst: Sink) -> None:
    try:
        dst.abort()
    except Exception:
        # The first error is the one to raise, but this one must not be lost either.
        log.exception("the sink could not be aborted cleanly")


@dataclass(frozen=True)
class Settings:
    """The options of `copy`, checked."""

    max_workers: int | None = None
    buffer_size: int = BUFFER_SIZE
    buffer_memory: int = BUFFER_MEMORY
    max_gap: int | Literal["auto"] = "auto"
    block_hash: bool = False
    progress: Progress | None = None

    @classmethod
    def of(cls, options: CopyOptions) -> Settings:
        """Check the options that a function passes on."""
        unknown = sorted(set(options) - {field.name for field in fields(cls)})
        if unknown:
            raise UsageError(
                f"there is no option {unknown[0]!r}", hint="The options are those of copy()."
            )
        return cls(**options)

    def __post_init__(self) -> None:
        if self.max_workers is not None:
            number("max_workers", self.max_workers, least=1)
        number("buffer_size", self.buffer_size, least=PAGE, unit=PAGE)
        if number("buffer_memory", self.buffer_memory) < 2 * self.buffer_size:
            raise UsageError(
                f"buffer_memory must hold at least two buffers of {self.buffer_size} bytes, "
                f"not {self.buffer_memory!r} bytes"
            )
        if self.max_gap != "auto":
            number("max_gap, where it is not 'auto',", self.max_gap)
        flag("block_hash", self.block_hash)
        check_progress(self.progress)

    def readers(self, src: Source) -> int:
        """Most readers.

        Measured on 2 processors: of a local file a second reader, with or without digests, makes
        1.7 times as much. With a server on the same host, which needs a processor itself, it costs
        more, in caches and hand-overs of the interpreter, than it saves in waiting.
        """
        if self.max_workers is not None:
            return self.max_workers
        processors = len(os.sched_getaffinity(0)) // (2 if server_is_local(src) else 1)
        return min(max(1, processors), MAX_WORKERS)

    @property
    def writers(self) -> int:
        """Most writers: they wait for the other side more than they work."""
        return self.max_workers if self.max_workers is not None else MAX_WORKERS


def transfer(src: Source, dst: Sink, settings: Settings, run: Running) -> CopyResult:
    """Do what `copy` does, where source and sink are kept alive, and aborted, by the caller."""
    began = time.monotonic()
    check_source(src)
    check_sink(dst)
    extents = extents_of(src)
    info = info_of(src)
    data, zero = extents.tally(Kind.DATA), extents.tally(Kind.ZERO)
    passes = read_order(src, extents)
    if dst.sequential or settings.block_hash:
        require_disk_order(src)
    hasher = _hasher(info, extents) if settings.block_hash else None
    report = reporter(settings.progress, data.bytes)
    _check_memory(settings)
    run.check()
    done(dst, "begin", info, extents)
    n_readers = 1 if src.sequential else min(settings.readers(src), src.max_readers)
    n_writers = 1 if dst.sequential else min(settings.writers, dst.max_writers)
    gap = _gap(src, settings, n_readers)
    digesters = Digesters(dst)
    move = _Move(src, dst, settings, gap, n_readers, n_writers, run)
    finds = ability(src, FindsMissing) if not dst.sequential and hasher is None else None
    left = _Left(finds, extents) if finds else None
    moved = move(
        passes or [left.runs() if left else extents.runs()],
        digester=digesters,
        inspect=hasher.update if hasher else None,
        progress=report,
    )
    missing = left.missing if left else 0
    if moved.written + missing != data.bytes:
        raise RuntimeError(f"{moved.written} of {data.bytes} bytes of data were written")
    run.check()
    verified = finish(src)
    check_unchanged(src, info)
    if not _send_lost_again(src, dst, extents, move, verified):
        verified = None
    block_hash = _checked(hasher.result(), src, info) if hasher else None
    run.check()
    receipt = returned_of(dst, "commit")
    digests = ability(dst, Digests) if digesters.is_complete else None
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
        seconds=time.monotonic() - began,
        checksum=digests.digest_name if digests else None,
        verified=verified,
        underruns=moved.underruns,
        stalled=moved.stalled,
        receipt=receipt,
        block_hash=block_hash,
    )


class _Left:
    """What is left to read of a source that can find data missing. A missing TiB costs nothing.

    Args:
        src: The source.
        extents: All extents of its disk.

    Attributes:
        missing: Bytes of data that became zeros.
    """

    def __init__(self, src: FindsMissing, extents: Extents) -> None:
        self._src = src
        self._extents = extents
        self.missing = 0

    def runs(self) -> Iterator[Run]:
        """Yield all runs, with zeros where data is known to be missing when its turn comes."""
        for first, length, kind in self._extents.runs():
            start, end = first, first + length
            while kind is Kind.DATA and (until := self._src.missing_until) is not None:
                if start >= end:
                    break
                if start < until:
                    step = min(end, until) - start
                    self.missing += step
                    yield start, step, Kind.ZERO
                else:
                    step = min(REQUEST_SIZE, end - start)
                    yield start, step, kind
                start += step
            if start < end:
                yield start, end - start, kind


@dataclass(frozen=True)
class _Move:
    """Moves data with new readers and writers."""

    src: Source
    dst: Sink
    settings: Settings
    gap: Gap
    readers: int
    writers: int
    run: Running

    def __call__(
        self,
        passes: Iterable[Iterable[Run]],
        *,
        digester: Callable[[int, int], Digester | None] = lambda *_: None,
        inspect: pipeline.Inspect | None = None,
        progress: Callable[[int], None] = lambda _: None,
    ) -> Counts:
        """Move what is listed; see `pipeline.run` for the rest."""
        src, dst, settings = self.src, self.dst, self.settings
        digests = ability(dst, Digests)
        plan = chain.from_iterable(
            plan_requests(
                runs,
                segment_size=digests.segment_size if digests else REQUEST_SIZE,
                request_size=REQUEST_SIZE,
                buffer_size=settings.buffer_size,
                limits=self.gap.limits,
            )
            for runs in passes
        )
        pool = BufferPool(settings.buffer_memory // settings.buffer_size, settings.buffer_size)
        readers: list[Reader] = []
        writers: list[Writer] = []
        with closing(pool), _closed(readers), _closed(writers):
            while len(readers) < self.readers:
                readers.append(reader_of(src))
            while len(writers) < self.writers:
                writers.append(writer_of(dst))
            return pipeline.run(
                plan,
                readers,
                writers,
                pool,
                ordered=dst.sequential,
                streaming=is_streaming(dst),
                shares_processors=server_is_local(src),
                arrange=one_by_one
                if dst.sequential
                else partial(coalesced, join_gap=coalesce_zeros(dst)),
                digester=digester,
                inspect=inspect,
                observe=self.gap.observe,
                progress=progress,
                use=self.run,
            )


def _send_lost_again(
    src: Source, dst: Sink, extents: Extents, move: _Move, verified: str | None
) -> bool:
    """Read and write again what the sink has lost.

    Returns:
        True if the source compared with the same digest what it read again.

    Raises:
        LostWritesError: The source cannot be read again.
    """
    is_verified = True
    for _ in range(REPAIRS):
        lost = lost_of(dst)
        if not lost:
            break
        size = sum(end - start for start, end in lost)
        log.warning("The server lost what it had not flushed: %d bytes are sent again", size)
        is_rewound = _rewound(src, lost)
        passes = read_order(src, extents) or [extents.runs()]
        move(lost_parts(runs, lost) for runs in passes)
        move.run.check()
        # What cannot be rewound has finished.
        is_verified &= (finish(src) if is_rewound else None) == verified
    return is_verified


def _rewound(src: Source, lost: Sequence[tuple[int, int]]) -> bool:
    """Make a source readable once more; False if it needs no rewind, since it has no order."""
    try:
        rewind(src)
    except UsageError as e:
        if src.sequential:
            raise LostWritesError.of(lost, f"{e.args[0]}, so it cannot be sent again") from e
        return False
    return True


@contextmanager
def _closed(workers: list[Reader] | list[Writer]) -> Iterator[None]:
    """Close all readers, or writers, at the end; an error of that does not hide an earlier one."""
    failing = True
    try:
        yield
        failing = False
    finally:
        try:
            _close(workers, failing=failing)
        finally:
            _close(workers, failing=True)  # those that are left after an error or an interrupt


def _close(workers: list[Reader] | list[Writer], *, failing: bool) -> None:
    while workers:
        try:
            workers.pop().close()
        except Exception:
            if not failing:
                raise
            log.exception("a reader or writer could not be closed cleanly")


def require_disk_order(source: Source) -> None:
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


def _hasher(info: BackupInfo, extents: Extents) -> BlockHasher:
    if info.context != "zero":
        raise UsageError(
            "only a full backup has the whole disk, of which a block hash is made",
            hint="Leave block_hash out for an incremental backup.",
        )
    runs = extents.runs()
    data = ((start, length) for start, length, kind in runs if kind is Kind.DATA)
    return BlockHasher(extents.size, data)


def _checked(found: BlockHash, src: Source, info: BackupInfo) -> BlockHash:
    expected = info.block_hash
    if expected is not None and expected.is_comparable(found) and expected != found:
        place = place_of(src)
        read = f"{disk_of(info)} that was read{f' from {place}' if place else ''}"
        raise BlockHashMismatchError(read, expected.checksum, found.checksum)
    return found


def _check_memory(settings: Settings) -> None:
    """Make sure that there can be a buffer of the size that was asked for.

    Raises:
        LocalIOError: There cannot.
    """
    with closing(BufferPool(1, settings.buffer_size)) as pool:
        pool.give_back(pool.take())


def _gap(src: Source, settings: Settings, readers: int) -> Gap:
    if settings.max_gap != "auto":
        return FixedGap(settings.max_gap, REQUEST_SIZE)
    if src.sequential:
        # What lies between the extents is not in the stream: passing over it costs nothing.
        return FixedGap(settings.buffer_size, REQUEST_SIZE)
    return AutoGap(REQUEST_SIZE, readers)
