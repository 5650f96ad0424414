"""What goes wrong at a tape is said with all that a person needs who stands before the drive."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from tapestream import BackupInfo, TarStreamSource, copy, verify
from tapestream.drive import paths
from tapestream.errors import (
    DigestMismatchError,
    EndOfTapeError,
    IncompleteStreamError,
    NotATapeError,
    TapeError,
    TapestreamError,
    UsageError,
    WrongTapeError,
)
from tapestream.tape import TapeDrive
from tapestream.testing.memory import MemorySink
from tests.drive.stations import FakeStation, Station

from .tapes import RECORD, backup, change_tape, disk, tape_drive

INFO = BackupInfo(
    vm_name="mail server",
    disk_id="7f5c",
    disk_name="mail-data",
    created=datetime(2026, 11, 22, 20, tzinfo=timezone.utc),
)


@pytest.fixture
def drive(station: Station) -> TapeDrive:
    drive = tape_drive(station)
    drive.write_label("VM0001")
    return drive


@pytest.fixture
def west() -> Iterator[None]:
    """A host that does not live by UTC."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "EST5EDT")
        time.tzset()
        yield
    time.tzset()


def restore(drive: TapeDrive, **options: Any) -> None:
    with TarStreamSource(drive, file=1, **options) as source, MemorySink() as sink:
        copy(source, sink)


def medium_error_at_a_write(station: Station, drive: TapeDrive) -> None:
    station.fail("write", 3)
    backup(drive, disk(1), info=INFO)


def medium_error_at_the_end(station: Station, drive: TapeDrive) -> None:
    station.fail("filemark")
    backup(drive, disk(1), info=INFO)


def medium_error_at_a_read(station: Station, drive: TapeDrive) -> None:
    backup(drive, disk(1), info=INFO)
    drive.rewind()
    station.fail("read", 3)
    restore(drive)


def the_end_of_the_tape(station: Station, drive: TapeDrive) -> None:
    backup(drive, disk(1, station.capacity + RECORD), info=INFO)


def a_volume_that_nobody_loads(station: Station, drive: TapeDrive) -> None:
    def load(_: object) -> None:
        change_tape(station, drive, "T0002")

    backup(drive, disk(1, station.capacity), info=INFO, on_volume_full=load)
    change_tape(station, drive, "T0001")
    drive.read_label()
    restore(drive)


@pytest.mark.usefixtures("west")
@pytest.mark.parametrize(
    ("event", "error"),
    [
        (medium_error_at_a_write, TapeError),
        (medium_error_at_the_end, TapeError),
        (medium_error_at_a_read, TapeError),
        (the_end_of_the_tape, EndOfTapeError),
        (a_volume_that_nobody_loads, IncompleteStreamError),
    ],
)
def test_drive_tape_file_disk_local_time_and_what_to_do(
    station: Station,
    drive: TapeDrive,
    event: Callable[[Station, TapeDrive], None],
    error: type[TapestreamError],
) -> None:
    with pytest.raises(error) as caught:
        event(station, drive)
    where = f"{drive.path}, tape VM0001, file 1 (mail server, mail-data of 2026-11-22 15:00 EST)"
    assert str(caught.value).startswith(where)
    assert str(caught.value).count(drive.path) == 1
    assert caught.value.hint


def test_damage_on_a_tape() -> None:
    """Only the double's records can be changed."""
    station = FakeStation()
    with tape_drive(station) as drive:
        drive.write_label("VM0001")
        backup(drive, disk(1), info=INFO)
        drive.rewind()
        block = station.shelf["T0001"].blocks[4]
        station.shelf["T0001"].blocks[4] = bytes([block[0] ^ 1]) + block[1:]
        where = r"/dev/nst0, tape VM0001, file 1 \(mail server, mail-data of .*disk offset"
        with pytest.raises(DigestMismatchError, match=where):
            restore(drive)
        with TarStreamSource(drive, file=1) as source:
            assert "mail-data" in str(verify(source).info)


def test_another_tape_when_the_copy_begins(station: Station, drive: TapeDrive) -> None:
    backup(drive, disk(1), info=INFO)
    with TarStreamSource(drive, file=1) as source, MemorySink() as sink:
        change_tape(station, drive, "T0002")
        drive.write_label("VM0002")
        backup(drive, disk(2), info=replace(INFO, disk_name="web-data"))
        with pytest.raises(WrongTapeError, match=r"mail-data of .*, but mail server, web-data"):
            copy(source, sink)


def test_what_is_on_a_tape_that_is_not_labelled_anew(drive: TapeDrive) -> None:
    with pytest.raises(UsageError, match="file 0 is the label 'VM0001'"):
        drive.write_label("VM0002")
    drive.rewind()
    drive.erase()
    backup(drive, disk(1), info=INFO)
    with pytest.raises(UsageError, match=r"file 0 is the backup of mail server, mail-data of"):
        drive.write_label("VM0002")


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with names for `/dev/st7` and `/dev/nst7`, as udev makes them: there is no drive."""
    (tmp_path / "scsi-350050763").symlink_to("/dev/st7")
    (tmp_path / "scsi-350050763-nst").symlink_to("/dev/nst7")
    (tmp_path / "by-hand").symlink_to("/dev/st7")
    real = os.stat

    def stat_of(path: Any, **options: Any) -> Any:
        numbers = {"/dev/st7": os.makedev(9, 7), "/dev/nst7": os.makedev(9, 0x87)}
        if number := numbers.get(os.path.realpath(path)):
            return os.stat_result((stat.S_IFCHR, *[0] * 9), {"st_rdev": number})
        return real(path, **options)

    monkeypatch.setattr(os, "stat", stat_of)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "better"),
    [("scsi-350050763", "{}/scsi-350050763-nst"), ("by-hand", "/dev/nst7")],
)
def test_the_device_that_does_not_rewind_is_named(
    named: Path, caplog: pytest.LogCaptureFixture, name: str, better: str
) -> None:
    TapeDrive(named / name)
    assert caplog.records[-1].getMessage().endswith("device, " + better.format(named))
    caplog.clear()
    TapeDrive(better.format(named))
    assert caplog.text == ""


@pytest.mark.parametrize("path", [None, 3, "/dev/with\0in it", "/dev/\udc80"])
def test_what_is_no_path(path: Any) -> None:
    with pytest.raises((UsageError, NotATapeError), match=r"path|cannot open"):
        TapeDrive(path)
    assert not paths.is_tape("/dev/with\0in it")


def test_a_drive_that_is_not_ours_to_use() -> None:
    station = FakeStation()
    station.drives[0].fail("open", number=errno.EACCES)
    with pytest.raises(TapeError, match=r"cannot open /dev/nst0: .*group 'tape'"):
        tape_drive(station).status()
