"""verify() and salvage of a backup on tape: past bad records, and to the end of what is there."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import pytest

from tapestream import (
    Damage,
    Extent,
    RawImageSink,
    TarStreamSource,
    VerifyReport,
    compare,
    copy,
    verify,
)
from tapestream.drive.records import RecordReader
from tapestream.errors import LocalIOError, TapeError, UsageError
from tapestream.model.damage import Findings
from tapestream.tape import TapeDrive, VolumeRequest
from tapestream.testing.memory import MemorySource
from tests.drive.stations import FakeStation, Station
from tests.tar.layouts import Layout, flipped, joined, zeroed

from .tapes import KIB, RECORD, backup, disk, tape_drive

pytestmark = pytest.mark.timeout(120)

BAD_HEADER = "damaged or not ours: its checksum is wrong"
PART = 4 * RECORD
# Parts of 256 KiB, the last of 100: one segment each, for less than 16 MiB.
SIZE = 6 * PART + 100 * KIB
DISK = disk(1, SIZE)


@pytest.fixture
def double() -> FakeStation:
    return FakeStation()


def written(station: Station, data: bytes = DISK, *, part_size: int = PART) -> TapeDrive:
    """The drive, at the beginning of a tape with one backup."""
    drive = tape_drive(station)
    backup(drive, data, "disk", part_size=part_size)
    drive.rewind()
    return drive


def verified(drive: TapeDrive, **options: object) -> VerifyReport:
    with TarStreamSource(drive, **options) as source:  # type: ignore[arg-type]
        return verify(source, buffer_size=RECORD, buffer_memory=4 * RECORD)


def assert_good(report: VerifyReport, size: int = SIZE) -> None:
    assert report.ok
    assert report.complete
    assert (report.damage, report.problems) == ((), ())
    assert (report.data_bytes, report.checksum) == (size, "crc32")


def records(drive: TapeDrive, file: int = 0) -> list[bytes]:
    """All records of a tape file."""
    drive.go_to_file(file)
    reader = RecordReader(drive.raw)
    return [bytes(record) for record in iter(reader.record, b"")]


def layout_of(drive: TapeDrive, file: int = 0) -> Layout:
    return Layout(b"".join(records(drive, file)))


def bad_records(layout: Layout, *numbers: int) -> tuple[list[Damage], list[Damage]]:
    """What is missing with these records, and the segments that hold something of that."""
    missing = joined(
        damage for n in numbers for damage in layout.missing(n * RECORD, (n + 1) * RECORD)
    )
    segments = [
        Damage(place.start, place.size, place.name, missing=False)
        for place in layout.data
        if any(damage.member == place.name for damage in missing)
    ]
    return missing, segments


def length_of(found: Sequence[Damage]) -> int:
    return sum(damage.length for damage in found)


# --- What is good ---


def test_a_good_backup(station: Station) -> None:
    drive = written(station)
    assert_good(verified(drive))
    assert drive.status().file == 1
    assert_good(verified(drive, file=0))


def test_one_backup_after_another(station: Station) -> None:
    drive = tape_drive(station)
    sizes = [100 * KIB, 300 * KIB, 1]
    for size in sizes:
        backup(drive, disk(size, size))
    drive.rewind()
    for size in sizes:
        assert_good(verified(drive), size)


def two_volumes(
    station: Station,
    *,
    part_size: int = RECORD,
    attachments: dict[str, bytes] | None = None,
    checksum: str | None = "crc32",
) -> tuple[TapeDrive, bytes, int]:
    """The drive, the disk, and the offset in it where the second volume begins."""
    data = disk(2, station.capacity + 512 * KIB)
    drive = tape_drive(station)

    def load(request: VolumeRequest) -> None:
        station.swap("T0002")

    result = backup(
        drive,
        data,
        "disk",
        on_volume_full=load,
        part_size=part_size,
        attachments=attachments or {},
        checksum=checksum,
    )
    assert result.receipt is not None
    assert [place.volume for place in result.receipt.places] == [1, 2]
    with tarfile.open(fileobj=io.BytesIO(b"".join(records(drive)))) as tar:
        member = tar.extractfile("backup-info.json")
        assert member is not None
        begins: int = json.loads(member.read())["volume_start"]
    drive.release()
    station.swap("T0001")
    assert 0 < begins < len(data)
    return drive, data, begins


def test_a_good_backup_on_two_volumes(station: Station) -> None:
    drive, data, _ = two_volumes(station)
    requests: list[VolumeRequest] = []

    def load(request: VolumeRequest) -> None:
        requests.append(request)
        station.swap("T0002")

    assert_good(verified(drive, on_next_volume=load), len(data))
    assert [request.volume for request in requests] == [2]


# --- Volumes that are not there ---


def parts_behind(begins: int, size: int) -> tuple[Damage, ...]:
    return tuple(
        Damage(start, min(RECORD, size - start), f"extent-1@{start}", missing=True)
        for start in range(begins, size, RECORD)
    )


def test_a_second_volume_that_nobody_loads(station: Station) -> None:
    drive, data, begins = two_volumes(station)
    report = verified(drive)
    assert report.damage == parts_behind(begins, len(data))
    assert not report.complete
    assert len(report.problems) == 1
    assert "volume 2" in report.problems[0]


def test_a_second_volume_that_is_not_found(station: Station) -> None:
    drive, data, begins = two_volumes(station)
    backup_of_another = cycle(["T0003", "T0004", "T0001"])

    def load(request: VolumeRequest) -> None:
        station.swap(next(backup_of_another))

    report = verified(drive, on_next_volume=load)
    assert report.damage == parts_behind(begins, len(data))
    assert not report.complete
    assert "does not hold volume 2" in report.problems[0]


def test_a_salvage_of_the_first_volume(station: Station, tmp_path: Path) -> None:
    drive, data, begins = two_volumes(station)
    with (
        TarStreamSource(drive, allow_incomplete=True) as source,
        RawImageSink(tmp_path / "disk.raw") as sink,
    ):
        copy(source, sink)
        assert source.findings is not None
        assert tuple(source.findings.damage) == parts_behind(begins, len(data))
    assert (tmp_path / "disk.raw").read_bytes() == data[:begins] + bytes(len(data) - begins)


def test_damage_on_the_first_volume_and_the_second_is_read_all_the_same(
    double: FakeStation,
) -> None:
    drive, data, _ = two_volumes(double)
    layout = layout_of(drive)
    double.shelf["T0001"].bad = {7}
    drive.rewind()
    missing, damaged = bad_records(layout, 7)
    report = verified(drive, on_next_volume=lambda request: double.swap("T0002"))
    assert sorted(report.damage, key=lambda d: d.start) == sorted(
        [*missing, *damaged], key=lambda d: d.start
    )
    assert report.complete
    assert report.data_bytes == len(data) - length_of(missing)


def test_a_damaged_header_of_the_manifest_of_the_first_volume(
    double: FakeStation, tmp_path: Path
) -> None:
    """All data is there and intact, so all of it comes back."""
    drive, data, _ = two_volumes(double)
    record, offset = divmod(layout_of(drive).place("manifest.json").header, RECORD)
    blocks = double.shelf["T0001"].blocks
    blocks[record] = flipped(blocks[record], offset)
    drive.rewind()
    with (
        TarStreamSource(
            drive, allow_incomplete=True, on_next_volume=lambda request: double.swap("T0002")
        ) as source,
        RawImageSink(tmp_path / "disk.raw") as sink,
    ):
        copy(source, sink, buffer_size=4096, buffer_memory=16384)
        assert source.findings == Findings(
            [], [f"manifest.json: a tar header is {BAD_HEADER}"], complete=True, digest_name="crc32"
        )
    assert (tmp_path / "disk.raw").read_bytes() == data


def test_any_damaged_header_of_the_first_volume(double: FakeStation) -> None:
    """Whatever member it is of: it is not taken for the manifest, nor the manifest for it."""
    drive, data, _ = two_volumes(double)
    layout = layout_of(drive)
    for place in (*layout.data[:: len(layout.data) // 4], layout.data[-1]):
        drive.release()
        double.swap("T0001")
        record, offset = divmod(place.header, RECORD)
        blocks = double.shelf["T0001"].blocks
        whole, blocks[record] = blocks[record], flipped(blocks[record], offset)
        drive.rewind()
        report = verified(drive, on_next_volume=lambda request: double.swap("T0002"))
        assert report.problems == (f"{place.name}: a tar header is {BAD_HEADER}",)
        assert (report.damage, report.complete, report.checksum) == ((), True, "crc32")
        assert report.data_bytes == len(data)
        blocks[record] = whole


def test_a_drive_that_is_dead_behind_a_damaged_header_on_several_volumes(
    double: FakeStation,
) -> None:
    """Where the header is the last block of a record."""
    part_size = RECORD - 512
    drive, _, _ = two_volumes(FakeStation(), part_size=part_size)
    first = records(drive)[0].index(b"extent-1@0\0")
    padding = {"padding": bytes(RECORD - first - 1024)}
    drive, data, begins = two_volumes(double, part_size=part_size, attachments=padding)
    assert records(drive)[2][-512:].startswith(b"extent-1@%d\0" % (2 * part_size))
    blocks = double.shelf["T0001"].blocks
    blocks[2] = flipped(blocks[2], -512)
    drive.rewind()
    dead_from(double, 3, also=["seek"])
    report = verified(drive, on_next_volume=lambda request: double.swap("T0002"))
    assert report.damage[0].start == 2 * part_size < begins
    assert all(damage.missing for damage in report.damage)
    assert length_of(report.damage) == len(data) - 2 * part_size


def test_a_bad_record_behind_a_damaged_header_on_several_volumes(double: FakeStation) -> None:
    """Where the header is the last block of a record."""
    part_size = RECORD - 512
    drive, _, _ = two_volumes(FakeStation(), part_size=part_size)
    first = records(drive)[0].index(b"extent-1@0\0")
    padding = {"padding": bytes(RECORD - first - 1024)}
    drive, _, _ = two_volumes(double, part_size=part_size, attachments=padding)
    cartridge = double.shelf["T0001"]
    cartridge.blocks[2] = flipped(cartridge.blocks[2], -512)
    cartridge.bad = {3}
    drive.rewind()
    report = verified(drive, on_next_volume=lambda request: double.swap("T0002"))
    start, name = 2 * part_size, f"extent-1@{2 * part_size}"
    assert Damage(start, part_size, name, missing=True) in report.damage
    assert length_of([d for d in report.damage if d.missing]) == part_size


@pytest.mark.parametrize("file", [None, 0])
def test_a_bad_record_in_an_attachment(file: int | None, double: FakeStation) -> None:
    drive = tape_drive(double)
    backup(drive, DISK, "disk", part_size=PART, attachments={"large": bytes(3 * RECORD)})
    layout = layout_of(drive)
    assert layout.place("attachments/large").data < RECORD < 2 * RECORD < layout.first_header
    double.shelf["T0001"].bad = {1}
    drive.rewind()
    report = verified(drive, file=file)
    assert (report.damage, report.complete, report.data_bytes) == ((), True, SIZE)


def damage_byte(station: FakeStation, label: str, at: int) -> None:
    """Turn a byte of a tape's first tape file."""
    record, offset = divmod(at, RECORD)
    blocks = station.shelf[label].blocks
    blocks[record] = flipped(blocks[record], offset)


