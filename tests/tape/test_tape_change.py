"""Backups that go on on the next tape, with an operator who does what operators do."""

from __future__ import annotations

import _thread
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import pytest

from tapestream.drive.device import Command, TapeDevice
from tapestream.errors import (
    EndOfTapeError,
    IncompleteStreamError,
    NoMediumError,
    TapeError,
    TapestreamError,
    WriteProtectedError,
    WrongTapeError,
)
from tapestream.tape import DeviceStatus, Flag, TapeDrive, VolumeRequest
from tapestream.tape.volumes import request_volume
from tapestream.testing.memory import MemorySink
from tests.drive.stations import FakeStation, Station
from tests.drive.watched import Interrupted

from .tapes import (
    BLOCK_COST,
    FILEMARK_COST,
    KIB,
    RECORD,
    backup,
    cases,
    change_tape,
    disk,
    impatient,
    listing,
    only,
    places,
    restore,
    restore_disk,
    tape_drive,
)

pytestmark = pytest.mark.usefixtures("quiet")

DATA = disk(1, 1200 * KIB)


class Operator:
    """Loads one tape after another, when asked to.

    Attributes:
        requests: What he was asked for.
    """

    def __init__(self, station: Station, *names: str) -> None:
        self.requests: list[VolumeRequest] = []
        self._station = station
        self._names = list(names)

    def __call__(self, request: VolumeRequest) -> None:
        self.requests.append(request)
        self._station.swap(self._names.pop(0))


def small(station: Station, records: float = 9, warning: float = 3, slack: int = 64) -> None:
    """T0002 to T0004 become small tapes, with room for so many records."""
    for name in ("T0002", "T0003", "T0004"):
        capacity = int(records * BLOCK_COST) + slack
        station.blank(name, capacity, int(warning * BLOCK_COST))


@pytest.fixture
def drive(station: Station) -> TapeDrive:
    """With T0002 in it, the first of three small tapes."""
    small(station)
    station.swap("T0002")
    return tape_drive(station)


def three_tapes(station: Station, drive: TapeDrive) -> None:
    """A backup of `DATA` on three labelled tapes."""
    for name in ("T0004", "T0003", "T0002"):
        change_tape(station, drive, name)
        drive.write_label(f"label of {name}")
    operator = Operator(station, "T0003", "T0004")
    result = backup(drive, DATA, "big", on_volume_full=operator)
    assert places(result) == [(f"label of T000{n}", 1) for n in (2, 3, 4)]
    assert [request.volume for request in operator.requests] == [2, 3]
    assert all(request.backup.startswith("vm, big") for request in operator.requests)


def test_three_tapes_in_one_drive(station: Station, drive: TapeDrive) -> None:
    three_tapes(station, drive)
    change_tape(station, drive, "T0002")
    assert listing(drive) == ["label label of T0002", "big volume 1"]
    entry = only(drive.find(disk_id="big"))
    assert (entry.continues, entry.volume_start) == (True, 0)
    operator = Operator(station, "T0003", "T0004")
    drive.go_to_file(entry.file)
    assert restore(drive, on_next_volume=operator) == DATA
    assert [(r.volume, r.problem) for r in operator.requests] == [(2, None), (3, None)]


def test_the_wrong_tape_at_a_restore(station: Station, drive: TapeDrive) -> None:
    """It is refused by its name, and nothing of it is written."""
    change_tape(station, drive, "T0001")
    drive.write_label("another")
    backup(drive, disk(2), "other")
    three_tapes(station, drive)
    change_tape(station, drive, "T0002")
    drive.go_to_file(1)
    operator = Operator(station, "T0001", "T0004", "T0002", "T0003", "T0004")
    assert restore(drive, on_next_volume=operator) == DATA
    assert [request.volume for request in operator.requests] == [2, 2, 2, 2, 3]
    problems = [request.problem or "" for request in operator.requests]
    assert "tape another does not hold volume 2" in problems[1]
    assert "tape label of T0004 does not hold volume 2" in problems[2]
    assert "tape label of T0002 does not hold volume 2" in problems[3]
    assert problems[4] == ""


