"""Records: one write each, of one size; read back whatever their sizes are."""

from __future__ import annotations

import ctypes
import errno
import mmap
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestream.drive.device import TapeDevice
from tapestream.drive.position import PositionedDrive
from tapestream.drive.records import (
    MAX_RECORD,
    MIN_RECORD,
    RecordPool,
    RecordReader,
    RecordWriter,
    check_record_size,
)
from tapestream.errors import DriveBusyError, EndOfTapeError, TapeError, UsageError
from tapestream.testing.drive import Cartridge, FakeDevice, FakeDrive
from tests.disks import noise

KIB, MIB = 1024, 1024**2
SIZE = 64 * KIB
# A drive takes records of this size: LTO drives do.
LARGE = 16 * MIB


class Seen:
    """What one `write` was given.

    Attributes:
        size: Length of the record.
        address: Where it is in memory.
        page_aligned: Its memory begins at a page.
    """

    def __init__(self, record: memoryview) -> None:
        self.size = len(record)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(record))
        self.page_aligned = self.address % mmap.PAGESIZE == 0


class Watched(FakeDevice):
    """A device that notes its writes."""

    def __init__(self, drive: FakeDrive, seen: list[Seen], *, read_only: bool) -> None:
        super().__init__(drive, read_only=read_only)
        self._seen = seen

    def write(self, record: memoryview) -> int:
        self._seen.append(Seen(record))
        return super().write(record)


def drive_with(
    cartridge: Cartridge | None = None, *, seen: list[Seen] | None = None, **options: Any
) -> tuple[FakeDrive, PositionedDrive]:
    double = FakeDrive(cartridge or Cartridge(512 * MIB), **options)
    writes = [] if seen is None else seen

    def open_device(path: str, *, read_only: bool) -> TapeDevice:
        return Watched(double, writes, read_only=read_only)

    return double, PositionedDrive("/dev/nst0", open_device=open_device)


# --- Writing ---


