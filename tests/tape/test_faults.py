"""A drive that fails at any record: no backup is lost, and none that is lost is called good."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from typing import Any

import pytest

from tapestream import TarStreamSource
from tapestream.drive.device import TapeDevice
from tapestream.errors import LocalIOError, PositionLostError, StreamError, TapeError
from tapestream.tape.volumes import closed_when_unused
from tapestream.testing.drive import Cartridge, Operation
from tapestream.testing.memory import MemorySink
from tests.disks import noise
from tests.drive.watched import Before, WatchedDevice

from .backups import KIB, RECORD_SIZE, Stacker, quick_copy, scan

pytestmark = pytest.mark.timeout(60)

EARLIER = noise(150 * KIB, 1)
DISK = noise(300 * KIB, 2)
OTHER = noise(100 * KIB, 3)


class Deed:
    """Something that is done once, before the nth call of a kind.

    Attributes:
        done: It was.
    """

    def __init__(self, call: str, nth: int, do: Callable[[], int | None]) -> None:
        self.done = False
        self._call = call
        self._left = nth
        self._do = do

    def __call__(self, call: str) -> int | None:
        if call != self._call:
            return None
        self._left -= 1
        if self._left:
            return None
        self.done = True
        return self._do()


class FaultyStacker(Stacker):
    """A station whose tape holds a backup, and whose drive somebody meddles with on request."""

    def __init__(self, *, close_when_unused: bool = False, **options: Any) -> None:
        self.before: Before = lambda call: None
        super().__init__(deepcopy(TAPE), open_device=self._open, **options)
        if close_when_unused:
            closed_when_unused(self.tape)
        self.tape.end_of_data()

    def _open(self, path: str, *, read_only: bool) -> TapeDevice:
        return WatchedDevice(self.double.open(path, read_only=read_only), self._before)

    def _before(self, call: str) -> int | None:
        return self.before(call)

    def quiet(self) -> None:
        """From now on nothing fails any more."""
        self.before = lambda call: None
        self.double._faults.clear()
        self.double.write_behind = False


def _tape(disk: bytes, disk_id: str) -> Cartridge:
    station = Stacker(Cartridge(4096 * KIB, 512 * KIB))
    station.tape.write_label(disk_id)
    station.backup(disk, disk_id=disk_id)
    station.tape.close()
    return station.shelf[0]


TAPE = _tape(EARLIER, "earlier")
OTHER_TAPE = _tape(OTHER, "other")


def attempt(station: FaultyStacker) -> BaseException | None:
    """Back up; how it failed."""
    try:
        station.backup(DISK)
    except (LocalIOError, StreamError) as e:
        return e
    return None


def close(station: FaultyStacker) -> None:
    """Close the drive, whatever it says to that."""
    try:
        station.tape.close()
    except TapeError:
        assert station.double.in_use is False


def assert_nothing_was_lost(station: FaultyStacker, error: BaseException | None) -> None:
    """What was on the tape is there; and what was backed up, if that is what was said."""
    tape = station.shelf[0]
    assert tape.blocks[: len(TAPE.blocks)] == TAPE.blocks
    station.quiet()
    assert station.restore(disk_id="earlier") == EARLIER
    entries = [e for e in station.tape.scan() if e.info and e.info.disk_id == "disk"]
    assert len(entries) <= 1
    if error is None or any(e.complete for e in entries):
        assert station.restore() == DISK
    station.tape.close()


def each(
    begin: Callable[[FaultyStacker, int], Callable[[], bool]], **options: Any
) -> Iterator[tuple[FaultyStacker, BaseException | None]]:
    """Back up again and again, each time with a fault one call later, until it comes too late.

    Args:
        begin: Plans the fault before the nth call; what it returns tells whether it happened.
        options: Of the drive.
    """
    nth, happened = 0, True
    while happened:
        nth += 1
        station = FaultyStacker(**options)
        has_happened = begin(station, nth)
        error = attempt(station)
        happened = has_happened()
        if happened:
            close(station)
            yield station, error
        else:
            station.tape.close()
            assert error is None
    assert nth > 1, "it never happened"


def faults(operation: Operation, number: int = errno.EIO) -> Callable[..., Callable[[], bool]]:
    def begin(station: FaultyStacker, nth: int) -> Callable[[], bool]:
        station.double.fail(operation, nth, number)
        return lambda: operation not in station.double._faults

    return begin


def deeds(
    call: str, do: Callable[[FaultyStacker], int | None]
) -> Callable[[FaultyStacker, int], Callable[[], bool]]:
    def begin(station: FaultyStacker, nth: int) -> Callable[[], bool]:
        deed = Deed(call, nth, lambda: do(station))
        station.before = deed
        return lambda: deed.done

    return begin


# --- Writing ---


@pytest.mark.parametrize("number", [errno.EIO, errno.ENXIO, errno.ENOMEM, errno.EBUSY])
@pytest.mark.parametrize("late", [False, True])
def test_a_record_that_fails(number: int, late: bool) -> None:
    records = 0
    for station, error in each(faults("write", number), write_behind=late):
        records += 1
        assert isinstance(error, TapeError)
        assert_nothing_was_lost(station, error)
        last = scan(station.shelf[0])[-1]
        assert last.file == 1 or not last.complete
    assert records == len(whole_backup())


@pytest.mark.parametrize("late", [False, True])
def test_a_record_that_is_refused_once_is_written_again(late: bool) -> None:
    for station, error in each(faults("write", errno.ENOSPC), write_behind=late):
        assert error is None
        assert_nothing_was_lost(station, error)


@pytest.mark.parametrize("count", [512, 1000, RECORD_SIZE // 2, RECORD_SIZE - 1])
def test_a_short_write_goes_on_with_the_rest(count: int) -> None:
    for station, error in each(deeds("write", lambda _: count)):
        assert error is None
        assert_nothing_was_lost(station, error)


@pytest.mark.parametrize("operation", ["filemark", "position", "status", "space", "close"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.ENOMEDIUM])
def test_another_call_that_fails(operation: Operation, number: int) -> None:
    for station, error in each_with_close(faults(operation, number)):
        assert error is None or isinstance(error, TapeError)
        assert_nothing_was_lost(station, error)


def each_with_close(
    begin: Callable[[FaultyStacker, int], Callable[[], bool]], **options: Any
) -> Iterator[tuple[FaultyStacker, BaseException | None]]:
    """As `each`, with sinks that close the drive at their end."""
    return each(begin, close_when_unused=True, **options)


def test_closing_that_fails_after_the_filemark_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The backup is on the tape: only the drive could not be given back."""
    for station, error in each_with_close(faults("close")):
        assert error is None
        assert_nothing_was_lost(station, error)
    assert "could not be closed cleanly" in caplog.text


