"""A user's backends: mypy must accept those that inherit from nothing, and those that inherit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tapestream import (
    BackupInfo,
    Extent,
    Extents,
    Reader,
    Sink,
    Source,
    Writer,
    compare,
    copy,
    merge_chain,
    restore_chain,
    verify,
)
from tapestream.backend import ForwardingSink, ForwardingSource, SinkLike, SourceLike

DISK = bytes(range(256)) * 1024


class PlainReader:
    def readinto(self, start: int, buffer: memoryview) -> None:
        buffer[:] = DISK[start : start + len(buffer)]

    def close(self) -> None: ...


class PlainSource:
    """The names of a source, and nothing else: no base class, and no `with`."""

    max_readers = 1
    sequential = False

    def __init__(self) -> None:
        self.info = BackupInfo(size=len(DISK))

    def extents(self) -> list[Extent]:
        return [Extent(0, len(DISK))]

    def open_reader(self) -> PlainReader:
        return PlainReader()

    def close(self) -> None: ...


class PlainWriter:
    def __init__(self, path: Path) -> None:
        self.file = path.open("r+b")

    def write(self, start: int, buffer: memoryview) -> None:
        self.file.seek(start)
        self.file.write(buffer)

    def zero(self, start: int, length: int) -> None:
        self.write(start, memoryview(bytes(length)))

    def close(self) -> None:
        self.file.close()


class PlainSink:
    """The names of a sink, and nothing else."""

    max_writers = 1
    sequential = False

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, info: BackupInfo, extents: Extents) -> None:
        self.path.write_bytes(bytes(info.size))

    def open_writer(self) -> PlainWriter:
        return PlainWriter(self.path)

    def commit(self) -> str:
        return self.path.name

    def abort(self) -> None: ...

    def close(self) -> None: ...


class InheritingSource(Source):
    max_readers = 1
    sequential = False
    info = BackupInfo(size=len(DISK))

    def extents(self) -> list[Extent]:
        return [Extent(0, len(DISK))]

    def open_reader(self) -> Reader:
        return PlainReader()

    def close(self) -> None: ...


class InheritingSink(Sink):
    max_writers = 1
    sequential = True
    closed = 0

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, info: BackupInfo, extents: Extents) -> None:
        self.path.write_bytes(bytes(info.size))

    def open_writer(self) -> Writer:
        return PlainWriter(self.path)

    def commit(self) -> str:
        return self.path.name

    def abort(self) -> None: ...

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("make_sink", [PlainSink, InheritingSink])
@pytest.mark.parametrize("make_source", [PlainSource, InheritingSource])
def test_a_backend_need_not_inherit(
    make_source: Callable[[], SourceLike], make_sink: Callable[[Path], SinkLike], tmp_path: Path
) -> None:
    path = tmp_path / "disk"
    assert copy(make_source(), make_sink(path)).receipt == "disk"
    assert path.read_bytes() == DISK


def test_every_function_takes_what_inherits_from_nothing(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    copy(ForwardingSource(PlainSource()), ForwardingSink(PlainSink(path)))
    assert verify(PlainSource()).ok
    assert compare(PlainSource(), PlainSource()).equal
    restore_chain([PlainSource()], PlainSink(path))
    copy(merge_chain([PlainSource()]), PlainSink(path))
    assert path.read_bytes() == DISK


def test_what_inherits_is_used_in_with(tmp_path: Path) -> None:
    with InheritingSource() as source, InheritingSink(tmp_path / "disk") as sink:
        copy(source, sink)
        inherited: InheritingSink = sink
    assert inherited.closed == 1


def test_what_inherits_must_have_every_name() -> None:
    class Part(Sink):
        max_writers = 1
        sequential = True

    with pytest.raises(TypeError, match="abstract"):
        Part()  # type: ignore[abstract]
