"""The same questions to a catalog of tapes: on the double of a drive, not on a real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tapestream import BackupInfo, TarStreamSink, copy, restore_chain
from tapestream.archive import Archive, TapeBackup, read_catalog, read_folder, read_tape
from tapestream.errors import NoRestorePointError, UsageError
from tapestream.tape import Catalog, CatalogBackup, CatalogVolume, TapeDrive, VolumeRequest
from tapestream.testing.drive import Cartridge, FakeDrive
from tapestream.testing.memory import MemorySink, MemorySource
from tests.chains import WEEK, Link


def written(one: Link, target: TapeDrive | Path) -> object:
    with one.memory() as source, TarStreamSink(target) as sink:
        return copy(source, sink, buffer_size=4096, buffer_memory=16384).receipt


@pytest.fixture
def drive() -> TapeDrive:
    drive = TapeDrive("/dev/nst0", open_device=FakeDrive(Cartridge()).open)
    drive.write_label("T1")
    return drive


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path / "catalog")


def test_a_chain_on_tape_is_found_and_restored(drive: TapeDrive, catalog: Catalog) -> None:
    with drive, catalog:
        for day in WEEK:
            catalog.add(written(day, drive))  # type: ignore[arg-type]
        for number, day in enumerate(WEEK, 1):
            chain = read_catalog(catalog, drive).find(disk="disk", at=day.info.created)
            assert [one.place for one in chain.backups] == [
                f"tape T1, file {file}" for file in range(1, number + 1)
            ]
            sink = MemorySink()
            with chain.open() as sources:
                restore_chain(sources, sink, buffer_size=4096, buffer_memory=16384)
            assert bytes(sink.disk) == day.disk


def test_a_chain_is_found_on_the_tape_itself(drive: TapeDrive) -> None:
    with drive:
        for day in WEEK:
            written(day, drive)
        drive.raw.write_record(memoryview(bytes(65536)))
        drive.raw.write_filemark()
        archive = read_tape(drive)
        assert [skipped.place for skipped in archive.ignored] == [
            "tape T1, file 0",
            f"tape T1, file {len(WEEK) + 1}",
        ]
        chain = archive.find(disk="disk", at=WEEK[1].info.created)
        assert [one.place for one in chain.backups] == ["tape T1, file 1", "tape T1, file 2"]
        sink = MemorySink()
        with chain.open() as sources:
            restore_chain(sources, sink, buffer_size=4096, buffer_memory=16384)
        assert bytes(sink.disk) == WEEK[1].disk


def test_what_a_tape_has_of_backups_that_are_not_whole() -> None:
    """One that continues on another tape, its second volume, and one that was aborted."""
    tapes = [Cartridge(512 * 1024, 256 * 1024), Cartridge()]
    double = FakeDrive(tapes[0])

    def load(request: VolumeRequest) -> None:
        request.drive.release()
        double.swap(tapes[request.volume - 1])

    def fail(start: int, length: int) -> None:
        raise OSError("broken disk")

    data = bytes(range(256)) * 2048
    with TapeDrive("/dev/nst0", open_device=double.open) as drive:
        with (
            MemorySource(data, info=BackupInfo(disk_id="long")) as source,
            TarStreamSink(drive, record_size=65536, part_size=65536, on_volume_full=load) as sink,
        ):
            copy(source, sink, buffer_size=4096, buffer_memory=131072)
        broken = MemorySource(data, info=BackupInfo(disk_id="aborted"), before_read=fail)
        with (
            TarStreamSink(drive, attachments={"x": bytes(2**21)}) as sink,
            pytest.raises(OSError, match="broken disk"),
        ):
            copy(broken, sink)
        second = read_tape(drive)
        assert [skipped.reason for skipped in second.ignored] == ["volume 2 of a backup"]
        [one] = second.backups
        assert one.info.disk_id == "aborted"
        assert "has no end" in str(one.problem)
        assert one.place == "the tape in /dev/nst0, file 1"
        drive.release()
        double.swap(tapes[0])
        [one] = read_tape(drive, on_next_volume=load).backups
        assert one.problem is None
        memory = MemorySink()
        with one.open() as stream:
            copy(stream, memory, buffer_size=4096, buffer_memory=131072)
        assert bytes(memory.disk) == data


def test_a_chain_on_two_tapes_in_one_drive(catalog: Catalog) -> None:
    """Each tape is loaded to open its backup, and again to read it."""
    tapes = {"T1": Cartridge(), "T2": Cartridge()}
    double = FakeDrive()
    loaded: list[str] = []

    def load(label: str) -> None:
        drive.release()
        double.swap(tapes[label])
        loaded.append(label)

    def drive_for(backup: CatalogBackup) -> TapeDrive:
        load(backup.volumes[0].label)
        return drive

    def on_next_volume(request: VolumeRequest) -> None:
        load("T1" if request.set_id == sets[0] else "T2")

    with TapeDrive("/dev/nst0", open_device=double.open) as drive, catalog:
        for label, day in zip(tapes, WEEK, strict=False):
            load(label)
            drive.write_label(label)
            catalog.add(written(day, drive))  # type: ignore[arg-type]
        sets = [entry.set_id for entry in reversed(catalog.find())]
        loaded.clear()
        chain = read_catalog(catalog, drive_for, on_next_volume=on_next_volume).find()
        sink = MemorySink()
        with chain.open() as sources:
            assert loaded == ["T1", "T2"]
            restore_chain(sources, sink, buffer_size=4096, buffer_memory=16384)
        assert bytes(sink.disk) == WEEK[1].disk


def test_without_a_drive_a_chain_is_only_found(drive: TapeDrive, catalog: Catalog) -> None:
    with drive, catalog:
        catalog.add(written(WEEK[0], drive))  # type: ignore[arg-type]
        chain = read_catalog(catalog).find()
    with pytest.raises(UsageError, match=r"tape T1, file 1: there is no drive"), chain.open():
        raise AssertionError("it was opened")


def test_a_chain_on_tape_and_in_a_folder(
    drive: TapeDrive, catalog: Catalog, tmp_path: Path
) -> None:
    with drive, catalog:
        catalog.add(written(WEEK[0], drive))  # type: ignore[arg-type]
        written(WEEK[1], tmp_path / "monday.tar")
        folder = read_folder(tmp_path)
        with pytest.raises(NoRestorePointError, match="starts from checkpoint c1"):
            folder.find()
        chain = (folder + read_catalog(catalog, drive)).find()
        sink = MemorySink()
        with chain.open() as sources:
            restore_chain(sources, sink, buffer_size=4096, buffer_memory=16384)
        assert bytes(sink.disk) == WEEK[1].disk


def test_what_the_catalog_does_not_know_to_be_complete() -> None:
    volumes = tuple(CatalogVolume(f"T{n}", 3 - n, n, True, True) for n in (1, 2))
    entry = CatalogBackup(WEEK[0].info, "set", volumes, complete=False)
    archive = Archive([TapeBackup(entry)])
    with pytest.raises(
        NoRestorePointError,
        match=r"\(tape T1, file 2, tape T2, file 1\) is not complete: the catalog does not know",
    ):
        archive.find()
    assert archive.good_checkpoints("vm", "disk") == []
