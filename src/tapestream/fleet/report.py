"""What a fleet did: a report for each job, as a table and as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from .._readable import count_text, seconds_text
from .._shown import short_repr
from .._table import table

_COLUMNS = ("job", "host", "worker", ">MB", ">seconds", ">lost", "result")


@dataclass(frozen=True, repr=False)
class JobReport:
    """What became of a job.

    Attributes:
        id: Of the job.
        name: Of the job.
        host: Of the job.
        backup_id: The backup that all disks are of. "" if the job failed.
        places: Where each disk is, by its id: a tape and its file. Empty if the job failed.
        worker: The worker that ended the job; "" if it never ran.
        data_bytes: Bytes of data that were written.
        seconds: Seconds that reading it took, and writing it.
        staged: True if it waited in a folder.
        was_there: True if an earlier run of the job had written it already.
        lost: How many workers were lost while they had the job.
        error: Why the job failed; "" if it did not.
    """

    id: str
    name: str
    host: str
    backup_id: str = ""
    places: Mapping[str, str] = field(default_factory=dict)
    worker: str = ""
    data_bytes: int = 0
    seconds: float = 0.0
    staged: bool = False
    was_there: bool = False
    lost: int = 0
    error: str = ""

    def __repr__(self) -> str:
        return short_repr(self, f"{self.name or self.id}, {self.result}")

    @property
    def result(self) -> str:
        """One line: where it is, or why it is nowhere."""
        if self.error:
            return "failed: " + " ".join(self.error.split())
        how = " (was there)" if self.was_there else " (by a folder)" if self.staged else ""
        return "; ".join(self.places.values()) + how


@dataclass(frozen=True, repr=False)
class FleetReport:
    """What became of all jobs.

    Attributes:
        jobs: A report for each job, in the order in which the jobs were given.
        seconds: How long all took.
        set_aside: Why a drive or a folder got no more jobs, by the name of its worker.
    """

    jobs: tuple[JobReport, ...]
    seconds: float
    set_aside: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        jobs = f"{count_text(len(self.jobs), 'job')}, {len(self.failed)} failed"
        return short_repr(self, f"{jobs}, {seconds_text(self.seconds)}")

    @property
    def failed(self) -> tuple[JobReport, ...]:
        """The jobs that failed."""
        return tuple(job for job in self.jobs if job.error)

    def json_lines(self) -> str:
        """A JSON object for each job, each on its own line."""
        return "".join(json.dumps(asdict(job)) + "\n" for job in self.jobs)

    def table(self) -> str:
        """A table for people, with a last line for all together."""
        lines = table(_COLUMNS, [_row(job) for job in self.jobs])
        lines += [f"{name} got no more jobs: {why}" for name, why in self.set_aside]
        total = sum(job.data_bytes for job in self.jobs)
        lines.append(
            f"{len(self.jobs) - len(self.failed)} of {len(self.jobs)} backups are on tape, "
            f"{total / 1e6:.1f} MB in {self.seconds:.0f} seconds"
        )
        return "\n".join(lines) + "\n"


def _row(job: JobReport) -> tuple[str, ...]:
    return (
        job.name or job.id,
        job.host,
        job.worker,
        f"{job.data_bytes / 1e6:.1f}",
        f"{job.seconds:.1f}",
        str(job.lost),
        job.result,
    )
