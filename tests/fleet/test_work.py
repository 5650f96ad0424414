"""What a worker does for a job may be done twice: the backup is there once, and complete."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tapestream import BackupInfo, DiscardSink, Source, TarStreamSource, copy
from tapestream.errors import LocalIOError, UsageError, WrongTapeError
from tapestream.fleet import BackupJob
from tapestream.fleet.once import only_run
from tapestream.fleet.work import JOB, back_up, move_to_tape, stage
from tapestream.tape import Catalog
from tapestream.testing import MemorySource

from .drives import DATA, DRIVES, OPENED, VM, job, new_drive, open_drive


@pytest.fixture(autouse=True)
def nothing_was_opened() -> Iterator[None]:
    OPENED.clear()
    yield
    DRIVES.clear()


@pytest.fixture
def catalog(tmp_path: Path) -> str:
    return str(tmp_path / "catalog.sqlite")


def on_tape(catalog: str) -> list[str | None]:
    with Catalog(catalog) as known:
        return [backup.info.disk_id for backup in known.find()]


def staged(job: BackupJob, folder: Path, catalog: str) -> str:
    path = stage(job, str(folder), catalog, None).path
    assert path is not None
    return path


def test_a_job_that_runs_again_finds_its_backup(catalog: str) -> None:
    drive = new_drive("a", label="A")
    first = back_up(job("disk"), drive, catalog, None)
    again = back_up(job("disk"), new_drive("b", label="B"), catalog, None)
    assert (first.was_there, first.data_bytes) == (False, len(DATA))
    assert (again.was_there, again.places) == (True, first.places)
    assert (OPENED, on_tape(catalog)) == (["disk"], ["disk"])


def test_what_was_written_before_the_catalog_had_it_is_found_on_the_tape(
    catalog: str, tmp_path: Path
) -> None:
    """The worker was lost between the two."""
    drive = new_drive("a", label="A")
    back_up(job("disk"), drive, str(tmp_path / "lost.sqlite"), None)
    assert back_up(job("disk"), drive, catalog, None).was_there
    assert (OPENED, on_tape(catalog)) == (["disk"], ["disk"])


def test_a_backup_waits_in_a_folder_and_is_whole_on_tape(catalog: str, tmp_path: Path) -> None:
    drive = new_drive("a", label="A")
    path = staged(job("disk"), tmp_path, catalog)
    assert stage(job("disk"), str(tmp_path), catalog, None).was_there
    moved = move_to_tape(job("disk"), path, drive, catalog)
    assert not moved.was_there
    assert not Path(path).exists()
    assert move_to_tape(job("disk"), path, drive, catalog).was_there
    assert (OPENED, on_tape(catalog)) == (["disk"], ["disk"])
    with open_drive("a") as tape:
        tape.go_to_file(1)
        with TarStreamSource(tape) as source, DiscardSink() as sink:
            assert copy(source, sink).verified == "sha256"


def test_a_folder_forgets_what_is_on_tape(catalog: str, tmp_path: Path) -> None:
    path = staged(job("disk"), tmp_path, catalog)
    back_up(job("disk"), new_drive("a", label="A"), catalog, None)
    assert stage(job("disk"), str(tmp_path), catalog, None).places == {"disk": "tape A, file 1"}
    assert not Path(path).exists()


def test_the_disks_of_a_vm_are_one_backup_on_tape(catalog: str) -> None:
    vm, drive = VM(), new_drive("a", label="A")
    done = back_up(vm.job(), drive, catalog, None)
    assert done.places == {"boot": "tape A, file 1", "data": "tape A, file 2"}
    assert vm.ends == [None]
    with Catalog(catalog) as known:
        for backup in known.find():
            assert backup.info.backup_id == done.backup_id == "backup-1"
            assert backup.info.metadata == {"of": "mine", JOB: "monday"}
    with open_drive("a") as tape:
        tape.go_to_file(2)
        with TarStreamSource(tape) as source:
            assert source.attachments == {"vm.ovf": b"data"}
    assert back_up(vm.job(), drive, catalog, None).was_there
    assert vm.backups == 1


def test_what_is_half_done_is_not_done(catalog: str) -> None:
    """The disk that is on tape is of another moment than those of the next run."""
    vm, drive = VM(broken="data"), new_drive("a", label="A")
    with pytest.raises(ConnectionError) as caught:
        back_up(vm.job(), drive, catalog, None)
    # The backup in the engine can be cleaned up before the job ends.
    assert vm.ends == [caught.value]
    assert on_tape(catalog) == ["boot"]
    vm.broken = ""
    done = back_up(vm.job(), drive, catalog, None)
    assert (done.was_there, done.backup_id) == (False, "backup-2")
    assert done.places == {"boot": "tape A, file 2", "data": "tape A, file 3"}
    again = back_up(vm.job(), drive, catalog, None)
    assert (again.was_there, again.places) == (True, done.places)


def test_only_what_is_missing_of_the_same_backup_is_written(catalog: str) -> None:
    vm, drive = VM(keep=True, broken="data"), new_drive("a", label="A")
    with pytest.raises(ConnectionError):
        back_up(vm.job(), drive, catalog, None)
    vm.broken = ""
    done = back_up(vm.job(), drive, catalog, None)
    assert done.places == {"boot": "tape A, file 1", "data": "tape A, file 2"}
    assert done.data_bytes == len(DATA)
    assert sorted(map(str, on_tape(catalog))) == ["boot", "data"]


def test_a_folder_has_no_half_of_a_vm(catalog: str, tmp_path: Path) -> None:
    vm = VM(broken="data")
    with pytest.raises(ConnectionError):
        stage(vm.job(), str(tmp_path), catalog, None)
    assert list(tmp_path.glob("**/*.tar")) == []
    # A worker that was lost leaves what it had.
    partial = tmp_path / ".monday.partial"
    partial.mkdir()
    (partial / "boot.tar").write_bytes(b"of another moment")
    vm.broken = ""
    path = staged(vm.job(), tmp_path, catalog)
    infos = []
    for name in sorted(os.listdir(path)):
        with TarStreamSource(Path(path, name)) as source:
            infos.append((name, source.info.backup_id))
    assert infos == [("boot.tar", "backup-2"), ("data.tar", "backup-2")]
    assert not partial.exists()


def test_the_rest_of_a_folder_is_moved_to_tape(catalog: str, tmp_path: Path) -> None:
    """The drive was lost after it had the first disk."""
    vm, drive = VM(), new_drive("a", label="A")
    path = staged(vm.job(), tmp_path, catalog)
    away = Path(path, "data.tar").rename(tmp_path / "away")
    with pytest.raises(LocalIOError):
        move_to_tape(vm.job(), path, drive, catalog)
    away.rename(Path(path, "data.tar"))
    done = move_to_tape(vm.job(), path, drive, catalog)
    assert done.places == {"boot": "tape A, file 1", "data": "tape A, file 2"}
    assert not Path(path).exists()


@pytest.mark.parametrize(
    ("disk_ids", "said"),
    [
        (("boot",), "backup backup-1 of disk data, and the disks of the job are boot"),
        (("boot", "data", "logs"), "did not yield disk logs"),
    ],
)
def test_other_disks_than_those_of_the_job_are_refused(
    disk_ids: tuple[str, ...], said: str, catalog: str
) -> None:
    """Nothing would know when it is complete."""
    vm = VM()
    with pytest.raises(UsageError, match=said):
        back_up(vm.job(disk_ids=disk_ids), new_drive("a", label="A"), catalog, None)
    assert len(vm.ends) == 1


def test_disks_of_several_backups_are_refused(catalog: str) -> None:
    def open_disks() -> Iterator[tuple[Source, Mapping[str, bytes]]]:
        yield from VM(keep=True).open_disks()
        yield MemorySource(DATA, info=BackupInfo(backup_id="other", disk_id="logs")), {}

    torn = BackupJob("monday", ("boot", "data", "logs"), "host", open_disks)
    with pytest.raises(UsageError, match=r"backup other of disk logs.*the disk before is of.*kept"):
        back_up(torn, new_drive("a", label="A"), catalog, None)


@pytest.mark.parametrize("info", [BackupInfo(disk_id="disk"), BackupInfo(backup_id="monday")])
def test_a_source_without_ids_is_refused(info: BackupInfo, catalog: str) -> None:
    def open_disks() -> Iterator[tuple[Source, Mapping[str, bytes]]]:
        yield MemorySource(DATA, info=info), {}

    nameless = BackupJob("monday", ("disk",), "host", open_disks)
    with pytest.raises(UsageError, match="says that it is backup"):
        back_up(nameless, new_drive("a", label="A"), catalog, None)
    assert on_tape(catalog) == []


def test_a_job_that_two_workers_have_is_done_once(catalog: str) -> None:
    """A worker that has lost the scheduler may go on."""
    slow = job("disk", name="slow")
    drives = [new_drive(name, label=name.upper()) for name in "ab"]
    with ThreadPoolExecutor() as workers:
        done = list(workers.map(lambda drive: back_up(slow, drive, catalog, None), drives))
    assert sorted(each.was_there for each in done) == [False, True]
    assert (OPENED, on_tape(catalog)) == (["disk"], ["disk"])


def test_disks_that_cannot_clean_up_are_refused(catalog: str) -> None:
    listed = BackupJob("monday", ("disk",), "host", lambda: iter([]))
    with pytest.raises(UsageError, match="must be a generator function"):
        back_up(listed, new_drive("a", label="A"), catalog, None)


def test_a_tape_needs_a_label(catalog: str) -> None:
    with pytest.raises(WrongTapeError, match="has no label"):
        back_up(job("disk"), new_drive("a"), catalog, None)


def test_one_run_of_a_job_waits_for_the_other(catalog: str) -> None:
    began, ended = threading.Event(), threading.Event()

    def second() -> None:
        began.set()
        with only_run(catalog, "job"):
            ended.set()

    thread = threading.Thread(target=second)
    with only_run(catalog, "job"), only_run(catalog, "another job"):
        thread.start()
        began.wait()
        assert not ended.wait(0.2)
    assert ended.wait(10)
    thread.join()


def test_a_lock_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(LocalIOError, match="cannot lock"),
        only_run(str(tmp_path / "no" / "catalog"), "job"),
    ):
        pass
