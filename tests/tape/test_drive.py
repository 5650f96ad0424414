"""`TapeDrive` itself: what it says, what it refuses, and how it gives the drive back."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tapestream import TarStreamSink, TarStreamSource
from tapestream.drive import paths
from tapestream.drive.device import TapeDevice
from tapestream.errors import (
    DriveBusyError,
    EndOfTapeError,
    LocalIOError,
    NoMediumError,
    NotATapeError,
    TapeError,
    TapestreamError,
    UsageError,
    WriteProtectedError,
)
from tapestream.tape import Flag, TapeDrive
from tests.drive.stations import FakeStation, Station

from .tapes import KIB, RECORD, backup, disk, listing, restore_disk, tape_drive

DATA = disk(1)


@pytest.fixture
def drive(station: Station) -> TapeDrive:
    return tape_drive(station)


def test_status(station: Station, drive: TapeDrive) -> None:
    status = drive.status()
    assert (status.online, status.is_empty, status.write_protected) == (True, False, False)
    assert (status.file, status.block, status.block_size) == (0, 0, 0)
    assert status.at_beginning
    drive.raw.write_record(memoryview(bytes(RECORD)))
    assert (drive.status().file, drive.status().block) == (0, 1)
    drive.raw.write_filemark()
    status = drive.status()
    assert (status.file, status.block, status.at_filemark) == (1, 0, True)
    assert not status.at_beginning
    drive.rewind()
    drive.end_of_data()
    status = drive.status()
    assert (status.file, status.block, status.at_end_of_data) == (1, None, True)
    drive.raw.seek(1)
    assert (drive.status().file, drive.status().block) == (None, None)
    station.eject()
    drive.release()
    status = drive.status()
    assert (status.online, status.is_empty) == (False, True)
    assert (status.file, status.block) == (None, None)


def test_status_in_the_warning_zone(station: Station, drive: TapeDrive) -> None:
    station.blank("T0002", 6 * RECORD, 4 * RECORD)
    station.swap("T0002")
    assert not drive.status().at_end_of_tape
    drive.raw.write_record(memoryview(bytes(RECORD)))
    drive.raw.write_record(memoryview(bytes(RECORD)))
    assert drive.status().at_end_of_tape
    with pytest.raises(EndOfTapeError):
        drive.raw.write_record(memoryview(bytes(RECORD)))
    drive.raw.write_filemark()
    assert drive.raw.tell() == 3


def test_eject_and_load(station: Station, drive: TapeDrive) -> None:
    backup(drive, DATA, "a")
    drive.eject()
    assert not drive.status().online
    with pytest.raises(NoMediumError):
        drive.rewind()
    drive.load()
    assert drive.status().at_beginning
    assert listing(drive) == ["a"]
    backup(drive, DATA, "b")
    drive.eject()
    station.eject()
    station.load("T0002")
    assert listing(drive) == []


def test_erase(station: Station, drive: TapeDrive) -> None:
    drive.write_label("T1")
    backup(drive, DATA, "a")
    backup(drive, DATA, "b")
    drive.go_to_file(2)
    drive.erase()
    assert listing(drive) == ["label T1", "a"]
    drive.rewind()
    drive.erase()
    assert listing(drive) == []
    assert drive.label is None
    backup(drive, DATA, "c")
    assert restore_disk(drive, "c") == DATA


def test_closing_leaves_the_tape_where_it_is(drive: TapeDrive) -> None:
    backup(drive, DATA, "a")
    backup(drive, DATA, "b")
    drive.go_to_file(1)
    at = drive.raw.tell()
    drive.release()
    assert drive.raw.tell() == at
    with drive as again:
        assert again.status().file == 1
    drive.close()
    drive.close()
    assert drive.raw.tell() == at


def test_what_is_written_by_hand_gets_a_filemark(drive: TapeDrive) -> None:
    drive.raw.write_record(memoryview(bytes(RECORD)))
    drive.release()
    assert drive.raw.tell() == 2
    drive.raw.write_record(memoryview(bytes(RECORD)))
    drive.rewind()
    drive.end_of_data()
    assert (drive.raw.tell(), drive.status().file) == (4, 2)


def test_a_busy_drive(station: Station, drive: TapeDrive) -> None:
    """While a backup runs nobody else has the drive; `release` gives it away."""
    drive.rewind()
    other = tape_drive(station)
    for use in (other.status, other.rewind, lambda: list(other.scan())):
        with pytest.raises(DriveBusyError):
            use()
    drive.release()
    assert other.status().online
    with pytest.raises(DriveBusyError):
        drive.rewind()
    other.close()
    drive.rewind()


def test_turns(drive: TapeDrive) -> None:
    with drive.turn() as turn:
        with pytest.raises(UsageError, match="already"):
            drive.turn().acquire()
        drive.rewind()
        assert list(drive.scan()) == []
    turn.release()
    with drive.turn():
        pass


def test_commands_that_make_no_sense(drive: TapeDrive) -> None:
    with pytest.raises(UsageError):
        drive.raw.backward_files(-1)
    with pytest.raises(TapeError):
        drive.raw.backward_files(1)
    with pytest.raises(TapeError):
        drive.raw.seek(1000)
    with pytest.raises(TapeError):
        drive.set_block_size(2**23)
    backup(drive, DATA, "a")
    with pytest.raises(TapeError):
        drive.go_to_file(7)
    assert restore_disk(drive, "a") == DATA


@pytest.mark.parametrize("record_size", [0, 512, 32 * KIB, 64 * KIB + 1, 16 * 1024 * KIB])
def test_record_sizes_that_no_tape_has(drive: TapeDrive, record_size: int) -> None:
    with pytest.raises(UsageError, match="record_size"):
        TarStreamSink(drive, record_size=record_size)
    with drive.turn():
        pass


def test_the_name_of_a_drive(station: Station, drive: TapeDrive) -> None:
    assert repr(drive) == f"<TapeDrive {station.path}>"


# --- Errors of the device ---


def failing(number: int, times: int = 1) -> tuple[TapeDrive, FakeStation]:
    station = FakeStation()
    left = [times]

    def open_device(path: str, *, read_only: bool) -> TapeDevice:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(number, os.strerror(number))
        return station.open_device(path, read_only=read_only)

    return TapeDrive("/dev/nst0", open_device=open_device), station


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.EBUSY, DriveBusyError),
        (errno.ENXIO, NotATapeError),
        (errno.ENODEV, NotATapeError),
        (errno.ENOENT, TapeError),
        (errno.EACCES, TapeError),
        (errno.ENOMEDIUM, NoMediumError),
    ],
)
def test_a_device_that_does_not_open(number: int, error: type[TapeError]) -> None:
    drive, _ = failing(number)
    with pytest.raises(error) as caught:
        drive.status()
    assert type(caught.value) is error
    assert caught.value.errno == number
    assert "/dev/nst0" in str(caught.value)
    assert drive.status().online


def test_news_of_another_cartridge_are_no_error() -> None:
    """The first command after a cartridge was loaded is refused, to tell about it."""
    assert failing(errno.EIO, 2)[0].status().online
    with pytest.raises(TapeError):
        failing(errno.EIO, 3)[0].status()


def test_a_protected_tape_that_opens_only_for_reading() -> None:
    """As it is without O_NONBLOCK."""
    drive, station = failing(errno.EROFS)
    with tape_drive(station) as writer:
        backup(writer, DATA, "a")
    assert restore_disk(drive, "a") == DATA


@pytest.mark.parametrize(
    ("last", "error"), [(errno.EBUSY, DriveBusyError), (errno.EROFS, WriteProtectedError)]
)
def test_whatever_the_last_attempt_to_open_meets_is_told(last: int, error: type[TapeError]) -> None:
    numbers = [errno.EIO, errno.EIO, errno.EROFS, last]

    def open_device(path: str, *, read_only: bool) -> TapeDevice:
        number = numbers.pop(0)
        raise OSError(number, os.strerror(number))

    drive = TapeDrive("/dev/nst0", open_device=open_device)
    with pytest.raises(error) as caught:
        drive.block_size  # noqa: B018 - asks the drive
    assert caught.value.errno == last
    assert numbers == []


def test_an_error_while_closing_is_told() -> None:
    station = FakeStation()
    drive = tape_drive(station)
    drive.raw.write_record(memoryview(bytes(RECORD)))
    station.drives[0].fail("filemark")
    with pytest.raises(TapeError, match="cannot close"):
        drive.close()
    drive.close()
    assert drive.raw.tell() == 1


# --- What is a tape ---


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, os.mkfifo, lambda path: None])
def test_not_a_tape(tmp_path: Path, make: Callable[[Path], object]) -> None:
    path = tmp_path / "nst0"
    make(path)
    with pytest.raises(NotATapeError) as caught:
        TapeDrive(path)
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, LocalIOError | TapestreamError)


def test_another_device() -> None:
    with pytest.raises(NotATapeError, match="not a tape"):
        TapeDrive("/dev/null")


def as_device(monkeypatch: pytest.MonkeyPatch, major: int, minor: int) -> None:
    found = SimpleNamespace(st_mode=stat.S_IFCHR | 0o660, st_rdev=os.makedev(major, minor))
    monkeypatch.setattr(os, "stat", lambda path: found)


@pytest.mark.parametrize(
    ("path", "minor", "better"),
    [
        ("/dev/st0", 0, "/dev/nst0"),
        ("/dev/st12", 12, "/dev/nst12"),
        ("/dev/tape/by-id/scsi-123", 1, None),
    ],
)
def test_a_device_that_rewinds_is_warned_about(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    path: str,
    minor: int,
    better: str | None,
) -> None:
    with monkeypatch.context() as patch:
        as_device(patch, 9, minor)
        TapeDrive(path)
    assert "rewinds" in caplog.text
    assert better is None or better in caplog.text


@pytest.mark.parametrize("minor", [0x80, 0x81, 0xE0])
def test_a_device_that_does_not_rewind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, minor: int
) -> None:
    with monkeypatch.context() as patch:
        as_device(patch, 9, minor)
        TapeDrive("/dev/nst0")
        assert paths.is_tape("/dev/nst0")
        as_device(patch, 10, minor)
        assert not paths.is_tape("/dev/nst0")
    assert caplog.text == ""


def test_by_its_path(station: Station) -> None:
    """Sink and source open a drive that is named, and close it."""
    if isinstance(station, FakeStation):
        pytest.skip("needs a device")
    with tape_drive(station) as drive:
        backup(drive, DATA, "a")
        drive.rewind()
    for _ in range(2):
        with TarStreamSource(station.path) as source:
            assert source.info.disk_id == "a"
        with tape_drive(station) as drive:
            drive.rewind()
    sink = TarStreamSink(station.path, record_size=RECORD)
    assert sink.streaming
    sink.close()
    assert Flag.ONLINE in station.open().status().flags
