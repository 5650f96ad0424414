"""What a worker does for a job may be done twice: the backup is there once, and complete."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tapestream import DiscardSink, TarStreamSource, copy
from tapestream.errors import LocalIOError, UsageError, WrongTapeError
from tapestream.fleet.once import only_run
from tapestream.fleet.work import back_up, move_to_tape, stage
from tapestream.tape import Catalog

from .drives import DATA, DRIVES, OPENED, job, new_drive, open_drive


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


def test_a_job_that_runs_again_finds_its_backup(catalog: str) -> None:
    drive = new_drive("a", label="A")
    first = back_up(job("disk"), drive, catalog, None)
    again = back_up(job("disk"), new_drive("b", label="B"), catalog, None)
    assert (first.was_there, first.data_bytes) == (False, len(DATA))
    assert (again.was_there, again.place) == (True, first.place)
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
    staged = stage(job("disk"), str(tmp_path), catalog, None)
    assert stage(job("disk"), str(tmp_path), catalog, None).was_there
    moved = move_to_tape(job("disk"), staged.place, drive, catalog)
    assert not moved.was_there
    assert not Path(staged.place).exists()
    assert move_to_tape(job("disk"), staged.place, drive, catalog).was_there
    assert (OPENED, on_tape(catalog)) == (["disk"], ["disk"])
    with open_drive("a") as tape:
        tape.go_to_file(1)
        with TarStreamSource(tape) as source, DiscardSink() as sink:
            assert copy(source, sink).verified == "sha256"


def test_a_folder_forgets_what_is_on_tape(catalog: str, tmp_path: Path) -> None:
    staged = stage(job("disk"), str(tmp_path), catalog, None)
    back_up(job("disk"), new_drive("a", label="A"), catalog, None)
    assert stage(job("disk"), str(tmp_path), catalog, None).place.startswith("tape A")
    assert not Path(staged.place).exists()


def test_a_source_of_another_backup_is_refused(catalog: str) -> None:
    """Nothing would find its backup."""
    wrong = replace(job("disk"), backup_id="tuesday")
    with pytest.raises(UsageError, match="says that it is backup monday"):
        back_up(wrong, new_drive("a", label="A"), catalog, None)
    assert on_tape(catalog) == []


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
