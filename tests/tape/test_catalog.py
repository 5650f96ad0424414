"""The catalog: what backups and scans tell it, and what it answers."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from tapestream import BackupInfo, TarStreamSink, TarStreamSource, copy
from tapestream.errors import LocalIOError, UsageError
from tapestream.tape import Catalog, TapeDrive, TapeEntry, TapePlace, TapeReport
from tapestream.tar import format as fmt
from tapestream.testing.drive import Cartridge, FakeDrive
from tapestream.testing.memory import MemorySink, MemorySource

from .tapes import impatient

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
    drive = impatient(TapeDrive("/dev/nst0", open_device=station.open))
    drive.write_label(name)
    return station, drive


def backup(drive: TapeDrive, disk: str, day: int = 0) -> TapeReport:
    with MemorySource(b"x" * 4096, info=info(disk, day)) as source, TarStreamSink(drive) as sink:
        result = copy(source, sink)
    report: TapeReport = result.receipt
    return report


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


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("warning", [0, 3])
def test_a_volume_is_never_called_complete_that_a_scan_calls_torn(
    tmp_path: Path, warning: int
) -> None:
    """Without early warning the end of the tape tears the first volume."""
    cost = RECORD + 8
    small, large = Cartridge(9 * cost, warning * cost), Cartridge()
    station = FakeDrive(large)
    drive = impatient(TapeDrive("/dev/nst0", open_device=station.open))
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
        assert result.receipt is not None
        one.add(result.receipt)
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
            assert told.length == seen.length > 0
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
        drive.raw.forward_files(found.volumes[0].file)
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


def test_a_scan_shows_each_tape_file_when_it_was_looked_at(tmp_path: Path) -> None:
    _, drive = labelled("T1")
    backup(drive, "a")
    backup(drive, "b")
    shown: list[TapeEntry] = []

    def end_early(entry: TapeEntry) -> None:
        shown.append(entry)
        if entry.file == 1:
            raise OSError("nobody looks any more")

    with drive, Catalog(tmp_path / "catalog") as catalog:
        with pytest.raises(OSError, match="nobody looks"):
            catalog.scan(drive, on_entry=end_early)
        assert [entry.file for entry in shown] == [0, 1]
        assert catalog.tapes() == []
        shown.clear()
        catalog.scan(drive, on_entry=shown.append)
        assert shown == list(drive.scan())
        with pytest.raises(UsageError, match="on_entry must be a function"):
            catalog.scan(drive, on_entry=1)  # type: ignore[arg-type]


def test_a_tape_without_a_label_is_refused(tmp_path: Path) -> None:
    station = FakeDrive()
    station.load(Cartridge(16 * MIB, MIB))
    with (
        impatient(TapeDrive("/dev/nst0", open_device=station.open)) as drive,
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


# Two tapes, one label


def reported(drive: TapeDrive, name: str, disk: str, day: int = 0) -> TapeReport:
    """Label the tape anew, and put a backup on it."""
    drive.write_label(name, overwrite=True)
    return backup(drive, disk, day)


def test_two_tapes_with_one_label_do_not_replace_each_other(tmp_path: Path) -> None:
    _, first = labelled("T1")
    _, second = labelled("T1")
    with first, second, Catalog(tmp_path / "catalog") as catalog:
        catalog.add(backup(first, "a"))
        report = backup(second, "b")
        with pytest.raises(UsageError, match=r"two tapes have the label 'T1'.*forget"):
            catalog.add(report)
        with pytest.raises(UsageError, match="two tapes have the label 'T1'"):
            catalog.scan(second)
        assert [b.info.disk_id for b in catalog.find()] == ["a"]
        assert catalog.scan(first) == "T1"
        catalog.forget("T1")
        catalog.add(report)
        assert [b.info.disk_id for b in catalog.find()] == ["b"]


@pytest.mark.parametrize("name", ["T1", "T9"])
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("by_scan", [False, True])
def test_a_tape_that_is_labelled_anew_has_lost_what_was_on_it(
    tmp_path: Path, name: str, times: int, by_scan: bool
) -> None:
    """Under whatever label, and also where it was labelled several times meanwhile."""
    _, drive = labelled("T1")
    with drive, Catalog(tmp_path / "catalog") as catalog:
        for day in range(3):
            catalog.add(backup(drive, "a", day))
        for _ in range(times):
            last = reported(drive, name, "b")
        if by_scan:
            catalog.scan(drive)
        else:
            catalog.add(last)
        assert [b.info.disk_id for b in catalog.find()] == ["b"]
        assert catalog.tapes() == [name]


def test_a_label_without_an_id(tmp_path: Path) -> None:
    """That of an early version: the time when it was made tells it from another."""
    values = {"format": "tapestream-label", "version": 1, "label": "T1"}
    drives = []
    for hour in (1, 2):
        _, drive = labelled("to be overwritten")
        text = json.dumps({**values, "created": f"2026-11-23T0{hour}:00:00Z"}).encode()
        record = fmt.HeaderWriter(0).header("tape-label.json", len(text)) + text
        drive.rewind()
        drive.raw.write_record(memoryview(record.ljust(RECORD, b"\0")))
        drive.raw.write_filemark()
        drive.release()
        assert drive.read_label() == "T1"
        drives.append(drive)
    with drives[0], drives[1], Catalog(tmp_path / "catalog") as catalog:
        catalog.add(backup(drives[0], "a", 0))
        catalog.add(backup(drives[0], "a", 1))
        report = backup(drives[1], "b")
        with pytest.raises(UsageError, match="two tapes"):
            catalog.add(report)
        catalog.add(reported(drives[0], "T1", "c"))
        assert [b.info.disk_id for b in catalog.find()] == ["c"]


def test_labels_that_a_person_takes_for_one_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Catalog(tmp_path / "catalog") as catalog:
        catalog.add(report("a", ("VM 0001", 1)))
        catalog.add(report("b", ("vm0001", 1)))
        assert "'vm0001' and 'VM 0001'" in caplog.text
        with pytest.raises(UsageError, match="knows no tape 'Vm0001', but 'VM 0001'"):
            catalog.forget("Vm0001")
        catalog.forget("vm0001")
        catalog.forget("never known")
        assert [b.info.disk_id for b in catalog.find()] == ["a"]


def test_the_order_in_which_backups_are_added_does_not_matter(tmp_path: Path) -> None:
    """Several threads write to a tape one after another, and add what they wrote at any time."""
    _, drive = labelled("T1")
    reports = [backup(drive, disk) for disk in "abc"]
    with drive, Catalog(tmp_path / "catalog") as catalog:
        for one in reversed(reports):
            catalog.add(one)
        assert {b.info.disk_id for b in catalog.find()} == {"a", "b", "c"}


# What is not known to be complete


def test_a_backup_that_has_not_ended_is_not_called_complete(tmp_path: Path) -> None:
    """The sink reports where it is from the beginning on."""
    _, drive = labelled("T1")

    def fail(start: int, length: int) -> None:
        raise OSError("broken disk")

    with drive, Catalog(tmp_path / "catalog") as catalog:
        source = MemorySource(b"x" * 4096, info=info("a"), before_read=fail)
        attachments = {"vm.ovf": bytes(2 * RECORD)}
        sink = TarStreamSink(drive, record_size=RECORD, attachments=attachments)
        with sink, pytest.raises(OSError, match="broken disk"):
            copy(source, sink)
        assert sink.tape is not None
        assert not sink.tape.complete
        catalog.add(sink.tape)
        assert catalog.find() == []
        (found,) = catalog.find(incomplete=True)
        assert [v.complete for v in found.volumes] == [False]
        assert backup(drive, "b").complete


@pytest.mark.usefixtures("quiet")
def test_a_volume_without_data_does_not_stand_for_the_one_that_has_it(tmp_path: Path) -> None:
    """A tape that was nearly full took the beginning of volume 2, which then went to another."""
    cost = RECORD + 8
    shelf = {
        name: Cartridge(records * cost, name=name, early_warning=0)
        for name, records in {"T1": 9, "T2": 4, "T3": 9, "T4": 99}.items()
    }
    station = FakeDrive(shelf["T1"])
    drive = impatient(TapeDrive("/dev/nst0", open_device=station.open))
    for name, cartridge in shelf.items():
        drive.release()
        station.swap(cartridge)
        drive.write_label(name)
        if name == "T2":
            with MemorySource(b"x") as other, TarStreamSink(drive, record_size=RECORD) as sink:
                copy(other, sink)
    following = iter(shelf.values())

    def load(_: object = None) -> None:
        drive.release()
        station.swap(next(following))

    load()
    source = MemorySource(bytes(range(256)) * 4 * KIB, info=info("a"))
    sink = TarStreamSink(
        drive, record_size=RECORD, part_size=RECORD, checksum=None, on_volume_full=load
    )
    with source, sink:
        result = copy(source, sink, buffer_size=RECORD, buffer_memory=4 * RECORD)
    assert result.receipt is not None
    assert [place.label for place in result.receipt.places] == ["T1", "T3", "T4"]
    with drive, Catalog(tmp_path / "catalog") as catalog:
        for name in ("T1", "T2", "T4"):
            drive.release()
            station.swap(shelf[name])
            catalog.scan(drive)
        assert catalog.find(disk_id="a") == []
        drive.release()
        station.swap(shelf["T3"])
        catalog.scan(drive)
        (found,) = catalog.find(disk_id="a")
        assert [v.label for v in found.volumes] == ["T1", "T3", "T2", "T4"]


@pytest.mark.usefixtures("quiet")
def test_a_first_volume_that_lost_its_end_is_not_vouched_for(tmp_path: Path) -> None:
    """The next one vouches only for what the end of a tape tore, not for what was damaged."""
    with Catalog(tmp_path / "catalog") as catalog:
        cost = RECORD + 8
        small, large = Cartridge(19 * cost, 3 * cost), Cartridge()
        station = FakeDrive(large)
        drive = impatient(TapeDrive("/dev/nst0", open_device=station.open))
        drive.write_label("T2")
        drive.release()
        station.swap(small)
        drive.write_label("T1")
        source = MemorySource(bytes(range(256)) * 8 * KIB, info=info("a"))
        sink = TarStreamSink(
            drive,
            record_size=RECORD,
            part_size=RECORD,
            on_volume_full=lambda _: station.swap(large),
        )
        with source, sink:
            copy(source, sink, buffer_size=RECORD, buffer_memory=4 * RECORD)
        catalog.scan(drive)
        drive.release()
        small.bad = (len(small.blocks) - 2,)  # the last record before the filemark
        station.swap(small)
        catalog.scan(drive)
        assert catalog.find() == []
        small.bad = ()
        catalog.scan(drive)
        (found,) = catalog.find()
        assert [v.complete for v in found.volumes] == [True, True]
        drive.close()


def test_the_whole_one_of_two_copies_comes_first(tmp_path: Path) -> None:
    """A tape file that another program copied, not to its end, and then to its end."""
    _, drive = labelled("T1")
    with drive, Catalog(tmp_path / "catalog") as catalog:
        attachments = {"vm.ovf": bytes(2 * RECORD)}
        with (
            MemorySource(b"x" * 4096, info=info("a")) as source,
            TarStreamSink(drive, record_size=RECORD, attachments=attachments) as sink,
        ):
            copy(source, sink)
        drive.go_to_file(1)
        buffer = memoryview(bytearray(RECORD))
        records = [bytes(buffer[:n]) for n in iter(lambda: drive.raw.read_record(buffer), 0)]
        drive.write_label("T2", overwrite=True)
        for some in (records[:-1], records, records[:-1]):
            drive.end_of_data()
            for record in some:
                drive.raw.write_record(memoryview(record))
            drive.raw.write_filemark()
        catalog.scan(drive)
        (found,) = catalog.find()
        assert [(v.file, v.complete) for v in found.volumes] == [(2, True), (1, False), (3, False)]
        assert [entry.file for entry in drive.find(incomplete=True)] == [2, 3, 1]


def test_the_whole_one_of_two_attempts_comes_first(tmp_path: Path) -> None:
    _, drive = labelled("T1")
    with drive, Catalog(tmp_path / "catalog") as catalog:
        whole, aborted = report("a", ("T1", 1), day=0), report("a", ("T1", 2), day=1)
        for one in (whole, replace(aborted, complete=False)):
            catalog.add(replace(one, info=replace(one.info, backup_id="nightly")))
        catalog.add(report("a", ("T1", 3), day=-1))
        found = catalog.find(incomplete=True)
        assert [(b.volumes[0].file, b.complete) for b in found] == [
            (1, True),
            (2, False),
            (3, True),
        ]


# What is wrong with the file


def columns() -> list[tuple[str, object]]:
    junk: list[object] = [b"\xff\xfe", "x", -7, 1.5]
    names = ["file", "set_id", "volume", "complete", "continues", "info"]
    cases = [(name, value) for name in names for value in junk]
    cases = [case for case in cases if case[0] != "set_id" or isinstance(case[1], bytes)]
    texts = ["[]", "3", "{", "[" * 100_000, '{"vm_id": 3}', '{"block_hash": 1}', '{"created": ""}']
    texts += ['{"block_hash": {}}', '{"metadata": []}', '{"size": -1}']
    return cases + [("info", text) for text in texts]


@pytest.mark.parametrize(("column", "value"), columns(), ids=repr)
def test_a_damaged_row_hides_no_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, column: str, value: object
) -> None:
    path = tmp_path / "catalog"
    with Catalog(path) as catalog:
        for number, disk in enumerate("abc", 1):
            catalog.add(report(disk, (f"T{number}", 1)))
    damaging = sqlite3.connect(path)
    with damaging:
        damaging.execute(f"UPDATE volume SET {column} = ? WHERE label = 'T2'", (value,))
    damaging.close()
    with Catalog(path) as catalog:
        assert {b.info.disk_id for b in catalog.find(incomplete=True)} == {"a", "c"}
        assert "damaged" in caplog.text
        assert "T2" in caplog.text
        catalog.forget("T2")  # as before a scan makes it anew
        caplog.clear()
        assert len(catalog.find()) == 2
        assert caplog.text == ""


def test_contents_are_of_one_moment(tmp_path: Path) -> None:
    """Another program forgets the tape after its label was read, and before its volumes are.

    A damaged label shows when that is: the log reports it after the labels were read.
    """
    path = tmp_path / "catalog"

    class Meanwhile(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            other = sqlite3.connect(path, timeout=0)
            with contextlib.closing(other), contextlib.suppress(sqlite3.OperationalError), other:
                reached.append(record.getMessage())
                other.execute("DELETE FROM volume")
                other.execute("DELETE FROM tape")

    reached: list[str] = []
    handler, logger = Meanwhile(), logging.getLogger("tapestream.tape")
    with Catalog(path) as catalog:
        catalog.add(report("a", ("T1", 1)))
        other = sqlite3.connect(path)
        with contextlib.closing(other), other:
            other.execute("INSERT INTO tape (label) VALUES (X'ff')")
        logger.addHandler(handler)
        try:
            contents = catalog.contents()
        finally:
            logger.removeHandler(handler)
    assert reached
    assert contents.tapes == ("T1",)
    assert [each.info.disk_id for each in contents.backups] == ["a"]


def test_a_damaged_label_hides_no_others(tmp_path: Path) -> None:
    path = tmp_path / "catalog"
    with Catalog(path) as catalog:
        for number in (1, 2, 3):
            catalog.add(report("a", (f"T{number}", 1), day=number))
    damaging = sqlite3.connect(path)
    with damaging:
        damaging.execute("UPDATE tape SET label = ? WHERE label = 'T2'", (b"\xff",))
    damaging.close()
    with Catalog(path) as catalog:
        assert catalog.tapes() == ["T1", "T3"]
        catalog.add(report("b", ("T4", 1)))
        assert len(catalog.find(disk_id="a")) >= 2


def test_a_catalog_of_the_first_version(tmp_path: Path) -> None:
    path = tmp_path / "catalog"
    old = sqlite3.connect(path)
    old.executescript(
        """
        CREATE TABLE tape (label TEXT PRIMARY KEY);
        CREATE TABLE volume (
            label TEXT NOT NULL REFERENCES tape ON DELETE CASCADE,
            file INTEGER NOT NULL,
            set_id TEXT NOT NULL,
            volume INTEGER NOT NULL,
            complete INTEGER NOT NULL,
            continues INTEGER NOT NULL,
            info TEXT NOT NULL,
            PRIMARY KEY (label, file)
        );
        INSERT INTO tape VALUES ('T1'), ('T2');
        """
    )
    text = json.dumps(info("a").to_dict())
    with old:
        old.execute("INSERT INTO volume VALUES ('T1', 1, 'set', 1, 0, 1, ?)", (text,))
        old.execute("INSERT INTO volume VALUES ('T2', 1, 'set', 2, 1, 0, ?)", (text,))
    old.close()
    with Catalog(path) as catalog:
        volumes = catalog.find()[0].volumes
        assert [(v.label, v.length) for v in volumes] == [("T1", 0), ("T2", 0)]
        catalog.add(report("b", ("T1", 2)))
        assert len(catalog.find()) == 2
    with Catalog(path) as catalog:
        assert len(catalog.find()) == 2


def test_another_program_that_has_it_locked(tmp_path: Path) -> None:
    path = tmp_path / "catalog"
    with Catalog(path) as catalog:
        catalog.add(report("a", ("T1", 1)))
        other = sqlite3.connect(path)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LocalIOError, match=r"locked.*try again"):
            catalog.add(report("b", ("T1", 2)))
        other.rollback()
        other.close()
        catalog.add(report("b", ("T1", 2)))
        assert len(catalog.find()) == 2


def test_a_full_file_system(tmp_path: Path) -> None:
    """In a process that may write no larger files: what is there stays."""
    path = tmp_path / "catalog"
    with Catalog(path) as catalog:
        catalog.add(report("a", ("T1", 1)))
    script = f"""
