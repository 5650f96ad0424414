"""go_to_file, from anywhere."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from tapestream.errors import TapeError
from tapestream.tape import TapeDrive
from tests.drive.stations import Station

from .tapes import cases, tape_drive

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("quiet")]


def numbered(drive: TapeDrive, count: int) -> None:
    """Tape files of different lengths; each record tells its file, and its number in it."""
    for file in range(count):
        for number in range(file % 3 + 1):
            drive.raw.write_record(memoryview(record(file, number)))
        drive.raw.write_filemark()


def record(file: int, number: int) -> bytes:
    return f"record {number} of file {file}".encode().ljust(1024, b".")


def read_here(drive: TapeDrive) -> bytes:
    buffer = memoryview(bytearray(4096))
    return bytes(buffer[: drive.raw.read_record(buffer)])


FILES = 5


def _to_its_filemark(drive: TapeDrive) -> None:
    while read_here(drive):
        pass


def _middle(drive: TapeDrive) -> None:
    read_here(drive)


def _before_its_filemark(drive: TapeDrive) -> None:
    drive.raw.forward_files(1)
    drive.raw.before_filemark()


def _opened_anew(drive: TapeDrive) -> None:
    read_here(drive)
    drive.release()


def _records_wound_back(drive: TapeDrive) -> None:
    read_here(drive)
    drive.raw.backward_records(1)


def _error_in_winding(drive: TapeDrive) -> None:
    with pytest.raises(TapeError):
        drive.raw.forward_files(9)


def _error_in_winding_back(drive: TapeDrive) -> None:
    with pytest.raises(TapeError):
        drive.raw.backward_files(9)


STARTS: dict[str, Callable[[TapeDrive], None]] = {
    "its beginning": lambda drive: None,
    "the middle": _middle,
    "its filemark": _to_its_filemark,
    "before its filemark": _before_its_filemark,
    "a seek": lambda drive: drive.raw.seek(drive.raw.tell()),
    "a seek into the middle": lambda drive: drive.raw.seek(drive.raw.tell() + 1),
    "the end of data": lambda drive: drive.end_of_data(),
    "its beginning, opened anew": lambda drive: drive.release(),
    "the middle, opened anew": _opened_anew,
    "an error in winding": _error_in_winding,
    "an error in winding back": _error_in_winding_back,
    "records wound back": _records_wound_back,
}


@pytest.mark.parametrize("start", STARTS)
def test_from_any_file_to_any_other(station: Station, drive: TapeDrive, start: str) -> None:
    numbered(drive, FILES)
    for here in cases(station, range(FILES), [0, 2]):
        for there in cases(station, range(FILES), [0, 1, 2, 4]):
            drive.rewind()
            if here:
                drive.raw.forward_files(here)
            STARTS[start](drive)
            drive.go_to_file(there)
            assert read_here(drive) == record(there, 0), f"from file {here} to {there}"


def test_to_the_end_and_beyond(station: Station, drive: TapeDrive) -> None:
    """The file behind the last is where the next backup goes; there are none behind it."""
    numbered(drive, 3)
    for here in range(4):
        drive.go_to_file(here)
        drive.go_to_file(3)
        assert drive.status().file == 3
        with pytest.raises(TapeError):
            drive.go_to_file(5)
        drive.go_to_file(1)
        assert read_here(drive) == record(1, 0)
        with pytest.raises(TapeError):
            drive.go_to_file(4)
    drive.go_to_file(2)
    assert read_here(drive) == record(2, 0)


@pytest.mark.parametrize("operation", ["read", "position"])
def test_after_an_error(station: Station, drive: TapeDrive, operation: Any) -> None:
    station.needs_operator()
    numbered(drive, FILES)
    for there in cases(station, range(FILES), [0, 2, 4]):
        drive.go_to_file(2)
        station.fail(operation)
        with pytest.raises((TapeError, OSError)):
            read_here(drive) if operation == "read" else drive.raw.tell()
        with suppress(TapeError, OSError):
            drive.go_to_file(there)
            assert read_here(drive) == record(there, 0)
        drive.go_to_file(there)
        assert read_here(drive) == record(there, 0)


@pytest.mark.parametrize("deed", [pytest.param("reset", marks=pytest.mark.every_kernel), "swap"])
def test_behind_its_back(station: Station, drive: TapeDrive, deed: str) -> None:
    """It fails once, or is right: never another file."""
    station.needs_operator()
    numbered(drive, FILES)
    for here in cases(station, range(FILES), [3]):
        for there in cases(station, range(FILES), [1, 4]):
            drive.go_to_file(here)
            drive.status()
            if deed == "reset":
                station.reset()
            else:
                station.swap("T0002")
                station.swap("T0001")
            with suppress(TapeError, OSError):
                drive.go_to_file(there)
                assert read_here(drive) == record(there, 0)
            drive.go_to_file(there)
            assert read_here(drive) == record(there, 0)


@pytest.mark.every_kernel
def test_after_anything(station: Station) -> None:
    """Random deeds, and then any file: it is the right one, or it was an error."""
    station.needs_operator()
    right = 0
    for seed in cases(station, range(300), range(6)):
        station.eject()
        station.blank("T0001")
        station.load("T0001")
        with tape_drive(station) as drive:
            right += _anything(station, drive, random.Random(seed))
    assert right > 10


def _anything(station: Station, drive: TapeDrive, rng: random.Random) -> int:
    """How often it went to the right file."""
    deeds: dict[str, Callable[[], object]] = {
        "read": lambda: read_here(drive),
        "rewind": drive.rewind,
        "end of data": drive.end_of_data,
        "forward": lambda: drive.raw.forward_files(rng.randrange(1, 3)),
        "backward": lambda: drive.raw.backward_files(rng.randrange(3)),
        "record back": drive.raw.backward_records,
        "before filemark": drive.raw.before_filemark,
        "seek": lambda: drive.raw.seek(rng.randrange(14)),
        "release": drive.release,
        "tell": drive.raw.tell,
        "reset": station.reset,
        "failed read": lambda: (station.fail("read"), read_here(drive)),
    }
    numbered(drive, FILES)
    trail: list[str] = []
    right = 0
    for _ in range(12):
        trail.append(rng.choice(list(deeds)))
        with suppress(TapeError, OSError):
            deeds[trail[-1]]()
        if rng.random() < 0.4:
            there = rng.randrange(FILES)
            trail.append(f"go to {there}")
            try:
                drive.go_to_file(there)
                found = read_here(drive)
            except (TapeError, OSError):
                trail.append("failed")
                continue
            assert found == record(there, 0), str(trail)
            right += 1
    return right
