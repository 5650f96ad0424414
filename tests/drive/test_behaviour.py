"""What Linux's tape driver does, as far as the library depends on it.

Each test runs against the double, and by `make test-tape` against the driver: that is what makes
the double worth believing. What is odd here is what the driver does, not what we would wish.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from contextlib import suppress
from typing import get_args

import pytest

from tapestream.drive.device import Command, DeviceStatus, Flag, TapeDevice
from tapestream.testing.drive import Cartridge, FakeDrive, Resets

from .stations import FakeStation, Fault, MachineStation, Station

K = 1024
SIZE = 64 * K
BEGINNING = Flag.BEGINNING
FILEMARK = Flag.FILEMARK
END_OF_DATA = Flag.END_OF_DATA
END_OF_TAPE = Flag.END_OF_TAPE
NOTHING = Flag(0)


def record(number: int, size: int = SIZE) -> bytes:
    return random.Random(number).randbytes(size)


def write(device: TapeDevice, *numbers: int, size: int = SIZE) -> None:
    for number in numbers:
        assert device.write(memoryview(record(number, size))) == size


def write_file(device: TapeDevice, *numbers: int) -> None:
    write(device, *numbers)
    device.command(Command.WRITE_FILEMARKS)


def read(device: TapeDevice, size: int = 128 * K) -> bytes:
    buffer = bytearray(size)
    count = device.readinto(memoryview(buffer))
    return bytes(buffer[:count])


def failure(function: Callable[[], object]) -> int:
    """The error number with which it fails; 0 when it does not."""
    try:
        function()
    except OSError as e:
        return e.errno or 0
    return 0


def command_failure(device: TapeDevice, command: Command, count: int = 1) -> int:
    return failure(lambda: device.command(command, count))


def write_failure(device: TapeDevice, data: bytes | memoryview = b"x") -> int:
    return failure(lambda: device.write(memoryview(data)))


def read_failure(device: TapeDevice, size: int = 128 * K) -> int:
    return failure(lambda: read(device, size))


def where(device: TapeDevice) -> tuple[int, int, int, Flag]:
    """Position, file, block, and the flags that change as the tape moves."""
    position = device.position()
    status = device.status()
    assert Flag.ONLINE in status.flags
    return (position, status.file, status.block, status.flags & ~Flag.ONLINE)


def contents(station: Station, name: str = "T0001") -> list[list[bytes]]:
    """The records of each tape file on the cartridge, which is loaded anew."""
    station.swap(name)
    device = station.open(read_only=True)
    files: list[list[bytes]] = [[]]
    ends = 0
    while not ends:
        try:
            data = read(device, station.largest_block)
        except OSError:
            break
        if data:
            files[-1].append(data)
        else:
            files.append([])
            ends = device.status().flags & END_OF_DATA
    device.close()
    while files and not files[-1]:
        files.pop()
    return files


def outcomes(device: TapeDevice, count: int, size: int = SIZE) -> list[int]:
    """What so many writes come to: how much was written, or a negative error number."""
    seen = []
    for number in range(count):
        try:
            seen.append(device.write(memoryview(record(number, size))))
        except OSError as e:
            seen.append(-(e.errno or 0))
    return seen


def write_to_warning(station: Station, device: TapeDevice, size: int = SIZE) -> int:
    """Write records until the drive warns; how many."""
    for number in range(station.capacity // size):
        write(device, number, size=size)
        if END_OF_TAPE in device.status().flags:
            return number + 1
    raise AssertionError


# --- Files and positions ---


def test_a_blank_tape(station: Station) -> None:
    station.swap("T0002")
    device = station.open()
    assert where(device) == (0, 0, 0, BEGINNING)
    assert read_failure(device) == errno.EIO
    assert read_failure(device) == errno.EIO
    device.command(Command.REWIND)
    device.command(Command.END_OF_DATA)
    assert device.status().flags == END_OF_DATA | Flag.ONLINE
    assert where(device) == (0, 0, 0, BEGINNING | END_OF_DATA)
    write(device, 1)
    assert where(device) == (1, 0, 1, NOTHING)


def test_a_filemark_counts_as_a_block(station: Station) -> None:
    device = station.open()
    for file in (1, 2, 3):
        write(device, 1, 2, 3)
        assert where(device) == (4 * file - 1, file - 1, 3, NOTHING)
        device.command(Command.WRITE_FILEMARKS)
        assert where(device) == (4 * file, file, 0, FILEMARK)


def test_closing_after_a_write_writes_one_filemark(station: Station) -> None:
    device = station.open()
    write(device, 1)
    device.close()
    device = station.open()
    assert where(device) == (2, 1, 0, FILEMARK)
    write_file(device, 2)
    device.close()
    assert where(station.open()) == (4, 2, 0, FILEMARK)


def test_closing_without_a_write_leaves_the_tape_where_it_is(station: Station) -> None:
    device = station.open()
    write_file(device, 1, 2, 3)
    device.command(Command.REWIND)
    read(device)
    device.close()
    device = station.open()
    assert where(device) == (1, 0, 1, NOTHING)
    assert read(device) == record(2)


def test_a_filemark_reads_as_nothing_once(station: Station) -> None:
    device = station.open()
    write_file(device, 1, 2)
    write_file(device, 3)
    device.command(Command.REWIND)
    assert [read(device), read(device), read(device)] == [record(1), record(2), b""]
    assert where(device) == (3, 1, 0, FILEMARK)
    assert read(device) == record(3)
    assert where(device) == (4, 1, 1, NOTHING)


def test_the_end_of_data_reads_as_nothing_once_and_then_fails(station: Station) -> None:
    device = station.open()
    write_file(device, 1)
    device.command(Command.REWIND)
    assert [read(device), read(device), read(device)] == [record(1), b"", b""]
    assert where(device) == (2, 1, -1, END_OF_DATA)
    assert read_failure(device) == errno.EIO
    assert read_failure(device) == errno.EIO


def test_the_end_of_data_without_a_filemark_fails_at_once(station: Station) -> None:
    device = station.open()
    write(device, 1)
    assert read_failure(device) == errno.EIO
    assert where(device) == (1, 0, -1, NOTHING)


def three_files(station: Station) -> TapeDevice:
    device = station.open()
    write_file(device, 1, 2, 3)
    write_file(device, 4, 5, 6)
    write_file(device, 7, 8, 9)
    device.command(Command.REWIND)
    return device


def test_forward_and_backward_over_files(station: Station) -> None:
    device = three_files(station)
    device.command(Command.FORWARD_FILES)
    assert where(device) == (4, 1, 0, FILEMARK)
    assert read(device) == record(4)
    device.command(Command.BACKWARD_FILES)
    assert where(device) == (3, 0, -1, NOTHING)
    assert read(device) == b""
    device.command(Command.FORWARD_FILES, 2)
    assert where(device) == (12, 3, 0, FILEMARK)
    assert command_failure(device, Command.FORWARD_FILES) == errno.EIO
    assert where(device) == (12, 3, -1, END_OF_DATA)
    assert command_failure(device, Command.BACKWARD_FILES, 9) == errno.EIO
    assert where(device) == (0, 0, 0, BEGINNING)


def test_forward_and_backward_over_records(station: Station) -> None:
    device = three_files(station)
    device.command(Command.FORWARD_RECORDS, 2)
    assert where(device) == (2, 0, 2, NOTHING)
    device.command(Command.BACKWARD_RECORDS)
    assert where(device) == (1, 0, 1, NOTHING)
    assert command_failure(device, Command.FORWARD_RECORDS, 5) == errno.EIO
    assert where(device) == (4, 1, 0, FILEMARK)
    assert command_failure(device, Command.BACKWARD_RECORDS) == errno.EIO
    assert where(device) == (3, 0, -1, NOTHING)
    assert command_failure(device, Command.BACKWARD_RECORDS, 9) == errno.EIO
    assert where(device) == (0, 0, 0, BEGINNING)
    device.command(Command.BACKWARD_RECORDS, 0)
    assert where(device) == (0, 0, 0, BEGINNING)


def test_to_the_end_of_data(station: Station) -> None:
    device = three_files(station)
    device.command(Command.END_OF_DATA)
    assert where(device) == (12, 3, -1, END_OF_DATA)
    write(device, 10)
    assert where(device) == (13, 3, -1, NOTHING)


def test_a_seek_makes_the_driver_lose_count(station: Station) -> None:
    device = three_files(station)
    device.command(Command.SEEK, 5)
    assert where(device) == (5, -1, -1, NOTHING)
    assert read(device) == record(5)
    device.command(Command.END_OF_DATA)
    assert where(device) == (12, -1, -1, END_OF_DATA)
    assert command_failure(device, Command.SEEK, 1000) == errno.EIO
    assert where(device) == (12, -1, -1, NOTHING)
    device.command(Command.REWIND)
    assert where(device) == (0, 0, 0, BEGINNING)
    device.command(Command.SEEK, 0)
    assert where(device) == (0, 0, 0, BEGINNING)


def test_a_write_forgets_what_is_behind(station: Station) -> None:
    device = three_files(station)
    write(device, 10)
    device.command(Command.END_OF_DATA)
    assert where(device) == (1, 0, -1, END_OF_DATA)


def test_a_write_may_replace_the_filemark_before(station: Station) -> None:
    device = station.open()
    write_file(device, 1)
    device.command(Command.BACKWARD_FILES)
    write_file(device, 2)
    device.command(Command.REWIND)
    assert [read(device) for _ in range(4)] == [record(1), record(2), b"", b""]


@pytest.mark.parametrize(
    ("command", "filemarks"),
    [
        (Command.REWIND, 1),
        (Command.SEEK, 1),
        (Command.BACKWARD_FILES, 1),
        (Command.BACKWARD_RECORDS, 0),
        (Command.END_OF_DATA, 0),
    ],
)
def test_some_commands_write_a_filemark_after_a_write(
    station: Station, command: Command, filemarks: int
) -> None:
    device = station.open()
    write_file(device, 1)
    write(device, 2)
    device.command(command, 0 if command is Command.SEEK else 1)
    device.command(Command.END_OF_DATA)
    assert device.position() == 3 + filemarks
    device.close()
    assert station.open().position() == 3 + filemarks


def test_erase(station: Station) -> None:
    station.needs_operator()
    device = three_files(station)
    device.command(Command.FORWARD_FILES)
    device.command(Command.ERASE)
    assert where(device) == (4, 1, 0, FILEMARK)
    device.command(Command.END_OF_DATA)
    assert device.position() == 4


# --- Sizes ---


def test_blocks_of_any_size(station: Station) -> None:
    sizes = [1, 511, 256 * K, station.largest_block - 1, station.largest_block]
    device = station.open()
    for number, size in enumerate(sizes):
        write(device, number, size=size)
    device.command(Command.REWIND)
    for number, size in enumerate(sizes):
        assert read(device, station.largest_block) == record(number, size)


def test_larger_than_the_drive_takes(station: Station) -> None:
    device = station.open()
    write_file(device, 1)
    device.command(Command.REWIND)
    too_large = station.largest_block + 1
    assert read_failure(device, too_large) == errno.EINVAL
    assert write_failure(device, bytes(too_large)) == errno.EINVAL
    assert where(device) == (0, 0, 0, BEGINNING)


def test_too_small_a_buffer_passes_the_block_over(station: Station) -> None:
    device = station.open()
    write_file(device, 1, 2)
    device.command(Command.REWIND)
    assert read_failure(device, SIZE - 1) == errno.ENOMEM
    assert where(device) == (1, 0, 1, NOTHING)
    device.command(Command.BACKWARD_RECORDS)
    assert read(device, SIZE) == record(1)


def test_nothing_to_write_or_read(station: Station) -> None:
    device = station.open()
    assert device.write(memoryview(b"")) == 0
    assert read(device, 0) == b""
    device.close()
    assert station.open().position() == 0


# --- Fixed mode ---


def fixed_file(station: Station) -> TapeDevice:
    """A file of 4 blocks and one of 2, of 1 KiB each."""
    device = station.open()
    device.command(Command.SET_BLOCK_SIZE, K)
    write(device, 1, size=4 * K)
    device.command(Command.WRITE_FILEMARKS)
    write(device, 2, size=2 * K)
    device.command(Command.REWIND)
    return device


def test_a_fixed_block_size(station: Station) -> None:
    device = station.open()
    device.command(Command.SET_BLOCK_SIZE, SIZE)
    assert device.status().block_size == SIZE
    write(device, 1, size=4 * SIZE)
    assert where(device) == (4, 0, 4, NOTHING)
    assert write_failure(device, bytes(1000)) == errno.EINVAL
    device.close()
    device = station.open()
    assert device.status().block_size == SIZE
    device.command(Command.SET_BLOCK_SIZE, 0)
    assert device.status().block_size == 0


def test_a_block_size_that_the_drive_does_not_take(station: Station) -> None:
    device = station.open()
    size = station.largest_block + 1
    assert command_failure(device, Command.SET_BLOCK_SIZE, size) == errno.EINVAL


def test_a_fixed_read_ends_at_a_filemark(station: Station) -> None:
    device = fixed_file(station)
    assert read(device, 2 * K) == record(1, 4 * K)[: 2 * K]
    assert read(device, 8 * K) == record(1, 4 * K)[2 * K :]
    assert read(device, 8 * K) == b""
    assert where(device) == (5, 1, 0, FILEMARK)
    assert read(device, 8 * K) == record(2, 2 * K)
    assert read(device, 8 * K) == b""
    assert read(device, 8 * K) == b""
    assert read_failure(device, 8 * K) == errno.EIO


def test_asking_for_the_position_steps_back_before_the_filemark(station: Station) -> None:
    device = fixed_file(station)
    read(device, 8 * K)
    assert where(device) == (4, 0, 4, NOTHING)
    assert read(device, 8 * K) == b""
    assert where(device) == (5, 1, 0, FILEMARK)
    read(device, 8 * K)
    device.close()
    assert where(station.open()) == (7, 1, 2, NOTHING)


def test_a_command_behind_a_short_fixed_read_miscounts_the_files(station: Station) -> None:
    device = fixed_file(station)
    read(device, 8 * K)
    device.command(Command.FORWARD_FILES)
    # It is at the beginning of file 1.
    assert where(device) == (5, 2, 0, FILEMARK)


def test_a_fixed_read_of_a_part_of_a_block(station: Station) -> None:
    device = fixed_file(station)
    data = record(1, 4 * K)
    assert read(device, 1000) == data[:1000]
    assert read(device, 24) == data[1000:K]
    assert read(device, 1000) == data[K : K + 1000]
    # Asking drops the rest.
    assert where(device) == (2, 0, 2, NOTHING)
    assert read(device, K) == data[2 * K : 3 * K]


def test_a_fixed_read_of_blocks_of_another_size(station: Station) -> None:
    device = fixed_file(station)
    device.command(Command.SET_BLOCK_SIZE, 2 * K)
    assert read_failure(device, 2 * K) == errno.EIO
    assert where(device) == (0, 0, 0, BEGINNING)
    device.command(Command.SET_BLOCK_SIZE, 0)
    assert read(device) == record(1, 4 * K)[:K]


def test_a_fixed_read_that_meets_the_end_of_data_loses_what_it_read(station: Station) -> None:
    device = station.open()
    device.command(Command.SET_BLOCK_SIZE, K)
    write(device, 1, size=2 * K)
    device.command(Command.BACKWARD_RECORDS, 2)
    assert read_failure(device, 8 * K) == errno.EIO
    assert where(device) == (2, 0, -1, NOTHING)


# --- The end of the tape ---


def test_early_warning_refuses_every_other_record(station: Station) -> None:
    device = station.open()
    before = write_to_warning(station, device)
    assert before * (SIZE + 8) > station.capacity - station.early_warning
    assert outcomes(device, 5) == [-errno.ENOSPC, SIZE, -errno.ENOSPC, SIZE, -errno.ENOSPC]
    assert where(device) == (before + 2, 0, before + 2, END_OF_DATA)
    write(device, 0)
    assert where(device) == (before + 3, 0, before + 3, END_OF_TAPE)


def test_behind_a_filemark_in_the_warning_zone_a_record_goes_at_once(station: Station) -> None:
    device = station.open()
    before = write_to_warning(station, device)
    device.command(Command.WRITE_FILEMARKS)
    assert where(device) == (before + 1, 1, 0, FILEMARK)
    assert outcomes(device, 3) == [SIZE, -errno.ENOSPC, SIZE]


def test_the_hard_end(station: Station) -> None:
    device = station.open()
    size = 256 * K
    seen = outcomes(device, 2 * station.capacity // size, size)
    written = station.capacity // (size + 8)
    assert seen.count(size) == written
    assert seen[-6:] == [-errno.ENOSPC] * 6
    assert where(device)[:3] == (written, 0, written)
    device.command(Command.WRITE_FILEMARKS)
    assert where(device) == (written + 1, 1, 0, FILEMARK)
    device.close()
    reported = [record(number, size) for number, count in enumerate(seen) if count == size]
    assert contents(station) == [reported]


def test_behind_the_end_of_data_at_the_hard_end_nothing_goes_but_filemarks(
    station: Station,
) -> None:
    device = station.open()
    size = 256 * K
    outcomes(device, 2 * station.capacity // size, size)
    device.command(Command.WRITE_FILEMARKS)
    device.command(Command.REWIND)
    device.command(Command.END_OF_DATA)
    written = station.capacity // (size + 8)
    assert where(device) == (written + 1, 1, -1, END_OF_DATA)
    assert outcomes(device, 4, size) == [-errno.ENOSPC] * 4
    device.command(Command.WRITE_FILEMARKS)
    assert where(device) == (written + 2, 2, 0, FILEMARK)


def test_a_filemark_that_does_not_fit(station: Station) -> None:
    size = 1024
    station.blank("T0002", capacity=4 * (size + 8) + 2, early_warning=0)
    station.swap("T0002")
    device = station.open()
    assert outcomes(device, 5, size) == [size] * 4 + [-errno.ENOSPC]
    assert command_failure(device, Command.WRITE_FILEMARKS) == errno.EIO
    assert where(device) == (4, 0, 0, BEGINNING | END_OF_TAPE)
    assert outcomes(device, 2, size) == [-errno.ENOSPC] * 2
    assert failure(device.close) == errno.EIO


def test_a_short_write_at_the_hard_end_in_fixed_mode(station: Station) -> None:
    device = station.open()
    device.command(Command.SET_BLOCK_SIZE, SIZE)
    seen = outcomes(device, 3 * station.capacity // (4 * SIZE), 4 * SIZE)
    blocks = station.capacity // (SIZE + 8)
    assert sum(count for count in seen if count > 0) == blocks * SIZE
    short = seen.index(blocks % 4 * SIZE)
    assert seen[short - 2 : short] == [4 * SIZE, -errno.ENOSPC]
    assert set(seen[short + 1 :]) == {-errno.ENOSPC}
    assert device.position() == blocks
    device.command(Command.WRITE_FILEMARKS)


# --- Written behind ---


def test_behind_an_error_is_told_by_the_next_call(station: Station) -> None:
    device = station.open()
    station.fail("write", 2)
    for number in (1, 2):
        assert device.write(station.behind(record(number))) == SIZE
    assert failure(device.position) == errno.EIO
    assert where(device) == (1, 0, -1, NOTHING)


def test_behind_an_error_is_told_by_the_next_write_and_all_that_follow(station: Station) -> None:
    device = station.open()
    station.fail("write")
    assert device.write(station.behind(record(1))) == SIZE
    assert write_failure(device, station.behind(record(2))) == errno.EIO
    assert where(device) == (0, 0, 0, BEGINNING | END_OF_TAPE)
    assert write_failure(device, station.behind(record(2))) == errno.EIO
    device.command(Command.BACKWARD_RECORDS, 0)
    assert device.write(station.behind(record(1))) == SIZE


def test_behind_an_error_is_told_by_closing(station: Station) -> None:
    device = station.open()
    write(device, 1)
    station.fail("write")
    assert device.write(station.behind(record(2))) == SIZE
    assert failure(device.close) == errno.EIO
    assert contents(station) == [[record(1)]]


def write_behind_to_warning(station: Station, device: TapeDevice) -> int:
    records = (station.capacity - station.early_warning) // (SIZE + 8) + 1
    for number in range(records):
        assert device.write(station.behind(record(number))) == SIZE
    return records


def test_behind_early_warning_may_be_told_by_any_call(station: Station) -> None:
    device = station.open()
    records = write_behind_to_warning(station, device)
    assert failure(device.status) == errno.ENOSPC
    assert where(device) == (records, 0, records, NOTHING)
    assert device.write(station.behind(record(1))) == SIZE
    assert command_failure(device, Command.WRITE_FILEMARKS) == errno.ENOSPC
    device.command(Command.WRITE_FILEMARKS)
    assert where(device) == (records + 2, 1, 0, FILEMARK)
    assert device.write(station.behind(record(2))) == SIZE
    assert write_failure(device, station.behind(record(3))) == errno.ENOSPC
    assert device.write(station.behind(record(3))) == SIZE


def test_behind_early_warning_may_be_told_by_closing(station: Station) -> None:
    device = station.open()
    records = write_behind_to_warning(station, device)
    assert failure(device.close) == errno.ENOSPC
    # All is there nevertheless, with its filemark.
    assert where(station.open()) == (records + 1, 1, 0, FILEMARK)


def test_behind_a_record_is_lost_at_the_hard_end(station: Station) -> None:
    station.blank("T0002", capacity=4 * (SIZE + 8) + 100, early_warning=2 * SIZE)
    station.swap("T0002")
    device = station.open()
    assert outcomes(device, 4) == [SIZE, SIZE, SIZE, -errno.ENOSPC]
    write_file(device, 4)
    assert device.write(station.behind(record(5))) == SIZE
    assert write_failure(device, station.behind(record(6))) == errno.EIO
    assert device.position() == 5


# --- Opening, loading, protecting ---


def test_a_drive_is_opened_once(station: Station) -> None:
    device = station.open()
    assert failure(station.open) == errno.EBUSY
    device.close()
    device.close()
    station.open()


def test_a_protected_cartridge_opens_but_is_not_written(station: Station) -> None:
    device = station.open()
    write_file(device, 1)
    device.close()
    station.eject()
    station.protect("T0001")
    station.load("T0001")
    device = station.open()
    assert where(device) == (0, 0, 0, BEGINNING | Flag.WRITE_PROTECTED)
    assert write_failure(device) == errno.EACCES
    assert command_failure(device, Command.WRITE_FILEMARKS) == errno.EACCES
    assert command_failure(device, Command.ERASE) == errno.EACCES
    assert read(device) == record(1)
    device.close()
    device = station.open(read_only=True)
    assert where(device) == (1, 0, 1, Flag.WRITE_PROTECTED)
    device.close()
    station.eject()
    station.protect("T0001", on=False)
    station.load("T0001")
    assert where(station.open()) == (0, 0, 0, BEGINNING)


def test_opened_for_reading(station: Station) -> None:
    device = station.open(read_only=True)
    assert write_failure(device) == errno.EBADF
    assert command_failure(device, Command.WRITE_FILEMARKS) == errno.EACCES
    assert where(device) == (0, 0, 0, BEGINNING)


def test_protected_behind_an_open_file(station: Station) -> None:
    device = station.open()
    write(device, 1)
    station.protect("T0001")
    assert write_failure(device) == errno.EIO
    assert where(device) == (1, 0, -1, NOTHING)
    assert failure(device.close) == errno.EIO


def test_unloading_and_loading(station: Station) -> None:
    station.needs_operator()
    device = station.open()
    write_file(device, 1)
    device.command(Command.EJECT)
    status = device.status()
    assert Flag.NO_MEDIUM in status.flags
    assert Flag.ONLINE not in status.flags
    assert read_failure(device) == errno.ENOMEDIUM
    assert write_failure(device) == errno.ENOMEDIUM
    assert command_failure(device, Command.REWIND) == errno.ENOMEDIUM
    assert command_failure(device, Command.SEEK) == errno.EIO
    assert failure(device.position) == errno.EIO
    device.command(Command.LOAD)
    assert where(device) == (0, 0, 0, BEGINNING)
    assert read(device) == record(1)


def test_an_empty_drive(station: Station) -> None:
    device = station.open(drive=1)
    assert device.status() == DeviceStatus(Flag.NO_MEDIUM, -1, -1, 0, 0)
    assert command_failure(device, Command.LOAD) == errno.EIO
    station.load("T0002", drive=1)
    assert read_failure(device) == errno.ENOMEDIUM
    assert Flag.NO_MEDIUM in device.status().flags
    # The first command only tells that there is one.
    assert command_failure(device, Command.LOAD) == errno.EIO
    device.command(Command.LOAD)
    assert where(device) == (0, 0, 0, BEGINNING)


def test_another_cartridge_between_two_opens(station: Station) -> None:
    device = station.open()
    write(device, 1)
    device.close()
    station.swap("T0002")
    device = station.open()
    assert where(device) == (0, 0, 0, BEGINNING)
    assert read_failure(device) == errno.EIO


def test_a_cartridge_taken_out_of_an_open_drive(station: Station) -> None:
    device = station.open()
    write(device, 1)
    station.eject()
    assert write_failure(device) == errno.EIO
    assert failure(device.position) == errno.EIO
    assert Flag.ONLINE in device.status().flags
    assert failure(device.close) == errno.EIO


# --- Errors ---


def test_a_medium_error_on_a_write(station: Station) -> None:
    device = station.open()
    station.fail("write", 3)
    write(device, 1, 2)
    assert write_failure(device) == errno.EIO
    assert where(device) == (2, 0, -1, NOTHING)
    write(device, 3)
    device.close()
    assert contents(station) == [[record(1), record(2), record(3)]]


def test_closing_after_a_failed_write_writes_a_filemark(station: Station) -> None:
    device = station.open()
    station.fail("write", 2)
    write(device, 1)
    assert write_failure(device) == errno.EIO
    device.close()
    assert where(station.open()) == (2, 1, 0, FILEMARK)


def test_a_medium_error_on_a_read(station: Station) -> None:
    device = station.open()
    write_file(device, 1, 2)
    device.command(Command.REWIND)
    station.fail("read", 2)
    assert read(device) == record(1)
    assert read_failure(device) == errno.EIO
    assert where(device) == (1, 0, -1, NOTHING)
    assert read(device) == record(2)


def test_a_medium_error_on_a_filemark(station: Station) -> None:
    device = station.open()
    write(device, 1)
    station.fail("filemark")
    assert command_failure(device, Command.WRITE_FILEMARKS) == errno.EIO
    assert where(device) == (1, 0, 1, NOTHING)
    device.close()
    assert station.open().position() == 1


def test_a_medium_error_on_the_filemark_of_closing(station: Station) -> None:
    device = station.open()
    write(device, 1)
    station.fail("filemark")
    assert failure(device.close) == errno.EIO
    assert where(station.open()) == (1, 0, 1, NOTHING)


def test_no_answer_to_where_it_stands(station: Station) -> None:
    device = station.open()
    write(device, 1)
    station.fail("position")
    assert failure(device.position) == errno.EIO
    assert where(device) == (1, 0, 1, NOTHING)


# --- Behind an open file: another cartridge, or power that was off and on ---


@pytest.fixture(params=["reset", "swap"])
def surprise(request: pytest.FixtureRequest, station: Station) -> Callable[[], None]:
    """What happens to a drive in use; the cartridge in it then has two files, of 7, 8 and of 9."""
    device = station.open()
    write_file(device, 7, 8)
    write_file(device, 9)
    if request.param == "reset":
        device.close()
        return station.reset
    device.close()
    station.swap("T0002")
    device = station.open()
    write_file(device, 7, 8)
    write_file(device, 9)
    device.close()
    station.swap("T0001")
    return lambda: station.swap("T0002")


def surprised(station: Station, surprise: Callable[[], None]) -> TapeDevice:
    """A drive that was writing, at the end of data, when it happened."""
    device = station.open()
    device.command(Command.END_OF_DATA)
    write(device, 10)
    surprise()
    return device


def remembers(station: Station, surprise: Callable[[], None]) -> bool:
    """Whether the driver lets nothing be done but finding a place; of another cartridge, none does.

    Nothing of the library may need one or the other: both kinds of driver are in use.
    """
    return surprise == station.reset and station.resets is Resets.REMEMBERED


def kept(station: Station) -> bool:
    """Whether nothing is lost of the cartridge in the drive."""
    device = station.open(read_only=True)
    device.command(Command.REWIND)
    return all(read(device) == data for data in (record(7), record(8), b"", record(9), b""))


def test_after_one_error_a_write_goes_to_the_beginning_or_fails_again(
    station: Station, surprise: Callable[[], None]
) -> None:
    device = surprised(station, surprise)
    assert write_failure(device) == errno.EIO
    if remembers(station, surprise):
        assert write_failure(device) == errno.EIO
        assert write_failure(device, b"") == errno.EIO
        assert failure(device.close) == errno.EIO
        assert kept(station)
        return
    write(device, 11)
    assert device.position() == 1
    device.command(Command.END_OF_DATA)
    assert device.position() == 1


def test_after_one_error_a_read_gets_the_first_record_or_fails_again(
    station: Station, surprise: Callable[[], None]
) -> None:
    device = surprised(station, surprise)
    assert read_failure(device) == errno.EIO
    if remembers(station, surprise):
        assert read_failure(device) == errno.EIO
    else:
        assert read(device) == record(7)


def test_the_position_is_the_beginning_or_unknown_after_one_error(
    station: Station, surprise: Callable[[], None]
) -> None:
    device = surprised(station, surprise)
    assert failure(device.position) == errno.EIO
    if remembers(station, surprise):
        assert failure(device.position) == errno.EIO
        status = device.status()
        assert (status.file, status.block, status.flags) == (-1, -1, Flag.ONLINE)
    else:
        assert where(device) == (0, 0, 0, BEGINNING)


def test_the_status_does_not_tell_it(station: Station, surprise: Callable[[], None]) -> None:
    device = surprised(station, surprise)
    status = device.status()
    assert (status.file, status.flags) == (2, Flag.ONLINE)


@pytest.mark.parametrize(
    ("command", "place"),
    [
        (Command.REWIND, 0),
        (Command.LOAD, 0),
        (Command.SEEK, 1),
        (Command.SEEK, 3),
    ],
)
def test_what_finds_a_place_works_on_the_second_time(
    station: Station, surprise: Callable[[], None], command: Command, place: int
) -> None:
    device = station.open()
    device.command(Command.END_OF_DATA)
    surprise()
    assert failure(device.position) == errno.EIO
    device.command(command, place)
    assert device.position() == place
    device.command(Command.END_OF_DATA)
    assert device.position() == 5


def test_a_driver_that_remembers_does_so_when_it_is_opened_again(
    station: Station, surprise: Callable[[], None]
) -> None:
    device = surprised(station, surprise)
    assert failure(device.position) == errno.EIO
    if not remembers(station, surprise):
        device.command(Command.BACKWARD_RECORDS, 0)  # or closing would write a filemark
        device.close()
        assert station.open().position() == 0
        return
    assert failure(device.close) == errno.EIO
    device = station.open()
    for refused in (Command.FORWARD_FILES, Command.FORWARD_RECORDS, Command.WRITE_FILEMARKS):
        assert command_failure(device, refused) == errno.EIO
    assert command_failure(device, Command.SET_BLOCK_SIZE, 0) == errno.EIO
    assert failure(device.position) == errno.EIO
    assert Flag.ONLINE in device.status().flags
    device.command(Command.REWIND)
    assert read(device) == record(7)


def test_a_reset_of_a_closed_drive_leaves_it_at_the_beginning(station: Station) -> None:
    """Opening it takes the news."""
    device = station.open()
    write_file(device, 7, 8)
    device.close()
    station.reset()
    assert where(station.open()) == (0, 0, 0, BEGINNING)


def test_a_move_by_others_is_not_told(station: Station) -> None:
    device = station.open()
    write_file(device, 7, 8)
    write(device, 9)
    station.move(1)
    write(device, 10)
    assert device.position() == 2
    assert device.status().block == 2
    device.close()
    assert contents(station) == [[record(7), record(10)]]


def fail_to_write(device: TapeDevice) -> None:
    assert write_failure(device) == errno.EIO


def fail_to_tell(device: TapeDevice) -> None:
    assert failure(device.position) == errno.EIO


def fail_to(command: Command, count: int = 1) -> Callable[[TapeDevice], None]:
    def fail(device: TapeDevice) -> None:
        assert command_failure(device, command, count) == errno.EIO

    return fail


def do(command: Command, count: int = 1) -> Callable[[TapeDevice], None]:
    return lambda device: device.command(command, count)


Step = Callable[[TapeDevice], object]


def harmless_anyway(station: Station, device: TapeDevice, steps: list[Step]) -> bool:
    """Whether a driver that remembers the reset loses nothing, whatever is tried."""
    for step in steps:
        with suppress(OSError):
            step(device)
    with suppress(OSError):
        device.close()
    return kept(station)


@pytest.mark.parametrize(
    "steps",
    [
        [fail_to_write],
        [fail_to_tell],
        [fail_to_write, TapeDevice.position],
        [fail_to_write, TapeDevice.status],
        [fail_to_write, do(Command.SET_BLOCK_SIZE, 0)],
        [fail_to_write, do(Command.REWIND)],
        [fail_to_write, fail_to(Command.SEEK, 99)],
        [fail_to(Command.REWIND)],
        [fail_to(Command.SEEK, 0)],
        [fail_to(Command.BACKWARD_FILES)],
    ],
)
def test_closing_then_overwrites_the_tape_or_fails(
    station: Station, surprise: Callable[[], None], steps: list[Step]
) -> None:
    device = surprised(station, surprise)
    if remembers(station, surprise):
        assert harmless_anyway(station, device, steps)
        return
    for step in steps:
        step(device)
    device.close()
    device = station.open()
    device.command(Command.END_OF_DATA)
    assert device.position() == 1


@pytest.mark.parametrize(
    "steps",
    [
        [fail_to_write, do(Command.BACKWARD_RECORDS, 0)],
        [fail_to_write, do(Command.FORWARD_RECORDS, 0)],
        [fail_to_write, do(Command.END_OF_DATA)],
        [fail_to_write, do(Command.LOAD)],
        [fail_to_write, read],
        [fail_to_tell, do(Command.BACKWARD_RECORDS, 0)],
        [fail_to(Command.BACKWARD_RECORDS, 0)],
        [fail_to(Command.WRITE_FILEMARKS)],
        [do(Command.END_OF_DATA)],
    ],
)
def test_a_command_that_is_no_write_makes_closing_harmless(
    station: Station, surprise: Callable[[], None], steps: list[Step]
) -> None:
    device = surprised(station, surprise)
    if remembers(station, surprise):
        assert harmless_anyway(station, device, steps)
        return
    for step in steps:
        step(device)
    device.close()
    assert kept(station)


def test_closing_first_of_all_fails_and_is_harmless(
    station: Station, surprise: Callable[[], None]
) -> None:
    device = surprised(station, surprise)
    assert failure(device.close) == errno.EIO
    assert kept(station)


@pytest.mark.parametrize(("times", "harmless"), [(1, False), (2, True)])
def test_behind_the_command_that_tells_of_the_error_does_nothing_else(
    station: Station, surprise: Callable[[], None], times: int, harmless: bool
) -> None:
    device = surprised(station, surprise)
    assert device.write(station.behind(record(11))) == SIZE
    assert command_failure(device, Command.FORWARD_RECORDS, 0) == errno.EIO
    if remembers(station, surprise):
        assert harmless_anyway(station, device, [do(Command.FORWARD_RECORDS, 0)] * times)
        return
    for _ in range(1, times):
        device.command(Command.FORWARD_RECORDS, 0)
    device.close()
    assert kept(station) is harmless


# --- What only the double can be asked ---


def test_larger_than_the_host_adapter_takes() -> None:
    drive = FakeDrive(Cartridge(), largest_block=8 * K * K, host_limit=K * K)
    device = drive.open("/dev/nst0")
    assert write_failure(device, bytes(2 * K * K)) == errno.EBUSY
    assert read_failure(device, 2 * K * K) == errno.EBUSY
    assert where(device) == (0, 0, 0, BEGINNING)
    write(device, 1)


def test_any_operation_fails_with_any_number() -> None:
    drive = FakeDrive(Cartridge())
    drive.fail("open", 2, errno.ENXIO)
    device = drive.open("/dev/nst0")
    device.close()
    assert failure(lambda: drive.open("/dev/nst0")) == errno.ENXIO
    device = drive.open("/dev/nst0")
    drive.fail("write", 2, errno.ENODEV)
    write(device, 1)
    assert write_failure(device) == errno.ENODEV
    drive.fail("status")
    assert failure(device.status) == errno.EIO
    drive.fail("close")
    assert failure(device.close) == errno.EIO
    assert drive.cartridge is not None
    assert drive.cartridge.files == [[record(1)]]


# --- All of it ---


class Pair:
    """The driver and the double, to which the same is done."""

    def __init__(self, real: Station) -> None:
        self.stations = (real, FakeStation(real.resets))
        self.devices = [station.open() for station in self.stations]

    def both(self, do: Callable[[Station, TapeDevice], object]) -> list[object]:
        answers: list[object] = []
        for station, device in zip(self.stations, self.devices, strict=True):
            try:
                answers.append(do(station, device))
            except OSError as e:
                answers.append(errno.errorcode[e.errno or 0])
        return answers

    def reopen(self) -> list[object]:
        answers = self.both(lambda _, device: device.close())
        self.devices = [station.open() for station in self.stations]
        return answers


def random_step(choose: random.Random) -> tuple[str, Callable[[Station, TapeDevice], object]]:
    size = choose.choice([0, 1, 3, 512, 1024, 2048, 4096, 65536, 200_000])
    count = choose.choice([0, 1, 1, 1, 2, 3, 10])
    command = choose.choice([*Command, Command.WRITE_FILEMARKS, Command.BACKWARD_RECORDS])
    name = choose.choice(["T0001", "T0002"])
    fault = choose.choice(get_args(Fault))
    if command is Command.SET_BLOCK_SIZE:
        count = choose.choice([0, 0, 0, 1024, 2048])
    data = record(size, size)
    # Never a part of a block: see what the double does not imitate.
    room = choose.choice([0, 2 * K, 4 * K, 64 * K, 200 * K])
    steps: list[tuple[int, str, Callable[[Station, TapeDevice], object]]] = [
        (30, f"write {size}", lambda _, device: device.write(memoryview(data))),
        (20, f"read {room}", lambda _, device: read(device, room)),
        (30, f"{command.name} {count}", lambda _, device: device.command(command, count)),
        (5, "status", lambda _, device: None),
        (1, "reset", lambda station, _: station.reset()),
        (1, f"swap {name}", lambda station, _: station.swap(name)),
        (1, "eject", lambda station, _: station.eject()),
        (1, f"fail {fault} {count}", lambda station, _: station.fail(fault, max(count, 1))),
        (1, f"protect {name}", lambda station, _: station.protect(name)),
        (1, f"protect {name} off", lambda station, _: station.protect(name, on=False)),
        (3, "reopen", lambda station, _: None),
    ]
    weights = [weight for weight, _, _ in steps]
    _, title, do = choose.choices(steps, weights)[0]
    return title, do


@pytest.mark.parametrize("seed", range(int(os.environ.get("TAPE_SEEDS", "20"))))
def test_the_double_does_what_the_driver_does(station: Station, seed: int) -> None:
    """TAPE_SEEDS=600 in the environment finds more; it takes seven minutes."""
    if not isinstance(station, MachineStation):
        pytest.skip("compares the double with the driver")
    choose = random.Random(seed)
    done: list[str] = []
    pair = Pair(station)
    for place in pair.stations:
        place.blank("T0002", 400_000, 150_000)
        place.swap("T0002")
    pair.reopen()
    for _ in range(300):
        title, do = random_step(choose)
        real, double = pair.reopen() if title == "reopen" else pair.both(do)
        states = pair.both(lambda _, device: device.status())
        done.append(f"{title}: {str(real)[:60]} {states[0]}")
        trail = "\n".join(done[-12:])
        assert real == double, f"{trail}\n{title}: the double says {str(double)[:60]}"
        assert states[0] == states[1], f"{trail}\nthe double says {states[1]}"
