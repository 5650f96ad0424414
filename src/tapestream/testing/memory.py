"""A source and a sink in memory, which check that their caller keeps the contract of a backend.

A call at the wrong time, twice, out of range or in the wrong order is an AssertionError. So is a
commit before every byte was written, or zeroed, exactly once.

    source = MemorySource(disk, extents)
    sink = MemorySink()
    copy(source, your_sink)
    copy(your_source, sink)
    assert sink.disk == disk
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Literal, Protocol

from .._readable import size_text
from .._shown import short_repr
from .._typing import Buffer, override
from ..backend.protocols import Reader, Sink, Source, Writer
from ..model.extents import Extent, Extents, Kind
from ..model.info import BackupInfo, describe

Hook = Callable[[int, int], object]


def nothing(start: int, length: int) -> None:
    """The hook that does nothing."""


class Content(Protocol):
    """The bytes of a disk: `bytes`, `bytearray`, `memoryview`, or a `Pattern`."""

    def __len__(self) -> int:
        """Size of the disk in bytes."""
        ...

    def __getitem__(self, part: slice, /) -> Buffer:
        """The bytes between two offsets."""
        ...


class Pattern:
    """The bytes of a disk of any size, which take no memory: a few bytes over and over.

    Args:
        unit: What is repeated.
        size: Size of the disk in bytes.
    """

    def __init__(self, unit: bytes, size: int) -> None:
        self._period = len(unit)
        self._repeated = memoryview(unit)
        self._size = size

    def __repr__(self) -> str:
        unit = bytes(self._repeated[: min(self._period, 50)])
        return short_repr(self, f"{size_text(self._size)} of {unit!r}")

    def __reduce__(self) -> tuple[type[Pattern], tuple[bytes, int]]:
        return type(self), (bytes(self._repeated[: self._period]), self._size)

    def __len__(self) -> int:
        """Size of the disk in bytes."""
        return self._size

    def __getitem__(self, part: slice, /) -> memoryview:
        """The bytes between two offsets, both of which must be given."""
        first = part.start % self._period
        end = first + part.stop - part.start
        if end > len(self._repeated):
            unit = self._repeated[: self._period]
            self._repeated = memoryview(bytes(unit) * -(-end // self._period))
        return self._repeated[first:end]


class MemorySource(Source):
    """A disk in memory.

    Each range must be announced to a reader with `prefetch`, and read from its first byte to its
    last; `finish` and `close` come after all of them were closed.

    Args:
        disk: The bytes of the disk.
        extents: What `extents()` returns; an `Extents` is returned as it is. None: all of the disk
            is data.
        info: What is known about the backup. Its `size` and `context` are filled in: the context is
            "dirty" if the first extent says whether it is dirty.
        max_readers: How many readers may be open at the same time.
        before_read: Called with the offset and the length of each read before it is done, in the
            thread that does it. It may wait, and what it raises fails the read.

    Attributes:
        readers: All readers that were opened, in this order.
        finished: `finish` was called.
        closed: `close` was called.
    """

    info = BackupInfo()
    max_readers = 1
    sequential = False

    def __init__(
        self,
        disk: Content,
        extents: Sequence[Extent] | None = None,
        *,
        info: BackupInfo | None = None,
        max_readers: int = 4,
        before_read: Hook = nothing,
    ) -> None:
        if extents is None:
            extents = [Extent(0, len(disk))] if len(disk) else []
        dirty = len(extents) > 0 and extents[0].dirty is not None
        self.disk = disk
        self.info = replace(
            info or BackupInfo(), size=len(disk), context="dirty" if dirty else "zero"
        )
        self.max_readers = max_readers
        self.before_read = before_read
        self.finished = self.closed = False
        self.readers: list[MemoryReader] = []
        self._extents = extents
        self._listed = False

    def __repr__(self) -> str:
        return short_repr(self, f"{describe(self.info)}, {size_text(self.info.size or 0)}")

    @override
    def extents(self) -> Iterable[Extent]:
        assert not self.closed, "extents() after close()"
        self._listed = True
        return self._extents if isinstance(self._extents, Extents) else list(self._extents)

    @override
    def open_reader(self) -> Reader:
        assert self._listed, "open_reader() before extents()"
        assert not self.closed, "open_reader() after close()"
        open_now = sum(not reader.closed for reader in self.readers)
        assert open_now < self.max_readers, f"more than {self.max_readers} readers at a time"
        self.readers.append(MemoryReader(self))
        return self.readers[-1]

    def finish(self) -> None:
        """Note that the copy has succeeded. Comes after all readers were closed."""
        assert not self.finished, "finish() twice"
        for reader in self.readers:
            assert reader.closed, "finish() before a reader was closed"
            assert not reader.cancelled, "finish() after a reader was cancelled"
            assert reader.at == reader.end, "finish() before a range was read to its end"
        self.finished = True

    @override
    def close(self) -> None:
        assert all(reader.closed for reader in self.readers), "close() before a reader was closed"
        self.closed = True


class MemoryReader(Reader):
    """Reads a `MemorySource`: each range after its `prefetch`, from its first byte to its last.

    Attributes:
        at: Offset of the byte that must be read next.
        end: Where the announced range ends.
        cancelled: `cancel` was called.
        closed: `close` was called.
    """

    prefetch_depth = 1

    def __init__(self, source: MemorySource) -> None:
        self._source = source
        self.at = self.end = 0
        self.cancelled = self.closed = False

    def prefetch(self, start: int, length: int) -> None:
        """Begin a range. The last one must have been read to its end."""
        assert self.at == self.end, "prefetch() before the last range was read to its end"
        assert self.end <= start, "prefetch() of a range before the last one"
        assert start < start + length <= len(self._source.disk), "prefetch() beyond the disk"
        self.at, self.end = start, start + length

    @override
    def readinto(self, start: int, buffer: memoryview) -> None:
        assert not self.closed, "readinto() after close()"
        assert start == self.at, f"readinto() at {start}, but {self.at} is next"
        assert 0 < len(buffer) <= self.end - start, "readinto() beyond the range"
        self._source.before_read(start, len(buffer))
        self.at += len(buffer)
        buffer[:] = self._source.disk[start : self.at]

    def cancel(self) -> None:
        """Note that the copy was given up."""
        assert not self.closed, "cancel() after close()"
        self.cancelled = True

    @override
    def close(self) -> None:
        assert not self.closed, "close() of a reader twice"
        self.closed = True


class MemorySink(Sink):
    """Takes a disk into memory.

    `commit` asserts that all data was written and all zeros were zeroed, once, and that nothing
    else was touched. If the sink is sequential, it also asserts that the data came in the order of
    the disk.

    Args:
        max_writers: How many writers may be opened.
        sequential: True to require the data in the order of the disk, from one writer.
        before_write: Called with the offset and the length of each write, and of each zeroed range,
            before it is done, in the thread that does it. It may wait, and what it raises fails
            the write.

    Attributes:
        disk: The bytes of the disk. Those that were neither written nor zeroed are `FILL`.
        info: The info that `begin` was called with.
        extents: The extents that `begin` was called with.
        state: "new", "begun", "committed" or "aborted".
        closed: `close` was called.
        writes: Offset and length of each write.
        zeros: Offset and length of each zeroed range.
        writers: All writers that were opened, in this order.
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
        self.state: Literal["new", "begun", "committed", "aborted"] = "new"
        self.closed = False
        self.writes: list[tuple[int, int]] = []
        self.zeros: list[tuple[int, int]] = []
        self.writers: list[MemoryWriter] = []

    def __repr__(self) -> str:
        return short_repr(self, f"{self.state}, {size_text(len(self.disk))}")

    @override
    def begin(self, info: BackupInfo, extents: Extents) -> None:
        assert self.state == "new", f"begin() of a sink that is {self.state}"
        assert info.size == extents.size, "begin() with extents of a disk of another size"
        self.state, self.info, self.extents = "begun", info, extents
        self.disk = bytearray([self.FILL]) * info.size

    @override
    def open_writer(self) -> Writer:
        assert self.state == "begun", f"open_writer() of a sink that is {self.state}"
        most = 1 if self.sequential else self.max_writers
        assert len(self.writers) < most, f"more than {most} writers"
        self.writers.append(MemoryWriter(self))
        return self.writers[-1]

    @override
    def commit(self) -> None:
        assert self.state == "begun", f"commit() of a sink that is {self.state}"
        for writer in self.writers:
            assert writer.flushed, "commit() before a writer was flushed"
            assert writer.closed, "commit() before a writer was closed"
            assert not writer.cancelled, "commit() after a writer was cancelled"
        assert not self.sequential or self.writes == sorted(self.writes), "data out of order"
        data = [(e.start, e.length) for e in self.extents if e.kind is Kind.DATA]
        assert _joined(self.writes) == _joined(data), "not all data was written exactly once"
        for e in self.extents:
            found = self.disk[e.start : e.start + e.length]
            assert e.kind is not Kind.ZERO or not any(found), f"{e} was not zeroed"
            untouched = e.kind is not Kind.CLEAN or found.count(self.FILL) == e.length
            assert untouched, f"{e} was touched"
        self.state = "committed"

    @override
    def abort(self) -> None:
        assert all(writer.closed for writer in self.writers), "abort() before a writer was closed"
        if self.state != "committed":
            self.state = "aborted"

    @override
    def close(self) -> None:
        self.abort()
        self.closed = True


