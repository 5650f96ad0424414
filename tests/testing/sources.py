"""One good source in memory, and one that breaks each clause of the contract, in a few lines each.

All of them are doubles: each shows a mistake that somebody could make in a source of their own.
"""

from __future__ import annotations

import io
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tapestream import BackupInfo, Extent, Extents, Kind, Reader, Source
from tapestream.backend import Shape
from tapestream.errors import LocalIOError
from tapestream.model.damage import Damage, Findings

EXTENTS = [
    Extent(0, 40_001),
    Extent(40_001, 10_000, zero=True),
    Extent(50_001, 1),
    Extent(50_002, 30_000, zero=True),
    Extent(80_002, 30_000),
    Extent(110_002, 5_000),
    Extent(115_002, 20_000, zero=True),
    Extent(135_002, 7_777),
]
SIZE = 142_779
DISK = b"".join(
    bytes(e.length) if e.zero else random.Random(e.start).randbytes(e.length) for e in EXTENTS
)
BAD = 90_000  # offset of the byte that a broken source cannot read


class GoodReader(Reader):
    prefetch_depth = 3

    def __init__(self, source: GoodSource) -> None:
        self.source = source

    def prefetch(self, start: int, length: int) -> None: ...

    def shapes(self, readers: int) -> list[Shape]:
        return [Shape(4096, 1), Shape(8192, 1)]

    def use(self, shape: Shape) -> None: ...

    def readinto(self, start: int, buffer: memoryview) -> None:
        if self.source.is_blocked:
            self.source.cancelled.wait()
            raise LocalIOError("it was cancelled")
        if self.source.is_broken and start <= BAD < start + len(buffer):
            self.fail()
        buffer[:] = DISK[start : start + len(buffer)]

    def fail(self) -> None:
        raise LocalIOError(f"cannot read offset {BAD}")

    def cancel(self) -> None:
        self.source.cancelled.set()

    def close(self) -> None: ...


class GoodSource(Source):
    """Keeps every clause, and has nearly every ability."""

    info = BackupInfo()
    max_readers = 4
    sequential = False
    digest_name: str | None = "sha256"
    place: Any = "memory"
    server_is_local: Any = False
    device: str | None = None
    missing_until: int | None = None
    reader: type[GoodReader] = GoodReader
    is_broken = is_blocked = False
    # What a broken reader may note here.
    at = readers = 0
    failed = False

    def __init__(self) -> None:
        self.cancelled = threading.Event()

    def extents(self) -> Iterable[Extent]:
        self.info = BackupInfo(size=SIZE)
        return list(EXTENTS)

    def open_reader(self) -> Reader:
        return self.reader(self)

    def finish(self) -> str | None:
        return "sha256"

    def check_complete(self) -> None: ...

    def rewind(self) -> None: ...

    def read_order(self) -> Sequence[Iterable[tuple[int, int, Kind]]] | None:
        return None

    def salvaging(self, findings: Findings) -> Source | None:
        findings.complete = True
        view = type(self)()
        if self.is_broken:
            findings.add(Damage(BAD, 1, "memory", missing=True))
        return view

    def keep_alive(self) -> None: ...

    def cancel(self) -> None:
        self.cancelled.set()

    def close(self) -> None: ...


class GoodWrapper(GoodSource):
    """Keeps every clause, and wraps another source."""

    def __init__(self) -> None:
        super().__init__()
        self.wrapped = GoodSource()


class GoodInPasses(GoodSource):
    """Keeps every clause, and is read in two passes: the end of the disk first."""

    def read_order(self) -> Sequence[Iterable[tuple[int, int, Kind]]]:
        runs = list(Extents.of(EXTENTS).runs())
        return [runs[4:], runs[:4]]


class GoodStream(GoodSource):
    """Keeps every clause, and can be read only from front to back."""

    max_readers = 1
    sequential = True


ALL_GOOD = [GoodSource, GoodWrapper, GoodInPasses, GoodStream]


@dataclass(frozen=True)
class Broken:
    """A source that breaks a clause.

    Attributes:
        make: Makes it.
        clause: The clause.
        also: Other clauses that it breaks, too: they follow from the mistake.
    """

    make: Callable[[], GoodSource]
    clause: str
    also: frozenset[str]


ALL_BROKEN: list[Broken] = []
# For a mistake after which nothing else can be asked.
EVERYTHING = "everything"


def breaks(clause: str, *also: str) -> Callable[[type[GoodSource]], type[GoodSource]]:
    def add(source: type[GoodSource]) -> type[GoodSource]:
        ALL_BROKEN.append(Broken(source, clause, frozenset(also)))
        return source

    return add


