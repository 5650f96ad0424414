"""What a worker does: to tape, to a folder, from the folder to tape. Each may run again.

back_up          source ──────────────▶ tape, catalog
stage            source ──▶ folder
move_to_tape                folder ───▶ tape, catalog
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote

import tapestream
import tapestream.errors
import tapestream.tape

from .fleet import BackupJob, Drive
from .once import only_run


@dataclass(frozen=True)
class Done:
    """What a worker did.

    Attributes:
        place: Where the backup is: a path, or a tape and its file.
        data_bytes: Bytes of data that were written.
        seconds: How long it took.
        was_there: True if an earlier run of the job had written it.
        is_staged: True if it is in a folder, and not yet on tape.
    """

    place: str
    data_bytes: int = 0
    seconds: float = 0.0
    was_there: bool = False
    is_staged: bool = False


def back_up(job: BackupJob, drive: Drive, catalog: str, max_rate: int | None) -> Done:
    """Back up a disk to tape, unless the catalog has its backup."""
    with only_run(catalog, job.key), tapestream.tape.Catalog(catalog) as known:
        if (place := _on_tape(job, known)) is not None:
            return Done(place, was_there=True)
        with _tape(drive, known) as tape:
            # The catalog may have learnt from the tape that it is there.
            if (place := _on_tape(job, known)) is not None:
                return Done(place, was_there=True)
            with _source(job) as source:
                return _to_tape(source, tape, drive, known, max_rate)


def stage(job: BackupJob, folder: str, catalog: str, max_rate: int | None) -> Done:
    """Back up a disk to a folder, unless the catalog or the folder has its backup."""
    path = os.path.join(folder, quote(job.key, safe="") + ".tar")
    with only_run(catalog, job.key), tapestream.tape.Catalog(catalog) as known:
        if (place := _on_tape(job, known)) is not None:
            _delete(path)  # an earlier run may have left it
            return Done(place, was_there=True)
        # A file has its name only if it is complete.
        if os.path.exists(path):
            return Done(path, was_there=True, is_staged=True)
        began = time.monotonic()
        with _source(job) as source, tapestream.TarStreamSink(path) as sink:
            result = tapestream.copy(source, sink, max_rate=max_rate)
        return Done(path, result.data_bytes, time.monotonic() - began, is_staged=True)


def move_to_tape(job: BackupJob, path: str, drive: Drive, catalog: str) -> Done:
    """Write a backup in a folder to tape, unless the catalog has it, and delete the file."""
    with only_run(catalog, job.key), tapestream.tape.Catalog(catalog) as known:
        place = _on_tape(job, known)
        if place is not None:
            done = Done(place, was_there=True)
        else:
            with _tape(drive, known) as tape:
                place = _on_tape(job, known)
                if place is not None:
                    done = Done(place, was_there=True)
                else:
                    with tapestream.TarStreamSource(path) as source:
                        done = _to_tape(source, tape, drive, known, None)
        _delete(path)
        return done


@contextmanager
def _source(job: BackupJob) -> Iterator[tapestream.Source]:
    """The source of a job, whose backup can be found by the job's ids."""
    with job.open_source() as source:
        ids = source.info.backup_id, source.info.disk_id
        if ids != (job.backup_id, job.disk_id):
            raise tapestream.errors.UsageError(
                f"the source of job {job.key} says that it is backup {ids[0]} of disk {ids[1]}",
                hint="Pass info=BackupInfo(backup_id=..., disk_id=...) to the source.",
            )
        yield source


@contextmanager
def _tape(drive: Drive, catalog: tapestream.tape.Catalog) -> Iterator[tapestream.tape.TapeDrive]:
    """The drive, with a tape that the catalog knows whole."""
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
        yield tape


def _files(catalog: tapestream.tape.Catalog, label: str) -> int:
    """How many files a tape has, as far as the catalog knows; the label is the first."""
    backups = catalog.find(incomplete=True)
    return 1 + max((v.file for b in backups for v in b.volumes if v.label == label), default=0)


def _on_tape(job: BackupJob, catalog: tapestream.tape.Catalog) -> str | None:
    """Where the complete backup of a job is; None if there is none."""
    for backup in catalog.find(backup_id=job.backup_id, disk_id=job.disk_id):
        return _place(backup.volumes[0].label, backup.volumes[0].file)
    return None


def _to_tape(
    source: tapestream.Source | tapestream.TarStreamSource,
    tape: tapestream.tape.TapeDrive,
    drive: Drive,
    catalog: tapestream.tape.Catalog,
    max_rate: int | None,
) -> Done:
    began = time.monotonic()
    attachments = source.attachments if isinstance(source, tapestream.TarStreamSource) else None
    with tapestream.TarStreamSink(
        tape, attachments=attachments, on_volume_full=drive.on_volume_full
    ) as sink:
        result = tapestream.copy(source, sink, max_rate=max_rate)
    catalog.add(result.receipt)
    first = result.receipt.places[0]
    return Done(_place(first.label, first.file), result.data_bytes, time.monotonic() - began)


def _place(label: str, file: int) -> str:
    return f"tape {label}, file {file}"


def _delete(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # an earlier run of this job has deleted it
    except OSError as e:
        raise tapestream.errors.LocalIOError(
            f"the backup is on tape, but {path} cannot be deleted", e
        ) from e
