"""Runs the jobs of a fleet: which worker gets which job, and what happens if one is lost.

A drive that is free gets, in this order: the job that waits for this drive, a backup in a folder,
and a new job. New jobs go to folders while no drive is free. Every task is for one worker, and
takes one unit of its resource: so the scheduler itself keeps one writer per drive, even if two
programs use the same workers.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import distributed

import tapestream.errors

from .fleet import BackupJob, Fleet
from .report import FleetReport, JobReport
from .work import Done, back_up, move_to_tape, stage
from .workers import STAGING, TAPE, Worker, check_workers, connected, scheduler_lost

# Seconds between two looks at the workers.
_POLL = 0.5
# Seconds to get a result. It is there immediately, unless its worker is lost at that moment.
_FETCH = 10.0
# A job that was lost with this many workers may be what ends them.
_MOST_LOST = 5
# The least that `copy` takes as a limit.
_LEAST_RATE = 4096


def run_fleet(
    client: distributed.Client,
    jobs: Iterable[BackupJob],
    fleet: Fleet,
    *,
    on_report: Callable[[JobReport], object] | None = None,
) -> FleetReport:
    """Back up VMs to tape, with all workers that are connected; more may connect meanwhile.

    A job that fails does not end the others: the report says why it failed. If a worker is lost,
    its job runs again: on the same drive if that is back within `Fleet.patience`, on another one
    otherwise. A drive or a folder that fails gets no more jobs, and its job goes elsewhere.

    If this program ends early, run it again with the same jobs: those whose backups are on tape
    end immediately.

    Args:
        client: Of the scheduler.
        jobs: What to back up; those that are first begin first.
        fleet: The workers.
        on_report: Called in this thread with the report of each job that has ended.

    Returns:
        What became of the jobs, failed ones included.

    Raises:
        UsageError: Two jobs have the same id.
        FleetError: No worker of the fleet has a drive, or a folder that it should have, or one
            lacks its resource: nothing was done. Or the scheduler is lost: what workers do at that
            moment may still be completed.
    """
    jobs = list(jobs)
    if twice := [id_ for id_, count in Counter(job.id for job in jobs).items() if count > 1]:
        raise tapestream.errors.UsageError(f"there is more than one job for {', '.join(twice)}")
    check_workers(fleet, connected(client))
    run = _Run(client, fleet, [_Progress(job) for job in jobs], on_report)
    began = time.monotonic()
    run.work()
    return FleetReport(
        tuple(run.reports[job.id] for job in jobs),
        time.monotonic() - began,
        tuple(run.set_aside.items()),
    )


@dataclass
class _Progress:
    """How far a job is.

    Attributes:
        job: The job.
        done: What its finished steps have shown.
        path: Where it is staged; None if it is not.
        folder: The worker with that folder; None if it does not go to one.
        drives: The drives that can read that path.
        lost_drive: The drive whose worker was lost with it: its tape may have the backup, so it
            waits for that drive while there is hope.
        lost: How many workers were lost while they had it.
        may_stage: False after a folder failed with it.
    """

    job: BackupJob
    done: list[Done] = field(default_factory=list)
    path: str | None = None
    folder: str | None = None
    drives: tuple[str, ...] = ()
    lost_drive: str | None = None
    lost: int = 0
    may_stage: bool = True


@dataclass(frozen=True)
class _Task:
    """What a worker does for a job."""

    worker: Worker
    resource: str
    progress: _Progress
    reads_host: bool


@dataclass
class _Run:
    """One run.

    Attributes:
        client: Of the scheduler.
        fleet: The workers.
        waiting: The jobs that no worker has now.
        on_report: Called with each report.
        running: The tasks that workers have now.
        reports: Of the jobs that have ended, by their ids.
        set_aside: Why a worker gets no more jobs, by its name.
        seen: When each drive was connected last, by the monotonic clock.
        now: When the workers were looked at last.
    """

    client: distributed.Client
    fleet: Fleet
    waiting: list[_Progress]
    on_report: Callable[[JobReport], object] | None
    running: dict[distributed.Future[Any], _Task] = field(default_factory=dict)
    reports: dict[str, JobReport] = field(default_factory=dict)
    set_aside: dict[str, str] = field(default_factory=dict)
    seen: dict[str, float] = field(default_factory=dict)
    now: float = 0.0

    def work(self) -> None:
        """Run all jobs."""
        self.seen = dict.fromkeys(self.fleet.drives, time.monotonic())
        try:
            while self.waiting or self.running:
                workers = connected(self.client)
                self.now = time.monotonic()
                self.seen |= {n: self.now for n in self.seen if n in workers}
                self._take_back_lost(workers)
                if not self._drives():
                    self._give_up()
                    return
                self._give_work(workers)
                self._wait()
        finally:
            for future in self.running:
                future.cancel()

    def _drives(self) -> set[str]:
        """The drives that have or may get a job, now or when their workers are back."""
        since = self.now - self.fleet.patience
        return {n for n, seen in self.seen.items() if seen >= since and n not in self.set_aside}

    # Who gets what

    def _give_work(self, workers: Mapping[str, Worker]) -> None:
        rate = self._rate(workers)
        for each in self.waiting:
            if each.path is not None and self._drives().isdisjoint(each.drives):
                # Nobody can read it: the host must be read again.
                each.path = each.folder = None
        for name, drive in self.fleet.drives.items():
            if not self._is_free(workers.get(name), TAPE):
                continue
            progress = self._next_for(name)
            if progress is None:
                continue
            task = _Task(workers[name], TAPE, progress, reads_host=progress.path is None)
            if progress.path is None:
                self._start(task, back_up, drive, self.fleet.catalog, rate)
            else:
                self._start(task, move_to_tape, progress.path, drive, self.fleet.catalog)
        for name, staging in self.fleet.staging.items():
            while self._is_free(workers.get(name), STAGING) and self._staged(name) < staging.most:
                progress = next(filter(self._may_stage, self.waiting), None)
                if progress is None:
                    break
                progress.folder, progress.drives = name, staging.drives
                task = _Task(workers[name], STAGING, progress, reads_host=True)
                self._start(task, stage, staging.folder, self.fleet.catalog, rate)

    def _is_free(self, worker: Worker | None, resource: str) -> bool:
        if worker is None or worker.name in self.set_aside:
            return False
        busy = sum(task.worker.name == worker.name for task in self.running.values())
        # One drive, whatever its worker says.
        return busy < (min(worker.units(TAPE), 1) if resource == TAPE else worker.units(resource))

    def _next_for(self, drive: str) -> _Progress | None:
        """What a drive that is free gets."""
        able = [progress for progress in self.waiting if self._may_have(drive, progress)]
        return min(able, key=lambda p: (p.lost_drive != drive, p.path is None), default=None)

    def _may_have(self, drive: str, progress: _Progress) -> bool:
        if progress.lost_drive not in (None, drive) and self._waits_for_drive(progress):
            return False
        if progress.path is not None:
            return drive in progress.drives
        return self._host_is_free(progress.job.host)

    def _may_stage(self, progress: _Progress) -> bool:
        if progress.path is not None or not progress.may_stage or self._waits_for_drive(progress):
            return False
        return self._host_is_free(progress.job.host)

    def _staged(self, folder: str) -> int:
        """How many backups are in a folder, or on their way there."""
        jobs = [*self.waiting, *(task.progress for task in self.running.values())]
        return sum(progress.folder == folder for progress in jobs)

    def _waits_for_drive(self, progress: _Progress) -> bool:
        return progress.lost_drive in self._drives()

    def _host_is_free(self, host: str) -> bool:
        most = self.fleet.jobs_per_host
        reading = [task.progress.job.host for task in self.running.values() if task.reads_host]
        return most is None or reading.count(host) < most

    def _rate(self, workers: Mapping[str, Worker]) -> int | None:
        """The share of a job that reads from a host, in bytes per second."""
        if self.fleet.max_rate is None:
            return None
        # Also those that are not connected: they may come while this job is at work.
        places = len(self.fleet.drives)
        for name, staging in self.fleet.staging.items():
            units = workers[name].units(STAGING) if name in workers else staging.most
            places += min(units, staging.most)
        return max(self.fleet.max_rate // places, _LEAST_RATE)

    def _start(self, task: _Task, function: Callable[..., Done], *arguments: object) -> None:
        self.waiting.remove(task.progress)
        future = self.client.submit(
            function,
            task.progress.job,
            *arguments,
            # Equal calls have the same key otherwise, and Dask would not run the second one.
            key=f"{function.__name__}-{task.progress.job.id}-{uuid4()}",
            pure=False,
            workers=[task.worker.address],
            resources={task.resource: 1},
        )
        self.running[future] = task

    # What became of it

    def _wait(self) -> None:
        """Wait until a task has ended, or a little; take what has ended."""
        if not self.running:
            time.sleep(_POLL)  # for a worker
            return
        with contextlib.suppress(distributed.TimeoutError, CancelledError):
            distributed.wait(list(self.running), timeout=_POLL, return_when="FIRST_COMPLETED")
        for future, task in list(self.running.items()):
            if future.cancelled():
                raise scheduler_lost()
            if future.done():
                self._ended(future, task)

    def _ended(self, future: distributed.Future[Any], task: _Task) -> None:
        error = future.exception() if future.status == "error" else None
        if error is not None:
            del self.running[future]
            self._failed(task, error)
            return
        try:
            done = future.result(timeout=_FETCH)
        except distributed.TimeoutError:
            return  # its worker was lost at this moment, and with it the result
        del self.running[future]
        future.release()
        progress = task.progress
        progress.done.append(done)
        if done.path is not None:
            progress.path = done.path
            self.waiting.append(progress)
        else:
            self._report(progress, task.worker.name)

    def _failed(self, task: _Task, error: BaseException) -> None:
        progress, name = task.progress, task.worker.name
        is_tape = task.resource == TAPE
        if is_tape:
            is_of_place = isinstance(error, tapestream.errors.TapeError)
        else:
            # A source may be in a file, too.
            folder = self.fleet.staging[name].folder
            is_of_place = isinstance(error, tapestream.errors.LocalIOError) and folder in str(error)
        if not is_of_place:
            self._report(progress, name, error)
            return
        self.set_aside.setdefault(name, str(error))
        if not is_tape:
            progress.may_stage, progress.folder = False, None
        self.waiting.insert(0, progress)

    def _take_back_lost(self, workers: Mapping[str, Worker]) -> None:
        """Let the jobs run again whose workers are lost."""
        addresses = {worker.address for worker in workers.values()}
        for future, task in list(self.running.items()):
            name, progress = task.worker.name, task.progress
            if task.worker.address in addresses:
                continue
            del self.running[future]
            future.cancel()
            progress.lost += 1
            if task.resource == TAPE:
                progress.lost_drive = name
            else:
                progress.folder = None
            if progress.lost < _MOST_LOST:
                self.waiting.insert(0, progress)
                continue
            what = f"{progress.lost} workers were lost while they had this job"
            hint = "Look at their logs: it may be what ends them."
            self._report(progress, name, tapestream.errors.FleetError(what, hint=hint))

    def _give_up(self) -> None:
        """Report that no drive is left for the jobs."""
        what = "no worker with a drive is left"
        for progress in [*self.waiting, *(task.progress for task in self.running.values())]:
            self._report(progress, "", tapestream.errors.FleetError(what))

    def _report(self, progress: _Progress, worker: str, error: BaseException | None = None) -> None:
        job, done = progress.job, progress.done
        last = done[-1] if done and error is None else Done()
        report = JobReport(
            id=job.id,
            name=job.name,
            host=job.host,
            backup_id=last.backup_id,
            places=last.places,
            worker=worker,
            data_bytes=max((step.data_bytes for step in done), default=0),
            seconds=sum(step.seconds for step in done),
            staged=progress.path is not None,
            was_there=bool(done) and all(step.was_there for step in done),
            lost=progress.lost,
            error=_text(error),
        )
        self.reports[job.id] = report
        if self.on_report is not None:
            self.on_report(report)


def _text(error: BaseException | None) -> str:
    if error is None:
        return ""
    is_ours = isinstance(error, tapestream.errors.TapestreamError)
    return str(error) if is_ours else f"{type(error).__name__}: {error}"