def test_only_wrong_tapes(station: Station, drive: TapeDrive) -> None:
    three_tapes(station, drive)
    change_tape(station, drive, "T0002")
    drive.go_to_file(1)
    sink = MemorySink()
    with pytest.raises(WrongTapeError):
        restore(drive, on_next_volume=lambda _: None, sink=sink)
    assert sink.state == "aborted"
    drive.go_to_file(1)
    with pytest.raises(IncompleteStreamError, match="volume 2"):
        restore(drive)


@pytest.mark.timeout(30)
def test_whoever_loads_a_tape_may_look_at_it(station: Station, drive: TapeDrive) -> None:
    """In the thread that asks, during the turn of the backup, and of the restore."""
    tapes, seen = iter(["T0003", "T0004", "T0003", "T0004"]), []

    def operator(request: VolumeRequest) -> None:
        seen.append([entry.volume for entry in request.drive.scan()])
        change_tape(station, drive, next(tapes))
        assert request.drive.read_label() is None

    assert len(places(backup(drive, DATA, "big", on_volume_full=operator))) == 3
    change_tape(station, drive, "T0002")
    drive.rewind()
    assert restore(drive, on_next_volume=operator) == DATA
    assert seen == [[1], [2], [1], [2]]


def test_two_drives(station: Station, drive: TapeDrive) -> None:
    """The next tape is in the other drive already; then the first one has another."""
    station.load("T0003", 1)
    other = tape_drive(station, 1)

    def next_drive(request: VolumeRequest) -> TapeDrive:
        if request.drive is drive:
            return other
        station.swap("T0004")
        return drive

    result = backup(drive, DATA, "big", on_volume_full=next_drive)
    assert result.receipt is not None
    assert [place.drive for place in result.receipt.places] == [
        station.path,
        station.second_path,
        station.path,
    ]
    change_tape(station, drive, "T0002")
    drive.rewind()
    other.rewind()
    assert restore(drive, on_next_volume=next_drive) == DATA
    for one in (drive, other):
        with one.turn():
            pass


def test_tapes_that_will_not_do(station: Station, drive: TapeDrive) -> None:
    """A protected one, none at all, and the one that is full."""
    station.protect("T0004")
    deeds: list[Callable[[], None]] = [
        lambda: station.swap("T0004"),
        station.eject,
        lambda: station.load("T0002"),
        lambda: station.swap("T0003"),
        lambda: station.swap("T0001"),
    ]
    problems = []

    def operator(request: VolumeRequest) -> None:
        problems.append((request.volume, request.problem))
        deeds.pop(0)()

    backup(drive, DATA, "big", on_volume_full=operator)
    assert [volume for volume, _ in problems] == [2, 2, 2, 2, 3]
    wanted = ["", "write-protected", "not ready", "still the tape that is full", ""]
    for (_, problem), text in zip(problems, wanted, strict=True):
        assert text in (problem or "")
        assert bool(problem) == bool(text)
    change_tape(station, drive, "T0002")
    drive.rewind()
    assert restore(drive, on_next_volume=Operator(station, "T0003", "T0001")) == DATA


def test_no_tape_comes(station: Station, drive: TapeDrive) -> None:
    with pytest.raises(NoMediumError):
        backup(drive, DATA, "big", on_volume_full=lambda _: station.eject())
    station.load("T0002")
    assert listing(drive) == ["big volume 1"]


class GaveUpError(Exception):
    pass


def test_an_operator_who_gives_up(station: Station, drive: TapeDrive) -> None:
    def give_up(request: VolumeRequest) -> None:
        raise GaveUpError

    with pytest.raises(GaveUpError):
        backup(drive, DATA, "big", on_volume_full=give_up)
    change_tape(station, drive, "T0003")
    backup(drive, disk(3), "next")
    assert listing(drive) == ["next"]


def test_behind_other_backups(station: Station, drive: TapeDrive) -> None:
    """All tapes hold something already, and it stays."""
    for name in ("T0004", "T0003", "T0002"):
        change_tape(station, drive, name)
        backup(drive, disk(4, 70 * KIB), f"on {name}")
    operator = Operator(station, "T0003", "T0004", "T0001")
    backup(drive, DATA, "big", on_volume_full=operator)
    for name in ("T0004", "T0003", "T0002"):
        change_tape(station, drive, name)
        assert restore_disk(drive, f"on {name}") == disk(4, 70 * KIB)
    drive.go_to_file(only(drive.find(disk_id="big")).file)
    operator = Operator(station, "T0003", "T0004", "T0001")
    assert restore(drive, on_next_volume=operator) == DATA