def reads(clause: str, *also: str, **attributes: Any) -> Callable[[type[GoodReader]], None]:
    """A source that is good but for its reader."""

    def add(reader: type[GoodReader]) -> None:
        make = type(reader.__name__, (GoodSource,), {"reader": reader, **attributes})
        ALL_BROKEN.append(Broken(make, clause, frozenset(also)))

    return add


def lists(name: str, clause: str, *also: str, extents: Callable[[], object]) -> None:
    """A source that is good but for its extents."""

    def listed(self: GoodSource) -> Any:
        self.info = BackupInfo(size=SIZE)
        return extents()

    make = type(name, (GoodSource,), {"extents": listed})
    ALL_BROKEN.append(Broken(make, clause, frozenset(also)))


# What it says about the disk


@breaks("source-names", "source-ability-values", "source-info-stays", "source-copy")
class NoReaders(GoodSource):
    max_readers = 0


@breaks("source-names", "source-ability-values", "source-copy")
class SequentialIsANumber(GoodSource):
    sequential = 0  # type: ignore[assignment]


@breaks("source-info")
class NoInfoAtFirst(GoodSource):
    info = None  # type: ignore[assignment]


lists("LeavesAGap", "source-extents-cover", EVERYTHING, extents=lambda: EXTENTS[:3] + EXTENTS[4:])
lists("Overlaps", "source-extents-cover", EVERYTHING, extents=lambda: EXTENTS[:3] + EXTENTS[2:])
lists("IsNotInOrder", "source-extents-cover", EVERYTHING, extents=lambda: EXTENTS[::-1])
lists("BeginsLater", "source-extents-cover", EVERYTHING, extents=lambda: EXTENTS[1:])
lists(
    "ListsDicts",
    "source-extents-cover",
    EVERYTHING,
    extents=lambda: [e.to_dict() for e in EXTENTS],
)
lists("EndsEarly", "source-size", "source-copy", extents=lambda: EXTENTS[:-1])
lists(
    "IsPartlyDirty",
    "source-extents-cover",
    EVERYTHING,
    extents=lambda: [*EXTENTS[:-1], replace(EXTENTS[-1], dirty=True)],
)
lists(
    "SaysWhatIsDirtyInAFullBackup",
    "source-context",
    "source-copy",
    extents=lambda: [replace(e, dirty=True) for e in EXTENTS],
)
lists(
    "CallsDataZeros",
    "source-zeros",
    extents=lambda: [replace(EXTENTS[0], zero=True), *EXTENTS[1:]],
)


@breaks("source-extents-again", "source-rewind", "source-copy")
class ListsOnlyOnce(GoodSource):
    def __init__(self) -> None:
        super().__init__()
        self.list = iter(EXTENTS)

    def extents(self) -> Iterator[Extent]:
        super().extents()
        return self.list


@breaks("source-extents-again", "source-rewind")
class ListsLessEachTime(GoodSource):
    made = 0

    def extents(self) -> Iterable[Extent]:
        type(self).made += 1
        whole = list(super().extents())
        return whole if self.made % 2 else [Extent(0, SIZE)]


@breaks("source-context", "source-copy")
class ClaimsToBeIncremental(GoodSource):
    def extents(self) -> Iterable[Extent]:
        self.info = BackupInfo(size=SIZE, context="dirty")
        return list(EXTENTS)


@breaks("source-size", "source-copy")
class KnowsNoSize(GoodSource):
    def extents(self) -> Iterable[Extent]:
        return list(EXTENTS)


@reads("source-info-stays", "source-copy")
class GrowsMeanwhile(GoodReader):
    def close(self) -> None:
        self.source.info = BackupInfo(size=SIZE + 512)


# How it is read


@breaks("source-reader", EVERYTHING)
class OpensAFile(GoodSource):
    def open_reader(self) -> Any:
        return "reader"


@reads("source-reader", EVERYTHING)
class CannotAnnounce(GoodReader):
    prefetch_depth = 0


@reads("source-content")
class IsOffByOne(GoodReader):
    def readinto(self, start: int, buffer: memoryview) -> None:
        buffer[:] = (DISK + b"\0")[start + 1 : start + 1 + len(buffer)]


@reads("source-fills", EVERYTHING)
class IsShortAtTheEnd(GoodReader):
    def readinto(self, start: int, buffer: memoryview) -> None:
        super().readinto(start, buffer[:-1])


