"""Others use the drive between the opening of a chain and its reading."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

import pytest

from tapestream import TarStreamSource, copy, merge_chain
from tapestream.errors import LocalIOError, TapeError, UsageError, WrongTapeError
from tapestream.tape import TapeDrive, VolumeRequest
from tapestream.testing.memory import MemorySink
from tests.drive.stations import FakeStation, Station

from ..chains import untouched
from .chaining import FEW, WEEK, R, append, in_a_thread, opened, put_all, restored
from .tapes import RECORD, backup, change_tape, disk, listing, tape_drive

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("quiet")]


def rewind(station: Station, drive: TapeDrive) -> None:
    with drive.turn():
        drive.rewind()


def go_elsewhere(station: Station, drive: TapeDrive) -> None:
    with drive.turn():
        drive.go_to_file(2)
        drive.raw.read_record(memoryview(bytearray(2 * RECORD)))


def scan(station: Station, drive: TapeDrive) -> None:
    list(drive.scan())


def restore_another(station: Station, drive: TapeDrive) -> None:
    with TarStreamSource(drive, file=1) as source:
        copy(source, MemorySink())


def exchange_and_bring_back(station: Station, drive: TapeDrive) -> None:
    with drive.turn():
        change_tape(station, drive, "T0002")
        drive.read_label()
        change_tape(station, drive, "T0001")


def let_go(station: Station, drive: TapeDrive) -> None:
    with drive.turn():
        drive.release()


MEANWHILE = [rewind, go_elsewhere, append, scan, restore_another, exchange_and_bring_back, let_go]


@pytest.mark.parametrize("meanwhile", MEANWHILE)
def test_meanwhile(
    station: Station, drive: TapeDrive, meanwhile: Callable[[Station, TapeDrive], None]
) -> None:
    """Between the opening and the reading, and between the check and the reading."""
    put_all(drive)
    with opened(drive, 3, 2, 0, 1) as sources:
        in_a_thread(lambda: meanwhile(station, drive))
        merged = merge_chain(sources)
        in_a_thread(lambda: meanwhile(station, drive))
        sink = MemorySink()
        copy(merged, sink, **FEW)
        assert bytes(sink.disk) == WEEK[3].disk
    with opened(drive, 2) as [source]:
        in_a_thread(lambda: meanwhile(station, drive))
        sink = MemorySink()
        copy(source, sink)
        data = [e for e in WEEK[2].extents if e.dirty and not e.zero]
        for e in data:
            end = e.start + e.length
            assert sink.disk[e.start : end] == WEEK[2].disk[e.start : end]


def test_a_backup_by_another_thread_while_the_chain_is_read(
    station: Station, drive: TapeDrive
) -> None:
    """It takes its turn between two links, and the chain goes back to where it was."""
    put_all(drive)
    threads: list[threading.Thread] = []

    def begin(start: int, length: int) -> None:
        if not threads:
            other = threading.Thread(target=lambda: backup(drive, disk(7), "another"))
            threads.append(other)
            other.start()

    with opened(drive, 3, 2, 0, 1) as sources:
        assert restored(sources, MemorySink(before_write=begin)) == WEEK[3].disk
    threads[0].join()
    assert listing(drive)[4] == "another"
    assert all(not line.endswith("incomplete") for line in listing(drive))


def test_another_tape(station: Station, drive: TapeDrive) -> None:
    """Empty, or with another backup: nothing is written. With the right one it then works."""
    station.needs_operator()
    change_tape(station, drive, "T0002")
    put_all(drive, [WEEK[0], WEEK[2]])
    change_tape(station, drive, "T0001")
    put_all(drive)
    for name in ("T0002", "T0003"):
        with opened(drive, 0, 1, 2, 3) as sources:
            change_tape(station, drive, name)
            sink = MemorySink()
            with pytest.raises(WrongTapeError, match="is not the backup of vm, disk"):
                restored(sources, sink)
            assert untouched(sink)
            change_tape(station, drive, "T0001")
            assert restored(sources) == WEEK[3].disk


def test_another_tape_after_the_check(station: Station, drive: TapeDrive) -> None:
    station.needs_operator()
    put_all(drive)
    with opened(drive, 0, 1, 2, 3) as sources:
        merged = merge_chain(sources)
        change_tape(station, drive, "T0002")
        sink = MemorySink()
        with pytest.raises(WrongTapeError), sink:
            copy(merged, sink)
        assert sink.writes == sink.zeros == []
        assert sink.state == "aborted"


def test_no_tape(station: Station, drive: TapeDrive) -> None:
    station.needs_operator()
    put_all(drive)
    with opened(drive, 0, 1) as sources:
        drive.release()
        station.eject()
        sink = MemorySink()
        with pytest.raises(TapeError):
            restored(sources, sink)
        assert untouched(sink)


@pytest.mark.parametrize("deed", ["swap", pytest.param("reset", marks=pytest.mark.every_kernel)])
def test_behind_the_back_of_the_open_drive(station: Station, drive: TapeDrive, deed: str) -> None:
    """The driver tells it once, by an error: whatever comes of it, nothing wrong is written."""
    station.needs_operator()
    put_all(drive)
    with opened(drive, 0, 1, 2, 3) as sources:
        if deed == "swap":
            station.swap("T0002")
        else:
            station.reset()
        sink = MemorySink()
        try:
            restored(sources, sink)
        except TapeError:
            assert untouched(sink)
        else:
            assert deed == "reset"
            assert bytes(sink.disk) == WEEK[3].disk
        if deed == "swap":
            change_tape(station, drive, "T0001")
        assert restored(sources) == WEEK[3].disk


def test_two_tapes_left_at_the_same_position(station: Station, drive: TapeDrive) -> None:
    """One source of each, opened one after the other in one drive, then copied one by one."""
    station.needs_operator()
    data = disk(1), disk(2)
    for name, content in zip(("T0001", "T0002"), data, strict=True):
        change_tape(station, drive, name)
        backup(drive, content, "disk")
    change_tape(station, drive, "T0001")
    requests: list[VolumeRequest] = []

    def operator(request: VolumeRequest) -> None:
        requests.append(request)
        station.swap("T0001")

    with TarStreamSource(drive, file=0, on_next_volume=operator) as first:
        change_tape(station, drive, "T0002")
        with TarStreamSource(drive, file=0):
            sink = MemorySink()
            copy(first, sink)
    assert bytes(sink.disk) == data[0]
    assert len(requests) == 1


def test_the_drive_is_free_after_a_failure(station: Station, drive: TapeDrive) -> None:
    """Once the sources are closed."""

    def fail(start: int, length: int) -> None:
        raise LocalIOError("disk full")

    put_all(drive)
    with opened(drive, 0, 1) as sources, pytest.raises(LocalIOError, match="disk full"):
        restored(sources, MemorySink(before_write=fail))
    in_a_thread(lambda: append(station, drive))
    with opened(drive, 0, 1) as sources:
        assert restored(sources) == WEEK[1].disk


def test_the_drive_after_a_failure_while_the_sources_are_open() -> None:
    """For the thread that called: to be told that it is in use is right, too; to wait is not."""

    def fail(start: int, length: int) -> None:
        if R <= start < 2 * R:  # of the second link, which a reader's thread has opened
            raise LocalIOError("disk full")

    drive = tape_drive(FakeStation())
    put_all(drive, WEEK[:2])

    def fail_and_scan() -> None:
        with opened(drive, 0, 1) as sources:
            with pytest.raises(LocalIOError, match="disk full"):
                restored(sources, MemorySink(before_write=fail))
            with suppress(UsageError):
                list(drive.scan())

    in_a_thread(fail_and_scan)
    in_a_thread(lambda: append(FakeStation(), drive))