def through_small_tapes(station: Station, data: bytes, records: float, warning: int) -> None:
    """Back up, over three small tapes to a large one, and restore."""
    small(station, records, warning)
    first, *names = "T0002", "T0003", "T0004", "T0001"
    station.swap(first)
    with tape_drive(station) as drive:
        result = backup(drive, data, "big", on_volume_full=Operator(station, *names))
        assert len(places(result)) <= 4
        change_tape(station, drive, first)
        drive.rewind()
        assert restore(drive, on_next_volume=Operator(station, *names)) == data
    station.eject()
    station.blank("T0001")
    station.load("T0001")


def test_the_end_of_the_tape_anywhere(station: Station) -> None:
    """In a part, at a border of members, in the manifest, in the padding: all comes back."""
    data = disk(5, 500 * KIB)  # with all that describes it 9 records
    for half in cases(station, range(8, 22), [9, 15, 18]):
        for warning in cases(station, [0, 1, 2, 3], [2]):
            through_small_tapes(station, data, half / 2, warning)


def test_tapes_too_small_for_one_part(station: Station) -> None:
    small(station, 1)
    station.swap("T0002")
    drive = tape_drive(station)
    with pytest.raises(EndOfTapeError, match="not one part"):
        backup(drive, DATA, "big", on_volume_full=Operator(station, "T0003", "T0004"))


def test_early_warning_that_is_told_late() -> None:
    """The driver may tell it only with the next call, be it the filemark."""
    station = FakeStation()
    station.drives[0].write_behind = True
    for half in range(8, 24):
        through_small_tapes(station, disk(5, 500 * KIB), half / 2, 2)


@pytest.mark.every_kernel
def test_a_reset_while_tapes_are_changed(station: Station, drive: TapeDrive) -> None:
    """The drive loses its power as the operator opens it: he has loaded a tape, that counts."""

    def operator(request: VolumeRequest) -> None:
        names = {2: "T0003", 3: "T0004", 4: "T0001"}
        station.swap(names[request.volume])
        station.reset()

    backup(drive, DATA, "big", on_volume_full=operator)
    change_tape(station, drive, "T0002")
    drive.rewind()
    assert restore(drive, on_next_volume=operator) == DATA


@pytest.mark.every_kernel
def test_a_reset_on_the_second_tape(station: Station, drive: TapeDrive) -> None:
    """What is on it stays, and the backup fails."""
    change_tape(station, drive, "T0003")
    backup(drive, disk(4, 70 * KIB), "earlier")
    change_tape(station, drive, "T0002")
    drive.close()
    opener = Interrupted(station, station.reset)
    tape = impatient(TapeDrive(station.path, open_device=opener))

    def operator(request: VolumeRequest, nth: int) -> None:
        station.swap("T0003")
        opener.before(nth)

    for nth in cases(station, range(1, 18), [8]):
        with pytest.raises(TapestreamError):
            backup(tape, DATA, "big", on_volume_full=partial(operator, nth=nth))
        assert opener.happened
        opener.before(0)
        with suppress(TapeError):
            tape.release()
        change_tape(station, tape, "T0003")
        assert restore_disk(tape, "earlier") == disk(4, 70 * KIB)
        tape.close()
        station.eject()
        station.blank("T0002", 9 * BLOCK_COST + FILEMARK_COST, 3 * BLOCK_COST)
        station.load("T0002")


# --- A wait that is given up ---


class Loading(TapeDevice):
    """A drive that takes its cartridge for ever; whoever waits for it presses Ctrl-C.

    Args:
        asked: Gets every question for its status.
    """

    def __init__(self, asked: list[None]) -> None:
        self._asked = asked

    def status(self) -> DeviceStatus:
        self._asked.append(None)
        if len(self._asked) == 100:  # by now it is waited for without a limit
            _thread.interrupt_main()
        return DeviceStatus(Flag(0), -1, -1, 0, 0)

    def write(self, record: memoryview) -> int:
        raise AssertionError

    def readinto(self, buffer: memoryview) -> int:
        raise AssertionError

    def command(self, command: Command, count: int = 1) -> None:
        raise AssertionError

    def position(self) -> int:
        raise AssertionError

    def close(self) -> None:
        pass


