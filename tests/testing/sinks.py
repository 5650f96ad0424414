"""A good sink in memory, and many that break one clause of the contract each."""

from __future__ import annotations

import hashlib
import io
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from tapestream import BackupInfo, Extents
from tapestream.errors import LocalIOError, TapestreamError
from tapestream.testing import MemorySink

# What the targets hold, by their directories.
Shelf = dict[Path, bytes]


class GoodSink:
    """Keeps a disk on a shelf. It has every ability that a sink can have."""

    max_writers: Any = 4
    sequential: Any = False
    streaming: Any = False
    coalesce_zeros: Any = 8192
    digest_name: Any = "sha256"
    segment_size = 65536
    new_hash: Any = hashlib.sha256

    def __init__(self, shelf: Shelf, path: Path) -> None:
        self.shelf = shelf
        self.path = path
        self.disk = bytearray()
        self.digests: list[tuple[int, int, bytes]] = []

    def begin(self, info: BackupInfo, extents: Extents) -> Any:
        """Write over a copy of what is there: only the commit replaces that."""
        self.disk = bytearray(self.shelf.get(self.path, b"")[: info.size].ljust(info.size, b"\0"))

    def open_writer(self) -> Any:
        return GoodWriter(self)

    def commit(self) -> Any:
        self.shelf[self.path] = bytes(self.disk)

    def abort(self) -> Any:
        pass

    def close(self) -> Any:
        self.abort()

    def cancel(self) -> None:
        pass

    def keep_alive(self) -> None:
        pass

    def lost(self) -> Any:
        return []


class GoodWriter:
    def __init__(self, sink: GoodSink) -> None:
        self.sink = sink

    def write(self, start: int, buffer: memoryview) -> Any:
        self.sink.disk[start : start + len(buffer)] = buffer

    def zero(self, start: int, length: int) -> Any:
        self.sink.disk[start : start + length] = bytes(length)

    def flush(self) -> Any:
        pass

    def digested(self, start: int, length: int, digest: bytes) -> Any:
        self.sink.digests.append((start, length, digest))

    def memory(self, start: int, length: int) -> Any:
        return memoryview(self.sink.disk)[start : start + length]

    def cancel(self) -> None:
        pass

    def close(self) -> Any:
        pass


def with_writer(**methods: Any) -> type[GoodSink]:
    """A sink whose writers have other methods."""
    writer = type("BrokenWriter", (GoodWriter,), methods)

    class Sink(GoodSink):
        def open_writer(self) -> Any:
            return writer(self)

    return Sink


def with_sink(**members: Any) -> type[GoodSink]:
    """A sink with other members."""
    return type("BrokenSink", (GoodSink,), members)


class FullError(LocalIOError):
    """What a target says that cannot store anything."""

    def __init__(self) -> None:
        super().__init__("the shelf is full")


# Names and values


class WriterWithoutZero(GoodSink):
    def open_writer(self) -> Any:
        class Writer:
            def write(self, start: int, buffer: memoryview) -> None: ...
            def close(self) -> None: ...

        return Writer()


# What is stored


def short_write(self: GoodWriter, start: int, buffer: memoryview) -> None:
    GoodWriter.write(self, start, buffer[:50_000])


def skip_small(self: GoodWriter, start: int, length: int) -> None:
    if length > 4096:
        GoodWriter.zero(self, start, length)


