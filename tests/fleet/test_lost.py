"""What is lost: workers, once or again and again, and the program itself."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tapestream import BackupInfo, Source
from tapestream.fleet import BackupJob, Fleet
from tapestream.testing import MemorySource

from .drives import DATA, DRIVES, OPENED, job, new_drive
from .test_run import TAPE, on_tape, run, workers

distributed = pytest.importorskip("distributed", reason="distributed is not installed")
# The names of the workers that were lost, and the workers that came back.
LOST: list[str] = []
BACK: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_was_lost() -> Iterator[None]:
    OPENED.clear()
    LOST.clear()
    yield
    DRIVES.clear()


def lose_worker(back_after: float | None) -> None:
    """End the worker that runs this; another one with its name comes later, if at all."""
    worker = distributed.get_worker()
    LOST.append(worker.name)
    address = worker.scheduler.address

    async def lose() -> None:
        await worker.close(executor_wait=False)
        if back_after is not None:
            await asyncio.sleep(back_after)
            BACK.append(
                await distributed.Worker(
                    address, name=worker.name, nthreads=2, resources=TAPE, dashboard=False
                )
            )

    worker.loop.add_callback(lose)


def open_and_lose(
    times: int, back_after: float | None
) -> Iterator[tuple[Source, Mapping[str, bytes]]]:
    """The disk of a job whose worker is lost while it opens the disk, so many times."""
    if len(LOST) < times:
        lose_worker(back_after)
        raise ConnectionError("nobody gets to know this")
    yield MemorySource(DATA, info=BackupInfo(backup_id="monday", disk_id="deadly")), {}


def deadly(times: int, back_after: float | None = None) -> BackupJob:
    return BackupJob("deadly", ("deadly",), "host", partial(open_and_lose, times, back_after))


def fleet_of(names: str, folder: Path, patience: float) -> Fleet:
    drives = {name: new_drive(name, label=name.upper()) for name in names}
    return Fleet(str(folder / "catalog"), drives, patience=patience)


def cluster_of(names: str) -> Any:
    return workers(**dict.fromkeys(names, TAPE))


def test_a_job_waits_for_its_drive(tmp_path: Path) -> None:
    """Its tape may have the backup. The other drive is free all the time."""
    fleet = fleet_of("ab", tmp_path, patience=60)
    with cluster_of("ab") as client:
        report = run(client, [deadly(1, back_after=1.0)], fleet)
        client.sync(BACK.pop().close)
    [job_report] = report.jobs
    assert (job_report.error, job_report.lost, [job_report.worker]) == ("", 1, LOST)


def test_after_its_patience_a_job_goes_to_another_drive(tmp_path: Path) -> None:
    fleet = fleet_of("ab", tmp_path, patience=0.5)
    with cluster_of("ab") as client:
        report = run(client, [deadly(1)], fleet)
    [job_report] = report.jobs
    assert (job_report.error, job_report.lost) == ("", 1)
    assert {job_report.worker, *LOST} == {"a", "b"}


def test_a_job_that_ends_five_workers_fails_alone(tmp_path: Path) -> None:
    fleet = fleet_of("abcdef", tmp_path, patience=0)
    with cluster_of("abcdef") as client:
        report = run(client, [deadly(9), job("one"), job("two"), job("three")], fleet)
    [failed] = report.failed
    assert (failed.id, failed.lost) == ("deadly", 5)
    assert failed.error.startswith("5 workers were lost while they had this job. Look at")
    assert on_tape(fleet) == ["one", "three", "two"]


def interrupt(disk: str, folder: Path) -> Iterator[tuple[Source, Mapping[str, bytes]]]:
    """A disk that is read while the user presses Ctrl-C, and after that."""
    if not LOST:
        LOST.append("the program")
        os.kill(os.getpid(), signal.SIGINT)
        while not (folder / "run again").exists():
            time.sleep(0.02)
    OPENED.append(disk)
    yield MemorySource(DATA, info=BackupInfo(backup_id="monday", disk_id=disk)), {}


def test_after_a_ctrl_c_the_next_run_does_the_rest(tmp_path: Path) -> None:
    fleet = fleet_of("a", tmp_path, patience=60)
    jobs = [
        BackupJob(disk, (disk,), "host", partial(interrupt, disk, tmp_path))
        for disk in ("one", "two", "three")
    ]
    with cluster_of("a") as client:
        with pytest.raises(KeyboardInterrupt):
            run(client, jobs, fleet)
        (tmp_path / "run again").touch()
        report = run(client, jobs, fleet)
    assert report.failed == ()
    assert report.set_aside == ()
    assert OPENED == ["one", "two", "three"]
    assert on_tape(fleet) == ["one", "three", "two"]
