"""What a fleet is: the jobs, the drives, and the folders for what waits for a drive."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import tapestream
import tapestream.errors
import tapestream.tape

# Seconds. systemd starts a worker again in a few; a host takes minutes, and is not waited for.
PATIENCE = 60.0


@dataclass(frozen=True)
class BackupJob:
    """The backup of a VM: its disks, all as they were at the same moment.

    A job may run more than once: a worker can be lost after it has done everything. So the metadata
    of each backup says which job it is of, and a job is done when all its disks are on tape, from
    the same backup. A job that is done is not done again. For a new backup, use a new id.

    Args:
        id: Identifies the job, such as "2026-11-27 mail".
        disk_ids: Identify the disks.
        host: The host that the disks are read from, for `Fleet.jobs_per_host`.
        open_disks: Opens the disks, on the worker: a generator function that can be pickled, such
            as a `functools.partial` of a function of a module that the workers have. It yields the
            source and the attachments of each disk, one after the other. The sources' infos must
            have a `disk_id` and a `backup_id`, which is the same for all: disks of another
            backup are of another moment. It continues when the disk is complete. If anything
            fails, the error is raised in it, so that it can clean up. It may hold transfer URLs,
            so it is never shown.
        name: For people, such as the name of the VM.

    Raises:
        UsageError: There is no disk, or the same one twice.
    """

    id: str
    disk_ids: tuple[str, ...]
    host: str
    open_disks: Callable[[], Iterator[tuple[tapestream.Source, Mapping[str, bytes]]]] = field(
        repr=False
    )
    name: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.disk_ids, str) or not self.disk_ids:
            raise tapestream.errors.UsageError(
                f"disk_ids must have the ids of disks, not {self.disk_ids!r}"
            )
        if len(set(self.disk_ids)) < len(self.disk_ids):
            raise tapestream.errors.UsageError(f"job {self.id} has the same disk twice")


@dataclass(frozen=True)
class Drive:
    """The tape drive of a worker, which must have the resource `tape=1`.

    Args:
        device: Path of the device.
        open_drive: Opens it, on the worker.
        on_volume_full: See `TarStreamSink`: it loads the next tape, on the worker. None: a backup
            fails at the end of the tape, and the drive gets no more jobs.
    """

    device: str = "/dev/nst0"
    open_drive: Callable[[str], tapestream.tape.TapeDrive] = tapestream.tape.TapeDrive
    on_volume_full: (
        Callable[[tapestream.tape.VolumeRequest], tapestream.tape.TapeDrive | None] | None
    ) = None


@dataclass(frozen=True)
class Staging:
    """A folder for backups that wait for a drive; its worker must have a resource `staging=N`.

    Args:
        folder: Path of the folder.
        drives: Names of the workers with a drive that see the folder under the same path.
        most: How many backups may be in it at the same time, or on their way there.
    """

    folder: str
    drives: tuple[str, ...]
    most: int = 10


@dataclass(frozen=True)
class Fleet:
    """The workers, and what each of them has.

    A worker is found by its name: `dask worker --name`. It keeps the name when it is started again.

    Args:
        catalog: Path of the catalog of the tapes, which every worker sees under this path. Its file
            system must have locks, as local ones and NFS 4 do.
        drives: The drive of each worker that has one, by the name of the worker.
        staging: The same for folders. While all drives are busy, as many jobs as the resource says
            write to each folder.
        jobs_per_host: How many jobs may read from a host at the same time; None for no limit.
        max_rate: The most bytes per second that all jobs together read from the hosts. Every drive
            and every place in a folder gets an equal share, whether it is in use or not. None for
            no limit.
        patience: Seconds. If the worker with a drive is lost, its job waits this long for it, since
            the tape may have the backup. After that, another drive gets the job. If there is
            no drive at all for so long, the jobs that are left fail.

    Raises:
        UsageError: There is no drive, or a value cannot work.
    """

    catalog: str
    drives: Mapping[str, Drive]
    staging: Mapping[str, Staging] = field(default_factory=dict)
    jobs_per_host: int | None = None
    max_rate: int | None = None
    patience: float = PATIENCE

    def __post_init__(self) -> None:
        if not self.drives:
            raise tapestream.errors.UsageError("a fleet needs at least one drive")
        if both := self.drives.keys() & self.staging.keys():
            raise tapestream.errors.UsageError(
                f"a worker has a drive or a folder, not both: {', '.join(sorted(both))}",
                hint="Start two workers on this host, each with its own name.",
            )
        for name, staging in self.staging.items():
            if not staging.drives or (unknown := set(staging.drives) - self.drives.keys()):
                which = ", ".join(sorted(unknown)) if staging.drives else "none is named"
                raise tapestream.errors.UsageError(
                    f"the folder of worker {name} is for drives that the fleet lacks: {which}"
                )
        if self.jobs_per_host is not None and self.jobs_per_host < 1:
            raise tapestream.errors.UsageError(
                f"jobs_per_host must be at least 1, not {self.jobs_per_host}"
            )