@pytest.mark.parametrize("lost", [1, 2, 5])
def test_what_the_drive_loses_before_the_filemark(lost: int) -> None:
    """It has taken all records, and cannot put the last of them on the tape."""

    def lose(station: FaultyStacker) -> None:
        tape = station.shelf[0]
        tape.cut(len(tape.blocks) - lost)
        station.double.position -= lost
        station.double.fail("filemark")

    for station, error in each(deeds("WRITE_FILEMARKS", lose)):
        assert isinstance(error, TapeError)
        assert_nothing_was_lost(station, error)
        last = scan(station.shelf[0])[-1]
        assert last.file == 1 or not last.complete


CALLS = ["write", "WRITE_FILEMARKS", "position", "status", "close"]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("late", [False, True])
def test_a_drive_that_loses_its_power(call: str, late: bool) -> None:
    begin = deeds(call, lambda station: station.double.power_cycle())
    for station, error in each_with_close(begin, write_behind=late):
        if call == "write":
            assert isinstance(error, TapeError)
        assert_nothing_was_lost(station, error)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("late", [False, True])
def test_a_cartridge_that_is_swapped(call: str, late: bool) -> None:
    others: list[Cartridge] = []

    def swap(station: FaultyStacker) -> None:
        others.append(deepcopy(OTHER_TAPE))
        station.double.swap(others[-1])

    for station, error in each_with_close(deeds(call, swap), write_behind=late):
        if call == "write":
            assert isinstance(error, TapeError)
        assert others[-1].blocks == OTHER_TAPE.blocks
        assert_nothing_was_lost(station, error)


def test_after_a_lost_position_nothing_is_written(caplog: pytest.LogCaptureFixture) -> None:
    station = FaultyStacker()
    station.before = Deed("write", 3, station.double.power_cycle)
    error = attempt(station)
    assert isinstance(error, TapeError)
    # The filemark of the aborted file was not written: the drive is at the tape's beginning.
    [aborting] = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert aborting.exc_info is not None
    assert isinstance(aborting.exc_info[1], PositionLostError)
    close(station)
    assert_nothing_was_lost(station, error)


def test_the_drive_goes_on_after_a_fault() -> None:
    station = FaultyStacker()
    station.double.fail("write", 3)
    assert isinstance(attempt(station), TapeError)
    station.backup(DISK)
    assert [(e.label, e.complete) for e in station.tape.scan()] == [
        ("earlier", True),
        (None, True),
        (None, False),
        (None, True),
    ]
    assert station.restore() == DISK


# --- Reading ---


def whole_backup() -> list[bytes]:
    station = FaultyStacker()
    station.backup(DISK)
    station.tape.close()
    return station.shelf[0].files[2]


def test_what_is_read_below() -> None:
    assert len(whole_backup()) >= 5


@pytest.mark.parametrize("number", [errno.EIO, errno.ENXIO, errno.ENOMEDIUM])
def test_a_record_that_cannot_be_read(number: int) -> None:
    station = FaultyStacker()
    station.backup(DISK)
    for nth in range(1, len(whole_backup()) + 1):
        station.tape.rewind()
        station.tape.raw.forward_files(2)
        station.double.fail("read", nth, number)
        sink = MemorySink()
        with pytest.raises(TapeError, match="cannot read the next record"):
            _read(station, sink)
        assert sink.state in ("new", "aborted")
    assert station.restore() == DISK


@pytest.mark.parametrize("deed", ["power_cycle", "swap", "eject"])
def test_something_happens_while_a_tape_is_read(deed: str) -> None:
    for nth in range(1, len(whole_backup()) + 1):
        station = FaultyStacker()
        station.backup(DISK)
        station.tape.rewind()
        station.tape.raw.forward_files(2)
        other = deepcopy(OTHER_TAPE)
        arguments = [other] if deed == "swap" else []
        station.before = Deed("read", nth, partial(getattr(station.double, deed), *arguments))
        sink = MemorySink()
        with pytest.raises(TapeError):
            _read(station, sink)
        assert sink.state in ("new", "aborted")
        close(station)
        assert other.blocks == OTHER_TAPE.blocks
        if deed == "eject":
            station.double.load(station.shelf[0])
        assert_nothing_was_lost(station, None)


def _read(station: FaultyStacker, sink: MemorySink) -> None:
    with TarStreamSource(station.tape) as source, sink:
        quick_copy(source, sink)
