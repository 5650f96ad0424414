"""A file gets its name when it is complete; what happens around that moment is told truly."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tapestream import (
    DiscardSink,
    RawImageSink,
    RawImageSource,
    Sink,
    TarStreamSink,
    TarStreamSource,
    copy,
)
from tapestream.errors import LocalIOError, NotDurableError
from tapestream.files.atomic import AtomicFile
from tapestream.testing.memory import MemorySource

DISK = bytes(range(256)) * 4096
NOBODY = 65534
NEW: list[Callable[[Path], Sink]] = [TarStreamSink, RawImageSink]


def check(path: Path, make: Callable[[Path], Sink]) -> None:
    if make is RawImageSink:
        assert path.read_bytes() == DISK
        return
    with TarStreamSource(path) as source:
        copy(source, DiscardSink())


@contextmanager
def as_nobody(path: Path) -> Iterator[None]:
    """Be an ordinary user to whom a directory belongs: no mode stops root."""
    is_root = os.geteuid() == 0
    if is_root:
        os.chown(path, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@pytest.mark.parametrize("make", NEW)
def test_a_directory_that_cannot_be_listed(make: Callable[[Path], Sink]) -> None:
    """A user may write there, but not look: as in drop boxes."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o711)
        box = Path(name) / "box"
        box.mkdir(0o300)
        with as_nobody(box):
            with pytest.raises(PermissionError):
                os.listdir(box)
            for _ in range(2):  # the second replaces the first
                with MemorySource(DISK) as source, make(box / "disk") as sink:
                    copy(source, sink)
        box.chmod(0o700)
        check(box / "disk", make)
        assert len(list(box.iterdir())) == 1


def on_directories(
    monkeypatch: pytest.MonkeyPatch, number: int, *, after: int = 0
) -> list[os.stat_result]:
    """A stand-in: the file system fails to sync directories, after the first so many times."""
    synced: list[os.stat_result] = []
    fsync = os.fsync

    def fails(fd: int) -> None:
        found = os.fstat(fd)
        if stat.S_ISDIR(found.st_mode):
            synced.append(found)
            if len(synced) > after:
                raise OSError(number, os.strerror(number))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", fails)
    return synced


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
@pytest.mark.parametrize("make", NEW)
def test_a_file_system_that_does_not_sync_directories(
    number: int, make: Callable[[Path], Sink], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_directories(monkeypatch, number)
    with MemorySource(DISK) as source, make(tmp_path / "disk") as sink:
        copy(source, sink)
    check(tmp_path / "disk", make)


@pytest.mark.parametrize("make", NEW)
def test_a_directory_that_fails_is_found_before_anything_is_replaced(
    make: Callable[[Path], Sink], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "disk"
    if make is TarStreamSink:
        path.write_bytes(b"old")
    on_directories(monkeypatch, errno.EIO)
    with MemorySource(DISK) as source, make(path) as sink, pytest.raises(LocalIOError) as caught:
        copy(source, sink)
    assert not isinstance(caught.value, NotDurableError)
    assert caught.value.errno == errno.EIO
    if make is TarStreamSink:
        assert path.read_bytes() == b"old"
        path.unlink()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", NEW)
def test_a_directory_that_fails_after_that_makes_an_error_that_tells_the_truth(
    make: Callable[[Path], Sink], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "disk"
    on_directories(monkeypatch, errno.EIO, after=1)
    with (
        MemorySource(DISK) as source,
        make(path) as sink,
        pytest.raises(NotDurableError, match=r"disk is complete, .* not on stable storage"),
    ):
        copy(source, sink)
    check(path, make)
    assert list(tmp_path.iterdir()) == [path]


# --- An existing image, until the first byte ---


def test_an_image_that_was_only_made_larger_is_put_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"old")
    file = AtomicFile(path, modify=True)
    file.resize(10_000, empty=False)
    assert file.abort() is None
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_image_that_cannot_become_so_large_is_put_back(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"old")
    with RawImageSink(path, size=2**63 - 1) as sink, pytest.raises(LocalIOError, match="large"):
        copy(MemorySource(DISK), sink)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_image_that_was_emptied_is_not_put_back(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"old")
    file = AtomicFile(path, modify=True)
    file.resize(3, empty=True)
    assert file.abort() == tmp_path / "disk.raw.partial"
    assert not path.exists()


# --- Never closed ---


def test_what_nobody_closes_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"old")
    before = len(os.listdir("/proc/self/fd"))
    for make in (
        lambda: AtomicFile(path, modify=True),
        lambda: TarStreamSink(tmp_path / "a.tar"),
        lambda: RawImageSource(path),
    ):
        with pytest.warns(ResourceWarning):
            make()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    assert len(os.listdir("/proc/self/fd")) == before
