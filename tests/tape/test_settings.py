"""A drive or a host that is set in another way than usual: that is no damage, and not called so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tapestream import BackupInfo, TarStreamSource
from tapestream.errors import BlockSizeError, TapeError, UnreadableLabelError, UsageError
from tapestream.tape import Catalog, TapeDrive, VolumeRequest
from tapestream.tar import format as fmt
from tapestream.testing.drive import Cartridge, FakeDrive
from tests.drive.stations import FakeStation, Station

from .tapes import (
    KIB,
    RECORD,
    backup,
    change_tape,
    disk,
    listing,
    only,
    places,
    restore,
    tape_drive,
)

SMALL = disk(1, 20 * KIB)


@pytest.fixture
def drive(station: Station) -> TapeDrive:
    return tape_drive(station)


# Fixed mode


def catalog_scan(drive: TapeDrive, folder: Path) -> None:
    with Catalog(folder / "catalog") as catalog:
        catalog.scan(drive)


def open_source(drive: TapeDrive, folder: Path) -> None:
    drive.rewind()
    TarStreamSource(drive, file=1)


USES: list[Callable[[TapeDrive, Path], object]] = [
    lambda drive, _: drive.find(),
    lambda drive, _: list(drive.scan()),
    lambda drive, _: drive.read_label(),
    lambda drive, _: drive.write_label("T2"),
    lambda drive, _: backup(drive, SMALL, "b", record_size=4 * RECORD),
    catalog_scan,
    open_source,
]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("size", [512, 4 * RECORD])
def test_a_tape_of_variable_blocks_in_a_drive_left_in_fixed_mode(
    drive: TapeDrive, tmp_path: Path, size: int, use: Callable[[TapeDrive, Path], object]
) -> None:
    drive.write_label("T1")
    backup(drive, SMALL, "a")
    drive.set_block_size(size)
    drive.release()
    with pytest.raises(
        BlockSizeError, match=rf"fixed mode, with blocks of {size} .*block of {RECORD}.*setblk 0"
    ):
        use(drive, tmp_path)
    assert drive.block_size == size  # it is another program's, perhaps
    drive.set_block_size(0)
    assert listing(drive) == ["label T1", "a"]
    drive.go_to_file(1)
    assert restore(drive) == SMALL


def test_a_tape_that_is_labelled_anew_in_fixed_mode_says_what_it_was(drive: TapeDrive) -> None:
    drive.write_label("T1")
    assert drive.tape_label is not None
    before = drive.tape_label.tape_id
    drive.set_block_size(4 * RECORD)
    drive.write_label("T2", overwrite=True)
    assert drive.block_size == 4 * RECORD
    assert drive.read_label() == "T2"
    assert drive.tape_label is not None
    assert drive.tape_label.replaces == (before,)


def test_nothing_is_written_where_the_tape_stands_after_that(drive: TapeDrive) -> None:
    drive.write_label("T1")
    backup(drive, SMALL, "a")
    drive.set_block_size(4 * RECORD)
    drive.go_to_file(1)
    with pytest.raises(BlockSizeError):
        restore(drive)
    with pytest.raises(TapeError):
        drive.raw.write_record(memoryview(bytes(4 * RECORD)))
    drive.release()
    drive.set_block_size(0)
    assert listing(drive) == ["label T1", "a"]


def test_a_bad_record_in_fixed_mode_is_damage(station: Station, drive: TapeDrive) -> None:
    drive.set_block_size(RECORD)
    drive.write_label("T1")
    backup(drive, SMALL, "a")
    drive.rewind()
    station.fail("read")
    first, second = drive.scan()
    assert first.problem is not None
    assert "Input/output error" in first.problem
    assert first.is_unknown
    assert second.info is not None
    assert drive.block_size == RECORD


@pytest.mark.parametrize("size", [512, 10 * KIB, RECORD, 96 * KIB, 128 * KIB, 1024 * KIB])
def test_a_label_in_blocks_of_any_size(drive: TapeDrive, size: int) -> None:
    drive.set_block_size(size)
    drive.write_label("T1")
    backup(drive, SMALL, "a", record_size=size * -(-RECORD // size))
    assert drive.read_label() == "T1"
    assert listing(drive) == ["label T1", "a"]
    drive.set_block_size(0)
    assert drive.read_label() == "T1"
    assert listing(drive) == ["label T1", "a"]


# Records that are refused


@pytest.mark.parametrize("label", ["T1", None])
def test_a_record_that_is_refused_leaves_no_tape_file(
    station: Station, drive: TapeDrive, label: str | None
) -> None:
    refused = 2 * station.largest_block
    if label is not None:
        drive.write_label(label)
    before = listing(drive)
    with pytest.raises(TapeError, match="smaller record_size"):
        backup(drive, SMALL, "a", record_size=refused)
    drive.close()
    assert listing(drive) == before
    if label is None:
        drive.write_label("T2")
    backup(drive, SMALL, "b")
    assert listing(drive) == [f"label {label or 'T2'}", "b"]


def test_a_record_that_the_host_refuses_leaves_no_tape_file() -> None:
    """The driver takes it to begin with; then the adapter does not. Only the double has one."""
    station = FakeDrive(Cartridge(), host_limit=4 * RECORD)
    with TapeDrive("/dev/nst0", open_device=station.open) as drive:
        for use in (
            lambda: backup(drive, SMALL, "a", record_size=8 * RECORD),
            lambda: drive.raw.write_record(memoryview(bytes(8 * RECORD))),
        ):
            with pytest.raises(TapeError, match="smaller record_size"):
                use()
            drive.close()
            assert list(drive.scan()) == []
        drive.write_label("T1")
        backup(drive, SMALL, "b")
        with pytest.raises(TapeError):
            backup(drive, SMALL, "a", record_size=8 * RECORD)
        drive.close()
        assert listing(drive) == ["label T1", "b"]


def test_a_tape_with_nothing_but_filemarks_is_blank_enough_for_a_label(drive: TapeDrive) -> None:
    """Other programs leave one when they are refused, or end before they write."""
    drive.rewind()
    drive.raw.write_filemark()
    drive.raw.write_filemark()
    drive.write_label("T1")
    assert listing(drive) == ["label T1"]
    drive.rewind()
    drive.raw.write_filemark()
    drive.raw.write_record(memoryview(SMALL.ljust(RECORD)))
    drive.raw.write_filemark()
    with pytest.raises(UsageError, match="something on the tape"):
        drive.write_label("T2")


def test_a_record_larger_than_this_host_can_read() -> None:
    """Only the double has an adapter that takes less than the drive."""
    station = FakeDrive(Cartridge(), largest_block=4 * RECORD)
    with TapeDrive("/dev/nst0", open_device=station.open) as drive:
        backup(drive, SMALL, "a", record_size=4 * RECORD)
        drive.close()
        station.host_limit = 2 * RECORD
        (entry,) = drive.scan()
        assert entry.problem is not None
        assert f"takes no more than {2 * RECORD}" in entry.problem


# A driver that does not count files


def test_a_host_with_fast_eod(station: Station, drive: TapeDrive, tmp_path: Path) -> None:
    station.fast_eod()
    drive.write_label("T1")
    with Catalog(tmp_path / "catalog") as catalog:
        for name in "abc":
            drive.release()
            drive.rewind()
            result = backup(drive, SMALL, name)
            assert result.receipt is not None
            catalog.add(result.receipt)
        found = [catalog.find(disk_id=name)[0].volumes[0].file for name in "abc"]
        assert found == [1, 2, 3]
        for name in "abc":
            with TarStreamSource(drive, expect=catalog.find(disk_id=name)[0]) as source:
                assert source.info.disk_id == name
    # Wherever it stands, also where the driver has lost count.
    drive.raw.seek(2)
    assert places(backup(drive, SMALL, "d")) == [("T1", 4)]
    drive.rewind()
    drive.end_of_data()
    assert drive.status().file == 5
    assert drive.status().at_end_of_data


@pytest.mark.every_kernel
def test_a_host_with_fast_eod_and_a_reset(station: Station, drive: TapeDrive) -> None:
    """Nothing is written over."""
    station.fast_eod()
    drive.write_label("T1")
    backup(drive, SMALL, "a")
    for _ in range(2):
        drive.rewind()
        drive.end_of_data()
        station.reset()
        with pytest.raises(TapeError):
            backup(drive, SMALL, "b")
        drive.release()
    assert listing(drive) == ["label T1", "a"]


# A label that cannot be read


def test_an_unreadable_label_is_not_taken_for_none(tmp_path: Path) -> None:
    """The double's tape stays bad; a fault of the machine's drive passes."""
    station = FakeStation()
    with tape_drive(station) as drive, Catalog(tmp_path / "catalog") as catalog:
        drive.write_label("T1")
        backup(drive, SMALL, "a")
        drive.close()
        cartridge = station.shelf["T0001"]
        blocks = list(cartridge.blocks)
        cartridge.bad = (0,)
        for use in (drive.read_label, lambda: catalog.scan(drive)):
            with pytest.raises(UnreadableLabelError, match=r"cannot tell if .* a label.*Clean"):
                use()
            assert drive.raw.remembered is None
        with pytest.raises(TapeError, match="cannot tell if the tape has a label"):
            backup(drive, SMALL, "b")
        with pytest.raises(UsageError, match="something on the tape"):
            drive.write_label("T2")
        assert cartridge.blocks == blocks
        assert only(drive.find()).file == 1  # what can be read is found
        drive.write_label("T2", overwrite=True)
        cartridge.bad = ()
        assert listing(drive) == ["label T2"]


@pytest.mark.usefixtures("quiet")
def test_another_tape_is_asked_for_where_the_next_one_has_no_readable_label() -> None:
    """The double's tape stays bad."""
    station = FakeStation()
    with tape_drive(station) as drive:
        drive.write_label("T1")
        for name in ("T0002", "T0003"):
            change_tape(station, drive, name)
            drive.write_label(name)
        station.shelf["T0002"].bad = (0,)
        change_tape(station, drive, "T0001")
        problems, following = [], iter(["T0002", "T0003"])

        def load(request: VolumeRequest) -> None:
            problems.append(request.problem)
            change_tape(station, drive, next(following))

        result = backup(drive, disk(1, station.capacity), "a", on_volume_full=load)
        assert places(result) == [("T1", 1), ("T0003", 1)]
        first, second = problems
        assert first is None
        assert second is not None
        assert "cannot tell if the tape has a label" in second