@given(
    size=st.integers(SIZE // 512, 400).map(lambda n: 512 * n),
    lengths=st.lists(st.integers(0, 300 * KIB), max_size=8),
)
@settings(max_examples=50)
def test_any_writes_make_records_of_one_size(size: int, lengths: list[int]) -> None:
    seen: list[Seen] = []
    double, drive = drive_with(seen=seen)
    writer = RecordWriter(drive, RecordPool(size))
    data = noise(sum(lengths))
    rest = memoryview(data)
    for length in lengths:
        writer.write(rest[:length])
        rest = rest[length:]
    writer.end_file()
    drive.release()
    whole = len(data) // size
    assert [s.size for s in seen] == [size] * whole
    assert all(s.page_aligned for s in seen)
    assert double.cartridge is not None
    assert double.cartridge.blocks == [
        *(data[i * size : (i + 1) * size] for i in range(whole)),
        b"",
    ]
    assert (writer.records, writer.accepted) == (whole, whole * size)
    assert writer.seconds >= 0
    assert not writer.is_ending


@given(
    ends=st.lists(st.integers(1, 40 * SIZE), min_size=1, max_size=6, unique=True).map(sorted),
    lent=st.lists(st.booleans(), min_size=6, max_size=6),
    freed=st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_data_in_memory_that_was_lent_is_not_copied(
    ends: list[int], lent: list[bool], freed: bool
) -> None:
    """Whatever is lent, and filled before other data is written, the file is the same."""
    double, drive = drive_with()
    writer = RecordWriter(drive, RecordPool(SIZE, slab=8 * SIZE))
    data = noise(ends[-1])
    pieces = list(zip([0, *ends], ends, strict=False))
    asked = [
        writer.memory(start, end - start) if is_lent else None
        for (start, end), is_lent in zip(pieces, lent, strict=False)
    ]
    for (start, end), memory in zip(pieces, asked, strict=False):
        crosses = start // (8 * SIZE) != (end - 1) // (8 * SIZE)
        assert memory is None or not crosses
        if memory is not None:
            memory[:] = data[start:end]
    for (start, end), memory in zip(pieces, asked, strict=False):
        writer.write(memoryview(data)[start:end] if memory is None else memory)
        if freed:
            writer.forget(writer.accepted)
    writer.end_file()
    assert double.cartridge is not None
    whole = len(data) // SIZE
    assert b"".join(double.cartridge.blocks) == data[: whole * SIZE]


def test_lent_memory_is_where_the_record_is_written_from() -> None:
    seen: list[Seen] = []
    _, drive = drive_with(seen=seen)
    writer = RecordWriter(drive, RecordPool(SIZE))
    header = noise(512)
    memory = writer.memory(512, SIZE - 512)
    assert memory is not None
    writer.write(memoryview(header))
    writer.write(memory)
    assert [s.address for s in seen] == [Seen(memory).address - 512]


def test_what_is_written_after_the_lending_ends_changes_no_lent_memory() -> None:
    """At the end of a volume: the data that was read ahead belongs to the next one."""
    double, drive = drive_with()
    writer = RecordWriter(drive, RecordPool(SIZE))
    begin, ahead, other = noise(SIZE + 512), noise(4 * SIZE), noise(5 * SIZE - 512)
    memory = writer.memory(len(begin), len(ahead))
    assert memory is not None
    memory[:] = ahead
    writer.write(memoryview(begin))
    writer.stop_lending()
    assert writer.memory(len(begin), len(ahead)) is None
    writer.write(memoryview(other))
    assert memory == ahead
    writer.end_file()
    assert double.cartridge is not None
    assert b"".join(double.cartridge.blocks) == begin + other


def test_records_that_do_not_fill_pages_are_not_lent() -> None:
    """Each begins at a page, so they are not next to each other."""
    _, drive = drive_with()
    assert RecordWriter(drive, RecordPool(SIZE + 512)).memory(0, 512) is None


@pytest.mark.parametrize("size", [MIN_RECORD, MIB, MAX_RECORD - 511, 16 * MIB - 512])
def test_sizes_that_a_record_may_have(size: int) -> None:
    check_record_size(size)


@pytest.mark.parametrize(
    "size", [0, 512, MIN_RECORD - 512, MIN_RECORD + 1, MAX_RECORD, LARGE, True, 1.5e6, None]
)
def test_sizes_that_a_record_must_not_have(size: Any) -> None:
    with pytest.raises(UsageError, match="record_size must be a multiple of 512 from 65536 to"):
        check_record_size(size)


def test_fixed_mode_takes_multiples_of_its_block() -> None:
    double, drive = drive_with()
    drive.set_block_size(16 * KIB)
    writer = RecordWriter(drive, RecordPool(SIZE))
    data = noise(3 * SIZE)
    writer.write(memoryview(data))
    writer.end_file()
    assert double.cartridge is not None
    assert [len(block) for block in double.cartridge.blocks] == [16 * KIB] * 12 + [0]
    assert (writer.records, writer.accepted) == (3, 3 * SIZE)
    drive.rewind()
    assert read_all(drive) == data


@pytest.mark.parametrize("block_size", [1000, 65024, 128 * KIB])
def test_fixed_mode_refuses_other_sizes(block_size: int) -> None:
    double, drive = drive_with()
    drive.set_block_size(block_size)
    with pytest.raises(UsageError, match=f"must be a multiple of {block_size}, not {SIZE}") as e:
        RecordWriter(drive, RecordPool(SIZE))
    assert "set_block_size(0)" in e.value.hint
    assert double.cartridge is not None
    assert not double.cartridge.blocks


@pytest.mark.parametrize(
    ("options", "number"),
    [({"largest_block": SIZE}, errno.EINVAL), ({"host_limit": SIZE}, errno.EBUSY)],
)
def test_a_record_larger_than_the_drive_or_the_host_takes(
    options: dict[str, Any], number: int
) -> None:
    double, drive = drive_with(**options)
    writer = RecordWriter(drive, RecordPool(2 * SIZE))
    with pytest.raises(TapeError, match="cannot write a record of 131072 bytes") as caught:
        writer.write(memoryview(noise(2 * SIZE)))
    assert not isinstance(caught.value, DriveBusyError)
    assert caught.value.errno == number
    assert "smaller record_size" in caught.value.hint
    assert writer.accepted == writer.records == 0
    assert double.cartridge is not None
    assert not double.cartridge.blocks


def test_early_warning_refuses_every_other_record_but_loses_none() -> None:
    cartridge = Cartridge(10 * (SIZE + 8) + 16, 5 * (SIZE + 8))
    seen: list[Seen] = []
    _, drive = drive_with(cartridge, seen=seen)
    writer = RecordWriter(drive, RecordPool(SIZE))
    data = noise(11 * SIZE)
    ending = []
    for i in range(10):
        writer.write(memoryview(data)[i * SIZE : (i + 1) * SIZE])
        ending.append(writer.is_ending)
    with pytest.raises(EndOfTapeError):
        writer.write(memoryview(data)[10 * SIZE :])
    assert writer.accepted == 10 * SIZE
    assert b"".join(cartridge.blocks) == data[: 10 * SIZE]
    assert ending == [False] * 6 + [True] * 4
    assert len(seen) > 11
    assert all(s.page_aligned and s.size == SIZE for s in seen)
    writer.end_file()
    assert cartridge.blocks[-1] == b""


def test_the_hard_end_in_fixed_mode_may_take_a_part() -> None:
    cartridge = Cartridge(10 * (16 * KIB + 8) + 16, 0)
    _, drive = drive_with(cartridge)
    drive.set_block_size(16 * KIB)
    writer = RecordWriter(drive, RecordPool(SIZE))
    data = noise(3 * SIZE)
    with pytest.raises(EndOfTapeError):
        writer.write(memoryview(data))
    assert writer.accepted == 10 * 16 * KIB
    writer.end_file()
    drive.rewind()
    assert read_all(drive) == data[: writer.accepted]


# --- Reading ---


def tape_with(*sizes: int, seed: int = 1) -> Cartridge:
    """A tape with one file of such records, and a second file."""
    cartridge = Cartridge(2**40)
    source = random.Random(seed)
    for size in sizes:
        cartridge.put(len(cartridge.blocks), source.randbytes(size))
    for block in (b"", b"the next file", b""):
        cartridge.put(len(cartridge.blocks), block)
    return cartridge


def read_all(drive: PositionedDrive, step: int = 100_000) -> bytes:
    reader = RecordReader(drive)
    found, buffer = bytearray(), memoryview(bytearray(step))
    while count := reader.readinto(buffer):
        found += buffer[:count]
    assert reader.readinto(buffer) == 0
    return bytes(found)


def check_reading(cartridge: Cartridge, **options: Any) -> None:
    """All of the first file is read, and then the tape stands at the second."""
    double, drive = drive_with(cartridge, **{"largest_block": LARGE, **options})
    [first, second] = cartridge.files
    assert read_all(drive) == b"".join(first)
    assert double.position == len(first) + 1
    assert read_all(drive) == b"".join(second)


SIZES = [
    1,
    512,
    10 * KIB,
    64 * KIB,
    MIB - 1,
    MIB,
    MIB + 1,
    MIB + 512,
    2 * MIB,
    2 * MIB + 1,
    4 * MIB,
    16 * MIB - 512,
    MAX_RECORD,
]


@pytest.mark.parametrize("size", SIZES)
def test_records_of_any_size(size: int) -> None:
    check_reading(tape_with(size, size, size))


@pytest.mark.parametrize("size", SIZES)
def test_a_last_record_that_is_smaller(size: int) -> None:
    check_reading(tape_with(size, size, min(size, 700)))


@pytest.mark.parametrize("size", [s for s in SIZES if s > MIB])
def test_a_record_that_is_larger_than_those_before(size: int) -> None:
    check_reading(tape_with(10 * KIB, 10 * KIB, size, 512, size))


@given(st.lists(st.one_of(st.sampled_from(SIZES), st.integers(1, 4 * MIB)), max_size=6))
@settings(max_examples=50)
def test_records_of_mixed_sizes(sizes: list[int]) -> None:
    check_reading(tape_with(*sizes))


@pytest.mark.parametrize("largest", [512, 32 * KIB, 100_000, 256 * KIB, 512 * KIB, MIB - 1])
def test_a_drive_whose_largest_block_is_smaller_than_the_buffer(largest: int) -> None:
    check_reading(tape_with(512, largest, largest - 1, 1, largest), largest_block=largest)


@pytest.mark.parametrize("largest", [MIB, MIB + 1, 3 * MIB, 4 * MIB - 1, 10 * MIB + 7, MAX_RECORD])
def test_a_drive_whose_largest_block_is_larger_than_the_buffer(largest: int) -> None:
    check_reading(tape_with(512, largest, largest - 1, 1, largest), largest_block=largest)


@given(
    largest=st.integers(512, LARGE - 1),
    parts=st.lists(st.floats(0, 1), min_size=1, max_size=4),
)
@settings(max_examples=50)
def test_any_drive_reads_all_that_it_could_write(largest: int, parts: list[float]) -> None:
    sizes = [max(1, int(largest * part)) for part in parts]
    check_reading(tape_with(*sizes), largest_block=largest)


@pytest.mark.parametrize("limit", [64 * KIB, 512 * KIB, MIB])
def test_a_host_that_takes_less_than_the_drive(limit: int) -> None:
    """It refuses the buffer with EBUSY, and nothing is passed over."""
    check_reading(tape_with(512, limit, 10 * KIB), host_limit=limit)


def test_a_record_that_no_buffer_holds() -> None:
    """Larger than any that the driver would take."""
    _, drive = drive_with(tape_with(512, LARGE + 1), largest_block=2 * LARGE)
    with pytest.raises(TapeError, match="cannot read the next record"):
        read_all(drive)


def test_a_read_that_fails_is_not_tried_with_other_buffers() -> None:
    double, drive = drive_with(tape_with(*[10 * KIB] * 5), largest_block=LARGE)
    reader = RecordReader(drive)
    buffer = memoryview(bytearray(10 * KIB))
    assert reader.readinto(buffer) == 10 * KIB
    double.fail("read")
    with pytest.raises(TapeError, match="cannot read the next record") as caught:
        reader.readinto(buffer)
    assert caught.value.errno == errno.EIO


def test_passing_a_block_over_loses_nothing_where_the_way_back_fails() -> None:
    double, drive = drive_with(tape_with(512, 2 * MIB), largest_block=LARGE)
    double.fail("space")
    with pytest.raises(TapeError, match="go back 1 records"):
        read_all(drive)


def test_whole_records_one_by_one() -> None:
    cartridge = tape_with(512, 3 * MIB, 7)
    _, drive = drive_with(cartridge, largest_block=LARGE)
    reader = RecordReader(drive)
    assert [bytes(reader.record()) for _ in range(5)] == [*cartridge.files[0], b"", b""]
    assert reader.ended


@pytest.mark.parametrize("block_size", [512, 10 * KIB, 64 * KIB])
def test_a_tape_read_in_fixed_mode(block_size: int) -> None:
    _, drive = drive_with(tape_with(*[block_size] * 40), largest_block=LARGE)
    drive.set_block_size(block_size)
    assert len(read_all(drive)) == 40 * block_size


def test_an_empty_file_and_the_end_of_data() -> None:
    cartridge = Cartridge()
    cartridge.put(0, b"")
    _, drive = drive_with(cartridge)
    assert read_all(drive) == b""
    assert read_all(drive) == b""
