"""What an index says is on a tape is compared with the tape before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from tapestream import BackupInfo, RawImageSink, TarStreamSink, TarStreamSource, copy, verify
from tapestream.errors import UsageError, WrongBackupError
from tapestream.tape import Catalog, TapeDrive, TapePlace, TapeReport
from tapestream.testing.memory import MemorySink, MemorySource
from tapestream.workflows.chain import restore_chain
from tests.drive.stations import Station

from .tapes import RECORD, backup, change_tape, disk, tape_drive

SUNDAY = datetime(2026, 11, 22, 20, tzinfo=timezone.utc)
MAIL = BackupInfo(
    vm_name="mail server", disk_id="d1", disk_name="mail-data", checkpoint_id="c1", created=SUNDAY
)
WEB = BackupInfo(vm_name="web server", disk_id="d2", disk_name="web-data", checkpoint_id="c9")


@pytest.fixture
def drive(station: Station) -> TapeDrive:
    return tape_drive(station)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(tmp_path / "catalog") as opened:
        yield opened


def back_up(drive: TapeDrive, info: BackupInfo, seed: int = 1) -> TapeReport:
    report: TapeReport = backup(drive, disk(seed), info=info).receipt
    assert report is not None
    return report


def restored(drive: TapeDrive, expect: Any, **options: Any) -> bytes:
    with TarStreamSource(drive, expect=expect, **options) as source, MemorySink() as sink:
        copy(source, sink)
        return bytes(sink.disk)


def on_tape(drive: TapeDrive, catalog: Catalog) -> tuple[TapeReport, list[Any]]:
    """A backup on a labelled tape, and all that an index may have of it."""
    drive.write_label("T1")
    back_up(drive, WEB, seed=2)
    report = back_up(drive, MAIL)
    catalog.add(report)
    found = drive.find(disk_id="d1")
    return report, [report, *found, *catalog.find(disk_id="d1"), MAIL, found[0].info]


def test_by_every_kind_of_index(drive: TapeDrive, catalog: Catalog) -> None:
    """All but a `BackupInfo` also say in which file it is."""
    report, index = on_tape(drive, catalog)
    for entry in index:
        file = report.places[0].file if isinstance(entry, BackupInfo) else None
        drive.rewind()
        assert restored(drive, entry, file=file) == disk(1)
        with TarStreamSource(drive, expect=entry, file=file) as source:
            assert verify(source).ok


def labelled_anew(drive: TapeDrive, station: Station) -> str:
    drive.write_label("T1", overwrite=True)
    back_up(drive, WEB, seed=2)
    back_up(drive, replace(WEB, checkpoint_id="c10"), seed=3)
    return "mail server, mail-data .*file 2 of tape T1|found web server, web-data"


def another_tape(drive: TapeDrive, station: Station) -> str:
    change_tape(station, drive, "T0002")
    drive.write_label("T2")
    back_up(drive, WEB, seed=2)
    back_up(drive, WEB, seed=3)
    return "tape T2, file 2: found web server, web-data"


def the_same_disk_another_day(drive: TapeDrive, station: Station) -> str:
    drive.write_label("T1", overwrite=True)
    back_up(drive, WEB, seed=2)
    back_up(drive, replace(MAIL, checkpoint_id="c2"), seed=3)
    return "checkpoint_id.* differ"


def the_same_backup_once_more(drive: TapeDrive, station: Station) -> str:
    """The ids are those that the caller gave; the volumes are of another set."""
    drive.write_label("T1", overwrite=True)
    back_up(drive, WEB, seed=2)
    back_up(drive, MAIL, seed=3)
    return r"\(set_id differ"


def a_shorter_tape(drive: TapeDrive, station: Station) -> str:
    drive.write_label("T1", overwrite=True)
    return "none with number 2"


def nothing_after_it(drive: TapeDrive, station: Station) -> str:
    drive.write_label("T1", overwrite=True)
    back_up(drive, WEB, seed=2)
    return "no backup"


def nothing_after_it_when_opened_again(drive: TapeDrive, station: Station) -> str:
    says = nothing_after_it(drive, station)
    drive.release()
    return says


def something_foreign(drive: TapeDrive, station: Station) -> str:
    drive.write_label("T1", overwrite=True)
    back_up(drive, WEB, seed=2)
    drive.end_of_data()
    drive.raw.write_record(memoryview(disk(9, RECORD)))
    drive.raw.write_filemark()
    return "no backup"


def a_blank_tape(drive: TapeDrive, station: Station) -> str:
    change_tape(station, drive, "T0003")
    return "none with number 2|no backup"


CHANGES = [
    labelled_anew,
    another_tape,
    the_same_disk_another_day,
    the_same_backup_once_more,
    a_shorter_tape,
    nothing_after_it,
    nothing_after_it_when_opened_again,
    something_foreign,
    a_blank_tape,
]


@pytest.mark.parametrize("change", CHANGES)
def test_the_tape_is_another_one_by_now(
    station: Station,
    drive: TapeDrive,
    catalog: Catalog,
    tmp_path: Path,
    change: Callable[[TapeDrive, Station], str],
) -> None:
    """The catalog was not asked, and still knows the tape by its label."""
    on_tape(drive, catalog)
    (known,) = catalog.find(disk_id="d1")
    says = change(drive, station)
    image = tmp_path / "disk.raw"
    with (
        pytest.raises(WrongBackupError, match=says) as caught,
        TarStreamSource(drive, expect=known) as source,
        RawImageSink(image) as sink,
    ):
        copy(source, sink)
    text = str(caught.value)
    for part in (drive.path, "mail-data", "2026-11-22", "file 2 of tape T1", "Catalog.scan"):
        assert part in text
    assert not image.exists()
    back_up(drive, MAIL, seed=5)  # the drive is free, and fit for use
    assert restored(drive, drive.find(disk_id="d1")[0]) == disk(5)


def test_a_chain_of_which_one_backup_is_another(drive: TapeDrive, catalog: Catalog) -> None:
    on_tape(drive, catalog)
    later = replace(
        MAIL,
        checkpoint_id="c2",
        parent_checkpoint_id="c1",
        created=SUNDAY + timedelta(days=1),
    )
    catalog.add(back_up(drive, later, seed=4))
    monday, sunday = catalog.find(disk_id="d1")
    drive.go_to_file(3)  # The tape goes on elsewhere from here.
    drive.raw.begin_file()
    drive.raw.write_record(memoryview(disk(9, RECORD)))
    drive.raw.write_filemark()
    sink = MemorySink()
    with TarStreamSource(drive, expect=sunday) as first:
        with pytest.raises(WrongBackupError):
            restore_chain([first, TarStreamSource(drive, expect=monday)], sink)
        restore_chain([first], sink)
    assert bytes(sink.disk) == disk(1)


def test_a_tape_that_is_exchanged_before_the_copy(
    station: Station, drive: TapeDrive, catalog: Catalog
) -> None:
    """After the source was opened: `restore_chain` opens several, and reads them later."""
    on_tape(drive, catalog)
    station.needs_operator()
    (known,) = catalog.find(disk_id="d1")
    with TarStreamSource(drive, expect=known) as source:
        another_tape(drive, station)
        with pytest.raises(Exception, match="mail-data"), MemorySink() as sink:
            copy(source, sink)


def test_a_stream_that_was_copied_to_tape(drive: TapeDrive, catalog: Catalog) -> None:
    """By another program: it has no name for its set, for it was written to a file."""
    drive.write_label("T1")

    def put(info: BackupInfo, seed: int, tar: Path) -> None:
        with MemorySource(disk(seed), info=info) as source, TarStreamSink(tar) as sink:
            copy(source, sink)
        stream = tar.read_bytes()
        stream += bytes(-len(stream) % RECORD)
        for start in range(0, len(stream), RECORD):
            drive.raw.write_record(memoryview(stream[start : start + RECORD]))
        drive.raw.write_filemark()

    tar = Path(catalog.path).with_name("tar")
    put(MAIL, 1, tar)
    catalog.scan(drive)
    (known,) = catalog.find()
    assert restored(drive, known) == disk(1)
    drive.write_label("T1", overwrite=True)
    put(WEB, 2, tar)
    with pytest.raises(WrongBackupError, match="web-data"):
        restored(drive, known)


def test_a_tar_on_disk(tmp_path: Path) -> None:
    tar = tmp_path / "disk.tar"
    with MemorySource(disk(1), info=MAIL) as source, TarStreamSink(tar) as sink:
        copy(source, sink)
    right = BackupInfo(disk_id="d1", checkpoint_id="c1")
    with TarStreamSource(tar, expect=right) as source:
        assert source.info.disk_name == "mail-data"
    for wrong in (
        replace(right, disk_id="d2"),
        replace(right, parent_checkpoint_id="c0"),
        replace(right, backup_id="b"),
        replace(right, size=4096),
        replace(right, created=SUNDAY.replace(year=2025)),
    ):
        with pytest.raises(WrongBackupError, match=r"disk\.tar: found mail server, mail-data"):
            TarStreamSource(tar, expect=wrong)
    tar.write_bytes(b"something else" * 1000)
    with pytest.raises(WrongBackupError, match="no backup"):
        TarStreamSource(tar, expect=right)


@pytest.mark.parametrize("expect", [BackupInfo(), BackupInfo(size=4096), "d1", 3, object()])
def test_nothing_to_compare_with(tmp_path: Path, expect: Any) -> None:
    with pytest.raises(UsageError, match="expect"):
        TarStreamSource(tmp_path / "missing", expect=expect)


def test_an_entry_that_is_no_backup(drive: TapeDrive, catalog: Catalog) -> None:
    drive.write_label("T1")
    (entry,) = drive.scan()
    with pytest.raises(UsageError, match="holds no backup"):
        TarStreamSource(drive, expect=entry)
    places = (TapePlace("d", "T1", 1, 1), TapePlace("d", "T2", 1, 2))
    catalog.add(TapeReport(replace(MAIL, size=4096), "set", places, 1, 1, 1.0))
    catalog.forget("T1")
    (rest,) = catalog.find(incomplete=True)
    with pytest.raises(UsageError, match=r"mail-data .*begins"):
        TarStreamSource(drive, expect=rest)
