"""compare(): are two sources the same disk?"""

from __future__ import annotations

from dataclasses import dataclass, field

from .._readable import size_text
from .._shown import Shown
from .._typing import Unpack, override
from ..backend.checks import source_of
from ..backend.protocols import Sink, SourceLike, Writer
from ..backend.running import uses
from ..engine.copy import copy
from ..engine.options import CopyKeywords, CopyOptions
from ..engine.rate import Pace
from ..engine.threads import enough_memory
from ..errors import LocalIOError, UsageError
from ..model.extents import Extents, Kind
from ..model.info import BackupInfo
from .part import Part, PartReader, keep_alive

# Differences are reported in blocks of this many bytes.
GRID = 1024**2
# Comparing a bytearray with a buffer is as fast as memory. Comparing two memoryviews is not.
_ZEROS = bytearray(GRID)


@dataclass(frozen=True, repr=False)
class CompareReport(Shown):
    """What `compare` found.

    Attributes:
        differing: (start, length) of the stretches of the disk that differ, in ascending order and
            in whole blocks of 1 MiB.
        compared: Bytes of the disk that were compared, zeros included.
        size: Size of the larger disk in bytes. Reports are equal whatever it is.
    """

    differing: tuple[tuple[int, int], ...]
    compared: int
    size: int = field(default=0, compare=False)

    @property
    def equal(self) -> bool:
        """True if nothing differs."""
        return not self.differing

    @override
    def _in_short(self) -> str:
        compared = f"{size_text(self.compared)} compared"
        if self.equal:
            return f"equal, {compared}"
        differing = sum(length for _, length in self.differing)
        return f"different: {size_text(differing)}, in blocks of 1 MiB; {compared}"


@enough_memory()
def compare(a: SourceLike, b: SourceLike, **options: Unpack[CopyKeywords]) -> CompareReport:
    """Compare two sources byte by byte: a tape with the live transfer, or a backup with an image.

    Zeros are equal, whether they are in an extent of data or of zeros. The clean extents of an
    incremental backup are not compared: it does not have their data. Each source is read once, and
    checked against its own digests if it has any. Both are used up, as by a copy, and stay open.

    Args:
        a: One source.
        b: The other.
        **options: As for `copy`. `max_rate` limits what is read of each; a `RateLimit` limits what
            is read of both together.

    Returns:
        Where they differ. If one disk is larger, everything after the end of the other differs.

    Raises:
        UsageError: One is a chain whose streams are on one tape drive: it is not read in the
            order of the disk.
        TapestreamError: One cannot be read, or does not match its own digests.
    """
    a, b = source_of(a), source_of(b)
    if a is b:
        raise UsageError("a source cannot be compared with itself", hint="Open it twice.")
    pace = CopyOptions.of(options).pace()
    if a.sequential and not b.sequential:
        a, b = b, a  # the copy reads `a` in parallel, and with few requests, if `a` allows it
    sink = _Comparison(b, pace)
    copy(a, sink, **options)
    return sink.report()


class _Comparison(Sink):
    """Compares what a copy writes to it with another source, which is read in the same order."""

    max_writers = 1
    sequential = True

    def __init__(self, source: SourceLike, pace: Pace | None) -> None:
        self._source = source
        self.pace = pace
        self._part: Part | None = None
        self._sizes = 0, 0
        self._differing: list[tuple[int, int]] = []
        self.compared = 0

    @override
    def begin(self, info: BackupInfo, extents: Extents) -> None:
        uses(self._source)
        self._part = Part(self._source)
        self._sizes = extents.size, self._part.extents.size

    @override
    def open_writer(self) -> Writer:
        assert self._part is not None
        return _ComparingWriter(self, self._part.extents, self._part.open())

    def differ(self, start: int, end: int) -> None:
        """Note that the blocks of a stretch differ. Stretches come in ascending order."""
        first = start - start % GRID
        last = min(end + -end % GRID, max(self._sizes))
        if self._differing and self._differing[-1][1] >= first:
            first, _ = self._differing.pop()
        self._differing.append((first, last))

    def keep_alive(self) -> None:
        """Keep the source alive."""
        keep_alive(self._source)

    @override
    def commit(self) -> None:
        """Make sure that the source matches its own digests, and compare the sizes."""
        assert self._part is not None
        self._part.finish()
        if self._sizes[0] != self._sizes[1]:
            self.differ(*sorted(self._sizes))

    @override
    def abort(self) -> None:
        """Do nothing: nothing was written."""

    @override
    def close(self) -> None:
        """Do nothing: the caller closes the source."""

    def report(self) -> CompareReport:
        """What was found."""
        differing = tuple((start, end - start) for start, end in self._differing)
        return CompareReport(differing, self.compared, max(self._sizes))


class _ComparingWriter(Writer):
    """Compares what is written with what a reader of the other source reads."""

    def __init__(self, comparison: _Comparison, extents: Extents, reader: PartReader) -> None:
        self._comparison = comparison
        self._extents = extents
        self._reader = reader
        self._other = bytearray()
        self._is_cancelled = False

    @override
    def write(self, start: int, buffer: memoryview) -> None:
        for first, length, kind in self._extents.within(start, start + len(buffer)):
            data = buffer[first - start : first - start + length]
            if kind is Kind.DATA:
                other = self._read(first, length)
                if other != data:
                    self._find_differences(first, data, memoryview(other))
            elif kind is Kind.ZERO:
                self._find_differences(first, data, None)
            if kind is not Kind.CLEAN:
                self._comparison.compared += length

    @override
    def zero(self, start: int, length: int) -> None:
        for first, size, kind in self._extents.within(start, start + length):
            if kind is Kind.DATA:
                for offset in range(first, first + size, GRID):
                    step = min(GRID, first + size - offset)
                    self._find_differences(offset, memoryview(self._read(offset, step)), None)
            if kind is not Kind.CLEAN:
                self._comparison.compared += size

    def cancel(self) -> None:
        """Cancel the reader, and stop comparing a long stretch with zeros."""
        self._is_cancelled = True
        if self._comparison.pace is not None:
            self._comparison.pace.cancel()
        self._reader.cancel()

    @override
    def close(self) -> None:
        self._reader.close()

    def _read(self, start: int, length: int) -> bytearray:
        if len(self._other) != length:
            self._other = bytearray(length)
        if self._is_cancelled:
            raise LocalIOError("cancelled")
        if self._comparison.pace is not None:
            self._comparison.pace.read(length)
        self._reader.prefetch(start, length)
        self._reader.readinto(start, memoryview(self._other))
        return self._other

    def _find_differences(self, start: int, data: memoryview, other: memoryview | None) -> None:
        """Compare data with other data, block by block; None stands for zeros."""
        position = 0
        while position < len(data):
            step = min(GRID - (start + position) % GRID, len(data) - position)
            piece = data[position : position + step]
            there = other[position : position + step] if other else memoryview(_ZEROS)[:step]
            if bytearray(there) != piece:
                self._comparison.differ(start + position, start + position + step)
            position += step
