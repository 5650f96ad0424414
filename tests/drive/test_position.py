"""Where the tape stands: after a reset, and when others move it in the middle of the work.

A tape ends behind what was written last. So the first record at a wrong place loses all that lies
behind it, and the tests look at what lies before.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import pytest

from tapestream import BackupInfo, TarStreamSink, TarStreamSource, copy
from tapestream.drive.position import CHECK_BYTES
from tapestream.drive.records import RecordPool, RecordReader, RecordWriter
from tapestream.errors import (
    EndOfTapeError,
    LocalIOError,
    PositionLostError,
    StreamError,
    TapeError,
)
from tapestream.tape import TapeDrive
from tapestream.testing.drive import Cartridge, FakeDrive, Resets
from tapestream.testing.memory import MemorySink, MemorySource
from tests.tape.tapes import (
    KIB,
    RECORD,
    backup,
    change_tape,
    disk,
    listing,
    only,
    restore,
    restore_disk,
    tape_drive,
)

from . import generic
from .stations import FakeStation, MachineStation, Station
from .watched import Interrupted

MIB = 1024 * KIB
NEW = disk(4, 40 * RECORD)
# Records of the smallest size that may be written between two questions.
BOUND = CHECK_BYTES // RECORD


@pytest.fixture
def tapes(station: Station) -> Station:
    """A station with two backups on T0001, which is in the drive and has room for some more."""
    station.blank("T0002", 64 * MIB, MIB)
    station.swap("T0002")
    with tape_drive(station) as drive:
        drive.write_label("first")
        backup(drive, disk(1), "a")
        backup(drive, disk(2), "b")
    return station


# --- After an error ---


def back_to_the_first_backup(drive: TapeDrive) -> None:
    drive.go_to_file(2)
    drive.raw.forward_files(1)
    drive.raw.backward_files(2)


@pytest.mark.parametrize(
    ("wind", "nth"),
    [
        (lambda drive: drive.raw.forward_files(1), 1),
        (back_to_the_first_backup, 2),
        (lambda drive: drive.go_to_file(2), 1),
    ],
    ids=["forward", "back", "to a file"],
)
def test_a_tape_file_that_could_not_be_passed_is_not_counted(
    wind: Callable[[TapeDrive], None], nth: int
) -> None:
    """The driver counts it, where the drive does not say how many were not passed."""
    station = FakeStation()
    with tape_drive(station) as drive:
        drive.write_label("first")
        backup(drive, disk(1), "a")
        backup(drive, disk(2), "b")
        drive.go_to_file(1)
        station.drives[0].fail("space", nth)
        with pytest.raises(TapeError):
            wind(drive)
        result = backup(drive, disk(3), "c")
        assert result.receipt is not None
        assert result.receipt.places[0].file == 3
        for number in range(1, 4):
            drive.go_to_file(number)
            assert restore(drive) == disk(number)


# --- After a reset ---


def read_it(drive: TapeDrive) -> bytes:
    with TarStreamSource(drive, file=2) as source, MemorySink() as sink:
        copy(source, sink)
    return bytes(sink.disk)


def write_label_again(drive: TapeDrive) -> None:
    drive.write_label("again", overwrite=True)
    assert listing(drive) == ["label again"]


def back_up(drive: TapeDrive) -> None:
    backup(drive, disk(3), "c")
    assert listing(drive) == ["label first", "a", "b", "c"]
    assert restore_disk(drive, "c") == disk(3)


def find(drive: TapeDrive) -> None:
    assert only(drive.find(disk_id="b")).file == 2


def set_block_size(drive: TapeDrive) -> None:
    drive.rewind()
    drive.set_block_size(0)
    assert drive.block_size == 0


def seek(drive: TapeDrive) -> None:
    drive.raw.seek(2)
    assert drive.raw.tell() == 2


def erase(drive: TapeDrive) -> None:
    drive.go_to_file(2)
    drive.erase()
    assert listing(drive) == ["label first", "a"]


def eject(drive: TapeDrive) -> None:
    drive.eject()
    drive.load()
    assert drive.read_label() == "first"


USES: dict[str, Callable[[TapeDrive], None]] = {
    "rewind": lambda drive: drive.rewind(),
    "read_label": lambda drive: _equal(drive.read_label(), "first"),
    "write_label": write_label_again,
    "scan": lambda drive: _equal(listing(drive), ["label first", "a", "b"]),
    "find": find,
    "go_to_file": lambda drive: drive.go_to_file(1),
    "restore": lambda drive: _equal(read_it(drive), disk(2)),
    "backup": back_up,
    "set_block_size": set_block_size,
    "seek": seek,
    "erase": erase,
    "eject": eject,
}


def _equal(found: object, right: object) -> None:
    assert found == right


def forget_place(station: Station) -> TapeDrive:
    """A drive that was reset in the middle of something; it was closed and opened since."""
    with tape_drive(station) as drive:
        drive.end_of_data()
        station.reset()
        with pytest.raises(PositionLostError):
            drive.raw.write_filemark()
    return tape_drive(station)


@pytest.mark.parametrize("use", USES)
def test_a_drive_that_was_reset_can_be_used(tapes: Station, use: str) -> None:
    """Each of these finds its place by itself: newer drivers ask for a rewind first."""
    with forget_place(tapes) as drive:
        USES[use](drive)


@pytest.mark.parametrize("use", USES)
def test_the_same_drive_can_be_used_after_the_error(tapes: Station, use: str) -> None:
    with tape_drive(tapes) as drive:
        drive.end_of_data()
        tapes.reset()
        with pytest.raises(PositionLostError):
            drive.raw.write_filemark()
        USES[use](drive)


@pytest.mark.parametrize("use", USES)
def test_a_driver_that_hides_its_status_too(use: str) -> None:
    """The first kernels that remembered a reset; then a rewind has to be asked for."""
    station = FakeStation(Resets.STATUS_REFUSED)
    with tape_drive(station) as drive:
        drive.write_label("first")
        backup(drive, disk(1), "a")
        backup(drive, disk(2), "b")
    with forget_place(station) as drive:
        drive.rewind()
        USES[use](drive)


@pytest.mark.parametrize(
    "move",
    [
        lambda drive: drive.raw.forward_files(1),
        lambda drive: drive.raw.backward_records(1),
        lambda drive: drive.end_of_data(),
        lambda drive: drive.rewind(),
        lambda drive: drive.raw.tell(),
        lambda drive: drive.raw.write_record(memoryview(bytes(RECORD))),
        lambda drive: drive.raw.write_filemark(),
        lambda drive: drive.erase(),
        lambda drive: drive.set_block_size(0),
        lambda drive: RecordReader(drive.raw).record(),
    ],
)
def test_what_is_done_first_after_a_reset_fails(
    tapes: Station, move: Callable[[TapeDrive], object]
) -> None:
    """Whatever it is, nothing is lost; the drive is as good as new after a rewind."""
    with tape_drive(tapes) as drive:
        drive.go_to_file(2)
        tapes.reset()
        with pytest.raises(TapeError):
            move(drive)
        drive.rewind()
        assert listing(drive) == ["label first", "a", "b"]
        assert restore_disk(drive, "b") == disk(2)


def test_where_it_stands_is_not_guessed_after_a_reset(tapes: Station) -> None:
    """What was left at the second backup is not read as the first file on the tape."""
    with tape_drive(tapes) as drive:
        drive.go_to_file(2)
        tapes.reset()
        for _ in range(2):
            with pytest.raises(TapeError):
                restore(drive)
        drive.go_to_file(2)
        assert restore(drive) == disk(2)


def at_call(station: Station, nth: int, event: Callable[[], object]) -> TapeDrive:
    opener = Interrupted(station, event)
    drive = TapeDrive(station.path, open_device=opener)
    drive.end_of_data()
    opener.before(nth)
    return drive


def test_a_reset_in_the_middle_of_a_backup_is_a_lost_position(tapes: Station) -> None:
    drive = at_call(tapes, 12, tapes.reset)
    with pytest.raises(PositionLostError):
        backup(drive, NEW, "new")
    drive.close()
    with tape_drive(tapes) as drive:
        assert listing(drive)[:3] == ["label first", "a", "b"]
        assert restore_disk(drive, "b") == disk(2)


def test_a_reset_in_the_middle_of_a_restore_is_a_lost_position(tapes: Station) -> None:
    with tape_drive(tapes) as drive:
        backup(drive, NEW, "new")
    opener = Interrupted(tapes, tapes.reset)
    drive = TapeDrive(tapes.path, open_device=opener)
    drive.go_to_file(3)
    opener.before(12)
    sink = MemorySink()
    with pytest.raises(PositionLostError):
        restore(drive, sink=sink)
    assert sink.state == "aborted"
    drive.close()


# --- Moved by others, who say nothing ---


class Meddler:
    """A progress bar that does something once, when so many bytes were copied."""

    def __init__(self, deed: Callable[[], object], after: int) -> None:
        self._deed = deed
        self._left = after

    def update(self, n: int) -> None:
        if 0 < self._left <= n:
            self._deed()
        self._left -= n


def back_up_meddled(drive: TapeDrive, deed: Callable[[], object], record_size: int) -> None:
    size = 24 * record_size
    source = MemorySource(disk(4, size), info=BackupInfo(vm_id="vm", disk_id="new"))
    sink = TarStreamSink(drive, record_size=record_size, part_size=record_size)
    meddler = Meddler(deed, size // 2)
    with source, sink:
        copy(
            source,
            sink,
            progress=meddler,
            buffer_size=record_size,
            buffer_memory=4 * record_size,
        )


@pytest.fixture(params=["host", "sg"])
def rewind(request: pytest.FixtureRequest, tapes: Station) -> Iterator[Callable[[], None]]:
    """Rewinds the tape: from another host; or through sg, which somebody has opened before us."""
    if request.param == "host":
        yield lambda: tapes.move(0)
        return
    if not isinstance(tapes, MachineStation):
        pytest.skip("needs a SCSI generic device")
    opened = generic.open_generic(tapes.path)
    yield partial(generic.rewind, opened)
    os.close(opened)


def test_a_rewind_between_two_records_of_the_usual_size_costs_nothing(
    tapes: Station, rewind: Callable[[], None]
) -> None:
    """The drive is asked before each; there is nothing to write into the wrong place."""
    with tape_drive(tapes) as drive:
        with pytest.raises(PositionLostError, match="but stands at block") as caught:
            back_up_meddled(drive, rewind, MIB)
        assert "untouched" not in str(caught.value)
        assert listing(drive)[:3] == ["label first", "a", "b"]
        assert restore_disk(drive, "a") == disk(1)
        assert restore_disk(drive, "b") == disk(2)


def test_a_rewind_between_small_records_costs_no_more_than_is_said(
    tapes: Station, rewind: Callable[[], None]
) -> None:
    with tape_drive(tapes) as drive:
        with pytest.raises(PositionLostError, match="what was written from block") as caught:
            back_up_meddled(drive, rewind, RECORD)
        assert "what was on it from block 0 on may be lost" in str(caught.value)
        assert "verify the others on this tape" in str(caught.value)
        drive.rewind()
        drive.end_of_data()
        assert 0 < drive.raw.tell() <= BOUND


def size_of(record_size: int) -> int:
    """Of a disk that takes some records, and is asked about more than once."""
    return 6 * MIB if record_size == MIB else 24 * RECORD


def first_difference(before: list[bytes], after: list[bytes]) -> int:
    pairs = zip(before, after, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), len(after))


def place_named(error: LocalIOError) -> int | None:
    found = re.search(r"what was on it from block (\d+) on may be lost", str(error))
    return int(found[1]) if found else None


@pytest.mark.parametrize("record_size", [RECORD, MIB])
@pytest.mark.parametrize("to", [0, 3])
def test_a_move_before_any_call_of_a_backup_is_found(record_size: int, to: int) -> None:
    """Only the double can be moved before each single call; what it holds can be looked at."""
    small = record_size == RECORD
    for nth in range(1, 200):
        station = FakeStation()
        station.blank("T0002", 64 * MIB, MIB)
        station.swap("T0002")
        with tape_drive(station) as drive:
            drive.write_label("first")
            backup(drive, disk(1), "a")
            backup(drive, disk(2), "b")
        cartridge = station.shelf["T0002"]
        before = list(cartridge.blocks)
        opener = Interrupted(station, partial(station.move, to))
        drive = TapeDrive(station.path, open_device=opener)
        opener.before(nth)
        error = None
        try:
            backup(drive, disk(4, size_of(record_size)), "new", record_size=record_size)
        except PositionLostError as e:
            error = e
        with suppress(TapeError):
            drive.close()
        if not opener.happened:
            assert error is None
            assert nth > 10
            return
        blocks = list(cartridge.blocks)
        if error is None:
            # It was wound to the end of data only after that, or was at the end already.
            assert blocks[: len(before)] == before
            assert listing(tape_drive(station)) == ["label first", "a", "b", "new"]
            continue
        at = first_difference(before, blocks)
        if blocks[: len(before)] != before:
            named = place_named(error)
            assert named is not None
            assert named <= at == to
            assert len(blocks) - at <= (BOUND if small else 1)
        assert "untouched" not in str(error)


@pytest.mark.parametrize("checksum", ["crc32", None])
@pytest.mark.parametrize("record_size", [RECORD, MIB])
def test_a_move_before_any_call_of_a_restore_is_found(
    checksum: str | None, record_size: int
) -> None:
    """Also where no digest would tell that the data is another."""
    data = disk(4, size_of(record_size))
    station = FakeStation()
    station.blank("T0002", 64 * MIB, MIB)
    station.swap("T0002")
    with tape_drive(station) as drive:
        for name in ("a", "b"):
            content = data if name == "b" else disk(5, len(data))
            backup(drive, content, name, record_size=record_size, checksum=checksum)
    errors: list[Exception] = []
    for nth in range(1, 200):
        opener = Interrupted(station, lambda: station.move(3))
        drive = TapeDrive(station.path, open_device=opener)
        drive.go_to_file(1)
        opener.before(nth)
        sink = MemorySink()
        try:
            restored = restore(drive, sink=sink)
        except (PositionLostError, StreamError) as e:
            errors.append(e)
            assert sink.state in ("new", "aborted")
        else:
            assert restored == data
        drive.close()
        if not opener.happened:
            break
    assert len(errors) >= 6
    # Of small records several are read before the drive is asked.
    assert record_size < MIB or {type(e) for e in errors} == {PositionLostError}


def test_a_filemark_that_went_elsewhere_is_not_called_a_backup(tapes: Station) -> None:
    opener = Interrupted(tapes, lambda: tapes.move(6))
    with TapeDrive(tapes.path, open_device=opener) as drive:
        drive.end_of_data()
        drive.raw.begin_file()
        drive.raw.write_record(memoryview(bytes(RECORD)))
        opener.before(2)  # after the question
        with pytest.raises(PositionLostError, match="the filemark may have gone elsewhere"):
            drive.raw.write_filemark()
        assert opener.happened


def test_closing_writes_no_filemark_where_others_moved_the_tape(tapes: Station) -> None:
    drive = tape_drive(tapes)
    drive.end_of_data()
    drive.raw.write_record(memoryview(bytes(RECORD)))
    tapes.move(0)
    with pytest.raises(PositionLostError):
        drive.close()
    with drive:
        assert listing(drive)[:3] == ["label first", "a", "b"]


def test_a_tape_that_was_moved_while_the_next_volume_was_begun(tapes: Station) -> None:
    """The place of another tape is no better known than that of the first."""
    tapes.blank("T0003", 20 * RECORD, 4 * RECORD)
    with tape_drive(tapes) as drive:
        change_tape(tapes, drive, "T0003")
        drive.write_label("short")

        def next_tape(request: object) -> None:
            tapes.swap("T0002")

        def rewinds() -> None:
            tapes.move(1)

        source = MemorySource(NEW, info=BackupInfo(vm_id="vm", disk_id="new"))
        sink = TarStreamSink(drive, record_size=RECORD, part_size=RECORD, on_volume_full=next_tape)
        meddler = Meddler(rewinds, 36 * RECORD)
        with source, sink, pytest.raises(PositionLostError):
            copy(source, sink, progress=meddler, buffer_size=RECORD, buffer_memory=4 * RECORD)
        assert drive.read_label() == "first"


# --- How often it is asked ---


class Counter(Interrupted):
    """Counts calls, and lets nothing happen."""

    def __init__(self, station: Station) -> None:
        super().__init__(station, lambda: None)
        self.calls = 0

    def count(self) -> None:
        self.calls += 1


@pytest.mark.parametrize(
    ("record_size", "writes", "reads"),
    [(RECORD, 16, 16), (256 * KIB, 4, 4), (384 * KIB, 2, 3), (MIB, 1, 1)],
)
def test_it_is_asked_once_for_each_mebibyte(record_size: int, writes: int, reads: int) -> None:
    """Small records do not make it dearer; and never is more written without a question."""
    station = FakeStation()
    station.blank("T0002", 128 * MIB, MIB)
    station.swap("T0002")
    counter = Counter(station)
    with TapeDrive(station.path, open_device=counter) as drive:
        writer = RecordWriter(drive.raw, RecordPool(record_size))
        counter.calls = 0
        records = 6 * writes * reads
        writer.write(memoryview(bytes(records * record_size)))
        assert counter.calls == records + records // writes - 1
        writer.end_file()
        drive.rewind()
        reader = RecordReader(drive.raw)
        counter.calls = 0
        for _ in range(records):
            reader.record()
        assert counter.calls == records + records // reads


@pytest.mark.parametrize("record_size", [RECORD, MIB])
def test_the_warning_of_the_end_is_heard_when_the_place_is_asked(record_size: int) -> None:
    """A driver that writes behind tells it with any call; then a record may be lost at the end."""
    double = FakeDrive(Cartridge(40 * MIB, 16 * MIB), write_behind=True)
    drive = TapeDrive("/dev/nst0", open_device=double.open)
    writer = RecordWriter(drive.raw, RecordPool(record_size))
    data = memoryview(disk(9, record_size))
    while not writer.is_ending:
        writer.write(data)
    assert writer.accepted <= 26 * MIB
    for _ in range(2 * MIB // record_size):
        writer.write(data)
    writer.end_file()
    assert double.cartridge is not None
    [file] = double.cartridge.files
    assert b"".join(file) == bytes(data) * (writer.accepted // record_size)
    drive.close()


def test_a_warning_heard_so_refuses_the_record(station: Station) -> None:
    """As any warning does; written again, it goes on the tape."""
    station.blank("T0002", 8 * MIB, 7 * MIB)
    station.swap("T0002")
    record = station.behind(bytes(MIB - 4))
    with tape_drive(station) as drive:
        refused = 0
        for _ in range(4):
            try:
                drive.raw.write_record(record)
            except EndOfTapeError:
                refused += 1
                drive.raw.write_record(record)
        assert refused
        drive.raw.write_filemark()
        assert drive.raw.tell() == 5


# --- Who is kept out ---


def test_nobody_opens_the_generic_device_while_the_drive_is_open(station: Station) -> None:
    if not isinstance(station, MachineStation):
        pytest.skip("needs a SCSI generic device")
    with tape_drive(station) as drive:
        drive.rewind()
        with pytest.raises(OSError, match="busy") as caught:
            generic.open_generic(station.path)
        assert caught.value.errno == errno.EBUSY
        drive.release()
        os.close(generic.open_generic(station.path))
        drive.rewind()
    os.close(generic.open_generic(station.path))


def test_a_generic_device_that_is_in_use_does_not_matter(station: Station) -> None:
    if not isinstance(station, MachineStation):
        pytest.skip("needs a SCSI generic device")
    opened = generic.open_generic(station.path)
    with tape_drive(station) as drive:
        backup(drive, disk(1), "a")
        assert restore_disk(drive, "a") == disk(1)
    os.close(opened)
