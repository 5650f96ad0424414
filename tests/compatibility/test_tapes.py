"""Tapes and a catalog that earlier versions have written: all of it is found and restored."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tapestream import RawImageSink, TarStreamSource, restore_chain, verify
from tapestream.tape import Catalog, TapeDrive, TapeEntry, VolumeRequest
from tapestream.testing.drive import Cartridge, FakeDrive

from .make import catalog_values, entry_values
from .old import FOLDERS, expected, image_before, restored, stretches, subjects, whole_image
from .recipes import load, load_cartridge, sha256

BACKUPS = ["full", "large", "second"]

pytestmark = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


@dataclass
class Shelf:
    """The old tapes, and a drive in which they are put when a backup asks for them.

    Attributes:
        folder: Where they are kept.
        values: What is expected of them.
        drive: The drive.
        tapes: The tapes by label.
        wanted: The labels of the volumes of the backup that is read.
    """

    folder: Path
    values: dict[str, Any] = field(init=False)
    drive: TapeDrive = field(init=False)
    tapes: dict[str, Cartridge] = field(init=False)
    wanted: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.values = deepcopy(expected(self.folder)["tape"])
        self.tapes = {
            label: load_cartridge(self.folder / "tapes" / f"{label}.blocks.xz")
            for label in self.values["tapes"]
        }
        self._double = FakeDrive()
        self.drive = TapeDrive("/dev/nst0", open_device=self._double.open)

    def load(self, label: str) -> None:
        self.drive.release()
        self._double.swap(self.tapes[label])

    def next_volume(self, request: VolumeRequest) -> None:
        self.load(self.wanted[request.volume - 1])

    def source(self, name: str, **options: Any) -> TarStreamSource:
        """The backup, with its first tape loaded."""
        backup = self.values["backups"][name]
        self.wanted = [label for label, _ in backup["places"]]
        label, file = backup["places"][0]
        self.load(label)
        options = {"file": file, **options}
        return TarStreamSource(self.drive, on_next_volume=self.next_volume, **options)


@pytest.fixture
def shelf(folder: Path) -> Shelf:
    return Shelf(folder)


@pytest.fixture
def catalog(folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "catalog.sqlite"
    path.write_bytes(load(folder / "tapes" / "catalog.sqlite.xz"))
    return path


def test_a_scan_shows_what_is_on_each_tape(shelf: Shelf) -> None:
    for label, entries in shelf.values["tapes"].items():
        shelf.load(label)
        assert [entry_values(entry) for entry in shelf.drive.scan()] == entries
        assert shelf.drive.read_label() == label


@pytest.mark.parametrize("name", BACKUPS)
def test_every_byte_comes_back(shelf: Shelf, name: str, tmp_path: Path) -> None:
    backups = shelf.values["backups"]
    found = restored(shelf.source(name), tmp_path / "disk.raw", image_before(backups, name))
    assert found == whole_image(backups, name)
    assert sha256(found) == backups[name]["sha256"]


@pytest.mark.parametrize("name", BACKUPS)
def test_it_verifies(shelf: Shelf, name: str) -> None:
    with shelf.source(name) as source:
        report = verify(source)
    assert report.ok, str(report)
    assert report.checksum == shelf.values["backups"][name]["checksum"]


@pytest.mark.parametrize("name", BACKUPS)
def test_find_finds_it_and_expect_takes_it(shelf: Shelf, name: str, tmp_path: Path) -> None:
    backups = shelf.values["backups"]
    [[label, file], *_] = backups[name]["places"]
    shelf.load(label)
    [entry] = shelf.drive.find(backup_id=f"backup {name}", incomplete=True)
    assert (entry.file, entry.set_id) == (file, backups[name]["set_id"])
    source = shelf.source(name, file=None, expect=entry)
    before = image_before(backups, name)
    assert restored(source, tmp_path / "disk.raw", before) == whole_image(backups, name)


def test_what_was_never_finished_is_incomplete(shelf: Shelf) -> None:
    shelf.load("A3")
    assert shelf.drive.find(backup_id="backup unfinished") == []
    [entry] = shelf.drive.find(backup_id="backup unfinished", incomplete=True)
    assert isinstance(entry, TapeEntry)
    with TarStreamSource(shelf.drive, expect=entry) as source:
        report = verify(source)
    assert not report.complete
    assert report.damage


def test_a_chain(shelf: Shelf, tmp_path: Path) -> None:
    """Of backups on two tapes, with one drive for each."""
    backups = shelf.values["backups"]
    other = Shelf(shelf.folder)
    with (
        shelf.source("full") as full,
        other.source("second") as second,
        RawImageSink(tmp_path / "disk.raw") as sink,
    ):
        restore_chain([second, full], sink, verify_first=True)
    assert (tmp_path / "disk.raw").read_bytes() == whole_image(backups, "second")


def test_bad_records(shelf: Shelf, tmp_path: Path) -> None:
    for case in shelf.values["bad"]:
        source = shelf.source(case["backup"], allow_incomplete=True)
        shelf.tapes[shelf.wanted[0]].bad = case["bad"]
        found = restored(source, tmp_path / "disk.raw")
        assert sha256(found) == case["sha256"]
        assert source.findings is not None
        assert stretches(source.findings.damage) == case["damage"]
        assert subjects(source.findings.problems) == subjects(case["problems"])
        assert source.findings.complete == case["complete"]
        assert source.findings.digest_name == case["compared"]


def test_the_catalog_knows_what_it_knew(shelf: Shelf, catalog: Path) -> None:
    with Catalog(catalog) as opened:
        assert opened.tapes() == shelf.values["catalog"]["tapes"]
        assert catalog_values(opened) == shelf.values["catalog"]["backups"]


def test_a_scan_of_the_tapes_makes_the_same_catalog(shelf: Shelf, catalog: Path) -> None:
    """But that it knows of each volume whether it is whole."""
    with Catalog(catalog) as opened:
        for label in shelf.tapes:
            shelf.load(label)
            assert opened.scan(shelf.drive) == label
        scanned = [backup for backup in catalog_values(opened) if backup["complete"]]
    before = shelf.values["catalog"]["backups"]
    for backup in [*scanned, *before]:
        backup["volumes"] = [[label, file, number] for label, file, number, *_ in backup["volumes"]]
    assert scanned == before


@pytest.mark.parametrize("name", BACKUPS)
def test_what_the_catalog_finds_is_restored(
    shelf: Shelf, catalog: Path, name: str, tmp_path: Path
) -> None:
    backups = shelf.values["backups"]
    with Catalog(catalog) as opened:
        [backup] = opened.find(backup_id=f"backup {name}")
    assert [[v.label, v.file] for v in backup.volumes] == backups[name]["places"]
    source = shelf.source(name, file=None, expect=backup)
    before = image_before(backups, name)
    assert restored(source, tmp_path / "disk.raw", before) == whole_image(backups, name)
