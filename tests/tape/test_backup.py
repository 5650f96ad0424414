"""Backups on one tape and back: many disks, many threads, other sizes, other programs."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tapestream import BackupInfo, Extent, TarStreamSink, TarStreamSource, copy
from tapestream.errors import (
    EndOfTapeError,
    ForeignStreamError,
    IncompleteStreamError,
    TapeError,
    UsageError,
)
from tapestream.tape import Command, TapeDevice, TapeDrive
from tapestream.tar import format as fmt
from tapestream.testing.memory import MemorySink, MemorySource
from tests.drive.stations import FakeStation, MachineStation, Station

from .tapes import (
    KIB,
    RECORD,
    backup,
    change_tape,
    disk,
    listing,
    places,
    restore,
    restore_disk,
    tape_drive,
)

DISKS = [disk(1, 300 * KIB), disk(2, 70 * KIB + 512), disk(3, 512)]


@pytest.fixture
def drive(station: Station) -> TapeDrive:
    return tape_drive(station)


def test_several_disks_on_one_tape(station: Station, drive: TapeDrive) -> None:
    drive.write_label("T0001")
    for number, data in enumerate(DISKS):
        backup(drive, data, f"disk{number}")
    assert listing(drive) == ["label T0001", "disk0", "disk1", "disk2"]
    for number in (2, 0, 1):
        assert restore_disk(drive, f"disk{number}") == DISKS[number]
    drive.close()
    with tape_drive(station) as another:
        backup(another, disk(4), "disk3")
        assert listing(another) == ["label T0001", "disk0", "disk1", "disk2", "disk3"]
        assert restore_disk(another, "disk0") == DISKS[0]
        assert restore_disk(another, "disk3") == disk(4)


def test_a_backup_never_overwrites(drive: TapeDrive) -> None:
    """Wherever the tape stands, it goes behind everything that is there."""
    backup(drive, DISKS[0], "a")
    drive.rewind()
    backup(drive, DISKS[1], "b")
    assert restore_disk(drive, "a") == DISKS[0]
    backup(drive, DISKS[2], "c")
    drive.raw.seek(3)
    backup(drive, DISKS[2], "d")
    assert listing(drive) == ["a", "b", "c", "d"]
    for name, data in zip("abcd", [*DISKS, DISKS[2]], strict=True):
        assert restore_disk(drive, name) == data


def test_a_tape_is_read_file_after_file(drive: TapeDrive) -> None:
    """A restore ends behind its tape file, where the next one begins."""
    for number, data in enumerate(DISKS):
        backup(drive, data, f"disk{number}")
    drive.rewind()
    assert [restore(drive) for _ in DISKS] == DISKS
    status = drive.status()
    assert (status.file, status.block) == (3, 0)
    with pytest.raises((TapeError, IncompleteStreamError)):
        restore(drive)


def test_going_back_and_forth(drive: TapeDrive) -> None:
    for number, data in enumerate(DISKS):
        backup(drive, data, f"disk{number}")
    drive.rewind()
    drive.raw.forward_files(2)
    at = drive.raw.tell()
    assert restore(drive) == DISKS[2]
    drive.raw.backward_files(3)
    assert drive.raw.tell() == 0
    assert restore(drive) == DISKS[0]
    drive.raw.backward_files(0)
    assert restore(drive) == DISKS[1]
    drive.raw.backward_files(1)
    assert restore(drive) == DISKS[1]
    drive.raw.seek(at)
    assert drive.raw.tell() == at
    assert drive.status().file is None
    assert restore(drive) == DISKS[2]
    with pytest.raises(TapeError):
        drive.raw.forward_files(1)
    with pytest.raises(TapeError):
        drive.raw.backward_files(5)
    assert restore_disk(drive, "disk1") == DISKS[1]


def test_extents_and_attachments(drive: TapeDrive) -> None:
    data = disk(1, 300 * KIB)
    full = [
        Extent(0, 100 * KIB),
        Extent(100 * KIB, 100 * KIB, zero=True),
        Extent(200 * KIB, 100 * KIB),
    ]
    changed = [
        Extent(0, 100 * KIB, dirty=False),
        Extent(100 * KIB, 100 * KIB, dirty=True),
        Extent(200 * KIB, 100 * KIB, zero=True, dirty=True),
    ]
    ovf = {"vm.ovf": b"<Envelope/>" * 20_000}
    for name, extents in (("full", full), ("changed", changed)):
        backup(drive, data, name, extents=extents, attachments=ovf, checksum="sha256")
    drive.rewind()
    sink = MemorySink()
    assert restore(drive, sink=sink) == data[: 100 * KIB] + bytes(100 * KIB) + data[200 * KIB :]
    sink = MemorySink()
    restore(drive, sink=sink)
    assert sink.info.context == "dirty"
    assert bytes(sink.disk[100 * KIB : 200 * KIB]) == data[100 * KIB : 200 * KIB]
    drive.go_to_file(1)
    with TarStreamSource(drive) as source:
        assert source.attachments == ovf


def test_an_empty_disk(drive: TapeDrive) -> None:
    backup(drive, b"", "empty", extents=[])
    backup(drive, bytes(100 * KIB), "zero", extents=[Extent(0, 100 * KIB, zero=True)])
    assert restore_disk(drive, "empty") == b""
    assert restore_disk(drive, "zero") == bytes(100 * KIB)


def test_what_a_copy_tells(station: Station, drive: TapeDrive) -> None:
    drive.write_label("first")
    for file in (1, 2):
        result = backup(drive, DISKS[0], "a")
        tape = result.receipt
        assert tape is not None
        (place,) = tape.places
        assert (place.drive, place.label) == (station.path, "first")
        assert (place.file, place.volume) == (file, 1)
        assert tape.records == 5  # 300 KiB, what describes it, and the padding
        assert tape.record_bytes == 5 * RECORD
        assert tape.seconds > 0
        assert tape.rate == tape.record_bytes / tape.seconds
        assert (tape.info.disk_id, tape.info.size) == ("a", len(DISKS[0]))
        assert result.underruns <= len(DISKS[0]) // RECORD
        assert (result.stalled > 0) == (result.underruns > 0)
        assert [e.set_id for e in drive.scan()][file] == tape.set_id


def test_underruns_are_counted(drive: TapeDrive) -> None:
    """The source is held up until the tape has caught up with it."""

    def hook(start: int, length: int) -> None:
        if start == 8 * RECORD:
            time.sleep(1)

    result = backup(drive, disk(1, 16 * RECORD), before_read=hook)
    assert result.underruns > 0
    assert result.stalled > 0.5


# --- Aborted backups ---


class UnpluggedError(Exception):
    pass


def fail_at(offset: int) -> Callable[[int, int], None]:
    def hook(start: int, length: int) -> None:
        if start >= offset:
            raise UnpluggedError

    return hook


@pytest.mark.parametrize(("offset", "left"), [(0, []), (2048 * KIB, ["aborted incomplete"])])
def test_an_aborted_backup(
    station: Station, drive: TapeDrive, offset: int, left: list[str]
) -> None:
    """It leaves a tape file without a manifest, or nothing; the next one goes behind it."""
    backup(drive, DISKS[0], "before")
    with pytest.raises(UnpluggedError):
        backup(drive, disk(5, 2500 * KIB), "aborted", before_read=fail_at(offset))
    backup(drive, DISKS[1], "after")
    drive.close()
    with tape_drive(station) as drive:
        assert listing(drive) == ["before", *left, "after"]
        assert drive.find(disk_id="aborted") == []
        for entry in drive.find(disk_id="aborted", incomplete=True):
            drive.go_to_file(entry.file)
            with pytest.raises(IncompleteStreamError):
                restore(drive)
        assert restore_disk(drive, "before") == DISKS[0]
        assert restore_disk(drive, "after") == DISKS[1]


def test_a_restore_that_was_given_up(drive: TapeDrive) -> None:
    """The drive is free at once, also in the middle of a tape file."""
    backup(drive, disk(1, 500 * KIB), "a")
    backup(drive, DISKS[1], "b")
    drive.rewind()
    with pytest.raises(UnpluggedError):
        restore(drive, sink=MemorySink(before_write=fail_at(200 * KIB)))
    backup(drive, DISKS[2], "c")
    assert listing(drive) == ["a", "b", "c"]
    assert restore_disk(drive, "a") == disk(1, 500 * KIB)


# --- Many at once ---


def all_of(*work: Callable[[], object]) -> list[BaseException]:
    """Do it all in threads of their own; what went wrong."""
    errors: list[BaseException] = []

    def run(one: Callable[[], object]) -> None:
        try:
            one()
        except Exception as e:  # noqa: BLE001 - for the test to judge
            errors.append(e)

    threads = [threading.Thread(target=run, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_threads_take_turns(drive: TapeDrive) -> None:
    """Each backup is a whole tape file; one that fails holds nobody up."""

    def one(number: int) -> None:
        hook = fail_at(64 * KIB) if number == 2 else fail_at(10**9)
        backup(drive, disk(number), f"disk{number}", before_read=hook)

    errors = all_of(*(partial(one, number) for number in range(5)))
    assert [type(e) for e in errors] == [UnpluggedError]
    found = listing(drive)
    assert sorted(f for f in found if "incomplete" not in f) == ["disk0", "disk1", "disk3", "disk4"]
    for number in (0, 1, 3, 4):
        assert restore_disk(drive, f"disk{number}") == disk(number)


def test_scans_and_backups_take_turns(drive: TapeDrive) -> None:
    backup(drive, DISKS[0], "a")
    errors = all_of(
        lambda: backup(drive, DISKS[1], "b"),
        lambda: list(drive.scan()),
        lambda: backup(drive, DISKS[2], "c"),
        lambda: drive.find(disk_id="a"),
    )
    assert errors == []
    assert sorted(listing(drive)) == ["a", "b", "c"]


def test_two_drives_at_once(station: Station, drive: TapeDrive) -> None:
    station.load("T0002", 1)
    other = tape_drive(station, 1)
    errors = all_of(
        lambda: [backup(drive, disk(n), f"disk{n}") for n in range(2)],
        lambda: [backup(other, disk(n), f"disk{n}") for n in range(2, 4)],
    )
    assert errors == []
    assert listing(drive) == ["disk0", "disk1"]
    assert listing(other) == ["disk2", "disk3"]
    assert restore_disk(other, "disk3") == disk(3)
    assert restore_disk(drive, "disk1") == disk(1)


def test_copied_from_tape_to_tape(station: Station, drive: TapeDrive) -> None:
    """The one drive is read while the other is written."""
    station.load("T0002", 1)
    backup(drive, DISKS[0], "a")
    drive.rewind()
    with tape_drive(station, 1) as other:
        with TarStreamSource(drive) as source, TarStreamSink(other, record_size=RECORD) as sink:
            copy(source, sink)
        assert restore_disk(other, "a") == DISKS[0]


def test_a_drive_does_not_copy_to_itself(drive: TapeDrive) -> None:
    """That would wait for ever."""
    backup(drive, DISKS[0], "a")
    drive.rewind()
    with TarStreamSource(drive) as source:
        with TarStreamSink(drive) as sink, pytest.raises(UsageError, match="already"):
            copy(source, sink)
        with pytest.raises(UsageError, match="already"):
            TarStreamSource(drive)
    assert listing(drive) == ["a"]


# --- Sizes of blocks ---


@pytest.mark.parametrize("block_size", [512, 32 * KIB, RECORD])
def test_fixed_mode(station: Station, drive: TapeDrive, block_size: int) -> None:
    drive.set_block_size(block_size)
    assert drive.block_size == block_size
    drive.write_label("fixed")
    backup(drive, DISKS[0], "a")
    backup(drive, DISKS[1], "b")
    assert listing(drive) == ["label fixed", "a", "b"]
    assert restore_disk(drive, "a") == DISKS[0]
    drive.release()
    drive.end_of_data()
    backup(drive, DISKS[2], "c")
    assert restore_disk(drive, "c") == DISKS[2]
    drive.set_block_size(0)
    assert restore_disk(drive, "b") == DISKS[1]
    assert listing(drive) == ["label fixed", "a", "b", "c"]


def test_fixed_mode_wants_whole_blocks(drive: TapeDrive) -> None:
    drive.set_block_size(1536)
    with pytest.raises(UsageError, match="multiple of 1536"):
        backup(drive, DISKS[0])


def test_the_largest_record(station: Station, drive: TapeDrive) -> None:
    largest = station.largest_block
    backup(drive, DISKS[0], "a", record_size=largest)
    assert restore_disk(drive, "a") == DISKS[0]
    with pytest.raises(TapeError, match="smaller record_size"):
        backup(drive, DISKS[0], "b", record_size=largest + 512)
    backup(drive, DISKS[0], "c", record_size=largest)
    assert listing(drive) == ["a", "c"]


def test_the_default_record_on_a_drive_with_small_blocks() -> None:
    station = FakeStation()
    station.drives[0].largest_block = 256 * KIB
    drive = tape_drive(station)
    with (
        MemorySource(DISKS[0]) as source,
        TarStreamSink(drive) as sink,
        pytest.raises(TapeError, match="smaller record_size"),
    ):
        copy(source, sink)
    backup(drive, DISKS[0], "a", record_size=256 * KIB)
    assert listing(drive) == ["a"]
    assert restore_disk(drive, "a") == DISKS[0]


# --- Other programs ---


def in_blocks(drive: TapeDrive, data: bytes, size: int = 10 * KIB) -> None:
    """What `tar` or `dd` does: write one tape file in small blocks."""
    drive.end_of_data()
    for start in range(0, len(data), size):
        drive.raw.write_record(memoryview(data[start : start + size]))
    drive.raw.write_filemark()


def foreign_tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        member = tarfile.TarInfo("etc/passwd")
        member.size = 100 * KIB
        tar.addfile(member, io.BytesIO(disk(7, member.size)))
    return file.getvalue()


def test_foreign_files(drive: TapeDrive) -> None:
    drive.write_label("T1")
    in_blocks(drive, foreign_tar())
    backup(drive, DISKS[0], "a")
    in_blocks(drive, b"not a tar at all", 16)
    drive.raw.write_filemark()  # an empty tape file
    backup(drive, DISKS[1], "b")
    foreign = "foreign incomplete"
    assert listing(drive) == ["label T1", foreign, "a", foreign, foreign, "b"]
    assert restore_disk(drive, "b") == DISKS[1]
    for file in (0, 1, 3):
        drive.go_to_file(file)
        with pytest.raises(ForeignStreamError):
            restore(drive)


def stream(data: bytes, name: str, path: Path, *, record_size: int = 10 * KIB) -> bytes:
    """A backup in a file."""
    with (
        MemorySource(data, info=BackupInfo(disk_id=name)) as source,
        TarStreamSink(path, checksum="crc32", record_size=record_size) as sink,
    ):
        copy(source, sink)
    return path.read_bytes()


def test_a_file_that_was_put_on_tape(drive: TapeDrive, tmp_path: Path) -> None:
    """By `dd bs=10k`; its records are smaller or larger than those of the stream."""
    for name, record_size in (("a", 10 * KIB), ("b", 256 * KIB), ("c", 4 * KIB)):
        in_blocks(drive, stream(DISKS[0], name, tmp_path / "a.tar", record_size=record_size))
    assert listing(drive) == ["a", "b", "c"]
    for name in "abc":
        assert restore_disk(drive, name) == DISKS[0]


def mt(station: Station, *words: str) -> None:
    subprocess.run(["mt", "-f", station.path, *words], check=True, timeout=60)


@pytest.fixture
def tools(station: Station) -> MachineStation:
    """A station at which other programs can use the drive."""
    if not isinstance(station, MachineStation):
        pytest.skip("other programs need a device")
    for tool in ("mt", "tar", "dd"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    return station


def test_read_with_tar_alone(tools: MachineStation, tmp_path: Path) -> None:
    with tape_drive(tools) as drive:
        drive.write_label("T1")
        backup(drive, DISKS[1], "a")
        backup(drive, DISKS[0], "b", part_size=128 * KIB, checksum="sha256")
    mt(tools, "asf", "2")
    command = ["tar", "-b", "2048", "-C", str(tmp_path), "-xvf", tools.path]
    done = subprocess.run(command, check=True, timeout=60, stdout=subprocess.PIPE, text=True)
    names = done.stdout.split()
    assert names[:2] == [fmt.INFO, fmt.EXTENTS]
    assert names[-1] == fmt.MANIFEST
    parts = b"".join((tmp_path / name).read_bytes() for name in names[2:-1])
    assert parts == DISKS[0]

    mt(tools, "asf", "1")
    command = ["dd", f"if={tools.path}", "bs=1M", "count=1"]
    record = subprocess.run(
        command, check=True, timeout=60, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ).stdout
    assert len(record) == RECORD
    assert record.startswith(fmt.INFO.encode() + b"\0")


def test_beside_what_tar_wrote(tools: MachineStation, tmp_path: Path) -> None:
    (tmp_path / "hello").write_bytes(disk(8))
    backup(drive := tape_drive(tools), DISKS[0], "a")
    drive.close()
    mt(tools, "eod")
    command = ["tar", "-b", "20", "-C", str(tmp_path), "-cf", tools.path, "hello"]
    subprocess.run(command, check=True, timeout=60)
    path = tmp_path / "b.tar"
    stream(DISKS[1], "b", path)
    command = ["dd", f"if={path}", f"of={tools.path}", "bs=10240"]
    subprocess.run(command, check=True, timeout=60, stderr=subprocess.DEVNULL)
    backup(drive, DISKS[2], "c")
    assert listing(drive) == ["a", "foreign incomplete", "b", "c"]
    for name, data in zip("abc", DISKS, strict=True):
        assert restore_disk(drive, name) == data


# --- The end of the tape ---


def test_nobody_to_load_the_next_tape(station: Station, drive: TapeDrive) -> None:
    station.blank("T0002", 500 * KIB, 100 * KIB)
    change_tape(station, drive, "T0002")
    backup(drive, DISKS[1], "a")
    with pytest.raises(EndOfTapeError, match="on_volume_full"):
        backup(drive, disk(9, 600 * KIB), "b")
    assert listing(drive) == ["a", "b incomplete"]
    assert restore_disk(drive, "a") == DISKS[1]


def test_a_place_has_the_label_of_its_tape(station: Station, drive: TapeDrive) -> None:
    drive.write_label("first")
    assert places(backup(drive, DISKS[2])) == [("first", 1)]
    change_tape(station, drive, "T0002")
    assert places(backup(drive, DISKS[2])) == [(None, 0)]
    change_tape(station, drive, "T0001")
    assert places(backup(drive, DISKS[2])) == [("first", 2)]


def test_a_tape_is_not_wound_between_backups(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands at the end of data already; the filemark is all that is asked for."""
    seen: list[Command] = []

    def open_device(path: str, *, read_only: bool) -> TapeDevice:
        device = station.open_device(path, read_only=read_only)
        command = device.command

        def record(what: Command, count: int = 1) -> None:
            seen.append(what)
            command(what, count)

        monkeypatch.setattr(device, "command", record)
        return device

    with TapeDrive(station.path, open_device=open_device) as drive:
        backup(drive, disk(1), "a")
        seen.clear()
        backup(drive, disk(2), "b")
        assert seen == [Command.WRITE_FILEMARKS]
        assert listing(drive) == ["a", "b"]
        backup(drive, disk(3), "c")
        assert listing(drive) == ["a", "b", "c"]