class MemoryWriter(Writer):
    """Writes to a `MemorySink`.

    Attributes:
        flushed: `flush` was called.
        cancelled: `cancel` was called.
        closed: `close` was called.
    """

    def __init__(self, sink: MemorySink) -> None:
        self._sink = sink
        self.flushed = self.cancelled = self.closed = False

    @override
    def write(self, start: int, buffer: memoryview) -> None:
        self._check("write", start, len(buffer))
        self._sink.writes.append((start, len(buffer)))
        self._sink.disk[start : start + len(buffer)] = buffer

    @override
    def zero(self, start: int, length: int) -> None:
        self._check("zero", start, length)
        self._sink.zeros.append((start, length))
        self._sink.disk[start : start + length] = bytes(length)

    def _check(self, call: str, start: int, length: int) -> None:
        assert not self.flushed, f"{call}() after flush()"
        assert not self.closed, f"{call}() after close()"
        assert 0 <= start < start + length <= len(self._sink.disk), f"{call}() beyond the disk"
        self._sink.before_write(start, length)

    def flush(self) -> None:
        """Note that nothing more will be written by this writer."""
        assert not self.flushed, "flush() twice"
        self.flushed = True

    def cancel(self) -> None:
        """Note that the copy was given up."""
        assert not self.closed, "cancel() after close()"
        self.cancelled = True

    @override
    def close(self) -> None:
        assert not self.closed, "close() of a writer twice"
        self.closed = True


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join ranges that touch. An overlap stays visible, as one range too many."""
    joined: list[tuple[int, int]] = []
    for start, length in sorted(ranges):
        if joined and sum(joined[-1]) == start:
            first, before = joined.pop()
            joined.append((first, before + length))
        else:
            joined.append((start, length))
    return joined
