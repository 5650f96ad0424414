"""What a worker does: to tape, to a folder, from the folder to tape. Each may run again.

back_up          sources ──────────────▶ tape, catalog
stage            sources ──▶ folder
move_to_tape                 folder ───▶ tape, catalog
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from urllib.parse import quote

import tapestream
import tapestream.backend
import tapestream.errors
import tapestream.tape

from .._typing import override
from .fleet import BackupJob, Drive
from .once import only_run

# In the metadata of each backup: the id of its job.
JOB = "fleet_job"


@dataclass(frozen=True)
class Done:
    """What a worker did.

    Attributes:
        backup_id: The backup that all disks are of.
        places: Where each disk is on tape, by its id.
        path: The folder with the disks that are not on tape yet; None if they are.
        data_bytes: Bytes of data that were written.
        seconds: How long it took.
        was_there: True if an earlier run of the job had written it.
    """

    backup_id: str = ""
    places: Mapping[str, str] = field(default_factory=dict)
    path: str | None = None
    data_bytes: int = 0
    seconds: float = 0.0
    was_there: bool = False


@dataclass(frozen=True)
class _Written:
    """What was written of a disk."""

    backup_id: str
    place: str
    data_bytes: int


def back_up(job: BackupJob, drive: Drive, catalog: str, max_rate: int | None) -> Done:
    """Back up the disks to tape, unless the catalog has them."""
    with only_run(catalog, job.id), tapestream.tape.Catalog(catalog) as known:
        if (done := _on_tape(job, known)) is not None:
            return done
        with _tape(drive, known) as tape:
            # The catalog may have learnt from the tape that they are there.
            if (done := _on_tape(job, known)) is not None:
                return done
            began = time.monotonic()
            written = _each_disk(
                job, lambda source, attachments: tape.write(source, attachments, max_rate)
            )
            return _done(written, began)


def stage(job: BackupJob, folder: str, catalog: str, max_rate: int | None) -> Done:
    """Back up the disks to a folder, unless the catalog or the folder has them."""
    name = quote(job.id, safe="")
    path, partial = os.path.join(folder, f"{name}.job"), os.path.join(folder, f".{name}.partial")
    with only_run(catalog, job.id), tapestream.tape.Catalog(catalog) as known:
        if (done := _on_tape(job, known)) is not None:
            _delete(path)  # an earlier run may have left it
            return done
        # It has its name only if all disks are in it.
        if os.path.exists(path):
            return Done(path=path, was_there=True)
        _delete(partial)  # what is in there is of another moment
        began = time.monotonic()
        with _making(partial):
            os.mkdir(partial, 0o700)
        try:
            written = _each_disk(
                job,
                lambda source, attachments: _to_file(source, attachments, partial, max_rate),
            )
            with _making(path):
                os.rename(partial, path)
        except BaseException:
            _delete(partial)
            raise
        return replace(_done(written, began), places={}, path=path)


def move_to_tape(job: BackupJob, path: str, drive: Drive, catalog: str) -> Done:
    """Write the disks in a folder to tape, unless the catalog has them, and delete the folder."""
    with only_run(catalog, job.id), tapestream.tape.Catalog(catalog) as known:
        done = _on_tape(job, known)
        if done is None:
            with _tape(drive, known) as tape:
                done = _on_tape(job, known) or _move(job, path, tape)
        _delete(path)
        return done


def _move(job: BackupJob, path: str, tape: _Tape) -> Done:
    began = time.monotonic()
    written = {}
    for disk_id in job.disk_ids:
        with tapestream.TarStreamSource(_file(path, disk_id)) as source:
            written[disk_id] = tape.write(source, source.attachments)
    return _done(written, began)


def _done(written: Mapping[str, _Written], began: float) -> Done:
    return Done(
        backup_id=next(iter(written.values())).backup_id,
        places={disk_id: each.place for disk_id, each in written.items()},
        data_bytes=sum(each.data_bytes for each in written.values()),
        seconds=time.monotonic() - began,
    )


class _OfJob(tapestream.backend.ForwardingSource):
    """The source of a disk, whose backup says of which job it is."""

    def __init__(self, wrapped: tapestream.Source, job: BackupJob) -> None:
        super().__init__(wrapped)
        self._job = job

    @property
    @override
    def info(self) -> tapestream.BackupInfo:
        info = self.wrapped.info
        return replace(info, metadata={**info.metadata, JOB: self._job.id})


def _each_disk(
    job: BackupJob,
    write: Callable[[tapestream.Source, Mapping[str, bytes]], _Written],
) -> dict[str, _Written]:
    """Open the disks of a job, and write one after the other.

    Raises:
        UsageError: They are not the disks of the job, or not of one backup.
    """
    disks = job.open_disks()
    if not isinstance(disks, Generator):
        raise tapestream.errors.UsageError(
            f"open_disks of job {job.id} must be a generator function: it returned a "
            f"{type(disks).__name__}"
        )
    written: dict[str, _Written] = {}
    try:
        for source, attachments in disks:
            _check_info(job, source.info, written)
            written[str(source.info.disk_id)] = write(_OfJob(source, job), attachments)
        if missing := [disk for disk in job.disk_ids if disk not in written]:
            raise tapestream.errors.UsageError(
                f"open_disks of job {job.id} did not yield disk {', '.join(missing)}"
            )
    except BaseException as e:
        # As in a `with` block, so that it can clean up. If it has ended, this raises the same.
        disks.throw(e)
        raise
    return written


def _check_info(
    job: BackupJob, info: tapestream.BackupInfo, written: Mapping[str, _Written]
) -> None:
    where = f"job {job.id}: a source says that it is backup {info.backup_id} of disk {info.disk_id}"
    if info.backup_id is None or info.disk_id not in job.disk_ids:
        raise tapestream.errors.UsageError(
            f"{where}, and the disks of the job are {', '.join(job.disk_ids)}",
            hint="Pass info=BackupInfo(backup_id=..., disk_id=...) to the source.",
        )
    for other in written.values():
        if info.backup_id != other.backup_id:
            raise tapestream.errors.UsageError(
                f"{where}, and the disk before is of backup {other.backup_id}",
                hint="Open one backup of the VM, and yield all its disks.",
            )


@dataclass(frozen=True)
class _Tape:
    """The tape in a drive, and the catalog, which knows what is on it."""

    tape: tapestream.tape.TapeDrive
    drive: Drive
    catalog: tapestream.tape.Catalog

    def write(
        self,
        source: tapestream.Source | tapestream.TarStreamSource,
        attachments: Mapping[str, bytes],
        max_rate: int | None = None,
    ) -> _Written:
        """Write a disk, unless an earlier run has written it, of the same backup."""
        backup_id, disk_id = str(source.info.backup_id), source.info.disk_id
        for found in self.catalog.find(backup_id=backup_id, disk_id=disk_id):
            return _Written(backup_id, _place(found.volumes[0]), 0)
        with tapestream.TarStreamSink(
            self.tape, attachments=attachments, on_volume_full=self.drive.on_volume_full
        ) as sink:
            result = tapestream.copy(source, sink, max_rate=max_rate)
        self.catalog.add(result.receipt)
        return _Written(backup_id, _place(result.receipt.places[0]), result.data_bytes)


@contextmanager
def _tape(drive: Drive, catalog: tapestream.tape.Catalog) -> Iterator[_Tape]:
    """The tape in a drive, whole in the catalog."""
    with drive.open_drive(drive.device) as tape:
        tape.wait_ready()
        label = tape.read_label()
        if label is None:
            raise tapestream.errors.WrongTapeError(
                f"{drive.device}: the tape has no label, so no catalog can find what is on it",
                hint="Label it with TapeDrive.write_label, or with: tapestream tape label",
            )
        tape.end_of_data()
        # A worker may have been lost after it had written a backup, and before the catalog had it.
        if tape.status().file != _files(catalog, label):
            catalog.scan(tape)
        yield _Tape(tape, drive, catalog)


def _files(catalog: tapestream.tape.Catalog, label: str) -> int:
    """How many files a tape has, as far as the catalog knows; the label is the first."""
    backups = catalog.find(incomplete=True)
    return 1 + max((v.file for b in backups for v in b.volumes if v.label == label), default=0)


def _on_tape(job: BackupJob, catalog: tapestream.tape.Catalog) -> Done | None:
    """Where all disks of a job are, of one backup; None if they are not on tape.

    An earlier run may have written some of them, as they were at another moment.
    """
    backups: dict[str, dict[str, str]] = {}
    for found in catalog.find():
        info = found.info
        if info.metadata.get(JOB) == job.id:
            backups.setdefault(str(info.backup_id), {})[str(info.disk_id)] = _place(
                found.volumes[0]
            )
    for backup_id, places in backups.items():
        if places.keys() >= set(job.disk_ids):
            return Done(backup_id, places, was_there=True)
    return None


def _to_file(
    source: tapestream.Source, attachments: Mapping[str, bytes], folder: str, max_rate: int | None
) -> _Written:
    path = _file(folder, str(source.info.disk_id))
    with tapestream.TarStreamSink(path, attachments=attachments) as sink:
        result = tapestream.copy(source, sink, max_rate=max_rate)
    return _Written(str(source.info.backup_id), path, result.data_bytes)


@contextmanager
def _making(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise tapestream.errors.LocalIOError(f"cannot make {path}", e) from e


def _file(folder: str, disk_id: str) -> str:
    return os.path.join(folder, quote(disk_id, safe="") + ".tar")


def _place(first: tapestream.tape.CatalogVolume | tapestream.tape.TapePlace) -> str:
    return f"tape {first.label}, file {first.file}"


def _delete(folder: str) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass  # an earlier run of this job has deleted it
    except OSError as e:
        raise tapestream.errors.LocalIOError(f"cannot delete {folder}", e) from e
