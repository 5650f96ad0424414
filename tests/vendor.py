# pyright: strict
"""What programs that embed us write, for type checkers: all of it must pass, in strict mode.

It is never run. mypy checks it with the rest of the tests, and `test_types.py` checks it with
pyright. Lines that must be refused have the error in a comment; an error that does not come is one,
too.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from tapestream import (
    BackupInfo,
    CopyResult,
    Extent,
    Extents,
    Reader,
    Sink,
    Source,
    TapestreamError,
    TarStreamSink,
    TarStreamSource,
    Writer,
    copy,
    restore_chain,
    verify,
)
from tapestream.backend import (
    ForwardingReader,
    ForwardingSink,
    ForwardingSource,
    KeepsAlive,
    Rewinds,
    SinkLike,
    SourceLike,
    ability,
)


class EmptyReader(Reader):
    def readinto(self, start: int, buffer: memoryview) -> None:
        buffer[:] = bytes(len(buffer))

    def close(self) -> None:
        pass


class EmptyWriter(Writer):
    def write(self, start: int, buffer: memoryview) -> None:
        pass

    def zero(self, start: int, length: int) -> None:
        pass

    def close(self) -> None:
        pass


class _Methods(Source):
    def extents(self) -> Iterable[Extent]:
        return [Extent(0, 4096)]

    def open_reader(self) -> Reader:
        return EmptyReader()

    def close(self) -> None:
        pass


class WithAttributes(_Methods):
    """Plain attributes of the class, and of the object."""

    info = BackupInfo()
    max_readers = 1
    sequential = False

    def __init__(self, size: int) -> None:
        self.info = BackupInfo(size=size)


class WithAnnotations(_Methods):
    info: BackupInfo = BackupInfo(size=4096)
    max_readers: int = 4
    sequential: bool = True


class WithProperties(_Methods):
    @cached_property
    def info(self) -> BackupInfo:
        return BackupInfo(size=4096)

    @property
    def max_readers(self) -> int:
        return 1

    @property
    def sequential(self) -> bool:
        return True


@dataclass
class AsDataclass(_Methods):
    info: BackupInfo
    max_readers: int = 1
    sequential: bool = False


class Unrelated:
    """Inherits from nothing, and has an ability."""

    info = BackupInfo(size=4096)
    max_readers = 1
    sequential = False
    place = "nowhere"

    def extents(self) -> Iterator[Extent]:
        yield Extent(0, 4096)

    def open_reader(self) -> EmptyReader:
        return EmptyReader()

    def close(self) -> None:
        pass

    def rewind(self) -> None:
        pass


class Incomplete(Source):
    """Has no `close`."""

    info = BackupInfo()
    max_readers = 1
    sequential = False

    def extents(self) -> Iterable[Extent]:
        return []

    def open_reader(self) -> Reader:
        return EmptyReader()


class PlainSink(Sink):
    max_writers = 2
    sequential = False
    coalesce_zeros = 4096

    def begin(self, info: BackupInfo, extents: Extents) -> None:
        self.size = info.size

    def open_writer(self) -> Writer:
        return EmptyWriter()

    def commit(self) -> str:
        return "done"

    def abort(self) -> None:
        pass

    def close(self) -> None:
        self.abort()


@dataclass
class UnrelatedSink:
    store: Path
    max_writers: int = 1
    sequential: bool = True
    names: list[str] = field(default_factory=list[str])

    def begin(self, info: BackupInfo, extents: Extents) -> None:
        self.names.append(info.disk_id or "")

    def open_writer(self) -> EmptyWriter:
        return EmptyWriter()

    def commit(self) -> None:
        pass

    def abort(self) -> None:
        pass

    def close(self) -> None:
        pass


class InOrder(ForwardingSink):
    """Overrides what the wrapped sink says by plain attributes."""

    max_writers = 1
    sequential = True


class OneReader(ForwardingSource):
    max_readers = 1

    def open_reader(self) -> Reader:
        return Counting(super().open_reader())


class Counting(ForwardingReader):
    count = 0

    def readinto(self, start: int, buffer: memoryview) -> None:
        super().readinto(start, buffer)
        self.count += len(buffer)


class Upload:
    """A file object that commits and aborts."""

    def write(self, data: memoryview) -> int:
        return len(data)

    def commit(self) -> None:
        pass

    def abort(self) -> None:
        pass


def every_backend_is_accepted(store: Path) -> list[CopyResult]:
    sources: list[SourceLike] = [
        WithAttributes(4096),
        WithAnnotations(),
        WithProperties(),
        AsDataclass(BackupInfo(size=4096)),
        Unrelated(),
        OneReader(Unrelated()),
    ]
    sinks: list[SinkLike] = [PlainSink(), UnrelatedSink(store), InOrder(PlainSink())]
    copy(Incomplete(), PlainSink())  # type: ignore[abstract]  # pyright: ignore[reportAbstractUsage]
    copy(PlainSink(), PlainSink())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return [copy(src, dst) for src in sources for dst in sinks]


def annotated(src: Source, dst: Sink) -> int:
    """`Source` and `Sink` as annotations keep what they are."""
    readers: int = src.max_readers
    size: int = src.info.size
    return readers + size + dst.max_writers + copy(src, dst).data_bytes


def back_up(src: Source, target: BinaryIO | Upload | Path) -> str | None:
    with src, TarStreamSink(target) as dst:
        result = copy(src, dst, progress=None, max_gap=0)
    return result.checksum


def restore(tars: list[Path], dst: Sink) -> int:
    try:
        return restore_chain([TarStreamSource(tar) for tar in tars], dst).data_bytes
    except TapestreamError as e:
        print(e.hint)
        raise


def ask(src: SourceLike) -> None:
    rewinds = ability(src, Rewinds)
    if rewinds is not None:
        rewinds.rewind()
    alive = ability(src, KeepsAlive)
    if alive is not None:
        alive.keep_alive()


@contextmanager
def opened(tar: Path) -> Generator[TarStreamSource]:
    with TarStreamSource(tar) as src:
        print(verify(src).checksum)
        yield src
