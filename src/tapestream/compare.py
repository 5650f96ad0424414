"""compare(): are two sources the same disk?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from typing_extensions import Unpack

from .engine.copy import CopyOptions, copy
from .errors import UsageError
from .extents import Extents, Kind
from .info import BackupInfo
from .protocols import Reader, Sink, Source, Writer

# Differences are told in blocks of this size.
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


def compare(a: Source, b: Source, **options: Unpack[CopyOptions]) -> CompareReport:
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
    if a.sequential and not b.sequential:
        a, b = b, a  # the one that can be read in parallel is, and with few requests
    if b.passes() is not None:
        raise UsageError("a chain whose streams are on one tape drive cannot be compared")
    sink = _Comparison(b)
    copy(a, sink, **options)
    return sink.report()


class _Comparison(Sink):
    """Compares what comes with what another source has there, which is read in the same order."""

    max_writers = 1
    sequential = True

    def __init__(self, source: Source) -> None:
        self._source = source
        self._differing: set[int] = set()
        self._size = 0
        self.compared = 0

    def begin(self, info: BackupInfo, extents: Extents) -> None:
        """See `Sink.begin`."""
        self.extents = Extents.of(self._source.extents(), context=self._source.info.context)
        sizes = extents.size, self.extents.size
        self._size = max(sizes)
        if sizes[0] != sizes[1]:
            self.differ(min(sizes), self._size)

    def open_writer(self) -> Writer:
        """See `Sink.open_writer`."""
        return _ComparingWriter(self, self._source.open_reader())

    def differ(self, start: int, end: int) -> None:
        """Note that a stretch of the disk differs."""
        self._differing.update(range(start // BLOCK_SIZE, -(-end // BLOCK_SIZE)))

    def keep_alive(self) -> None:
        """See `Sink.keep_alive`."""
        self._source.keep_alive()

    def commit(self) -> None:
        """See `Sink.commit`: the source, too, must be what it says."""
        self._source.finish()

    def abort(self) -> None:
        """See `Sink.abort`."""

    def close(self) -> None:
        """See `Sink.close`: the source is the caller's."""

    def report(self) -> CompareReport:
        """What was found."""
        return CompareReport(tuple(self._stretches()), self.compared)

    def _stretches(self) -> Iterator[tuple[int, int]]:
        """Join the blocks that touch each other."""
        blocks = sorted(self._differing)
        first = 0
        for i, block in enumerate(blocks):
            if i + 1 == len(blocks) or blocks[i + 1] != block + 1:
                start = blocks[first] * BLOCK_SIZE
                yield start, min((block + 1) * BLOCK_SIZE, self._size) - start
                first = i + 1


class _ComparingWriter(Writer):
    """Compares with what a reader of the other source reads."""

    def __init__(self, comparison: _Comparison, reader: Reader) -> None:
        self._comparison = comparison
        self._reader = reader
        self._other = bytearray()

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
        """See `Writer.cancel`."""
        self._reader.cancel()

    def close(self) -> None:
        """See `Writer.close`."""
        self._reader.close()

    def _read(self, start: int, length: int) -> bytearray:
        if len(self._other) != length:
            self._other = bytearray(length)
        self._reader.request(start, length)
        self._reader.readinto(start, memoryview(self._other))
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