def loading_drive() -> TapeDrive:
    asked: list[None] = []
    return impatient(TapeDrive("/dev/nst9", open_device=lambda path, *, read_only: Loading(asked)))


@pytest.mark.timeout(30)
def test_ctrl_c_while_a_backup_waits_for_its_next_drive(station: Station, drive: TapeDrive) -> None:
    other = loading_drive()
    with pytest.raises(KeyboardInterrupt):
        backup(drive, DATA, "big", on_volume_full=lambda _: other)
    for one in (drive, other):
        with one.turn():
            pass
    assert listing(drive) == ["big volume 1"]


@pytest.mark.timeout(30)
def test_ctrl_c_while_a_restore_waits_for_its_next_drive(
    station: Station, drive: TapeDrive
) -> None:
    three_tapes(station, drive)
    change_tape(station, drive, "T0002")
    drive.go_to_file(1)
    other, sink = loading_drive(), MemorySink()
    with pytest.raises(KeyboardInterrupt):
        restore(drive, on_next_volume=lambda _: other, sink=sink)
    assert sink.state == "aborted"
    for one in (drive, other):
        with one.turn():
            pass


def test_a_tape_that_comes_too_late_is_left_alone(drive: TapeDrive) -> None:
    lease = drive.turn()
    lease.acquire()
    accepted: list[TapeDrive] = []
    request = VolumeRequest(drive, "set", 2, "vm, disk")

    def load_and_cancel(_: VolumeRequest) -> None:
        lease.is_cancelled = True

    with pytest.raises(TapeError, match="was cancelled"):
        request_volume(lease, request, load_and_cancel, accepted.append)
    assert accepted == []
    lease.release()


# --- Protected and missing tapes ---


def test_a_protected_tape(station: Station, drive: TapeDrive) -> None:
    backup(drive, disk(6), "a")
    drive.release()
    station.eject()
    station.protect("T0002")
    station.load("T0002")
    assert drive.status().write_protected
    with pytest.raises(WriteProtectedError):
        backup(drive, disk(6), "b")
    assert restore_disk(drive, "a") == disk(6)
    with pytest.raises(WriteProtectedError):
        drive.raw.write_filemark()
    with pytest.raises(WriteProtectedError):
        drive.raw.write_record(memoryview(bytes(RECORD)))
    with pytest.raises(WriteProtectedError):
        drive.erase()
    assert listing(drive) == ["a"]
    drive.release()
    station.eject()
    station.protect("T0002", False)
    station.load("T0002")
    backup(drive, disk(6), "b")
    assert listing(drive) == ["a", "b"]


def test_an_empty_drive(station: Station, drive: TapeDrive) -> None:
    """It is said at once; and a tape that comes later is found."""
    station.eject()
    status = drive.status()
    assert not status.online
    assert status.is_empty
    for _ in range(2):
        with pytest.raises(NoMediumError):
            backup(drive, disk(6), "a")
        with pytest.raises(NoMediumError):
            restore(drive)
        with pytest.raises(NoMediumError):
            list(drive.scan())
        with pytest.raises(NoMediumError):
            drive.raw.tell()
    with pytest.raises(NoMediumError, match="after 0 s"):
        drive.wait_ready(timeout=0)
    waits: list[float] = []

    def on_wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            station.load("T0003")

    drive.wait_ready(on_wait=on_wait)
    assert len(waits) == 3
    assert waits == sorted(waits)
    backup(drive, disk(6), "a")
    assert restore_disk(drive, "a") == disk(6)


def test_a_tape_that_comes_while_the_drive_is_looked_at(station: Station, drive: TapeDrive) -> None:
    station.eject()
    assert not drive.status().online
    station.load("T0003")
    assert drive.status().online
    backup(drive, disk(6), "a")


def test_who_waits_may_give_up(station: Station, drive: TapeDrive) -> None:
    station.eject()

    def give_up(seconds: float) -> None:
        raise GaveUpError

    with pytest.raises(GaveUpError):
        drive.wait_ready(on_wait=give_up)
    with pytest.raises(TapeError):
        drive.rewind()
