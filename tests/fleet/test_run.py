"""Which worker gets which job: with Dask's own scheduler, and workers in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tapestream.errors import FleetError, UsageError
from tapestream.fleet import BackupJob, Drive, Fleet, FleetReport, JobReport, Staging
from tapestream.tape import Catalog

from .drives import BUSY, DATA, DRIVES, OPENED, job, new_drive, open_drive

distributed = pytest.importorskip("distributed", reason="distributed is not installed")
EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "fleet.py"


@pytest.fixture(autouse=True)
def nothing_was_opened() -> Iterator[None]:
    OPENED.clear()
    BUSY[:] = [0]
    yield
    DRIVES.clear()


@contextmanager
def workers(**resources: dict[str, int]) -> Iterator[Any]:
    """A client of a scheduler with these workers."""
    specification = {
        name: {
            "cls": distributed.Worker,
            "options": {"nthreads": 2, "resources": each, "dashboard": False},
        }
        for name, each in resources.items()
    }
    scheduler = {
        "cls": distributed.Scheduler,
        "options": {"dashboard": False, "dashboard_address": ":0", "protocol": "inproc://"},
    }
    with (
        distributed.SpecCluster(workers=specification, scheduler=scheduler) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.wait_for_workers(len(resources), timeout=30)
        yield client


def run(client: Any, jobs: list[BackupJob], fleet: Fleet) -> FleetReport:
    from tapestream.fleet import run_fleet  # noqa: PLC0415 - it needs distributed

    return run_fleet(client, jobs, fleet)


def on_tape(fleet: Fleet) -> list[str]:
    with Catalog(fleet.catalog) as known:
        return sorted(str(backup.info.disk_id) for backup in known.find())


TAPE = {"tape": 1}


def test_all_jobs_get_onto_tape_some_of_them_by_a_folder(tmp_path: Path) -> None:
    fleet = Fleet(
        str(tmp_path / "catalog"),
        {"a": new_drive("a", label="A")},
        {"f": Staging(str(tmp_path), ("a",))},
        max_rate=10**9,
    )
    jobs = [job(f"disk-{i}") for i in range(4)]
    with workers(a=TAPE, f={"staging": 2}) as client:
        report = run(client, jobs, fleet)
        again = run(client, jobs, fleet)
    assert [each.id for each in report.jobs] == [each.id for each in jobs]
    assert on_tape(fleet) == sorted(OPENED) == [each.disk_ids[0] for each in jobs]
    assert any(each.staged for each in report.jobs)
    assert list(tmp_path.glob("**/*.tar")) == []
    assert all(each.was_there for each in again.jobs)


def test_a_folder_has_only_so_many_backups(tmp_path: Path) -> None:
    """Those that are in it, or on their way there, while the only drive is not there yet."""
    fleet = Fleet(
        str(tmp_path / "catalog"),
        {"a": new_drive("a", label="A"), "late": new_drive("late", label="LATE")},
        {"f": Staging(str(tmp_path), ("late",), most=3)},
        patience=2.0,
    )
    OPENED.clear()
    with workers(a=TAPE, f={"staging": 2}) as client:
        report = run(client, [job(f"disk-{i}") for i in range(12)], fleet)
    assert report.failed == ()
    assert len(on_tape(fleet)) == 12
    assert len(list(tmp_path.glob("*.job"))) <= 3


def test_a_job_that_fails_does_not_end_the_others(tmp_path: Path) -> None:
    fleet = Fleet(str(tmp_path / "catalog"), {"a": new_drive("a", label="A")})
    with workers(a=TAPE) as client:
        report = run(client, [job("bad", name="broken"), job("good")], fleet)
    assert [each.id for each in report.failed] == ["monday bad"]
    assert report.failed[0].error == "ValueError: this source is broken"
    assert on_tape(fleet) == ["good"]


@pytest.mark.parametrize(("limit", "most"), [(1, 1), (None, 2)])
def test_a_host_has_only_so_many_jobs(limit: int | None, most: int, tmp_path: Path) -> None:
    drives = {name: new_drive(name, label=name) for name in ("a", "b")}
    fleet = Fleet(str(tmp_path / "catalog"), drives, jobs_per_host=limit)
    with workers(a=TAPE, b=TAPE) as client:
        report = run(client, [job(f"disk-{i}", name="slow") for i in range(4)], fleet)
    assert report.failed == ()
    assert max(BUSY) == most


def test_a_drive_that_fails_gets_no_more_jobs(tmp_path: Path) -> None:
    drives = {"bad": new_drive("bad"), "good": new_drive("good", label="GOOD")}
    fleet = Fleet(str(tmp_path / "catalog"), drives)
    with workers(bad=TAPE, good=TAPE) as client:
        report = run(client, [job(f"disk-{i}") for i in range(4)], fleet)
    assert report.failed == ()
    assert {each.worker for each in report.jobs} == {"good"}
    [(name, why)] = report.set_aside
    assert name == "bad"
    assert "the tape has no label" in why


def test_two_programs_use_a_drive_in_turn(tmp_path: Path) -> None:
    """The scheduler gives it one task at a time; the worker has two threads."""
    fleet = Fleet(str(tmp_path / "catalog"), {"a": new_drive("a", label="A")})
    names = ("one", "two"), ("three", "four")
    with workers(a=TAPE) as client, ThreadPoolExecutor() as programs:
        jobs = [[job(disk, name="slow") for disk in each] for each in names]
        reports = list(programs.map(lambda each: run(client, each, fleet), jobs))
    assert [(report.failed, report.set_aside) for report in reports] == [((), ())] * 2
    assert on_tape(fleet) == ["four", "one", "three", "two"]
    assert max(BUSY) == 1


def test_a_drive_that_somebody_else_has_open_is_left_alone(tmp_path: Path) -> None:
    """That somebody uses no scheduler: the drive is opened exclusively."""
    drives = {name: new_drive(name, label=name.upper()) for name in ("taken", "free")}
    fleet = Fleet(str(tmp_path / "catalog"), drives)
    with workers(taken=TAPE, free=TAPE) as client, open_drive("taken") as theirs:
        theirs.rewind()
        report = run(client, [job(f"disk-{i}") for i in range(3)], fleet)
    assert report.failed == ()
    assert {each.worker for each in report.jobs} == {"free"}
    [(name, why)] = report.set_aside
    assert name == "taken"
    assert "busy" in why


def test_a_source_in_a_file_that_fails_does_not_set_a_folder_aside(tmp_path: Path) -> None:
    fleet = Fleet(
        str(tmp_path / "catalog"),
        {"a": new_drive("a", label="A")},
        {"f": Staging(str(tmp_path), ("a",))},
    )
    jobs = [job("slow", name="slow"), *(job(f"bad-{i}", name="lost file") for i in range(3))]
    with workers(a=TAPE, f={"staging": 1}) as client:
        report = run(client, jobs, fleet)
    assert [each.id for each in report.failed] == [each.id for each in jobs[1:]]
    assert "f" in {each.worker for each in report.failed}
    assert report.set_aside == ()


def test_the_limit_of_all_jobs_is_shared_by_all_places(tmp_path: Path) -> None:
    """Also by a drive that may come later. Only the limit makes this job slow."""
    drives = {name: new_drive(name, label=name.upper()) for name in ("a", "later")}
    fleet = Fleet(str(tmp_path / "catalog"), drives, max_rate=2 * len(DATA))
    with workers(a=TAPE) as client:
        report = run(client, [job("disk")], fleet)
    # The share is its data per second, and the first half of that comes immediately.
    assert report.jobs[0].seconds > 0.3


def test_without_a_drive_that_works_all_jobs_fail(tmp_path: Path) -> None:
    fleet = Fleet(str(tmp_path / "catalog"), {"bad": new_drive("bad")})
    with workers(bad=TAPE) as client:
        report = run(client, [job("a"), job("b")], fleet)
    assert [each.error for each in report.failed] == ["no worker with a drive is left"] * 2


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({"a": {}}, "lacks the resource tape: a"),
        ({"x": TAPE}, "no worker with the resource tape is connected: a"),
        ({"a": TAPE}, "no worker with the resource staging is connected: f"),
    ],
)
def test_a_resource_that_nobody_has_is_an_error(
    there: dict[str, dict[str, int]], said: str, tmp_path: Path
) -> None:
    staging = {"f": Staging(str(tmp_path), ("a",))}
    fleet = Fleet(str(tmp_path / "catalog"), {"a": new_drive("a", label="A")}, staging)
    with workers(**there) as client, pytest.raises(FleetError, match=said):
        run(client, [job("disk")], fleet)
    assert OPENED == []


def test_two_jobs_with_the_same_ids_are_refused(tmp_path: Path) -> None:
    fleet = Fleet(str(tmp_path / "catalog"), {"a": Drive()})
    with pytest.raises(UsageError, match="more than one job for monday disk"):
        run(None, [job("disk"), job("disk")], fleet)


def test_a_fleet_that_cannot_work_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one drive"):
        Fleet("catalog", {})
    with pytest.raises(UsageError, match="a drive or a folder, not both: a"):
        Fleet("catalog", {"a": Drive()}, {"a": Staging("folder", ("a",))})
    with pytest.raises(UsageError, match="that the fleet lacks: b"):
        Fleet("catalog", {"a": Drive()}, {"f": Staging("folder", ("b",))})
    with pytest.raises(UsageError, match="at least 1"):
        Fleet("catalog", {"a": Drive()}, jobs_per_host=0)


def test_a_job_does_not_show_its_source() -> None:
    assert "open_disks" not in repr(job("disk"))


def test_the_report_is_a_table_and_json_lines() -> None:
    places = {"disk-1": "tape A, file 1", "disk-2": "tape A, file 2"}
    good = JobReport("monday-1", "mail", "host", "b1", places, "a", 10**6, 2.0)
    bad = JobReport("monday-2", "", "host", error="no\nroom")
    report = FleetReport((good, bad), 3.0, (("b", "no label"),))
    assert report.table().splitlines() == [
        "job       host  worker   MB  seconds  lost  result",
        "mail      host  a       1.0      2.0     0  tape A, file 1; tape A, file 2",
        "monday-2  host          0.0      0.0     0  failed: no room",
        "b got no more jobs: no label",
        "1 of 2 backups are on tape, 1.0 MB in 3 seconds",
    ]
    lines = [json.loads(line) for line in report.json_lines().splitlines()]
    assert [line["error"] for line in lines] == ["", "no\nroom"]
    assert lines[0]["places"] == places


def test_the_example_survives_the_loss_of_a_worker() -> None:
    """With a real daemon and real processes; `docs/examples/fleet.py 200 30` is the long form."""
    example = subprocess.run(
        [sys.executable, EXAMPLE, "8", "1"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert example.returncode == 0, example.stderr
    assert "8 of 8 backups are on tape" in example.stdout