@reads("source-returns", "source-copy")
class ReturnsAShortCount(GoodReader):
    def readinto(self, start: int, buffer: memoryview) -> Any:
        super().readinto(start, buffer)
        return len(buffer) - 1


@reads("source-returns", "source-copy")
class IsNotAwaited(GoodReader):
    def readinto(self, start: int, buffer: memoryview) -> Any:
        super().readinto(start, buffer)
        return True


@reads("source-bounds", "source-copy")
class WritesWholeSectors(GoodReader):
    def readinto(self, start: int, buffer: memoryview) -> None:
        super().readinto(start, buffer)
        whole = memoryview(buffer.obj)
        length = min(-(-len(buffer) // 512) * 512, len(whole))
        whole[-length:] = bytes(buffer) + bytes(length - len(buffer))


class Keeps(GoodReader):
    def __init__(self, source: GoodSource) -> None:
        super().__init__(source)
        self.kept: list[memoryview] = []


@reads("source-buffers")
class KeepsItsBuffer(Keeps):
    def readinto(self, start: int, buffer: memoryview) -> None:
        super().readinto(start, buffer)
        self.kept.append(buffer[:1])
        self.kept.append(memoryview(buffer))


@reads("source-buffers", "source-copy")
class FillsItLater(Keeps):
    """It keeps what the buffer belongs to, and fills that one again in its next call."""

    last: Any = None

    def readinto(self, start: int, buffer: memoryview) -> None:
        super().readinto(start, buffer)
        if self.last is not None:
            self.last[:1] = b"\0" if self.last[0] else b"\1"
        self.last = buffer.obj


@reads("source-odd")
class ReadsWholeSectors(GoodReader):
    def readinto(self, start: int, buffer: memoryview) -> None:
        first = start - start % 512 if start % 512 and start % 4099 == 0 else start
        buffer[:] = DISK[first : first + len(buffer)]


@reads("source-single-bytes")
class LosesTheLastByte(GoodReader):
    def readinto(self, start: int, buffer: memoryview) -> None:
        if start < SIZE - 1:
            super().readinto(start, buffer)


@reads("source-across-extents", "source-within-gaps", "source-copy")
class StopsAtTheEndOfAnExtent(GoodReader):
    def readinto(self, start: int, buffer: memoryview) -> None:
        end = next(e.start + e.length for e in EXTENTS if start < e.start + e.length)
        part = buffer[: end - start]
        super().readinto(start, part)
        buffer[len(part) :] = bytes(len(buffer) - len(part))


@reads("source-within-gaps", "source-copy")
class KnowsNoGaps(GoodReader):
    def readinto(self, start: int, buffer: memoryview) -> None:
        if not any(DISK[start : start + len(buffer)]):
            raise LocalIOError("nothing was stored there")
        super().readinto(start, buffer)


@reads("source-skips", "source-single-bytes", sequential=True)
class DeliversWhatIsNext(GoodReader):
    """A stream of the data alone, which is not moved to where it should be read."""

    at = 0
    stream = b"".join(DISK[e.start : e.start + e.length] for e in EXTENTS if not e.zero)

    def readinto(self, start: int, buffer: memoryview) -> None:
        for e in EXTENTS:
            first, end = max(start, e.start), min(start + len(buffer), e.start + e.length)
            if first < end and not e.zero:
                buffer[first - start : end - start] = self.stream[self.at : self.at + end - first]
                self.at += end - first


@breaks("source-max-readers", "source-threads", "source-info-stays", "source-copy")
class HasOneReaderLess(GoodSource):
    opened = 0

    def open_reader(self) -> Reader:
        self.opened += 1
        if self.opened == self.max_readers:
            raise LocalIOError("too many readers")
        return super().open_reader()


class SharedFile(GoodSource):
    """Its readers share one file."""

    def __init__(self) -> None:
        super().__init__()
        self.file = io.BytesIO(DISK)


class FromSharedFile(GoodReader):
    source: SharedFile

    def readinto(self, start: int, buffer: memoryview) -> None:
        self.source.file.seek(start)
        self.source.file.readinto(buffer)


class FromItsOwnPlace(FromSharedFile):
    at = -1

    def readinto(self, start: int, buffer: memoryview) -> None:
        if start != self.at:
            self.source.file.seek(start)
        self.source.file.readinto(buffer)
        self.at = start + len(buffer)


class EndsAll(FromSharedFile):
    def close(self) -> None:
        self.source.file.close()


@breaks("source-threads", "source-copy")
class SeeksAndReads(SharedFile):
    reader = FromSharedFile


@breaks("source-independent", "source-threads", "source-copy")
class SeeksOnlyIfItMust(SharedFile):
    reader = FromItsOwnPlace


@breaks("source-reader-close", "source-threads", "source-rewind", "source-copy")
class ClosesWhatAllReadersShare(SharedFile):
    reader = EndsAll


@breaks("source-threads", "source-independent", "source-copy")
class ChangesItsAnswersUnderSeveralReaders(GoodSource):
    class reader(GoodReader):  # noqa: N801
        def __init__(self, source: GoodSource) -> None:
            super().__init__(source)
            source.readers += 1

        def readinto(self, start: int, buffer: memoryview) -> None:
            super().readinto(start, buffer)
            if self.source.readers > 1 and start >= 100_000:
                buffer[0] ^= 0xFF

        def close(self) -> None:
            self.source.readers -= 1


@reads("source-any-thread", "source-threads", "source-copy", "source-keep-alive")
class StaysInItsThread(GoodReader):
    """As a connection of sqlite3 does."""

    def __init__(self, source: GoodSource) -> None:
        super().__init__(source)
        self.thread = threading.get_ident()

    def readinto(self, start: int, buffer: memoryview) -> None:
        if threading.get_ident() != self.thread:
            raise LocalIOError("this is not the thread in which it was opened")
        super().readinto(start, buffer)


@reads("source-copy")
class FailsInACopyOnly(GoodReader):
    def readinto(self, start: int, buffer: memoryview) -> None:
        super().readinto(start, buffer)
        if threading.current_thread().name.startswith("tapestream-reader"):
            buffer[0] ^= 1


# How it fails


@reads("source-errors")
class SwallowsTheError(GoodReader):
    def fail(self) -> None: ...


@breaks("source-errors", "source-error-close")
class RaisesInClose(GoodSource):
    class reader(GoodReader):  # noqa: N801
        def fail(self) -> None:
            self.source.failed = True

    def close(self) -> None:
        if self.failed:
            raise LocalIOError("something could not be read")


@reads("source-error-kind")
class RaisesOSError(GoodReader):
    def fail(self) -> None:
        raise OSError(5, "Input/output error")


@breaks("source-error-close")
class CannotBeClosedAfterAnError(GoodSource):
    class reader(GoodReader):  # noqa: N801
        def fail(self) -> None:
            self.source.failed = True
            super().fail()

    def close(self) -> None:
        assert not self.failed


# How it ends


@breaks("source-close-twice")
class ClosesOnce(GoodSource):
    is_closed = False

    def close(self) -> None:
        assert not self.is_closed
        self.is_closed = True


@breaks("source-close-early", "source-names", "source-salvage")
class ClosesWhatIsNotOpen(GoodSource):
    def extents(self) -> Iterable[Extent]:
        self.file = io.BytesIO(DISK)
        return super().extents()

    def close(self) -> None:
        self.file.close()


@reads("source-releases")
class LeavesADescriptor(GoodReader):
    def __init__(self, source: GoodSource) -> None:
        super().__init__(source)
        self.descriptor = os.open(os.devnull, os.O_RDONLY)


@reads("source-releases")
class LeavesAThread(GoodReader):
    def __init__(self, source: GoodSource) -> None:
        super().__init__(source)
        threading.Thread(target=time.sleep, args=(3,), daemon=True).start()


# Abilities


@breaks("source-ability-values", "source-copy")
class IsLocalIsAMethod(GoodSource):
    def server_is_local(self) -> bool:
        return True


@breaks("source-ability-values", "source-copy")
class PlaceIsAPath(GoodSource):
    place = Path("/disk")


@reads("source-prefetch", "source-prefetch-unread", "source-shapes", "source-copy")
class KnowsOnlyTheLastRange(GoodReader):
    at = end = 0

    def prefetch(self, start: int, length: int) -> None:
        self.at, self.end = start, start + length

    def readinto(self, start: int, buffer: memoryview) -> None:
        if not self.at <= start < self.end:
            raise LocalIOError("this range was not announced")
        super().readinto(start, buffer)


@reads("source-prefetch-unread")
class WaitsForWhatWasAnnounced(GoodReader):
    left = 0

    def prefetch(self, start: int, length: int) -> None:
        self.left += length

    def readinto(self, start: int, buffer: memoryview) -> None:
        super().readinto(start, buffer)
        self.left -= len(buffer)

    def close(self) -> None:
        assert not self.left


@reads("source-shapes")
class IsOffByOneInLargeRequests(GoodReader):
    shift = 0

    def use(self, shape: Shape) -> None:
        self.shift = int(shape.size > 4096)

    def readinto(self, start: int, buffer: memoryview) -> None:
        super().readinto(start, buffer)
        at = start + self.shift
        buffer[:] = (DISK + b"\0")[at : at + len(buffer)]


@reads("source-cancel-blocked", "source-close-blocked")
class IsNotCancelled(GoodReader):
    def cancel(self) -> None: ...


@reads("source-cancel-blocked")
class ReturnsWhenCancelled(GoodReader):
    def readinto(self, start: int, buffer: memoryview) -> None:
        if self.source.is_blocked:
            self.source.cancelled.wait()
        else:
            super().readinto(start, buffer)


@breaks("source-close-blocked")
class ClosesWithoutEndingItsCopy(GoodSource):
    """Its close is none that `Source` knows."""

    def __init__(self) -> None:
        super().__init__()
        self.close = lambda: None  # type: ignore[method-assign]


@reads("source-cancel-any-time")
class IsCancelledOnce(GoodReader):
    is_cancelled = False

    def cancel(self) -> None:
        assert not self.is_cancelled
        self.is_cancelled = True
        super().cancel()


@reads("source-cancel-any-time")
class GivesZerosAfterCancel(GoodReader):
    is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True
        super().cancel()

    def readinto(self, start: int, buffer: memoryview) -> None:
        super().readinto(start, buffer)
        if self.is_cancelled:
            buffer[:] = bytes(len(buffer))


@breaks("source-keep-alive")
class KeepsAliveForever(GoodSource):
    def keep_alive(self) -> None:
        self.cancelled.wait()


@breaks("source-keep-alive")
class MovesWhenKeptAlive(SharedFile):
    reader = FromItsOwnPlace
    max_readers = 1

    def keep_alive(self) -> None:
        self.file.seek(0)


@breaks("source-finish", "source-finish-early", "source-digest", "source-copy")
class FinishesWithTrue(GoodSource):
    def finish(self) -> Any:
        return True


@breaks("source-finish-early")
class MustBeReadToItsEnd(GoodSource):
    class reader(GoodReader):  # noqa: N801
        def readinto(self, start: int, buffer: memoryview) -> None:
            super().readinto(start, buffer)
            self.source.at = start + len(buffer)

    def finish(self) -> str:
        if self.at < SIZE:
            raise LocalIOError("it was not read to its end")
        return "sha256"


@breaks("source-digest")
class ComparesNothing(GoodSource):
    def finish(self) -> None: ...


@breaks("source-check-complete")
class IsReadToBeChecked(GoodSource):
    is_read = False

    def check_complete(self) -> None:
        self.is_read = True

    def open_reader(self) -> Reader:
        if self.is_read:
            raise LocalIOError("it was read already")
        return super().open_reader()


@breaks("source-rewind")
class DoesNotRewind(GoodStream):
    class reader(GoodReader):  # noqa: N801
        def readinto(self, start: int, buffer: memoryview) -> None:
            if start < self.source.at:
                raise LocalIOError("it cannot be read again")
            self.source.at = start + len(buffer)
            super().readinto(start, buffer)


@breaks("source-read-order", EVERYTHING)
class LeavesOutAPass(GoodInPasses):
    def read_order(self) -> Sequence[Iterable[tuple[int, int, Kind]]]:
        return super().read_order()[:1]


@breaks("source-salvage")
class FindsDamageWhereThereIsNone(GoodSource):
    def salvaging(self, findings: Findings) -> Source | None:
        findings.note("nothing is known")
        return super().salvaging(findings)


@breaks("source-salvage")
class SalvagesZeros(GoodSource):
    class zeros(GoodReader):  # noqa: N801
        def readinto(self, start: int, buffer: memoryview) -> None:
            buffer[:] = bytes(len(buffer))

    def salvaging(self, findings: Findings) -> Source | None:
        view = GoodSource()
        view.reader = self.zeros
        findings.complete = True
        if self.is_broken:
            findings.note("damaged")
        return view


@breaks("source-salvage-damage")
class NotesNothing(GoodSource):
    def salvaging(self, findings: Findings) -> Source | None:
        findings.complete = True
        return GoodSource()


@breaks("source-missing-until", "source-copy")
class ClaimsThatDataIsMissing(GoodSource):
    missing_until = 60_000


@breaks("source-wrapped", EVERYTHING)
class WrapsAPath(GoodSource):
    wrapped = "/disk"