import resource, signal
from tapestream.errors import LocalIOError
from tapestream.tape import Catalog
from tests.tape.test_catalog import report
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
catalog = Catalog({str(path)!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    for number in range(200):
        catalog.add(report("b", ("T2", number), day=number))
except LocalIOError as e:
    assert {str(path)!r} in str(e), e
    print("refused")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout == "refused\n"
    with Catalog(path) as catalog:
        assert [b.info.disk_id for b in catalog.find(disk_id="a")] == ["a"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_catalog_that_may_only_be_read(tmp_path: Path) -> None:
    path = tmp_path / "catalog"
    with Catalog(path) as catalog:
        catalog.add(report("a", ("T1", 1)))
    path.chmod(0o444)
    with Catalog(path) as catalog:
        assert len(catalog.find()) == 1
        with pytest.raises(LocalIOError, match=r"readonly.*Permit"):
            catalog.add(report("b", ("T1", 2)))


def test_a_catalog_that_is_closed(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "catalog")
    catalog.close()
    catalog.close()
    for use in (catalog.find, catalog.tapes, lambda: catalog.forget("T1")):
        with pytest.raises(UsageError, match="catalog"):
            use()


@pytest.mark.parametrize("path", [None, 3, "with\0in it"])
def test_what_is_no_path(path: Any) -> None:
    with pytest.raises(UsageError, match="path"):
        Catalog(path)


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(LocalIOError, match=r"cannot open the catalog .*folder"):
        Catalog(tmp_path)


def test_what_cannot_be_kept(tmp_path: Path) -> None:
    with Catalog(tmp_path / "catalog") as catalog:
        with pytest.raises(UsageError, match="cannot keep"):
            catalog.add(report("a", ("\udc80", 1)))
        with pytest.raises(UsageError, match="cannot keep"):
            catalog.add(report("a", ("T1", 2**70)))
        with pytest.raises(UsageError, match="on no tape"):
            catalog.add(report("a"))
        assert catalog.find(incomplete=True) == []