def test_a_damaged_label_is_not_taken_for_none(drive: TapeDrive, tmp_path: Path) -> None:
    text = json.dumps({"format": "tapestream-label", "version": 1}).encode()
    record = fmt.HeaderWriter(0).header("tape-label.json", len(text)) + text
    drive.raw.write_record(memoryview(record.ljust(RECORD, b"\0")))
    drive.raw.write_filemark()
    with Catalog(tmp_path / "catalog") as catalog:
        for use in (drive.read_label, lambda: catalog.scan(drive)):
            with pytest.raises(TapeError, match=r"tape-label\.json is not a label"):
                use()
    drive.write_label("T1", overwrite=True)
    assert drive.read_label() == "T1"


def test_what_cannot_be_looked_at_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Only the double's tape stays bad."""
    station = FakeStation()
    with tape_drive(station) as drive:
        drive.write_label("T1")
        first = backup(drive, SMALL, info=BackupInfo(disk_id="a"))
        backup(drive, SMALL, "b")
        drive.close()
        station.shelf["T0001"].bad = (2,)
        assert places(first) == [("T1", 1)]
        assert drive.find(disk_id="a") == []
        assert "tape file 1 is not looked at" in caplog.text
        change_tape(station, drive, "T0002")
        caplog.clear()
        assert drive.find() == []
        assert caplog.text == ""