def whole_sectors(self: GoodWriter, start: int, length: int) -> None:
    first, end = -(-start // 512) * 512, (start + length) // 512 * 512
    GoodWriter.zero(self, first, max(end - first, 0))


def whole_sectors_again(self: GoodWriter, start: int, buffer: memoryview) -> None:
    """Read the sectors, change a part of them, and write them: not safe beside others."""
    first, end = start // 512 * 512, -(-(start + len(buffer)) // 512) * 512
    sectors = self.sink.disk[first:end]
    sectors[start - first : start - first + len(buffer)] = buffer
    self.sink.disk[first:end] = sectors


def first_half(self: GoodWriter, start: int, length: int) -> None:
    GoodWriter.zero(self, start, min(length, 150_000))


def whole_blocks(self: GoodWriter, start: int, buffer: memoryview) -> None:
    GoodWriter.write(self, start, buffer[: len(buffer) // 512 * 512])


class ZeroAllAtCommit(GoodSink):
    """Zeros late what it should have zeroed when it was asked."""

    def begin(self, info: BackupInfo, extents: Extents) -> None:
        super().begin(info, extents)
        self.zeros: list[tuple[int, int]] = []

    def open_writer(self) -> Any:
        class Writer(GoodWriter):
            def zero(self, start: int, length: int) -> None:
                self.sink.zeros.append((start, length))  # type: ignore[attr-defined]

        return Writer(self)

    def commit(self) -> None:
        for start, length in self.zeros:
            self.disk[start : start + length] = bytes(length)
        super().commit()


class LosesTheLastByte(GoodSink):
    def commit(self) -> None:
        self.disk[-1:] = b"?"
        super().commit()


class OneMoreByte(GoodSink):
    def commit(self) -> None:
        self.disk += b"!"
        super().commit()


class SmallTable(GoodSink):
    """Has a table for a few extents."""

    def begin(self, info: BackupInfo, extents: Extents) -> None:
        super().begin(info, extents)
        if len(extents) > 16:
            raise LocalIOError("there are too many extents")


class NeedsSomeData(GoodSink):
    def commit(self) -> None:
        if not any(self.disk):
            raise LocalIOError("there is no data to keep")
        super().commit()


class AsciiNames(GoodSink):
    def begin(self, info: BackupInfo, extents: Extents) -> None:
        (info.vm_name or "").encode("ascii")
        super().begin(info, extents)


class ForgetsTheRest(GoodSink):
    def begin(self, info: BackupInfo, extents: Extents) -> None:
        self.disk = bytearray(info.size)


class KeepsBuffers(GoodSink):
    """Writes at the commit what it had better copied at once."""

    def begin(self, info: BackupInfo, extents: Extents) -> None:
        super().begin(info, extents)
        self.kept: list[tuple[int, memoryview]] = []

    def open_writer(self) -> Any:
        class Writer(GoodWriter):
            def write(self, start: int, buffer: memoryview) -> None:
                memory = memoryview(buffer.obj)
                offset = 0
                if len(memory) != len(buffer):
                    offset = bytes(memory).find(bytes(buffer))
                self.sink.kept.append((start, memory[offset : offset + len(buffer)]))  # type: ignore[attr-defined]

        return Writer(self)

    def commit(self) -> None:
        for start, buffer in self.kept:
            self.disk[start : start + len(buffer)] = buffer
        super().commit()


def encrypts_in_place(self: GoodWriter, start: int, buffer: memoryview) -> None:
    GoodWriter.write(self, start, buffer)
    buffer[:] = bytes(buffer).swapcase()


def counts(self: GoodWriter, start: int, buffer: memoryview) -> int:
    GoodWriter.write(self, start, buffer)
    return len(buffer)


def counts_zeros(self: GoodWriter, start: int, length: int) -> int:
    GoodWriter.zero(self, start, length)
    return length


class OneAfterAnother(GoodSink):
    """Can only append, but does not say so."""

    max_writers = 1

    def begin(self, info: BackupInfo, extents: Extents) -> None:
        super().begin(info, extents)
        self.at = 0

    def open_writer(self) -> Any:
        class Writer(GoodWriter):
            def write(self, start: int, buffer: memoryview) -> None:
                GoodWriter.write(self, self.sink.at, buffer)  # type: ignore[attr-defined]
                self.sink.at += len(buffer)  # type: ignore[attr-defined]

            def zero(self, start: int, length: int) -> None:
                GoodWriter.zero(self, self.sink.at, length)  # type: ignore[attr-defined]
                self.sink.at += length  # type: ignore[attr-defined]

        return Writer(self)


class OnlyOneWriter(GoodSink):
    """Says that it has four writers, and opens two."""

    opened = 0

    def open_writer(self) -> Any:
        self.opened += 1
        if self.opened > 2:
            raise LocalIOError("too many writers")
        return super().open_writer()


class SharedFile(GoodSink):
    """Its writers share a file, and where that stands."""

    def begin(self, info: BackupInfo, extents: Extents) -> None:
        super().begin(info, extents)
        self.file = io.BytesIO(self.disk)

    def open_writer(self) -> Any:
        class Writer(GoodWriter):
            def write(self, start: int, buffer: memoryview) -> None:
                file: io.BytesIO = self.sink.file  # type: ignore[attr-defined]
                file.seek(start)
                file.write(buffer)

            def zero(self, start: int, length: int) -> None:
                self.write(start, memoryview(bytes(length)))

        return Writer(self)

    def commit(self) -> None:
        self.disk = bytearray(self.file.getvalue())
        super().commit()


class SharedPlace(GoodSink):
    """Its writers share the offset at which they write."""

    max_writers = 2
    at = 0

    def open_writer(self) -> Any:
        class Writer(GoodWriter):
            def write(self, start: int, buffer: memoryview) -> None:
                self.sink.at = start  # type: ignore[attr-defined]
                GoodWriter.write(self, self.sink.at, buffer)  # type: ignore[attr-defined]

        return Writer(self)


class OneThread(GoodSink):
    """Its writers belong to the thread that first used them."""

    def open_writer(self) -> Any:
        class Writer(GoodWriter):
            mine = None

            def write(self, start: int, buffer: memoryview) -> None:
                self.mine = self.mine or threading.get_ident()
                if self.mine != threading.get_ident():
                    raise LocalIOError("this connection belongs to another thread")
                GoodWriter.write(self, start, buffer)

        return Writer(self)


class SharedList(GoodSink):
    """All sinks share one list, by a slip that is easy to make."""

    pieces: list[tuple[int, bytes]] = []  # noqa: RUF012

    def begin(self, info: BackupInfo, extents: Extents) -> None:
        super().begin(info, extents)
        self.pieces.clear()

    def open_writer(self) -> Any:
        class Writer(GoodWriter):
            def write(self, start: int, buffer: memoryview) -> None:
                self.sink.pieces.append((start, bytes(buffer)))  # type: ignore[attr-defined]

            def zero(self, start: int, length: int) -> None:
                self.sink.pieces.append((start, bytes(length)))  # type: ignore[attr-defined]

        return Writer(self)

    def commit(self) -> None:
        for start, piece in self.pieces:
            self.disk[start : start + len(piece)] = piece
        super().commit()


# How it ends


class OpensEarly(GoodSink):
    """Empties the target as soon as it is made."""

    def __init__(self, shelf: Shelf, path: Path) -> None:
        super().__init__(shelf, path)
        if path in shelf:
            shelf[path] = bytes(len(shelf[path]))


class RefusesLate(GoodSink):
    """Notices that it cannot take a disk after it has removed what was there."""

    def begin(self, info: BackupInfo, extents: Extents) -> None:
        super().begin(info, extents)
        if info.size % 512:
            self.shelf.pop(self.path, None)
            raise LocalIOError("the size must be a multiple of 512")


class CommitsLater(GoodSink):
    """Its commit returns early: the rest is done in a thread, for which close waits."""

    thread: threading.Thread | None = None

    def commit(self) -> None:
        def later() -> None:
            time.sleep(0.02)
            self.shelf[self.path] = bytes(self.disk)

        self.thread = threading.Thread(target=later)
        self.thread.start()

    def close(self) -> None:
        if self.thread is not None:
            self.thread.join()


class CommitsInAThread(CommitsLater):
    """The same, but the thread is nearly always fast enough."""

    def commit(self) -> None:
        self.thread = threading.Thread(target=super(CommitsLater, self).commit)
        self.thread.start()


class NamesItAtTheEnd(GoodSink):
    """The disk is complete when its last byte is written; an abort takes that back."""

    def begin(self, info: BackupInfo, extents: Extents) -> None:
        super().begin(info, extents)
        self.old, self.committed = self.shelf.get(self.path), False

    def open_writer(self) -> Any:
        class Writer(GoodWriter):
            def close(self) -> None:
                self.sink.shelf[self.sink.path] = bytes(self.sink.disk)

        return Writer(self)

    def commit(self) -> None:
        self.committed = True

    def abort(self) -> None:
        if self.disk and not self.committed:
            self.shelf.pop(self.path, None)
            if self.old is not None:
                self.shelf[self.path] = self.old


class CommitsInClose(GoodSink):
    aborted = committed = False

    def commit(self) -> None:
        super().commit()
        self.committed = True

    def abort(self) -> None:
        self.aborted = True

    def close(self) -> None:
        if self.disk and not self.aborted and not self.committed:
            self.commit()


class AbortLeavesIt(GoodSink):
    """Keeps what it has when it is aborted."""

    committed = False

    def commit(self) -> None:
        super().commit()
        self.committed = True

    def abort(self) -> None:
        if self.disk and not self.committed and self.path not in self.shelf:
            self.shelf[self.path] = bytes(self.disk)

    def close(self) -> None:
        pass


class AbortDeletesTheOld(GoodSink):
    committed = begun = False

    def begin(self, info: BackupInfo, extents: Extents) -> None:
        super().begin(info, extents)
        self.begun = True

    def commit(self) -> None:
        super().commit()
        self.committed = True

    def abort(self) -> None:
        if self.begun and not self.committed:
            self.shelf.pop(self.path, None)

    def close(self) -> None:
        pass


class MovesTheOld(GoodSink):
    """The old disk is moved out of the way, and comes back in the abort."""

    old: bytes | None = None

    def begin(self, info: BackupInfo, extents: Extents) -> None:
        super().begin(info, extents)
        self.old = self.shelf.pop(self.path, None)

    def commit(self) -> None:
        super().commit()
        self.old = None

    def abort(self) -> None:
        if self.old is not None:
            self.shelf[self.path] = self.old


class GoesOnAfterAnAbort(GoodSink):
    """What an aborted copy wrote is used again, and not zeroed."""

    partial: ClassVar[dict[Path, bytearray]] = {}

    def begin(self, info: BackupInfo, extents: Extents) -> None:
        found = self.partial.pop(self.path, bytearray())
        self.disk = found[: info.size].ljust(info.size, b"\0")

    def open_writer(self) -> Any:
        class Writer(GoodWriter):
            def zero(self, start: int, length: int) -> None:
                pass

        return Writer(self)

    def commit(self) -> None:
        super().commit()
        self.disk = bytearray()

    def abort(self) -> None:
        if self.disk:
            self.partial[self.path] = self.disk


class KeepsTheTail(GoodSink):
    """What follows the end of a smaller disk stays."""

    def begin(self, info: BackupInfo, extents: Extents) -> None:
        self.disk = bytearray(self.shelf.get(self.path, b"").ljust(info.size, b"\0"))


class AbortDeletesTheNew(GoodSink):
    committed = False

    def commit(self) -> None:
        super().commit()
        self.committed = True

    def abort(self) -> None:
        if self.committed:
            self.shelf.pop(self.path, None)

    def close(self) -> None:
        pass


class ClosesOnce(GoodSink):
    closed = False

    def close(self) -> None:
        if self.closed:
            raise LocalIOError("it is closed")
        self.closed = True


class LeavesAFile(GoodSink):
    def begin(self, info: BackupInfo, extents: Extents) -> None:
        super().begin(info, extents)
        left_open.append(os.open("/dev/null", os.O_RDONLY))


class LeavesAThread(GoodSink):
    def begin(self, info: BackupInfo, extents: Extents) -> None:
        super().begin(info, extents)
        threading.Thread(target=give_up.wait, daemon=True).start()


left_open: list[int] = []
give_up = threading.Event()


# Errors: what makes these sinks is `failing`


class FullShelf(GoodSink):
    """A good sink whose shelf is full."""

    def open_writer(self) -> Any:
        class Writer(GoodWriter):
            def write(self, start: int, buffer: memoryview) -> None:
                raise FullError

        return Writer(self)


class SwallowsInWrite(GoodSink):
    def open_writer(self) -> Any:
        class Writer(GoodWriter):
            def write(self, start: int, buffer: memoryview) -> None:
                with suppress(TapestreamError):
                    raise FullError

        return Writer(self)


class SwallowsInFlush(GoodSink):
    def open_writer(self) -> Any:
        class Writer(GoodWriter):
            def flush(self) -> None:
                with suppress(TapestreamError):
                    raise FullError

        return Writer(self)


class SwallowsInCommit(GoodSink):
    def commit(self) -> None:
        with suppress(TapestreamError):
            raise FullError


class SwallowsInClose(GoodSink):
    def open_writer(self) -> Any:
        class Writer(GoodWriter):
            def close(self) -> None:
                with suppress(TapestreamError):
                    raise FullError

        return Writer(self)


class OwnError(GoodSink):
    def commit(self) -> None:
        raise OSError(28, "No space left on device")


# Abilities


class OneHash(GoodSink):
    the_hash = hashlib.sha256()

    def new_hash(self) -> Any:
        return self.the_hash


class FlushEnds(GoodSink):
    """One writer's flush ends the writing of all."""

    flushed = False

    def open_writer(self) -> Any:
        class Writer(GoodWriter):
            def write(self, start: int, buffer: memoryview) -> None:
                if not self.sink.flushed:  # type: ignore[attr-defined]
                    GoodWriter.write(self, start, buffer)

            def flush(self) -> None:
                self.sink.flushed = True  # type: ignore[attr-defined]

        return Writer(self)


class LendsOneBuffer(GoodSink):
    sequential = True

    def begin(self, info: BackupInfo, extents: Extents) -> None:
        super().begin(info, extents)
        self.lent = bytearray(info.size)

    def open_writer(self) -> Any:
        class Writer(GoodWriter):
            def memory(self, start: int, length: int) -> memoryview:
                return memoryview(self.sink.lent)[:length]  # type: ignore[attr-defined]

        return Writer(self)


class KeepAliveWrites(GoodSink):
    def keep_alive(self) -> None:
        self.disk[:1] = b"\0"


class KeepAliveNeedsBegin(GoodSink):
    begun = False

    def begin(self, info: BackupInfo, extents: Extents) -> None:
        super().begin(info, extents)
        self.begun = True

    def keep_alive(self) -> None:
        assert self.begun, "there is no connection yet"


class NeverForgets(GoodSink):
    def lost(self) -> Any:
        return [(0, 4096)]


class CancelsOnce(GoodSink):
    cancelled = False

    def cancel(self) -> None:
        if self.cancelled:
            raise LocalIOError("it is cancelled already")
        self.cancelled = True


class CancelBreaksAbort(GoodSink):
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def abort(self) -> None:
        if self.cancelled:
            raise LocalIOError("there is no connection any more")


class Blocks(GoodSink):
    """Nobody takes what its writers write. A cancel ends that."""

    waits_for_ever = False

    def begin(self, info: BackupInfo, extents: Extents) -> None:
        super().begin(info, extents)
        self.taken = threading.Event()

    def open_writer(self) -> Any:
        return BlocksWriter(self)

    def cancel(self) -> None:
        if not self.waits_for_ever:
            self.taken.set()


class BlocksWriter(GoodWriter):
    sink: Blocks

    def write(self, start: int, buffer: memoryview) -> None:
        self.sink.taken.wait(3 if self.sink.waits_for_ever else None)
        raise FullError

    def cancel(self) -> None:
        self.sink.cancel()


class NeverEnds(Blocks):
    waits_for_ever = True


def made_by(
    kind: Callable[[Shelf, Path], Any],
) -> tuple[Callable[[Path], Any], Callable[[Path], Any]]:
    """`make` and `read_back` for a kind of sink, with a shelf of their own."""
    shelf: Shelf = {}
    return lambda path: kind(shelf, path), shelf.get


def memory_sink() -> tuple[Callable[[Path], MemorySink], Callable[[Path], bytes | None]]:
    """`make` and `read_back` for `MemorySink`."""
    made: dict[Path, MemorySink] = {}

    def make(path: Path) -> MemorySink:
        made[path] = MemorySink(max_writers=4)
        return made[path]

    def read_back(path: Path) -> bytes | None:
        return bytes(made[path].disk) if made[path].state == "committed" else None

    return make, read_back
