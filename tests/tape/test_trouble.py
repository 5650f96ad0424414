"""What happens to a tape while it is in use: whatever it is, nothing on any tape is lost."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Literal

import pytest

from tapestream import BackupInfo, TarStreamSink, copy
from tapestream.drive.records import RecordPool, RecordReader, RecordWriter
from tapestream.errors import PositionLostError, TapeError
from tapestream.tape import TapeDrive
from tapestream.testing.memory import MemorySink, MemorySource
from tests.drive.stations import Station
from tests.drive.watched import Interrupted

from .tapes import (
    RECORD,
    backup,
    cases,
    change_tape,
    disk,
    listing,
    places,
    restore,
    restore_disk,
    tape_drive,
)

Event = Literal["reset", "swap", "eject"]
RESET = pytest.param("reset", marks=pytest.mark.every_kernel)
EVENTS = [RESET, "swap", "eject"]
NEW = disk(4)


@pytest.fixture
def tapes(station: Station) -> Station:
    """A station with two backups on T0001, which is in the drive, and one on T0002."""
    with tape_drive(station) as drive:
        station.swap("T0002")
        drive.write_label("second")
        backup(drive, disk(3), "other")
        change_tape(station, drive, "T0001")
        drive.write_label("first")
        backup(drive, disk(1), "a")
        backup(drive, disk(2), "b")
    return station


def happening(station: Station, event: Event) -> Callable[[], None]:
    def happen() -> None:
        if event == "reset":
            station.reset()
        elif event == "swap":
            station.swap("T0002")
        else:
            station.eject()

    return happen


def put_back(station: Station, event: Event) -> None:
    if event == "swap":
        station.swap("T0001")
    elif event == "eject":
        station.load("T0001")


def check(station: Station, whole: int, *, second_may_grow: bool = False) -> list[str]:
    """Of all backups that were reported to be whole, none is lost; what is on the first tape."""
    with tape_drive(station) as drive:
        found = listing(drive)
        assert found[:3] == ["label first", "a", "b"]
        assert restore_disk(drive, "a") == disk(1)
        assert restore_disk(drive, "b") == disk(2)
        entries = drive.find(disk_id="new")
        assert len(entries) >= whole  # it may be whole, but for its filemark
        for entry in entries:
            drive.go_to_file(entry.file)
            assert restore(drive) == NEW
        change_tape(station, drive, "T0002")
        second = listing(drive)
        assert second[:2] == ["label second", "other"]
        assert second_may_grow or len(second) == 2
        assert restore_disk(drive, "other") == disk(3)
        change_tape(station, drive, "T0001")
    return found


@pytest.mark.parametrize("event", EVENTS)
def test_in_the_middle_of_a_backup(tapes: Station, event: Event) -> None:
    whole = 0
    opener = Interrupted(tapes, happening(tapes, event))
    drive = TapeDrive(tapes.path, open_device=opener)
    for nth in cases(tapes, range(1, 100), [1, 5, 8]):
        drive.read_label()
        opener.before(nth)
        try:
            result = backup(drive, NEW, "new")
        except TapeError:
            assert opener.happened
        else:
            whole += 1
        if not opener.happened:
            break
        with suppress(TapeError):
            drive.close()
        put_back(tapes, event)
        found = check(tapes, whole)
    else:
        result = backup(drive, NEW, "new")
    opener.before(0)
    assert places(result) == [("first", len(found))]
    assert listing(drive) == [*found, "new"]
    drive.close()


@pytest.mark.parametrize("event", EVENTS)
def test_in_the_middle_of_a_backup_and_then_used_at_once(tapes: Station, event: Event) -> None:
    """The `TapeDrive` stays open; whichever tape is there is appended to, or none."""
    opener = Interrupted(tapes, happening(tapes, event))
    drive = TapeDrive(tapes.path, open_device=opener)
    for nth in cases(tapes, range(1, 30), [8]):
        opener.before(nth)
        with suppress(TapeError):
            backup(drive, NEW, "new")
        gone = event == "eject" and opener.happened
        if gone:
            put_back(tapes, event)
        with suppress(TapeError):
            backup(drive, NEW, "new")
        with suppress(TapeError):
            list(drive.scan())
        with suppress(TapeError):
            drive.close()
        if opener.happened and not gone:
            put_back(tapes, event)
        check(tapes, 0, second_may_grow=event == "swap")


@pytest.mark.parametrize("event", EVENTS)
def test_in_the_middle_of_a_restore(tapes: Station, event: Event) -> None:
    opener = Interrupted(tapes, happening(tapes, event))
    drive = TapeDrive(tapes.path, open_device=opener)
    for nth in cases(tapes, range(1, 100), [1, 4]):
        drive.go_to_file(2)
        opener.before(nth)
        sink = MemorySink()
        try:
            restored = restore(drive, sink=sink)
        except TapeError:
            assert opener.happened
            assert sink.state != "committed"
        else:
            assert restored == disk(2)
        if not opener.happened:
            break
        with suppress(TapeError):
            drive.raw.write_record(memoryview(bytes(RECORD)))
        with suppress(TapeError):
            drive.close()
        put_back(tapes, event)
        check(tapes, 0)
    drive.close()


@pytest.mark.parametrize("event", [RESET, "swap"])
def test_in_the_middle_of_a_scan(tapes: Station, event: Event) -> None:
    """It fails, or is right: never the wrong numbers."""
    opener = Interrupted(tapes, happening(tapes, event))
    drive = TapeDrive(tapes.path, open_device=opener)
    right = [["label first", "a", "b"], ["label second", "other"]]
    # Happens to the first record of the tape, and looks like a medium error.
    unread = [("foreign incomplete", others) for _, *others in right]
    for nth in cases(tapes, range(1, 100), [5, 11]):
        drive.status()
        opener.before(nth)
        with suppress(TapeError):
            label, *others = listing(drive)
            assert [label, *others] in right or (label, others) in unread
        if not opener.happened:
            break
        with suppress(TapeError):
            drive.close()
        put_back(tapes, event)
    drive.close()


@pytest.mark.every_kernel
def test_reset_between_two_backups(tapes: Station) -> None:
    with tape_drive(tapes) as drive:
        backup(drive, NEW, "new")
        tapes.reset()
        with pytest.raises(PositionLostError):
            backup(drive, NEW, "new")
        result = backup(drive, NEW, "new")
        assert places(result) == [("first", 4)]
    assert check(tapes, 2)[3:] == ["new", "new"]


def test_another_tape_between_two_backups(tapes: Station) -> None:
    """The second backup says on which tape it is."""
    with tape_drive(tapes) as drive:
        backup(drive, NEW, "new")
        tapes.swap("T0002")
        with pytest.raises(PositionLostError):
            backup(drive, NEW, "new")
        assert drive.label is None
        assert places(backup(drive, NEW, "new")) == [("second", 2)]
        assert listing(drive) == ["label second", "other", "new"]


@pytest.mark.every_kernel
def test_nothing_is_written_where_the_position_was_lost(tapes: Station) -> None:
    with tape_drive(tapes) as drive:
        drive.end_of_data()
        drive.raw.write_record(memoryview(NEW[:RECORD]))
        tapes.reset()
        with pytest.raises(TapeError):
            drive.raw.write_record(memoryview(NEW[:RECORD]))
        for _ in range(2):
            with pytest.raises(PositionLostError):
                drive.raw.write_record(memoryview(NEW[:RECORD]))
            with pytest.raises(PositionLostError):
                drive.raw.write_filemark()
    check(tapes, 0)


def test_medium_error_in_a_backup(tapes: Station) -> None:
    """The tape is where it should be: the torn tape file is ended."""
    with tape_drive(tapes) as drive:
        for nth in cases(tapes, range(1, 5), [1, 3]):
            tapes.fail("write", nth)
            with pytest.raises(TapeError, match="cannot write a record"):
                backup(drive, NEW, "new")
        backup(drive, NEW, "new")
        drive.release()
        found = check(tapes, 1)
        assert found[-1] == "new"
        assert set(found[3:-1]) == {"new incomplete"}


def test_medium_error_at_the_filemark(tapes: Station) -> None:
    """Then the backup has failed, though all of it may be on tape."""
    with tape_drive(tapes) as drive:
        tapes.fail("filemark")
        with pytest.raises(TapeError, match="cannot write a filemark"):
            backup(drive, NEW, "new")
        backup(drive, NEW, "new")
    check(tapes, 1)


def test_medium_error_in_a_restore(tapes: Station) -> None:
    with tape_drive(tapes) as drive:
        for nth in cases(tapes, range(1, 5), [1, 3]):
            drive.go_to_file(1)
            tapes.fail("read", nth)
            with pytest.raises(TapeError, match="cannot read the next record"):
                restore(drive)
        drive.go_to_file(1)
        assert restore(drive) == disk(1)


def test_medium_error_in_a_scan(tapes: Station) -> None:
    """What cannot be read is told; what is behind is found."""
    with tape_drive(tapes) as drive:
        tapes.fail("read", 2)
        label, bad, good = drive.scan()
        assert (label.label, bad.info) == ("first", None)
        assert bad.problem is not None
        assert "cannot read" in bad.problem
        drive.go_to_file(good.file)
        assert restore(drive) == disk(2)


# --- A caller who moves the tape while it is written, or read ---


class Meddler:
    """A progress bar that does something with the drive, once there are records on the tape."""

    def __init__(self, deed: Callable[[], object]) -> None:
        self._deed = deed
        self._calls = 0

    def update(self, n: int) -> None:
        self._calls += 1
        if self._calls == 2:
            self._deed()


def moves(station: Station, drive: TapeDrive) -> dict[str, Callable[[], object]]:
    """What may be done with a drive from outside, each of which leaves it elsewhere."""

    def another_tape() -> None:
        drive.release()
        station.swap("T0002")
        drive.end_of_data()

    return {
        "read_label": drive.read_label,
        "rewind": drive.rewind,
        "release": drive.release,
        "go_to_file": lambda: drive.go_to_file(2),
        "scan": lambda: list(drive.scan()),
        "write_filemark": drive.raw.write_filemark,
        "another_tape": another_tape,
    }


MOVES = ["read_label", "rewind", "release", "go_to_file", "write_filemark", "another_tape"]


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("move", MOVES)
def test_a_backup_does_not_follow_where_the_caller_moves_the_tape(
    tapes: Station, move: str
) -> None:
    """The other backups stay, and this one is not called whole."""
    with tape_drive(tapes) as drive:
        source = MemorySource(NEW, info=BackupInfo(vm_id="vm", disk_id="new"))
        sink = TarStreamSink(drive, record_size=RECORD, part_size=RECORD)
        meddler = Meddler(moves(tapes, drive)[move])
        with source, sink, pytest.raises(PositionLostError, match="was moved, or closed"):
            copy(source, sink, progress=meddler, buffer_size=RECORD, buffer_memory=4 * RECORD)
        if move == "another_tape":
            change_tape(tapes, drive, "T0001")
        backup(drive, NEW, "new")
    assert check(tapes, 1)[3] == "new incomplete"


@pytest.mark.parametrize("move", [*MOVES, "scan"])
def test_a_tape_file_goes_on_only_where_it_ends(tapes: Station, move: str) -> None:
    """Neither a record nor a filemark is written elsewhere."""
    with tape_drive(tapes) as drive:
        drive.end_of_data()
        drive.raw.begin_file()
        writer = RecordWriter(drive.raw, RecordPool(RECORD))
        writer.write(memoryview(NEW[:RECORD]))
        moves(tapes, drive)[move]()
        for _ in range(2):
            with pytest.raises(PositionLostError, match="was moved, or closed"):
                writer.write(memoryview(NEW[:RECORD]))
            with pytest.raises(PositionLostError, match="was moved, or closed"):
                writer.end_file()
        assert (writer.accepted, writer.records) == (RECORD, 1)
        if move == "another_tape":
            change_tape(tapes, drive, "T0001")
    check(tapes, 0)


def test_another_tape_before_the_first_record(station: Station) -> None:
    """It stands at its beginning, where the blank one stood."""
    with tape_drive(station) as drive:
        change_tape(station, drive, "T0002")
        backup(drive, disk(3), "other")
        change_tape(station, drive, "T0001")
        drive.raw.begin_file()
        writer = RecordWriter(drive.raw, RecordPool(RECORD))
        change_tape(station, drive, "T0002")
        with pytest.raises(PositionLostError, match="was moved, or closed"):
            writer.write(memoryview(NEW[:RECORD]))
        assert restore_disk(drive, "other") == disk(3)


@pytest.mark.parametrize("move", ["read_label", "rewind", "release", "go_to_file", "another_tape"])
def test_a_reader_does_not_go_on_elsewhere(tapes: Station, move: str) -> None:
    with tape_drive(tapes) as drive:
        drive.go_to_file(1)
        reader = RecordReader(drive.raw)
        reader.record()
        moves(tapes, drive)[move]()
        with pytest.raises(PositionLostError, match="was moved, or closed"):
            reader.record()
    if move == "another_tape":
        tapes.swap("T0001")
