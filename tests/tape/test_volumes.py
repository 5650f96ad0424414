"""From tape to tape: whatever the tapes are like, what was backed up comes back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tapestream import Extent, TarStreamSource
from tapestream.errors import (
    CorruptStreamError,
    DigestMismatchError,
    EndOfTapeError,
    IncompleteStreamError,
    NoMediumError,
    TapeError,
    UsageError,
    WriteProtectedError,
    WrongTapeError,
    WrongVolumeError,
)
from tapestream.model.extents import Extents, Kind
from tapestream.tape import TapeDrive, TapeEntry, VolumeRequest
from tapestream.tape.volumes import MAX_REQUESTS
from tapestream.tar import format as fmt
from tapestream.testing.drive import Cartridge, FakeDrive
from tapestream.testing.memory import MemorySink
from tests.disks import noise
from tests.strategies import extent_lists

from .backups import (
    KIB,
    RECORD_SIZE,
    Stacker,
    quick_copy,
    restored_image,
    scan,
    start_of,
    tar_members,
    whole_members,
)
from .tapes import impatient

pytestmark = pytest.mark.timeout(120)

DISK = noise(1000 * KIB)


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    logging.getLogger("tapestream.tape").addFilter(_is_no_wrong_tape)
    yield
    logging.getLogger("tapestream.tape").removeFilter(_is_no_wrong_tape)


class Tape(Cartridge):
    """A cartridge that, like a real one, has room for filemarks behind its last record."""

    def put(self, position: int, block: bytes) -> bool:
        if block:
            self.capacity -= 64
        try:
            return super().put(position, block)
        finally:
            if block:
                self.capacity += 64


def tape(records: float, warning: float = 0, size: int = RECORD_SIZE, name: str = "") -> Tape:
    """A tape on which so many records fit, of which the last so many are in the warning zone."""
    capacity = int(records * (size + 8)) + 64
    return Tape(capacity, int(warning * (size + 8)), name=name)


# --- Any disk, any tapes ---


@dataclass
class Volume:
    """A tape file of a set.

    Attributes:
        entry: How `scan` shows it.
        members: Those that are whole.
        tape: Where it is.
    """

    entry: TapeEntry
    records: list[bytes]
    members: dict[str, bytes]
    tape: Cartridge


def volumes(station: Stacker, set_id: str) -> list[Volume]:
    """The tape files of a set in the order in which they were written."""
    found = []
    for cartridge in station.shelf:
        for entry in scan(cartridge):
            if entry.set_id == set_id:
                records = cartridge.files[entry.file]
                found.append(Volume(entry, records, whole_members(records), cartridge))
    return found


def data_of(volume: Volume) -> dict[int, bytes]:
    """The data in the whole members, by their offsets in the disk."""
    return {start_of(k): v for k, v in volume.members.items() if k.startswith("extent-")}


def check_volumes(station: Stacker, set_id: str, disk: bytes, extents: Sequence[Extent]) -> None:
    """Whatever must be true of each volume of a backup that succeeded."""
    found = volumes(station, set_id)
    covered: dict[int, int] = {}
    for volume in found:
        entry, data = volume.entry, data_of(volume)
        if entry.complete:
            assert tar_members(volume.records) == volume.members
            assert list(volume.members)[-1] == fmt.MANIFEST
        for start, content in data.items():
            assert disk[start : start + len(content)] == content
            covered[start] = len(content)
        if data and entry.volume > 1:
            assert min(data) == entry.volume_start
    wanted = [length for _, length, kind in Extents.of(extents).runs() if kind is Kind.DATA]
    assert sum(covered.values()) == sum(wanted)

    last = found[-1].entry
    assert last.complete
    assert not last.continues
    assert all(v.entry.continues or not v.entry.complete for v in found[:-1])
    # One without any data is not counted: the next has its number.
    counted = [v.entry for v in found if data_of(v) or v.entry.complete]
    assert [e.volume for e in counted] == list(range(1, len(counted) + 1))
    starts = [e.volume_start for e in counted]
    assert starts == sorted(starts)


@st.composite
def tapes(draw: st.DrawFn, record_size: int) -> list[Tape]:
    """A few tapes of any size; what follows them is like the last one."""
    found = []
    for _ in range(draw(st.integers(1, 4))):
        records = draw(st.floats(1, 12))
        warning = draw(st.one_of(st.just(0.0), st.floats(0, 4), st.just(100.0)))
        found.append(tape(records, warning, record_size))
        if draw(st.booleans()):
            used = draw(st.integers(0, 3))
            with_label(found[-1], [noise(5000, n) for n in range(used)])
    return found


def with_label(cartridge: Cartridge, files: Sequence[bytes] = ()) -> Cartridge:
    """Put a label on a tape, and other files behind it, as far as they fit."""
    drive = impatient(TapeDrive("/dev/nst1", open_device=FakeDrive(cartridge).open))
    if cartridge.capacity - 200 > 64 * KIB:
        drive.write_label("A tape")
    drive.close()
    for content in files:
        if cartridge.put(len(cartridge.blocks), content):
            cartridge.put(len(cartridge.blocks), b"")
    return cartridge


# Of the manifest: more than any digest takes in it, with its quotes and its comma.
LARGEST_DIGEST = 100


def largest_part_with_manifest(disk_size: int, part_size: int, record_size: int) -> int:
    """Bytes on a tape that are enough to go on there.

    A part that the end of the tape before has torn and the next one, the manifest, and the records
    that the preamble, the manifest, the end and the padding begin.
    """
    manifest = LARGEST_DIGEST * disk_size // fmt.segment_size(part_size)
    return 2 * part_size + manifest + 4 * record_size


@dataclass(frozen=True)
class TapeSet:
    """A disk, the tapes on which it is backed up, and how.

    Attributes:
        disk: Its bytes.
        extents: Its extents.
        shelf: The tapes, of which some may be too small to go on there.
        enough: Bytes on a tape that are enough to go on there; the spare tapes have as many.
        options: Of the sink.
    """

    disk: bytes
    extents: list[Extent]
    shelf: list[Tape]
    enough: int
    options: dict[str, Any]

    def back_up(self) -> tuple[Stacker, str] | None:
        """The drive with all tapes, and the set; None where the backup ended at a tape too small.

        Spare tapes of several sizes, and with several warning zones, follow those on the shelf.
        """
        size = self.options["record_size"]
        spare = [tape(self.enough / size + n % 7, n % 3, size) for n in range(30)]
        station = Stacker(*self.shelf, *spare)
        try:
            result = station.backup(
                self.disk,
                self.extents,
                attachments={"vm.ovf": b"<ovf/>" * 100},
                on_volume_full=station.next_tape,
                **self.options,
            )
        except EndOfTapeError:
            used = station.shelf[: station.number + 1]
            too_small = [cartridge for cartridge in used if cartridge.capacity < self.enough]
            assert too_small, "a tape that is large enough was called too small"
            return None
        station.tape.release()
        assert result.receipt is not None
        return station, result.receipt.set_id


@st.composite
def tape_sets(
    draw: st.DrawFn, checksums: Sequence[str | None] = ("sha256", "blake2b", "crc32", None)
) -> TapeSet:
    """Any disk on any tapes."""
    record_size = draw(st.just(RECORD_SIZE) | st.integers(128, 400).map(lambda n: 512 * n))
    part_size = 512 * draw(st.sampled_from([1, 7, 128, 200, 2048]))
    unit = draw(st.sampled_from([1, 512, 1000, 4096]))
    extents = [
        replace(e, start=e.start * unit, length=e.length * unit)
        for e in draw(extent_lists(max_size=8, max_length=300))
    ]
    disk = bytearray(noise(sum(e.length for e in extents)))
    for e in extents:
        if e.zero:
            disk[e.start : e.start + e.length] = bytes(e.length)
    return TapeSet(
        bytes(disk),
        extents,
        draw(tapes(record_size)),
        largest_part_with_manifest(len(disk), part_size, record_size),
        {
            "record_size": record_size,
            "part_size": part_size,
            "checksum": draw(st.sampled_from(checksums)),
        },
    )


def counted_volumes(station: Stacker, set_id: str) -> list[Volume]:
    """The volumes that count: those with data, or with a manifest."""
    return [v for v in volumes(station, set_id) if data_of(v) or v.entry.complete]


SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@settings(max_examples=100, suppress_health_check=SLOW)
@given(tape_sets())
def test_what_fits_on_any_tapes_comes_back(given_set: TapeSet) -> None:
    backup = given_set.back_up()
    if backup is None:
        return
    station, set_id = backup
    check_volumes(station, set_id, given_set.disk, given_set.extents)
    first = station.shelf.index(counted_volumes(station, set_id)[0].tape)
    assert station.restore(first) == restored_image(given_set.disk, given_set.extents)


# A fifth of the sets has a torn volume; the others do not count.
@settings(max_examples=25, suppress_health_check=SLOW)
@given(tape_sets(checksums=("sha256", "blake2b", "crc32")), st.data())
def test_damage_on_a_torn_volume_is_found(given_set: TapeSet, data: st.DataObject) -> None:
    """The manifest of the volume after it vouches for its data."""
    backup = given_set.back_up()
    assume(backup is not None)
    assert backup is not None
    station, set_id = backup
    found = counted_volumes(station, set_id)
    torn = [v for v in found if not v.entry.complete and any(data_of(v).values())]
    assume(torn)
    damage_data(data.draw(st.sampled_from(torn), label="torn"))
    with pytest.raises(DigestMismatchError):
        station.restore(station.shelf.index(found[0].tape))


@pytest.mark.parametrize("returned", [True, False, "/dev/nst1", 0])
def test_a_function_that_returns_no_drive(returned: Any) -> None:
    station = Stacker(Cartridge(600 * KIB))

    def next_tape(request: VolumeRequest) -> Any:
        station.next_tape(request)
        return returned

    with pytest.raises(UsageError, match=f"returned a {type(returned).__name__}") as e:
        station.backup(DISK, on_volume_full=next_tape)
    assert "Return the TapeDrive" in e.value.hint


def damage_data(volume: Volume) -> None:
    """Turn a bit in the middle of the last block of its largest member."""
    end_of_data = max(data_of(volume).values(), key=len)[-512:]
    at = b"".join(volume.records).index(end_of_data) + len(end_of_data) // 2
    blocks = volume.tape.blocks
    first = next(i for i in range(len(blocks)) if blocks[i : i + 1] == volume.records[:1])
    for i in range(first, first + len(volume.records)):
        if at < len(blocks[i]):
            blocks[i] = blocks[i][:at] + bytes([blocks[i][at] ^ 1]) + blocks[i][at + 1 :]
            return
        at -= len(blocks[i])
    raise AssertionError("the data is not on the tape")


def _is_no_wrong_tape(record: logging.LogRecord) -> bool:
    return "does not hold volume" not in record.getMessage()


# --- Where the end of a tape may lie ---


def run(station: Stacker, disk: bytes = DISK, **options: Any) -> list[Volume]:
    """Back up, check all volumes, and restore; the volumes with data or a manifest."""
    extents = [Extent(0, len(disk))] if disk else []
    result = station.backup(disk, extents, on_volume_full=station.next_tape, **options)
    station.tape.release()
    assert result.receipt is not None
    check_volumes(station, result.receipt.set_id, disk, extents)
    found = volumes(station, result.receipt.set_id)
    counted = counted_volumes(station, result.receipt.set_id)
    assert [(p.file, p.volume) for p in result.receipt.places] == [
        (v.entry.file, v.entry.volume) for v in counted
    ]
    first = counted[0]
    assert station.restore(station.shelf.index(first.tape)) == disk
    return found


def shown(found: Sequence[Volume]) -> list[tuple[int, bool, bool]]:
    return [(v.entry.volume, v.entry.complete, v.entry.continues) for v in found]


@pytest.mark.parametrize("warning", [4, 5, 6])
@pytest.mark.parametrize("records", [7, 8, 9])
def test_early_warning_in_the_middle_of_a_part(records: int, warning: int) -> None:
    part_size = 100 * KIB
    found = run(Stacker(tape(records, warning)), part_size=part_size)
    assert shown(found) == [(1, True, True), (2, True, False)]
    whole = data_of(found[0])
    assert all(len(content) == part_size for content in whole.values())


def _border_part_size(station: Stacker) -> int:
    """A part size of which the second one ends where a record does."""
    station.backup(b"", [])
    station.tape.release()
    [records] = station.shelf[0].files
    members = tar_members(records)
    preamble = sum(1024 + -(-len(members[n]) // 512) * 512 for n in (fmt.INFO, fmt.EXTENTS)) - 1024
    return (3 * RECORD_SIZE - preamble) // 2 // 512 * 512 - 512


@pytest.mark.parametrize("warning", [0, 1, 2, 3])
@pytest.mark.parametrize("shift", range(-3, 4))
def test_the_end_near_a_member_border(warning: int, shift: int) -> None:
    """With each shift the border comes to lie one block further on, before and behind a record."""
    part_size = _border_part_size(Stacker(tape(10))) + 512 * shift
    for records in (3, 4):
        run(Stacker(tape(records, warning)), part_size=part_size)


def _records_of(disk: bytes, **options: Any) -> int:
    station = Stacker(Cartridge())
    station.backup(disk, **options)
    station.tape.release()
    return len(station.shelf[0].files[0])


@pytest.mark.parametrize("warning", [0, 1, 2, 3])
@pytest.mark.parametrize("missing", [1, 2, 3])
def test_the_end_within_the_last_manifest(missing: int, warning: int) -> None:
    """Hard end or early warning in the manifest, the end of archive, the padding."""
    disk = noise(1500 * KIB)
    records = _records_of(disk, part_size=512)
    assert records > 26 + 3  # the manifest alone has several
    found = run(Stacker(tape(records - missing, warning)), disk, part_size=512)
    assert shown(found)[-1] == (len(found), True, False)
    if warning == 0:
        assert shown(found) == [(1, False, False), (2, True, False)]
        assert not data_of(found[1]) or missing > 3


def test_the_end_within_the_manifest_of_a_volume_that_continues() -> None:
    """The early warning comes in time, but the zone is too small for the manifest."""
    found = run(Stacker(tape(30, 3)), noise(1500 * KIB), part_size=512)
    assert shown(found) == [(1, False, False), (2, True, False)]
    assert fmt.MANIFEST not in found[0].members
    assert f"{fmt.MANIFEST}\0".encode() in b"".join(found[0].records)


ONE_PART = 256 * KIB


def _with_border_at(find: Callable[[bytes], int]) -> tuple[bytes, int]:
    """A disk of one part with which that byte of the stream begins a record; and that record."""
    missing, size = 64 * KIB, 0
    while missing:
        size += missing
        assert size <= ONE_PART
        station = Stacker(Cartridge())
        station.backup(noise(size), part_size=ONE_PART)
        station.tape.release()
        at = find(b"".join(station.shelf[0].files[0]))
        missing = -at % RECORD_SIZE
    return noise(size), at // RECORD_SIZE


def _manifest(stream: bytes) -> int:
    return stream.index(f"{fmt.MANIFEST}\0".encode())


@pytest.mark.parametrize("warning", [0, 1, 2])
def test_the_last_volume_may_hold_a_manifest_alone(warning: int) -> None:
    disk, records = _with_border_at(_manifest)
    found = run(Stacker(tape(records, warning)), disk, part_size=ONE_PART)
    assert shown(found) == [(1, False, False), (2, True, False)]
    assert list(found[0].members)[-1] == "extent-1@0"
    assert list(found[1].members) == [fmt.INFO, fmt.EXTENTS, fmt.MANIFEST]


@pytest.mark.parametrize("warning", [0, 1, 2])
@pytest.mark.parametrize("blocks", [0, 1])
def test_the_end_within_the_padding(blocks: int, warning: int) -> None:
    """The manifest is whole, but of the end of the archive there are so many blocks."""
    disk, records = _with_border_at(lambda s: -(-len(s.rstrip(b"\0")) // 512) * 512 + 512 * blocks)
    found = run(Stacker(tape(records, warning)), disk, part_size=ONE_PART)
    assert shown(found) == [(1, False, False), (2, True, False)]
    assert fmt.MANIFEST in found[0].members
    assert list(found[1].members) == [fmt.INFO, fmt.EXTENTS, fmt.MANIFEST]


@pytest.mark.parametrize("warning", [0, 5])
@pytest.mark.parametrize("block_size", [1000, 8 * KIB])
def test_the_end_within_a_record_in_fixed_mode(block_size: int, warning: int) -> None:
    """What is torn there need not end where a block of the tar does."""
    record_size = 128 * block_size if block_size == 1000 else RECORD_SIZE
    part_size = 32 * KIB
    for blocks in range(200 * KIB // block_size, 300 * KIB // block_size, 7):
        station = Stacker(tape(blocks, warning, block_size))
        station.tape.set_block_size(block_size)
        run(station, DISK[: 400 * KIB], record_size=record_size, part_size=part_size)


def test_errors_that_are_told_late() -> None:
    """With the next record: still each that was taken is on the tape."""
    for warning in (3, 3.5, 4, 5):
        found = run(Stacker(tape(10, warning), write_behind=True))
        assert shown(found)[-1] == (len(found), True, False)
    station = Stacker(tape(10), write_behind=True)
    with pytest.raises(TapeError):  # the hard end comes without a warning
        station.backup(DISK, on_volume_full=station.next_tape)


def test_a_tape_without_room_for_the_filemark() -> None:
    station = Stacker(Cartridge(4 * (RECORD_SIZE + 8), 0))
    with pytest.raises(TapeError, match="write a filemark"):
        station.backup(DISK, on_volume_full=station.next_tape)
    assert not station.requests


def test_early_warning_in_the_padding_at_the_end() -> None:
    records = _records_of(DISK)
    for warning in (0, 0.1, 0.5, 0.99, 1):
        found = run(Stacker(tape(records, warning)))
        assert shown(found) == [(1, True, False)]


def test_a_volume_is_complete_wherever_its_last_record_begins() -> None:
    """What tells it, the end of the manifest, may lie on two records."""
    station = Stacker(Cartridge())
    station.backup(DISK[:5000])
    station.tape.release()
    stream = b"".join(station.shelf[0].files[0])
    end = len(stream.rstrip(b"\0"))
    for cut in range(end - 150, end + 2):
        cartridge = Cartridge()
        for block in (stream[:cut], stream[cut:], b""):
            cartridge.put(len(cartridge.blocks), block)
        [entry] = scan(cartridge)
        assert entry.complete, end - cut


@pytest.mark.parametrize("rest", [0, 1, 2])
def test_a_tape_whose_rest_holds_no_part(rest: int) -> None:
    """What is there is void: the next volume has the same number."""
    full = with_label(tape(4 + rest), [noise(RECORD_SIZE, n) for n in range(3)])
    found = run(Stacker(full), part_size=200 * KIB, attachments={"a": noise(20 * KIB)})
    assert [v.entry.volume for v in found] in ([1, 1], [1])
    assert shown(found)[-1] == (1, True, False)
    assert not data_of(found[0]) or len(found) == 1


def test_a_restore_cannot_begin_with_a_void_volume() -> None:
    station = Stacker(with_label(tape(6), [noise(RECORD_SIZE, n) for n in range(3)]))
    found = run(station, part_size=200 * KIB)
    assert [v.entry.volume for v in found] == [1, 1]
    station.requests.clear()
    with pytest.raises(IncompleteStreamError):
        station.restore(0)
    assert not station.requests


@pytest.mark.parametrize("rest", [0, 1, 2])
@pytest.mark.parametrize("warning", [0, 3])
def test_a_void_volume_between_two_others(rest: int, warning: int) -> None:
    """A restore that is given the tape with the void one asks again."""
    full = with_label(tape(4 + rest), [noise(RECORD_SIZE, n) for n in range(3)])
    station = Stacker(tape(8, warning), full)
    found = run(station, part_size=200 * KIB)
    assert [v.entry.volume for v in found] in ([1, 2, 2], [1, 2])
    assert [bool(data_of(v)) for v in found] == [True, *[False] * (len(found) - 2), True]
    if len(found) == 3:
        refused = [r for r in station.requests if r.left is None and r.problem]
        assert [r.volume for r in refused] == [2]


def test_void_volumes_with_a_long_preamble() -> None:
    """They end within their extents or attachments."""
    attachments = {"a": noise(150 * KIB), "b": noise(100 * KIB)}
    full = [with_label(tape(4 + n), [noise(RECORD_SIZE, n)] * 3) for n in (0, 1, 2, 3, 4)]
    station = Stacker(tape(10), *full)
    found = run(station, part_size=200 * KIB, attachments=attachments)
    assert {v.entry.volume for v in found} == {1, 2}
    assert len(found) > 4


def test_tapes_that_are_in_use_are_appended_to() -> None:
    station = Stacker(with_label(tape(10, 3)), with_label(tape(10, 3), [b"older"]), tape(10, 3))
    before = [list(t.blocks) for t in station.shelf]
    found = run(station)
    assert [v.entry.file for v in found] == [1, 2, 0][: len(found)]
    for cartridge, blocks in zip(station.shelf, before, strict=False):
        assert cartridge.blocks[: len(blocks)] == blocks


def test_the_report_names_labels_and_files() -> None:
    station = Stacker(with_label(tape(10, 3)), tape(100))
    station.tape.read_label()
    result = station.backup(DISK, on_volume_full=station.next_tape)
    assert result.receipt is not None
    assert [(p.drive, p.label, p.file, p.volume) for p in result.receipt.places] == [
        ("/dev/nst0", "A tape", 1, 1),
        ("/dev/nst0", None, 0, 2),
    ]
    assert result.receipt.record_bytes == RECORD_SIZE * result.receipt.records
    records = sum(len(f) for t in station.shelf for f in t.files) - 1
    assert result.receipt.records == records


def test_a_tape_too_small_for_one_part() -> None:
    station = Stacker(tape(3), tape(3))
    with pytest.raises(EndOfTapeError, match="not one part of the backup fits"):
        station.backup(DISK, part_size=400 * KIB, on_volume_full=station.next_tape)
    assert not scan(station.shelf[0])[0].complete


def test_a_second_tape_too_small_for_one_part() -> None:
    station = Stacker(tape(10), tape(3))
    with pytest.raises(EndOfTapeError, match="not one part of the backup fits"):
        station.backup(DISK, part_size=400 * KIB, on_volume_full=station.next_tape)
    assert station.number == 1


# --- Who is asked ---


@pytest.mark.parametrize("warning", [0, 4])
def test_the_end_of_the_tape_without_anybody_to_ask(warning: int) -> None:
    station = Stacker(tape(10, warning))
    with pytest.raises(EndOfTapeError, match=r"the tape is full, with \d+ bytes to go") as caught:
        station.backup(DISK)
    assert "on_volume_full" in caught.value.hint
    station.tape.release()
    [entry] = scan(station.shelf[0])
    assert not entry.complete


def test_without_anybody_to_ask_the_warning_zone_is_used() -> None:
    records = _records_of(DISK)
    station = Stacker(tape(records, 5))
    station.backup(DISK)
    station.tape.release()
    assert shown(volumes(station, _set_id(station))) == [(1, True, False)]
    assert station.restore() == DISK


def _set_id(station: Stacker) -> str:
    [entry] = scan(station.shelf[0])
    assert entry.set_id
    return entry.set_id


class OperatorError(Exception):
    pass


def test_an_operator_who_gives_up() -> None:
    def give_up(request: VolumeRequest) -> None:
        raise OperatorError

    station = Stacker(tape(10, 3))
    with pytest.raises(OperatorError):
        station.backup(DISK, on_volume_full=give_up)
    # The drive can be used again.
    station.load(1)
    station.backup(DISK)
    assert station.restore(1) == DISK


def test_what_is_asked_for() -> None:
    station = Stacker(tape(10, 3), tape(100))
    result = station.backup(DISK, on_volume_full=station.next_tape)
    [request] = station.requests
    assert request.drive is station.tape
    assert result.receipt is not None
    assert request.set_id == result.receipt.set_id
    assert request.volume == 2
    assert request.backup == "vm, disk of 2026-11-23 15:00 UTC"
    data = sum(map(len, data_of(volumes(station, request.set_id)[0]).values()))
    assert request.left == len(DISK) - data
    assert request.problem is None


def test_the_drive_is_free_while_the_operator_is_asked() -> None:
    def look(request: VolumeRequest) -> None:
        assert not station.double.in_use
        station.next_tape(request)

    station = Stacker(tape(10, 3))
    station.backup(DISK, on_volume_full=look)
    station.requests.clear()
    assert station.restore() == DISK
    assert len(station.requests) == 1


@pytest.mark.parametrize("blocked", ["protected", "empty", "same"])
def test_a_tape_that_will_not_do_is_asked_for_again(blocked: str) -> None:
    def answer(request: VolumeRequest) -> None:
        requests.append(request)
        if len(requests) > 2:
            return station.next_tape(request)
        station.double.eject()
        if blocked == "protected":
            station.double.load(Tape(protected=True))
        elif blocked == "same":
            station.double.load(station.shelf[0])
        return None

    station, requests = Stacker(tape(10, 3)), list[VolumeRequest]()
    station.backup(DISK, on_volume_full=answer)
    problems = [r.problem or "" for r in requests]
    wanted = {"protected": "write-protected", "empty": "not ready", "same": "still the tape"}
    assert problems[0] == ""
    assert len(problems) == 3
    assert all(wanted[blocked] in problem for problem in problems[1:])
    station.requests.clear()
    assert station.restore() == DISK


@pytest.mark.parametrize(
    ("blocked", "error"),
    [("protected", WriteProtectedError), ("empty", NoMediumError), ("same", WrongTapeError)],
)
def test_nobody_is_asked_for_ever(blocked: str, error: type[Exception]) -> None:
    def answer(request: VolumeRequest) -> None:
        requests.append(request)
        if blocked != "same" and len(requests) == 1:
            station.double.eject()
        if blocked == "protected" and len(requests) == 1:
            station.double.load(Tape(protected=True))

    station, requests = Stacker(tape(10, 3)), list[VolumeRequest]()
    with pytest.raises(error):
        station.backup(DISK, on_volume_full=answer)
    assert len(requests) == MAX_REQUESTS
    assert [r.problem is None for r in requests] == [True] + [False] * (MAX_REQUESTS - 1)
    assert {r.volume for r in requests} == {2}


# --- Another drive ---


def second_drive(cartridge: Cartridge) -> tuple[FakeDrive, TapeDrive]:
    double = FakeDrive(cartridge)
    return double, impatient(TapeDrive("/dev/nst1", open_device=double.open))


@pytest.mark.parametrize("warning", [0, 3])
def test_the_next_tape_may_be_in_another_drive(warning: int) -> None:
    station = Stacker(tape(10, warning))
    double, drive = second_drive(tape(100))
    requests = []

    def answer(request: VolumeRequest) -> TapeDrive:
        requests.append(request)
        return drive

    result = station.backup(DISK, on_volume_full=answer)
    assert result.receipt is not None
    assert [p.drive for p in result.receipt.places] == ["/dev/nst0", "/dev/nst1"]
    assert [r.drive for r in requests] == [station.tape]

    # Both drives are free, for other backups and for this restore.
    with drive.turn(), station.tape.turn():
        pass
    station.tape.rewind()
    sink = MemorySink()
    with TarStreamSource(station.tape, on_next_volume=answer) as source, sink:
        quick_copy(source, sink)
    assert bytes(sink.disk) == DISK
    with drive.turn(), station.tape.turn():
        pass
    assert double.in_use  # and both stay open


def test_two_drives_take_turns() -> None:
    cartridges = [tape(10, 3) for _ in range(20)]
    station = Stacker(cartridges[0])
    double, drive = second_drive(cartridges[1])
    used = [0, 1]

    def answer(request: VolumeRequest) -> TapeDrive:
        used.append(used[-1] + 1)
        if request.drive is drive:
            station.double.swap(cartridges[used[-1]])
            return station.tape
        if used[-1] > 2:
            double.swap(cartridges[used[-1]])
        else:
            used.pop()
        return drive

    disk = noise(1900 * KIB)
    result = station.backup(disk, on_volume_full=answer)
    assert result.receipt is not None
    drives = [p.drive for p in result.receipt.places]
    assert drives == (["/dev/nst0", "/dev/nst1"] * 9)[: len(drives)]
    assert len(drives) > 3


def test_a_short_foreign_file_hides_nothing_behind_it() -> None:
    """Looking for what it is reads over its filemark."""
    cartridge = with_label(Cartridge(), [b"short", b"shorter"])
    station = Stacker(cartridge)
    station.backup(DISK)
    station.tape.release()
    entries = scan(cartridge)
    assert [(e.file, e.label, e.complete) for e in entries] == [
        (0, "A tape", True),
        (1, None, False),
        (2, None, False),
        (3, None, True),
    ]


# --- Restore ---


def set_of_tapes(warning: float = 3, **options: Any) -> Stacker:
    """A backup on three tapes."""
    station = Stacker(*(tape(7, warning) for _ in range(3)))
    station.backup(DISK, on_volume_full=station.next_tape, **options)
    station.tape.release()
    station.requests.clear()
    assert station.number == 2
    return station


def restore_from(
    station: Stacker, answer: Callable[[VolumeRequest], TapeDrive | None] | None
) -> MemorySink:
    station.load(0)
    station.tape.rewind()
    sink = MemorySink()
    with TarStreamSource(station.tape, on_next_volume=answer) as source, sink:
        quick_copy(source, sink)
        return sink


@pytest.mark.parametrize("warning", [0, 3])
def test_a_wrong_tape_is_refused_and_nothing_of_it_is_restored(warning: int) -> None:
    station, other = set_of_tapes(warning), set_of_tapes(warning)
    wrong = [
        other.shelf[1],  # the right volume, of another set
        station.shelf[0],
        with_label(tape(10), [b"foreign"]),
        Tape(),
    ]
    requests = []

    def answer(request: VolumeRequest) -> None:
        requests.append(request)
        if len(requests) <= len(wrong):
            station.double.swap(wrong[len(requests) - 1])
        else:
            station.load(request.volume - 1)

    assert bytes(restore_from(station, answer).disk) == DISK
    problems = [r.problem for r in requests[1 : len(wrong) + 1]]
    backup = "vm, disk of 2026-11-23 15:00 UTC"
    assert problems == [
        f"/dev/nst0: {name} does not hold volume 2 of {backup}"
        for name in ("this tape", "this tape", "tape A tape", "this tape")
    ]
    assert [r.volume for r in requests] == [2] * (len(wrong) + 1) + [3]
    assert all(r.left is None for r in requests)


def test_a_wrong_tape_is_not_asked_about_for_ever() -> None:
    station, requests = set_of_tapes(), list[VolumeRequest]()
    with pytest.raises(WrongTapeError, match="does not hold volume 2"):
        restore_from(station, requests.append)
    assert len(requests) == MAX_REQUESTS


@pytest.mark.parametrize("warning", [0, 3])
def test_a_restore_without_anybody_to_ask(warning: int) -> None:
    with pytest.raises(IncompleteStreamError) as caught:
        restore_from(set_of_tapes(warning), None)
    assert warning == 0 or "on_next_volume" in caught.value.hint


def test_an_operator_who_gives_up_a_restore() -> None:
    def give_up(request: VolumeRequest) -> None:
        raise OperatorError

    station = set_of_tapes()
    with pytest.raises(OperatorError):
        restore_from(station, give_up)
    assert bytes(restore_from(station, station.next_tape).disk) == DISK


def test_a_restore_begins_with_the_first_volume() -> None:
    station = set_of_tapes()
    station.load(1)
    station.tape.rewind()
    with pytest.raises(WrongVolumeError, match="this is volume 2"):
        TarStreamSource(station.tape, on_next_volume=station.next_tape)
    # It has given the drive back.
    with station.tape.turn():
        pass


def test_the_volumes_may_lie_on_tapes_with_other_backups() -> None:
    station = set_of_tapes()
    other = set_of_tapes()
    both = Tape()
    for cartridge in (other.shelf[1], station.shelf[1], other.shelf[2], station.shelf[2]):
        for block in cartridge.blocks:
            both.put(len(both.blocks), block)

    def answer(request: VolumeRequest) -> None:
        station.requests.append(request)
        if station.double.cartridge is not both:
            station.double.swap(both)

    assert bytes(restore_from(station, answer).disk) == DISK
    assert [r.problem for r in station.requests] == [None, None]


def test_a_volume_whose_extents_differ_is_refused() -> None:
    station = set_of_tapes()
    blocks = station.shelf[1].blocks
    assert blocks[0].count(b'"length": 1024000') == 1
    blocks[0] = blocks[0].replace(b'"length": 1024000', b'"length": 1024001')
    with pytest.raises(CorruptStreamError, match=r"extents.json differs"):
        restore_from(station, station.next_tape)


@pytest.mark.parametrize("warning", [0, 3])
def test_damage_on_any_tape_is_found(warning: int) -> None:
    for number in range(3):
        station = set_of_tapes(warning)
        blocks = station.shelf[number].blocks
        middle = len(station.shelf[number].files[0]) // 2
        data = bytearray(blocks[middle])
        data[30_000] ^= 1
        blocks[middle] = bytes(data)
        with pytest.raises(CorruptStreamError) as caught:
            restore_from(station, station.next_tape)
        assert isinstance(caught.value, DigestMismatchError)
