"""Arguments that cannot be are refused before the tape moves, or anything on it is given up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tapestream.errors import UsageError
from tapestream.tape import Catalog, TapeDrive
from tests.drive.stations import FakeStation

from .tapes import backup, disk, tape_drive

NO_NUMBER: list[Any] = [None, "1", -1, 1.0, True]
CALLS: dict[str, Callable[[TapeDrive, Any], object]] = {
    "go_to_file": lambda drive, value: drive.go_to_file(value),
    "forward_files": lambda drive, value: drive.raw.forward_files(value),
    "backward_files": lambda drive, value: drive.raw.backward_files(value),
    "backward_records": lambda drive, value: drive.raw.backward_records(value),
    "seek": lambda drive, value: drive.raw.seek(value),
    "set_block_size": lambda drive, value: drive.set_block_size(value),
}


def state(station: FakeStation) -> object:
    """What is on the tape, where it stands, and in which mode the drive is."""
    drive = station.drives[0]
    assert drive.cartridge is not None
    return list(drive.cartridge.blocks), drive.position, drive.block_size


@pytest.fixture
def station() -> FakeStation:
    station = FakeStation()
    with tape_drive(station) as drive:
        drive.write_label("first")
        backup(drive, disk(1), "a")
    return station


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("value", NO_NUMBER, ids=repr)
def test_numbers(station: FakeStation, call: str, value: Any) -> None:
    before = state(station)
    with tape_drive(station) as drive, pytest.raises(UsageError, match="must be"):
        CALLS[call](drive, value)
    assert state(station) == before


@pytest.mark.parametrize("call", [call for call in CALLS if call != "go_to_file"])
def test_a_number_that_the_driver_cannot_take(station: FakeStation, call: str) -> None:
    before = state(station)
    with tape_drive(station) as drive, pytest.raises(UsageError, match="must be at most"):
        CALLS[call](drive, 2**40)
    assert state(station) == before


@pytest.mark.parametrize("overwrite", ["no", 1, None, "False"])
def test_a_tape_is_given_up_only_for_true(station: FakeStation, overwrite: Any) -> None:
    before = state(station)
    with tape_drive(station) as drive, pytest.raises(UsageError, match="must be True or False"):
        drive.write_label("second", overwrite=overwrite)
    assert state(station) == before


@pytest.mark.parametrize("label", [None, 5, b"first", ["first"]])
def test_what_is_no_label(station: FakeStation, tmp_path: Path, label: Any) -> None:
    before = state(station)
    with tape_drive(station) as drive, Catalog(tmp_path / "catalog") as catalog:
        catalog.scan(drive)
        with pytest.raises(UsageError, match="a label must be"):
            drive.write_label(label, overwrite=True)
        with pytest.raises(UsageError, match="a label is a text"):
            catalog.forget(label)
        assert catalog.tapes() == ["first"]
    assert state(station)[0] == before[0]  # type: ignore[index]


@pytest.mark.parametrize("other", [None, "T0001", 5])
def test_what_a_catalog_cannot_keep(station: FakeStation, tmp_path: Path, other: Any) -> None:
    with tape_drive(station) as drive, Catalog(tmp_path / "catalog") as catalog:
        catalog.scan(drive)
        with pytest.raises(UsageError, match="a TapeReport, not"):
            catalog.add(other)
        with pytest.raises(UsageError, match="scans a TapeDrive, not"):
            catalog.scan(other)
        for find in (catalog.find, drive.find):
            with pytest.raises(UsageError, match="must be True or False"):
                find(incomplete=other)
        assert len(catalog.find()) == 1


def test_what_nobody_can_look_for(station: FakeStation, tmp_path: Path) -> None:
    """Before the tape is wound: a filter that is overlooked would find too much."""
    with tape_drive(station) as drive, Catalog(tmp_path / "catalog") as catalog:
        for find in (catalog.find, drive.find):
            with pytest.raises(UsageError, match="cannot be found by disk") as caught:
                find(disk="disk-1")  # type: ignore[call-arg]
            assert "vm_id, disk_id, backup_id, checkpoint_id" in str(caught.value.hint)
            assert find(disk_id="another") == []