@pytest.mark.parametrize("checksum", ["crc32", None])
@pytest.mark.parametrize("header", [False, True])
def test_a_damaged_manifest_of_the_first_volume(
    header: bool, checksum: str | None, double: FakeStation
) -> None:
    """Nobody vouches for what is around a damaged header; the rest was just not compared."""
    drive, data, _ = two_volumes(double, checksum=checksum)
    layout = layout_of(drive)
    damage_byte(double, "T0001", layout.place("manifest.json").data)
    place = layout.data[2]
    if header:
        damage_byte(double, "T0001", place.header)
    drive.rewind()
    report = verified(drive, on_next_volume=lambda request: double.swap("T0002"))
    suspects = tuple(Damage(p.start, p.size, p.name, missing=False) for p in layout.data[1:3])
    assert report.damage == (suspects if header else ())
    assert len(report.problems) == 1 + header
    assert "manifest.json is not JSON" in report.problems[-1]
    assert (report.complete, report.data_bytes, report.checksum) == (False, len(data), None)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("extents.json", "header"),
        ("extents.json", "data"),
        ("data", "header"),
        ("data", "data"),
        ("manifest.json", "header"),
        ("manifest.json", "data"),
    ],
)
def test_damage_on_the_second_volume(name: str, part: str, double: FakeStation) -> None:
    drive, data, begins = two_volumes(double)
    drive.release()
    double.swap("T0002")
    layout = layout_of(drive)
    assert layout.data[0].start == begins
    place = layout.data[1] if name == "data" else layout.place(name)
    drive.release()
    double.swap("T0001")
    damage_byte(double, "T0002", place.header if part == "header" else place.data)
    drive.rewind()
    report = verified(drive, on_next_volume=lambda request: double.swap("T0002"))
    bad = Damage(place.start, place.size, place.name, missing=False) if name == "data" else None
    assert report.damage == ((bad,) if bad and part == "data" else ())
    assert bool(report.problems) is (name != "data" or part == "header")
    assert report.data_bytes == len(data)
    there = (name, part) != ("manifest.json", "data")
    assert (report.complete, report.checksum) == (there, "crc32" if there else None)


