"""The catalog: what backups and scans tell it, and what it answers."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from tapestream import BackupInfo, TarStreamSink, TarStreamSource, copy
from tapestream.errors import LocalIOError, UsageError
from tapestream.tape import Catalog, TapeDrive, TapePlace, TapeReport

from ..memory import MemorySink, MemorySource
from .fake import Cartridge, FakeDrive

KIB, MIB = 1024, 1024**2
MONDAY = datetime(2026, 11, 23, tzinfo=timezone.utc)
RECORD = 64 * KIB


def info(disk: str, day: int = 0) -> BackupInfo:
    return BackupInfo(vm_id="vm", disk_id=disk, created=MONDAY + timedelta(days=day), size=4096)


def report(disk: str, *places: tuple[str, int], day: int = 0, set_id: str = "") -> TapeReport:
    volumes = [TapePlace("/dev/nst0", label, file, i) for i, (label, file) in enumerate(places, 1)]
    return TapeReport(info(disk, day), set_id or f"{disk}-{day}", tuple(volumes), 1, 4096, 1.0)


def labelled(name: str, capacity: int = 16 * MIB) -> tuple[FakeDrive, TapeDrive]:
    station = FakeDrive()
    station.load(Cartridge(capacity, MIB))
    drive = TapeDrive("/dev/nst0", open_device=station.open)
    drive.write_label(name)
    return station, drive


def backup(drive: TapeDrive, disk: str, day: int = 0) -> TapeReport:
    with MemorySource(b"x" * 4096, info=info(disk, day)) as source, TarStreamSink(drive) as sink:
        result = copy(source, sink)
    assert result.tape is not None
    return result.tape


def test_it_remembers_backups(tmp_path: Path) -> None:
    path = tmp_path / "catalog"
    with Catalog(path) as catalog:
        catalog.add(report("a", ("T1", 1), day=0))
        catalog.add(report("a", ("T1", 2), ("T2", 1), day=1))
        catalog.add(report("b", ("T2", 2), day=2))
    with Catalog(path) as catalog:
        newest, oldest = catalog.find(disk_id="a")
        assert oldest.info == info("a")
        assert [(v.label, v.file, v.volume) for v in newest.volumes] == [("T1", 2, 1), ("T2", 1, 2)]
        assert [b.info.disk_id for b in catalog.find(vm_id="vm")] == ["b", "a", "a"]
        assert catalog.find(vm_id="other") == []
        assert catalog.tapes() == ["T1", "T2"]


@pytest.mark.parametrize("key", ["vm_id", "disk_id", "backup_id", "checkpoint_id"])
def test_it_finds_by_every_id(tmp_path: Path, key: str) -> None:
    with Catalog(tmp_path / "catalog") as catalog:
        one = report("a", ("T1", 1))
        wanted: dict[str, Any] = {key: "wanted"}
        catalog.add(replace(one, info=replace(one.info, **wanted)))
        catalog.add(report("b", ("T1", 2)))
        (found,) = catalog.find(**wanted)
        assert getattr(found.info, key) == "wanted"


def test_what_was_written_over_is_forgotten(tmp_path: Path) -> None:
    with Catalog(tmp_path / "catalog") as catalog:
        for file in (1, 2, 3):
            catalog.add(report(f"disk{file}", ("T1", file)))
        catalog.add(report("new", ("T1", 2)))
        assert {b.info.disk_id for b in catalog.find()} == {"disk1", "new"}


def test_a_backup_that_lost_a_volume_is_incomplete(tmp_path: Path) -> None:
    with Catalog(tmp_path / "catalog") as catalog:
        catalog.add(report("a", ("T1", 1), ("T2", 1), ("T3", 1)))
        assert catalog.find()[0].complete
        catalog.forget("T2")
        assert catalog.find() == []
        (backup,) = catalog.find(incomplete=True)
        assert [v.label for v in backup.volumes] == ["T1", "T3"]
        assert catalog.tapes() == ["T1", "T3"]


@pytest.mark.parametrize("place", [TapePlace("d", None, 1, 1), TapePlace("d", "T1", None, 1)])
def test_a_place_that_cannot_be_found_again_is_refused(tmp_path: Path, place: TapePlace) -> None:
    with Catalog(tmp_path / "catalog") as catalog:
        catalog.add(report("a", ("T1", 1)))
        with pytest.raises(UsageError, match="label"):
            catalog.add(TapeReport(info("b"), "set", (place,), 1, 1, 1.0))
        assert [b.info.disk_id for b in catalog.find()] == ["a"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("warning", [0, 3])
def test_a_volume_is_never_called_complete_that_a_scan_calls_torn(
    tmp_path: Path, warning: int
) -> None:
    """Without early warning the end of the tape tears the first volume."""
    cost = RECORD + 8
    small, large = Cartridge(9 * cost, warning * cost), Cartridge()
    station = FakeDrive(large)
    drive = TapeDrive("/dev/nst0", open_device=station.open)
    drive.write_label("T2")
    drive.release()
    station.swap(small)
    drive.write_label("T1")
    source = MemorySource(bytes(range(256)) * 4 * KIB, info=info("a"))
    sink = TarStreamSink(
        drive,
        record_size=RECORD,
        part_size=RECORD,
        on_volume_full=lambda _: station.swap(large),
    )
    with drive, Catalog(tmp_path / "one") as one, Catalog(tmp_path / "two") as two:
        with source, sink:
            result = copy(source, sink, buffer_size=RECORD, buffer_memory=4 * RECORD)
        assert result.tape is not None
        one.add(result.tape)
        two.scan(drive)
        drive.release()
        station.swap(small)
        two.scan(drive)
        (added,), (scanned,) = one.find(), two.find()
        assert added.complete
        assert scanned.complete
        for told, seen in zip(added.volumes, scanned.volumes, strict=True):
            assert (told.label, told.file, told.volume) == (seen.label, seen.file, seen.volume)
            assert seen.complete or not told.complete
        assert [v.complete for v in scanned.volumes] == [warning > 0, True]
        one.scan(drive)
        assert one.find() == two.find()


def test_a_catalog_is_made_anew_from_the_tapes(tmp_path: Path) -> None:
    _, drive = labelled("T1")
    with drive, Catalog(tmp_path / "one") as one, Catalog(tmp_path / "two") as two:
        for day in range(3):
            one.add(backup(drive, "disk", day))
        two.add(report("what is no longer there", ("T1", 7)))
        assert two.scan(drive) == "T1"
        assert two.find() == one.find()


def test_what_it_says_leads_to_the_backup(tmp_path: Path) -> None:
    _, drive = labelled("T1")
    with drive, Catalog(tmp_path / "catalog") as catalog:
        for disk in ("a", "b", "c"):
            catalog.add(backup(drive, disk))
        (found,) = catalog.find(disk_id="b")
        drive.rewind()
        drive.forward_files(found.volumes[0].file)
        with TarStreamSource(drive) as source, MemorySink() as sink:
            copy(source, sink)
            assert source.info.disk_id == "b"


def test_an_aborted_backup_is_found_only_when_asked_for(tmp_path: Path) -> None:
    _, drive = labelled("T1")

    def fail(start: int, length: int) -> None:
        raise OSError("broken disk")

    with drive, Catalog(tmp_path / "catalog") as catalog:
        source = MemorySource(b"x" * 4096, info=info("a"), before_read=fail)
        # More than a record, so that there is something of it on the tape.
        attachments = {"vm.ovf": bytes(2 * RECORD)}
        sink = TarStreamSink(drive, record_size=RECORD, attachments=attachments)
        with sink, pytest.raises(OSError, match="broken disk"):
            copy(source, sink)
        catalog.scan(drive)
        assert catalog.find() == []
        assert [b.info.disk_id for b in catalog.find(incomplete=True)] == ["a"]


def test_a_tape_without_a_label_is_refused(tmp_path: Path) -> None:
    station = FakeDrive()
    station.load(Cartridge(16 * MIB, MIB))
    with (
        TapeDrive("/dev/nst0", open_device=station.open) as drive,
        Catalog(tmp_path / "catalog") as catalog,
    ):
        catalog.add(report("a", ("T1", 1)))
        with pytest.raises(UsageError, match="no label"):
            catalog.scan(drive)
        backup(drive, "b")
        with pytest.raises(UsageError, match="no label"):
            catalog.scan(drive)
        assert len(catalog.find()) == 1


def test_a_file_that_is_no_catalog(tmp_path: Path) -> None:
    path = tmp_path / "catalog"
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(LocalIOError, match="catalog"):
        Catalog(path)
    with pytest.raises(LocalIOError, match="catalog"):
        Catalog(tmp_path / "missing" / "catalog")


def test_another_schema_is_an_error_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "catalog"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE volume (x TEXT)")
    other.commit()
    other.close()
    with pytest.raises(LocalIOError, match="catalog"):
        Catalog(path)


def test_threads_may_share_it(tmp_path: Path) -> None:
    with Catalog(tmp_path / "catalog") as catalog:
        threads = [
            threading.Thread(target=catalog.add, args=(report(f"disk{i}", (f"T{i}", 1)),))
            for i in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(catalog.find()) == 20
