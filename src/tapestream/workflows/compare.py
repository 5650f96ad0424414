"""compare(): are two sources the same disk?"""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import Unpack

from ..backend.abilities import KeepsAlive, Prefetches, ability, cancel
from ..backend.checks import (
    check_source,
    check_unchanged,
    extents_of,
    fill,
    finish,
    info_of,
    reader_of,
    source_of,
)
from ..backend.protocols import Reader, Sink, Source, Writer
from ..backend.running import uses
from ..engine.copy import copy, require_disk_order
from ..engine.options import CopyKeywords, CopyOptions
from ..engine.threads import enough_memory
from ..errors import LocalIOError, UsageError
from ..model.extents import Extents, Kind
from ..model.info import BackupInfo

# Differences are reported in blocks of this size.
BLOCK_SIZE = 1024**2
# A bytearray compares itself with any buffer at the speed of memory; memoryviews do not.
_ZEROS = bytearray(BLOCK_SIZE)


@dataclass(frozen=True)
class CompareReport:
    """What `compare` found.

    Attributes:
        differing: (start, length) of the stretches of the disk that differ, ascending, in whole
            blocks of 1 MiB.
        compared: Bytes of the disk that were compared, zeros included.
    """

    differing: tuple[tuple[int, int], ...]
    compared: int

    @property
    def equal(self) -> bool:
        """True when nothing differs."""
        return not self.differing


@enough_memory()
def compare(a: Source, b: Source, **options: Unpack[CopyKeywords]) -> CompareReport:
    """Compare two sources byte by byte: a tape with the live transfer, a backup with an image.

    Zeros are zeros, whether they are in an extent of data or in one of zeros. What an incremental
    backup calls clean is not compared: it says nothing of it. Each is read once, and checked
    against its own digests if it has any. Both are used up, as by a copy, and stay open.

    Args:
        a: One source.
        b: The other.
        **options: As for `copy`.

    Returns:
        Where they differ; where one disk is larger, all that the other does not have.

    Raises:
        UsageError: One is a chain whose streams are on one tape drive: it is not read in the
            order of the disk.
        TapestreamError: One cannot be read, or is not what its own digests say.
    """
    a, b = source_of(a), source_of(b)
    if a is b:
        raise UsageError("a source cannot be compared with itself", hint="Open it twice.")
    CopyOptions.of(options)
    if a.sequential and not b.sequential:
        a, b = b, a  # the one that can be read in parallel is, and with few requests
    sink = _Comparison(b)
    copy(a, sink, **options)
    return sink.report()


class _Comparison(Sink):
    """Compares what comes with what another source has there, which is read in the same order."""

    max_writers = 1
    sequential = True

    def __init__(self, source: Source) -> None:
        self._source = source
        self._sizes = 0, 0
        self._differing: list[tuple[int, int]] = []
        self.compared = 0

    def begin(self, info: BackupInfo, extents: Extents) -> None:
        """See `Sink.begin`."""
        uses(self._source)
        check_source(self._source)
        self.extents = extents_of(self._source)
        self._info = info_of(self._source)
        require_disk_order(self._source)
        self._sizes = extents.size, self.extents.size

    def open_writer(self) -> Writer:
        """See `Sink.open_writer`."""
        return _ComparingWriter(self, reader_of(self._source))

    def differ(self, start: int, end: int) -> None:
        """Note that the blocks of a stretch differ, which is not before the last one noted."""
        first = start - start % BLOCK_SIZE
        last = min(end + -end % BLOCK_SIZE, max(self._sizes))
        if self._differing and self._differing[-1][1] >= first:
            first, _ = self._differing.pop()
        self._differing.append((first, last))

    def keep_alive(self) -> None:
        """Keep the source alive, too."""
        keeps = ability(self._source, KeepsAlive)
        if keeps is not None:
            keeps.keep_alive()

    def commit(self) -> None:
        """See `Sink.commit`: the source, too, must be what it says."""
        finish(self._source)
        check_unchanged(self._source, self._info)
        if self._sizes[0] != self._sizes[1]:
            self.differ(*sorted(self._sizes))

    def abort(self) -> None:
        """See `Sink.abort`."""

    def close(self) -> None:
        """See `Sink.close`: the source is the caller's."""

    def report(self) -> CompareReport:
        """What was found."""
        differing = tuple((start, end - start) for start, end in self._differing)
        return CompareReport(differing, self.compared)


class _ComparingWriter(Writer):
    """Compares with what a reader of the other source reads."""

    def __init__(self, comparison: _Comparison, reader: Reader) -> None:
        self._comparison = comparison
        self._reader = reader
        self._prefetches = ability(reader, Prefetches)
        self._other = bytearray()
        self._cancelled = False

    def write(self, start: int, buffer: memoryview) -> None:
        """Compare data with what the other source has there."""
        for first, length, kind in self._comparison.extents.within(start, start + len(buffer)):
            data = buffer[first - start : first - start + length]
            if kind is Kind.DATA:
                other = self._read(first, length)
                if other != data:
                    self._find_differences(first, data, memoryview(other))
            elif kind is Kind.ZERO:
                self._find_differences(first, data, None)
            if kind is not Kind.CLEAN:
                self._comparison.compared += length

    def zero(self, start: int, length: int) -> None:
        """Make sure that the other source has zeros there, too."""
        for first, size, kind in self._comparison.extents.within(start, start + length):
            if kind is Kind.DATA:
                for offset in range(first, first + size, BLOCK_SIZE):
                    step = min(BLOCK_SIZE, first + size - offset)
                    self._find_differences(offset, memoryview(self._read(offset, step)), None)
            if kind is not Kind.CLEAN:
                self._comparison.compared += size

    def cancel(self) -> None:
        """End soon: a stretch to compare with zeros may be long."""
        self._cancelled = True
        cancel(self._reader)

    def close(self) -> None:
        """See `Writer.close`."""
        self._reader.close()

    def _read(self, start: int, length: int) -> bytearray:
        if len(self._other) != length:
            self._other = bytearray(length)
        if self._cancelled:
            raise LocalIOError("cancelled")
        if self._prefetches is not None:
            self._prefetches.prefetch(start, length)
        fill(self._reader, start, memoryview(self._other))
        return self._other

    def _find_differences(self, start: int, data: memoryview, other: memoryview | None) -> None:
        """Compare piece by piece, each in one block; with zeros where there is nothing else."""
        position = 0
        while position < len(data):
            step = min(BLOCK_SIZE - (start + position) % BLOCK_SIZE, len(data) - position)
            piece = data[position : position + step]
            there = other[position : position + step] if other else memoryview(_ZEROS)[:step]
            if bytearray(there) != piece:
                self._comparison.differ(start + position, start + position + step)
            position += step