def lose_header(station: FakeStation, label: str, at: int) -> None:
    """Put zeros in the place of a header of a tape's first tape file."""
    record, offset = divmod(at, RECORD)
    blocks = station.shelf[label].blocks
    blocks[record] = zeroed(blocks[record], offset, 512)


@pytest.mark.parametrize("file", [None, 0])
def test_a_lost_header_of_the_extents(file: int | None, double: FakeStation) -> None:
    """Also where they are read twice, because others may use the drive in between."""
    drive = written(double)
    lose_header(double, "T0001", layout_of(drive).place("extents.json").header)
    drive.rewind()
    report = verified(drive, file=file)
    assert report.problems == ("extents.json: the archive ends where extents.json should be",)
    assert (report.damage, report.complete, report.checksum) == ((), True, "crc32")


def test_a_lost_header_of_the_extents_of_the_second_volume(double: FakeStation) -> None:
    drive, data, _ = two_volumes(double)
    drive.release()
    double.swap("T0002")
    lose_header(double, "T0002", layout_of(drive).place("extents.json").header)
    drive.release()
    double.swap("T0001")
    drive.rewind()
    report = verified(drive, on_next_volume=lambda request: double.swap("T0002"))
    assert report.problems == ("extents.json: the archive ends where extents.json should be",)
    assert (report.damage, report.complete, report.data_bytes) == ((), True, len(data))


