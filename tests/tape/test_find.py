"""What is on a tape: scan, find, label."""

from __future__ import annotations

import io
import json
import tracemalloc
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from tapestream import BackupInfo, TarStreamSink, copy
from tapestream.errors import NoMediumError, TapeError, UsageError, WriteProtectedError
from tapestream.tape import Command, TapeDevice, TapeDrive, scan
from tapestream.tar import format as fmt
from tapestream.tar.manifest import ending
from tapestream.testing.memory import MemorySource
from tests.drive.stations import FakeStation, Station
from tests.drive.watched import WatchedDevice

from .tapes import (
    KIB,
    RECORD,
    backup,
    cases,
    change_tape,
    disk,
    listing,
    only,
    places,
    restore,
    restore_disk,
    tape_drive,
)

NOON = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)
INFO = BackupInfo(
    vm_id="vm1", disk_id="disk1", backup_id="backup1", checkpoint_id="check1", created=NOON
)
SMALL = disk(1, 20 * KIB)


@pytest.fixture
def drive(station: Station) -> TapeDrive:
    return tape_drive(station)


class Commands:
    """Opens devices, and notes what each command, and each read, was."""

    def __init__(self, station: Station) -> None:
        self.noted: list[str] = []
        self._station = station

    def __call__(self, path: str, *, read_only: bool) -> TapeDevice:
        device = self._station.open_device(path, read_only=read_only)
        return WatchedDevice(device, self._note)

    def _note(self, call: str) -> None:
        if call == "read" or call in Command.__members__:
            self.noted.append(call)


@pytest.mark.parametrize("label", ["T1", None])
def test_a_label_takes_one_read(station: Station, label: str | None) -> None:
    """And no winding over a first tape file that may hold terabytes."""
    opener = Commands(station)
    with TapeDrive(station.path, open_device=opener) as drive:
        if label is not None:
            drive.write_label(label)
        backup(drive, SMALL, "a")
        opener.noted.clear()
        assert drive.read_label() == label
        assert opener.noted == ["REWIND", "read"]
        assert drive.raw.remembered is not None
        assert drive.label == label
        backup(drive, SMALL, "b")
        assert drive.read_label() == label
        assert [entry.info.disk_id for entry in drive.scan() if entry.info] == ["a", "b"]


def test_no_label_on_a_blank_tape_and_an_error_on_a_bad_one(station: Station) -> None:
    with tape_drive(station) as drive:
        assert drive.read_label() is None
        drive.write_label("T1")
        station.fail("read")
        assert drive.read_label() == "T1"  # the second attempt
        drive.release()
        station.needs_operator()
        station.eject()
        with pytest.raises(NoMediumError):
            drive.read_label()


def test_a_scan_keeps_little_of_large_records() -> None:
    """A stream with records larger than a tape takes, copied there in blocks."""
    station = FakeStation()
    station.blank("T0002", 2**40)
    station.swap("T0002")
    size = 40 * KIB * KIB
    file = io.BytesIO()
    with (
        MemorySource(SMALL, info=BackupInfo(vm_id="vm", disk_id="copied")) as source,
        TarStreamSink(file, record_size=size) as sink,
    ):
        copy(source, sink)
    stream = file.getbuffer()
    assert len(stream) == size
    with tape_drive(station) as drive:
        for start in range(0, size, RECORD):
            drive.raw.write_record(stream[start : start + RECORD])
        drive.raw.write_filemark()
        tracemalloc.start()
        try:
            (entry,) = drive.scan()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert entry.complete
    assert peak < size / 10


