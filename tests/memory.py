"""A source and a sink in memory that hold the engine to the contract of `protocols`.

Whatever call comes at the wrong time, twice, out of range or in the wrong order is an
AssertionError. `before_read` and `before_write` get each range before it is read or written, in
the thread that does it: there a test can wait, or fail.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tapestream import BackupInfo, Extent, Reader, Sink, Source, Writer
from tapestream.model.extents import Extents, Kind

Hook = Callable[[int, int], None]


def nothing(start: int, length: int) -> None:
    """The hook that does nothing."""


class MemorySource(Source):
    """A disk in memory, and what its extents shall be; all of it data when not given."""

    info = BackupInfo()
    max_readers = 1
    sequential = False

    def __init__(
        self,
        disk: bytes,
        extents: Sequence[Extent] | None = None,
        *,
        info: BackupInfo | None = None,
        max_readers: int = 4,
        before_read: Hook = nothing,
    ) -> None:
        if extents is None:
            extents = [Extent(0, len(disk))] if disk else []
        dirty = any(extent.dirty is not None for extent in extents)
        self.disk = disk
        self.info = replace(
            info or BackupInfo(), size=len(disk), context="dirty" if dirty else "zero"
        )
        self.max_readers = max_readers
        self.before_read = before_read
        self.finished = self.closed = False
        self.readers: list[_MemoryReader] = []
        self._extents = extents
        self._listed = False

    def extents(self) -> list[Extent]:
        assert not self.closed
        self._listed = True
        return list(self._extents)

    def open_reader(self) -> Reader:
        assert self._listed
        assert not self.closed
        assert sum(not reader.closed for reader in self.readers) < self.max_readers
        self.readers.append(_MemoryReader(self))
        return self.readers[-1]

    def finish(self) -> None:
        assert not self.finished
        assert all(r.closed and not r.cancelled and r.at == r.end for r in self.readers)
        self.finished = True

    def close(self) -> None:
        assert all(reader.closed for reader in self.readers)
        self.closed = True


class _MemoryReader(Reader):
    """Must read each request from its first byte to its last."""

    prefetch_depth = 1

    def __init__(self, source: MemorySource) -> None:
        self.source = source
        self.at = self.end = 0
        self.cancelled = self.closed = False

    def prefetch(self, start: int, length: int) -> None:
        assert self.at == self.end, "the request before was not read to its end"
        assert self.end <= start < start + length <= len(self.source.disk)
        self.at, self.end = start, start + length

    def readinto(self, start: int, buffer: memoryview) -> None:
        assert not self.closed
        assert start == self.at
        assert 0 < len(buffer) <= self.end - start
        self.source.before_read(start, len(buffer))
        self.at += len(buffer)
        buffer[:] = self.source.disk[start : self.at]

    def cancel(self) -> None:
        assert not self.closed
        self.cancelled = True

    def close(self) -> None:
        assert not self.closed
        self.closed = True


class MemorySink(Sink):
    """Takes a disk into memory, where every byte must be written or zeroed exactly once.

    Attributes:
        disk: What came: bytes that were neither written nor zeroed keep their `FILL`.
        state: "new", "begun", "committed" or "aborted".
    """

    FILL = 0xA5
    max_writers = 1
    sequential = False

    def __init__(
        self, *, max_writers: int = 1, sequential: bool = False, before_write: Hook = nothing
    ) -> None:
        self.max_writers = max_writers
        self.sequential = sequential
        self.before_write = before_write
        self.disk = bytearray()
        self.info = BackupInfo()
        self.extents = Extents.of([])
        self.state = "new"
        self.closed = False
        self.written: list[tuple[int, int, bool]] = []
        self.writers: list[_MemoryWriter] = []

    def begin(self, info: BackupInfo, extents: Extents) -> None:
        assert self.state == "new"
        assert info.size == extents.size
        self.state, self.info, self.extents = "begun", info, extents
        self.disk = bytearray([self.FILL]) * info.size

    def open_writer(self) -> Writer:
        assert self.state == "begun"
        assert len(self.writers) < (1 if self.sequential else self.max_writers)
        self.writers.append(_MemoryWriter(self))
        return self.writers[-1]

    def commit(self) -> None:
        assert self.state == "begun"
        assert all(w.flushed and w.closed and not w.cancelled for w in self.writers)
        if self.sequential:
            starts = [start for start, _, zero in self.written if not zero]
            assert starts == sorted(starts)
        written = [w for w in self.written if not w[2]]
        data = [(e.start, e.length, False) for e in self.extents if e.kind is Kind.DATA]
        assert _ranges(written) == _ranges(data)
        for e in self.extents:
            found = self.disk[e.start : e.start + e.length]
            assert e.kind is not Kind.ZERO or not any(found)
            assert e.kind is not Kind.CLEAN or found.count(self.FILL) == e.length
        self.state = "committed"

    def abort(self) -> None:
        assert all(writer.closed for writer in self.writers)
        if self.state != "committed":
            self.state = "aborted"

    def close(self) -> None:
        self.abort()
        self.closed = True


class _MemoryWriter(Writer):
    def __init__(self, sink: MemorySink) -> None:
        self.sink = sink
        self.flushed = self.cancelled = self.closed = False

    def write(self, start: int, buffer: memoryview) -> None:
        self._take(start, len(buffer), zero=False)
        self.sink.disk[start : start + len(buffer)] = buffer

    def zero(self, start: int, length: int) -> None:
        self._take(start, length, zero=True)
        self.sink.disk[start : start + length] = bytes(length)

    def _take(self, start: int, length: int, *, zero: bool) -> None:
        assert not self.flushed
        assert not self.closed
        assert 0 <= start < start + length <= len(self.sink.disk)
        self.sink.before_write(start, length)
        self.sink.written.append((start, length, zero))

    def flush(self) -> None:
        assert not self.flushed
        self.flushed = True

    def cancel(self) -> None:
        assert not self.closed
        self.cancelled = True

    def close(self) -> None:
        assert not self.closed
        self.closed = True


def _ranges(pieces: list[tuple[int, int, bool]]) -> list[tuple[int, int, bool]]:
    """Join what touches; an overlap stays visible, as one piece too many."""
    joined: list[tuple[int, int, bool]] = []
    for start, length, zero in sorted(pieces):
        if joined and joined[-1][2] == zero and sum(joined[-1][:2]) == start:
            first, before, _ = joined.pop()
            joined.append((first, before + length, zero))
        else:
            joined.append((start, length, zero))
    return joined