# --- Records that cannot be read ---


def test_a_record_that_could_not_be_read_once(station: Station) -> None:
    """A tape is not wound back to try again: the drive did so itself, for minutes."""
    station.needs_operator()
    drive = written(station)
    layout = layout_of(drive)
    drive.rewind()
    with TarStreamSource(drive) as source:
        source.extents()  # the first record
        station.fail("read", 6)
        report = verify(source, buffer_size=RECORD, buffer_memory=4 * RECORD)
    missing, damaged = bad_records(layout, 6)
    assert list(report.damage) == missing + damaged
    assert report.complete


@pytest.mark.parametrize("bad", [[6], [1], [9, 10, 11], [2, 3, 9, 14, 20], range(3, 20)], ids=str)
def test_bad_records(bad: Sequence[int], double: FakeStation) -> None:
    """None is given up that can be read."""
    drive = written(double)
    layout = layout_of(drive)
    double.shelf["T0001"].bad = set(bad)
    drive.rewind()
    missing, damaged = bad_records(layout, *bad)
    headers = [p for p in layout.data if p.header // RECORD in bad]
    report = verified(drive)
    assert list(report.damage) == missing + damaged
    assert report.problems == tuple(
        f"{p.name}: the archive ends where {p.name} should be" for p in headers
    )
    assert (report.complete, report.checksum) == (True, "crc32")
    assert report.data_bytes == SIZE - length_of(missing)
    assert drive.status().file in (1, None)


def test_a_bad_record_is_zeros_in_a_salvage(double: FakeStation, tmp_path: Path) -> None:
    drive = written(double)
    layout = layout_of(drive)
    double.shelf["T0001"].bad = {6, 9}
    drive.rewind()
    stream = bytearray(layout.tar)
    for n in (6, 9):
        stream[n * RECORD : (n + 1) * RECORD] = bytes(RECORD)
    with (
        TarStreamSource(drive, allow_incomplete=True) as source,
        RawImageSink(tmp_path / "disk.raw") as sink,
    ):
        copy(source, sink)
        assert source.findings is not None
        missing, damaged = bad_records(layout, 6, 9)
        assert source.findings.damage == missing + damaged
    assert (tmp_path / "disk.raw").read_bytes() == layout.image(bytes(stream))


def test_a_strict_source_stops_at_a_bad_record(double: FakeStation, tmp_path: Path) -> None:
    drive = written(double)
    double.shelf["T0001"].bad = {6}
    with (
        TarStreamSource(drive) as source,
        RawImageSink(tmp_path / "disk.raw") as sink,
        pytest.raises(TapeError),
    ):
        copy(source, sink)
    assert list(tmp_path.iterdir()) == []


def test_the_last_record_is_bad(double: FakeStation) -> None:
    """It holds the manifest: nothing can be checked, and it is told."""
    drive = written(double)
    layout = layout_of(drive)
    last = len(layout.tar) // RECORD - 1
    assert layout.place("manifest.json").header // RECORD == last
    double.shelf["T0001"].bad = {last}
    drive.rewind()
    report = verified(drive)
    missing, _ = bad_records(layout, last)
    assert list(report.damage) == missing
    assert "manifest.json" in report.problems[0]
    assert not report.complete


def test_the_first_record_is_bad(double: FakeStation) -> None:
    drive = written(double)
    double.shelf["T0001"].bad = {0}
    with pytest.raises(TapeError):
        TarStreamSource(drive)


def test_what_is_behind_a_backup_with_bad_records_is_found(double: FakeStation) -> None:
    drive = written(double)
    drive.end_of_data()
    backup(drive, disk(9), "other")
    double.shelf["T0001"].bad = {5}
    drive.rewind()
    assert not verified(drive).ok
    assert_good(verified(drive), len(disk(9)))


def torn(station: Station) -> TapeDrive:
    """The drive, with a tape file that begins a backup of the disk, and has no end."""
    drive = tape_drive(station)

    def fail(start: int, length: int) -> None:
        if start >= 20 * RECORD:
            raise LocalIOError("it broke")

    with pytest.raises(LocalIOError, match="it broke"):
        backup(drive, DISK, "disk", before_read=fail, part_size=PART)
    return drive


def test_a_backup_without_its_end(station: Station) -> None:
    whole = layout_of(written(FakeStation()))
    drive = torn(station)
    there = sum(map(len, records(drive)))
    drive.rewind()
    report = verified(drive)
    assert there > 10 * RECORD
    assert list(report.damage) == whole.missing(there, len(whole.tar))
    assert not report.complete
    assert len(report.problems) == 1


def test_what_is_behind_a_backup_without_its_end_is_found(station: Station) -> None:
    drive = torn(station)
    backup(drive, disk(9), "other")
    backup(drive, disk(8, 1), "third")
    drive.rewind()
    assert not verified(drive).complete
    assert drive.status().file == 1
    assert_good(verified(drive), len(disk(9)))


# --- Drives that do not come back ---


class Counted:
    """Opens the devices of a station, and counts the reads."""

    def __init__(self, station: FakeStation) -> None:
        self.reads = 0
        drive = station.drives[0]
        read = drive.read

        def counting(count: int, block_size: int) -> bytes:
            self.reads += 1
            return read(count, block_size)

        drive.read = counting  # type: ignore[method-assign]


def dead_from(double: FakeStation, record: int, *, also: Sequence[str] = ()) -> Counted:
    """From this record on nothing can be read."""
    double.shelf["T0001"].bad = range(record, 10**9)
    drive = double.drives[0]
    fault = drive.fault

    def failing(operation: str) -> None:
        if operation in also and drive.position >= record:
            drive.fail(operation)  # type: ignore[arg-type]
        fault(operation)  # type: ignore[arg-type]

    drive.fault = failing  # type: ignore[method-assign]
    return Counted(double)


@pytest.mark.parametrize("record", [6, 1])
def test_a_tape_that_cannot_be_read_from_there_on(record: int, double: FakeStation) -> None:
    drive = written(double)
    layout = layout_of(drive)
    drive.rewind()
    counted = dead_from(double, record)
    report = verified(drive)
    assert list(report.damage) == layout.missing(record * RECORD, len(layout.tar))
    assert not report.complete
    assert counted.reads <= len(layout.tar) // RECORD + 3


EVERYTHING = ["seek", "space", "position", "rewind", "status"]


@pytest.mark.parametrize(
    ("also", "file"),
    [
        (["seek"], None),
        (["seek"], 0),
        (["seek", "space"], None),
        (["seek", "space"], 0),
        (EVERYTHING, None),
        (EVERYTHING, 0),
    ],
)
def test_a_drive_that_is_dead(also: list[str], file: int | None, double: FakeStation) -> None:
    drive = written(double)
    layout = layout_of(drive)
    drive.rewind()
    counted = dead_from(double, 6, also=also)
    report = verified(drive, file=file)
    assert_dead_from(6, report, layout)
    assert counted.reads <= 6 + 3


def test_a_drive_that_is_dead_from_a_header_on(double: FakeStation) -> None:
    """Where a record begins with the header of a member."""
    part_size = RECORD - 512
    first = layout_of(written(FakeStation(), part_size=part_size)).first_header
    drive = tape_drive(double)
    padding = bytes(RECORD - first - 512)
    backup(drive, DISK, "disk", part_size=part_size, attachments={"padding": padding})
    layout = layout_of(drive)
    assert {place.header % RECORD for place in layout.data} == {0}
    drive.rewind()
    dead_from(double, 6, also=["seek"])
    assert_dead_from(6, verified(drive), layout)


def assert_dead_from(record: int, report: VerifyReport, layout: Layout) -> None:
    assert list(report.damage) == layout.missing(record * RECORD, len(layout.tar))
    assert not report.complete
    assert report.problems


def test_another_cartridge_behind_our_back(double: FakeStation) -> None:
    """Never is the other tape called good, nor its data that of this backup."""
    drive = tape_drive(double)
    backup(drive, disk(5, SIZE), "other", part_size=PART)
    drive.release()
    double.swap("T0002")
    drive = written(double)
    layout = layout_of(drive)
    drive.rewind()

    class Swap:
        done = False

        def update(self, n: int) -> None:
            if not self.done:
                self.done = True
                double.swap("T0001")

    swap = Swap()
    with TarStreamSource(drive) as source:
        report = verify(source, buffer_size=RECORD, buffer_memory=2 * RECORD, progress=swap)
    assert swap.done
    assert not report.ok
    behind = layout.missing(5 * RECORD, len(layout.tar))  # it was swapped before that
    told = {at for d in report.damage for at in range(d.start, d.start + d.length)}
    assert all(at in told for d in behind for at in range(d.start, d.start + d.length))


# --- compare ---


def test_a_backup_on_tape_is_compared_with_the_disk(station: Station) -> None:
    drive = written(station)
    with TarStreamSource(drive) as source, MemorySource(DISK) as live:
        assert compare(source, live).equal
    drive.rewind()
    other = bytearray(DISK)
    other[1024 * KIB] ^= 1
    with TarStreamSource(drive) as source, MemorySource(bytes(other)) as live:
        assert compare(live, source).differing == ((1024 * KIB, SIZE - 1024 * KIB),)


def test_two_backups_in_one_drive_cannot_be_compared(station: Station) -> None:
    """Neither for ever, nor wrongly."""
    drive = tape_drive(station)
    backup(drive, disk(1), "one")
    backup(drive, disk(1), "two")
    with (
        TarStreamSource(drive, file=0) as one,
        TarStreamSource(drive, file=1) as two,
        pytest.raises(UsageError),
    ):
        compare(one, two)


def test_zeros_and_incremental_backups(station: Station) -> None:
    extents = [
        Extent(0, 100 * KIB, dirty=True),
        Extent(100 * KIB, 50 * KIB, zero=True, dirty=True),
        Extent(150 * KIB, 50 * KIB, dirty=False),
    ]
    drive = tape_drive(station)
    backup(drive, disk(4), extents=extents)
    backup(drive, bytes(200 * KIB), extents=[Extent(0, 200 * KIB, zero=True)])
    backup(drive, b"")
    drive.rewind()
    for size in (100 * KIB, 0, 0):
        assert_good(verified(drive), size)