@pytest.mark.parametrize("step", [1, 700, RECORD])
@pytest.mark.parametrize("padding", [0, 511, 512, 1024, 1535, 1536, 2047, 2048, 5000, 200_000])
def test_the_end_of_a_stream_tells_as_much_as_all_of_it(padding: int, step: int) -> None:
    text = b'...],"start":0,"set_id":"x","volume":1,"continues":false}'
    streams = [
        text + bytes(padding),
        bytes(5000) + text + bytes(padding),
        text + bytes(5000) + b"more" + bytes(padding),
        bytes(padding),
        b"y" * 5000 + text + bytes(padding),
    ]
    for stream in streams:
        size, tail = max(step, len(stream) // 500), b""
        for start in range(0, len(stream), size):
            tail = scan._end(tail, memoryview(stream)[start : start + size])
        assert ending(tail) == ending(stream)
        assert len(tail) < 5000


def test_find_by_every_id(drive: TapeDrive) -> None:
    infos = [
        INFO,
        replace(INFO, vm_id="vm2"),
        replace(INFO, disk_id="disk2"),
        replace(INFO, backup_id="backup2", created=NOON + timedelta(hours=1)),
        replace(INFO, checkpoint_id=None),
    ]
    for info in infos:
        backup(drive, SMALL, info=info)

    def found(**ids: str) -> list[int]:
        return [entry.file for entry in drive.find(**ids)]  # type: ignore[arg-type]

    assert found(vm_id="vm2") == [1]
    assert found(disk_id="disk2") == [2]
    assert found(backup_id="backup2") == [3]
    assert found(checkpoint_id="check1", vm_id="vm1", disk_id="disk1") == [3, 0]
    assert found() == [3, 4, 2, 1, 0]  # newest first; else the one that is further on
    assert found(vm_id="vm3") == []
    entry = only(drive.find(backup_id="backup2"))
    assert entry.info == replace(infos[3], size=len(SMALL))
    assert (entry.complete, entry.continues, entry.volume, entry.volume_start) == (
        True,
        False,
        1,
        0,
    )
    assert entry.problem is None


def test_the_end_of_a_backup_is_seen_wherever_its_manifest_ends(
    station: Station, drive: TapeDrive
) -> None:
    """In the last record, in the one before, or on both."""
    sizes = range(RECORD - 6 * KIB, RECORD, 512)
    few = cases(station, sizes, sizes[4:9])
    for size in few:
        backup(drive, disk(1, size), f"{size}")
    assert listing(drive) == [f"{size}" for size in few]


def read_file(drive: TapeDrive, file: int) -> list[bytes]:
    """The records of a tape file."""
    drive.go_to_file(file)
    buffer = memoryview(bytearray(RECORD))
    return [bytes(buffer[:count]) for count in iter(lambda: drive.raw.read_record(buffer), 0)]


def write_file(drive: TapeDrive, records: list[bytes]) -> None:
    drive.end_of_data()
    for record in records:
        drive.raw.write_record(memoryview(record))
    drive.raw.write_filemark()


def test_what_is_data_is_taken_for_nothing_else(drive: TapeDrive) -> None:
    """A disk may hold a tape's label, and the end of a backup, just where its own was torn."""
    drive.write_label("evil")
    backup(drive, SMALL, "evil")
    inner = b"".join(read_file(drive, 1) + read_file(drive, 0))
    drive.write_label("good", overwrite=True)
    image = inner + bytes(2 * RECORD) + inner
    backup(drive, image, "image", part_size=8 * RECORD)
    records = read_file(drive, 1)
    (end,) = [n for n, record in enumerate(records) if not any(record)][:1]
    write_file(drive, records[:end])
    write_file(drive, records[: end + 1])
    torn = "image incomplete"
    assert listing(drive) == ["label good", "image", torn, torn]
    drive.go_to_file(1)
    assert restore(drive) == image


def test_an_empty_tape(drive: TapeDrive) -> None:
    assert list(drive.scan()) == []
    assert drive.find() == []
    assert drive.read_label() is None
    backup(drive, SMALL, "a")
    assert listing(drive) == ["a"]


def test_a_scan_may_end_early(drive: TapeDrive) -> None:
    """The drive is free then, and what is found can be restored."""
    for number in range(3):
        backup(drive, disk(number), f"disk{number}")
    entries = drive.scan()
    assert next(entries).file == 0
    assert next(entries).file == 1
    with pytest.raises(UsageError, match="already"):
        drive.turn().acquire()
    entries.close()  # type: ignore[attr-defined]
    backup(drive, disk(3), "disk3")
    assert restore_disk(drive, "disk1") == disk(1)
    assert len(listing(drive)) == 4


@pytest.mark.every_kernel
def test_a_tape_file_without_its_filemark(station: Station, drive: TapeDrive) -> None:
    """A drive that loses its power while it writes leaves that behind; the next backup ends it."""
    backup(drive, SMALL, "a")
    drive.end_of_data()
    drive.raw.write_record(memoryview(disk(2, RECORD)))
    station.reset()
    with pytest.raises(TapeError):
        drive.close()
    assert listing(drive) == ["a", "foreign incomplete"]
    assert restore_disk(drive, "a") == SMALL
    assert places(backup(drive, disk(3), "b")) == [(None, 2)]
    assert listing(drive) == ["a", "foreign incomplete", "b"]
    assert restore_disk(drive, "b") == disk(3)


def test_labels(station: Station, drive: TapeDrive) -> None:
    drive.write_label("WEEK 48 - Größe L")
    assert drive.label == "WEEK 48 - Größe L"
    drive.release()
    assert drive.label is None
    assert drive.read_label() == "WEEK 48 - Größe L"
    change_tape(station, drive, "T0002")
    assert drive.read_label() is None
    change_tape(station, drive, "T0001")
    (entry,) = drive.scan()
    assert (entry.label, entry.complete) == ("WEEK 48 - Größe L", True)
    assert drive.label == entry.label


def test_a_label_is_not_written_over_something(drive: TapeDrive) -> None:
    backup(drive, SMALL, "a")
    with pytest.raises(UsageError, match="something on the tape"):
        drive.write_label("T1")
    assert listing(drive) == ["a"]
    assert restore_disk(drive, "a") == SMALL
    drive.write_label("T1", overwrite=True)
    with pytest.raises(UsageError, match="something on the tape"):
        drive.write_label("T2")
    assert listing(drive) == ["label T1"]
    backup(drive, SMALL, "b")
    assert listing(drive) == ["label T1", "b"]


def test_a_label_is_not_written_over_what_cannot_be_read(
    station: Station, drive: TapeDrive
) -> None:
    backup(drive, SMALL, "a")
    station.fail("read")
    with pytest.raises(UsageError, match="something on the tape"):
        drive.write_label("T1")
    assert restore_disk(drive, "a") == SMALL


def test_a_protected_tape_is_not_labelled(station: Station, drive: TapeDrive) -> None:
    station.eject()
    station.protect("T0001")
    station.load("T0001")
    with pytest.raises(WriteProtectedError):
        drive.write_label("T1")


@pytest.mark.parametrize("label", ["", "two\nlines", "x" * 201, "\0"])
def test_labels_that_are_none(drive: TapeDrive, label: str) -> None:
    with pytest.raises(UsageError, match="short text"):
        drive.write_label(label)
    assert list(drive.scan()) == []


@pytest.mark.parametrize("clock", [-1e9, 0.0, 1e12])
def test_a_clock_that_is_far_off(
    drive: TapeDrive, monkeypatch: pytest.MonkeyPatch, clock: float
) -> None:
    """A label says when it was made; a host whose clock was never set can make one, too."""
    monkeypatch.setattr("time.time", lambda: clock)
    drive.write_label("T1")
    assert drive.read_label() == "T1"


def test_a_label_that_is_no_name(drive: TapeDrive) -> None:
    """Of other software, or forged: it is no name, so nobody is asked to load it."""
    for name in ("two\nlines", "\ud800", "x" * 201, "", 3):
        text = json.dumps({"format": "tapestream-label", "version": 1, "label": name}).encode()
        record = fmt.HeaderWriter(0).header("tape-label.json", len(text)) + text
        drive.rewind()
        drive.raw.write_record(memoryview(record.ljust(RECORD, b"\0")))
        drive.raw.write_filemark()
        (entry,) = drive.scan()
        assert entry.label is None
        assert entry.problem is not None
