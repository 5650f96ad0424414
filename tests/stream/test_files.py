"""Tars in regular files, and the rules of a sink that has ended."""

from __future__ import annotations

import contextlib
import errno
import io
import stat
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from tapestream import BackupInfo, Extent, Sink, TarStreamSink, TarStreamSource, copy
from tapestream.errors import LocalIOError, UsageError
from tapestream.model.extents import Extents
from tapestream.testing.memory import MemorySource
from tests.stream.support import TEN_BYTES, BoomError, Trickle, backup, boom, restore
from tests.tar.tars import CREATED, DISK, disk

# --- Regular files ---


def test_a_file_has_its_name_only_when_it_is_complete(path: Path) -> None:
    path.write_bytes(b"the older one")

    def check_older(start: int, length: int) -> None:
        assert path.read_bytes() == b"the older one"

    with TarStreamSink(path) as sink:
        (partial,) = set(path.parent.iterdir()) - {path}
        assert partial.name.startswith(".disk.tar.")
        assert partial.name.endswith(".partial")
        assert stat.S_IMODE(partial.stat().st_mode) == 0o600
        copy(MemorySource(DISK, before_read=check_older), sink)
        assert [*path.parent.iterdir()] == [path]
    assert [*path.parent.iterdir()] == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert restore(path) == DISK


@pytest.mark.parametrize("older", [None, b"the older one"])
@pytest.mark.parametrize("way", ["nothing", "begun", "failed copy", "error in with", "abort"])
def test_what_is_not_complete_leaves_nothing(path: Path, older: bytes | None, way: str) -> None:
    if older is not None:
        path.write_bytes(older)
    with contextlib.suppress(BoomError), TarStreamSink(path) as sink:
        match way:
            case "begun":
                sink.begin(BackupInfo(size=10), TEN_BYTES)
            case "failed copy":
                copy(MemorySource(DISK, before_read=boom), sink)
            case "error in with":
                raise BoomError
            case "abort":
                sink.begin(BackupInfo(size=10), TEN_BYTES)
                sink.abort()
                sink.abort()
                assert [*path.parent.iterdir()] == ([path] if older else [])
            case _:
                pass
    assert [*path.parent.iterdir()] == ([path] if older else [])
    assert older is None or path.read_bytes() == older


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    link = tmp_path / "link.tar"
    link.symlink_to("far/disk.tar")
    for content in (disk(1), disk(2)):  # it dangles, and then it does not
        backup(link, content)
        assert link.is_symlink()
        assert restore(tmp_path / "far" / "disk.tar") == content
    assert [*(tmp_path / "far").iterdir()] == [tmp_path / "far" / "disk.tar"]


def test_a_name_as_long_as_names_can_be(tmp_path: Path) -> None:
    backup(tmp_path / ("a" * 255))
    assert restore(tmp_path / ("a" * 255)) == DISK


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a regular file"):
        TarStreamSink(tmp_path)
    with pytest.raises(LocalIOError) as caught:
        TarStreamSource(tmp_path)
    assert caught.value.errno == errno.EISDIR


@pytest.mark.parametrize("end", [TarStreamSink, TarStreamSource])
@pytest.mark.parametrize(
    ("name", "number"),
    [("missing/disk.tar", errno.ENOENT), ("file/disk.tar", errno.ENOTDIR), ("loop", errno.ELOOP)],
)
def test_a_path_that_cannot_be(end: Any, name: str, number: int, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(LocalIOError, match=name) as caught:
        end(tmp_path / name)
    assert caught.value.errno == number
    assert {p.name for p in tmp_path.iterdir()} == {"file", "loop"}


def test_a_missing_file(path: Path) -> None:
    with pytest.raises(LocalIOError, match=r"cannot open .*disk\.tar: No such file"):
        TarStreamSource(path)


def test_a_name_that_is_taken_in_between(path: Path) -> None:
    with TarStreamSink(path) as sink:
        path.mkdir()
        with MemorySource(DISK) as source, pytest.raises(LocalIOError):
            copy(source, sink)
    assert [*path.parent.iterdir()] == [path]


# --- The rules of a sink and a source ---


def test_a_sink_that_has_ended_takes_nothing(path: Path) -> None:
    sink: Sink = TarStreamSink(path)
    sink.close()
    for call in (sink.open_writer, sink.commit, lambda: sink.begin(BackupInfo(size=10), TEN_BYTES)):
        with pytest.raises(UsageError):
            call()
    sink.abort()
    sink.close()


def test_an_abort_after_a_commit_changes_nothing(path: Path) -> None:
    sink = TarStreamSink(path)
    copy(MemorySource(DISK), sink)
    sink.abort()
    sink.close()
    assert restore(path) == DISK


def test_a_stream_is_the_same_whatever_it_is_written_to(path: Path) -> None:
    memory, trickle = io.BytesIO(), Trickle()
    for target in (path, memory, trickle):
        with MemorySource(DISK, info=BackupInfo(created=CREATED)) as source:
            copy(source, sink := TarStreamSink(target))
            sink.close()
    assert path.read_bytes() == memory.getvalue() == bytes(trickle.content)


def test_memory_does_not_grow_with_the_members() -> None:
    """Of each, no more is kept than its digest; here there is none."""

    class Nowhere:
        def write(self, data: memoryview) -> int:
            return len(data)

    def peak(members: int) -> int:
        size = 2 * 512 * members
        extents = Extents.of(
            Extent(start, 512, zero=bool(start % 1024)) for start in range(0, size, 512)
        )
        sink = TarStreamSink(Nowhere(), checksum=None)
        sink.begin(BackupInfo(size=size), extents)
        writer, data = sink.open_writer(), memoryview(bytes(512))
        tracemalloc.start()
        try:
            for start in range(0, size, 1024):
                writer.write(start, data)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            sink.abort()

    assert peak(4000) < peak(1000) + 4000
