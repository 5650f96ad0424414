"""The whole program: backs up a VM to a folder, to tape, or into a stream."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import tapestream

from ..errors import UsageError
from .backup_report import DiskReport, VMBackupReport
from .backup_targets import BackupTarget, TarOptions, target_of
from .backups import BackupDisk, VMBackup, download_transfer, vm_backup
from .cleaning import note
from .connection import host_trust
from .leftovers import clean_up_killed_runs
from .sdk import sdk
from .timeouts import EngineTimeouts
from .vm_checkpoints import Parent, parent_of
from .vms import VDSM_ID, VM, host_here, the_vm

# The attachment of each tar that has the VM's configuration.
OVF_NAME = "vm.ovf"


@dataclass(frozen=True)
class _Copying:
    """How each disk is copied: what `back_up_vm` was given."""

    target: BackupTarget
    options: TarOptions
    cafile: str | os.PathLike[str] | None
    secure: bool
    host: str | None
    max_rate: int | tapestream.RateLimit | None
    progress: Callable[[BackupDisk], Any] | None
    timeouts: EngineTimeouts


def back_up_vm(
    connection: sdk.Connection,
    vm: str | VM,
    target: Any,
    *,
    incremental: bool = False,
    disks: Iterable[str] | None = None,
    archive: tapestream.archive.Archive | None = None,
    catalog: tapestream.tape.Catalog | None = None,
    template: str | None = None,
    checksum: str | None = "sha256",
    on_volume_full: Any = None,
    max_rate: int | tapestream.RateLimit | None = None,
    progress: Callable[[BackupDisk], Any] | None = None,
    cafile: str | os.PathLike[str] | None = None,
    secure: bool | None = None,
    vdsm_id: str = VDSM_ID,
    state: str | os.PathLike[str] | None = None,
    timeouts: EngineTimeouts | None = None,
    cancel: tapestream.Cancel | None = None,
) -> VMBackupReport:
    """Back up a VM: one tar for each disk, which has the VM's configuration as an attachment, too.

        with connect() as connection:
            report = back_up_vm(connection, "mail", "/backups", incremental=True)

    First, what earlier runs have left that were killed is cleaned up. Then each disk is copied, one
    after the other. If one cannot be copied, the others are not, and the checkpoint is removed.
    What is complete by then can be restored all the same. Nothing stays open in the engine,
    whatever happens, Ctrl-C included; for SIGTERM, see `exit_on_sigterm`.

    Args:
        connection: The connection to the engine.
        vm: The VM: its id, its name, or what `find_vm` returned.
        target: A folder; a `TapeDrive`, or the path of one; or, for one disk, "-" for standard
            output, the path of a fifo, or a file object.
        incremental: Copy only what changed, starting from the checkpoint of `parent_of`. A disk
            that has no good backup here is copied whole: see `DiskReport.reason`.
        disks: Ids or names of disks; None for all that can be backed up.
        archive: Backups that are somewhere else, from which an incremental one may start, too.
        catalog: For tapes: from it comes where an incremental backup starts, and the new ones are
            added to it.
        template: The names of files in a folder: see `tapestream.archive.file_name`.
        checksum: The digest of the data, as for `TarStreamSink`.
        on_volume_full: Loads the next tape, as for `TarStreamSink`.
        max_rate: The most bytes per second, as for `tapestream.copy`.
        progress: Called with each disk before it is copied; returns the `progress` of its copy.
        cafile: The CA that signed the hosts' certificates; None for that of the settings of
            `connect`.
        secure: False to accept any certificate of a host; None for the settings of `connect`.
        vdsm_id: The file in which a host has its own id. If this is a host, it serves the data over
            its unix socket.
        state: The directory for a file about this run; None for `$XDG_STATE_HOME/tapestream`.
        timeouts: How long to wait for the engine.
        cancel: Ends the backup, as a Ctrl-C does: also a wait for the engine, except that for its
            end. What was started is cleaned up. A request that is under way ends first.

    Raises:
        UsageError: An argument cannot work: nothing was started.
        EngineError: The engine refused something, failed, or cannot be reached.
        OperationCancelledError: It was cancelled.
        TapestreamError: A disk could not be copied.
    """
    timeouts = timeouts or EngineTimeouts()
    where = target_of(target, catalog, template)
    found = the_vm(connection, vm)
    chosen = found.choose(disks)
    where.check(len(chosen))
    before = _backups_before(where, archive)
    if incremental and before is None:
        raise UsageError(
            "where an incremental backup starts is not known: the target cannot be searched",
            hint="Pass the catalog of the tapes, or an archive with the backups before.",
        )
    killed = clean_up_killed_runs(connection, state=state, timeouts=timeouts, cancel=cancel)
    ids = [disk.id for disk in chosen]
    parent = Parent(None, ())
    if incremental and before is not None:
        parent = parent_of(connection, found, ids, before)
    copying = _Copying(
        where,
        TarOptions(checksum, on_volume_full, cancel),
        *host_trust(connection, cafile, secure),
        host_here(connection, chosen, vdsm_id),
        max_rate,
        progress,
        timeouts,
    )
    reports: list[DiskReport] = []
    start = vm_backup(
        connection,
        found,
        ids,
        parent.checkpoint_id,
        full=parent.full,
        state=state,
        timeouts=timeouts,
        cancel=cancel,
    )
    try:
        with start as backup:
            for disk in backup.disks:
                report = _back_up_disk(connection, backup, disk, copying)
                reason = _why_full(report, parent) if incremental else None
                reports.append(replace(report, reason=reason))
    except BaseException as e:
        for report in reports:
            note(e, f"Disk {report.disk.name} is complete, and can be restored: {report.place}")
        raise
    return VMBackupReport(
        vm_id=backup.vm_id,
        vm_name=backup.vm_name,
        backup_id=backup.id,
        created=backup.created,
        checkpoint_id=backup.checkpoint_id,
        parent_id=backup.parent_id,
        disks=tuple(reports),
        not_backed_up=tuple(disk for disk in found.disks if disks is None and disk not in chosen),
        killed=tuple(killed),
        unfinished=tuple(each.place for each in before.unfinished) if before is not None else (),
    )


def _backups_before(
    target: BackupTarget, archive: tapestream.archive.Archive | None
) -> tapestream.archive.Archive | None:
    here = target.archive()
    if here is None or archive is None:
        return archive if here is None else here
    return here + archive


def _back_up_disk(
    connection: sdk.Connection, backup: VMBackup, disk: BackupDisk, copying: _Copying
) -> DiskReport:
    changes = disk.mode == "incremental"
    attachments = {OVF_NAME: backup.ovf.encode()} if backup.ovf else {}
    cancel = copying.options.cancel
    with (
        download_transfer(
            connection, backup, disk, host=copying.host, timeouts=copying.timeouts, cancel=cancel
        ) as transfer,
        tapestream.ImageioHTTPSource(
            transfer.url,
            context="dirty" if changes else "zero",
            fallback="full" if changes else None,
            cafile=copying.cafile,
            secure=copying.secure,
            proxy_url=transfer.proxy_url,
            info=backup.info(disk),
            cancel=cancel,
        ) as source,
    ):
        source.extents()  # it may turn out that this is a full backup, which its name says
        with copying.target.open(source.info, attachments, copying.options) as (sink, place):
            result = tapestream.copy(
                source,
                sink,
                progress=copying.progress(disk) if copying.progress is not None else None,
                max_rate=copying.max_rate,
                cancel=cancel,
            )
        place = copying.target.keep(result) or place
        taken = replace(disk, mode="full") if source.info.fallback else disk
        return DiskReport(taken, place, source.info, result)


def _why_full(report: DiskReport, parent: Parent) -> str | None:
    """Why a disk was copied whole although an incremental backup was asked for."""
    if report.disk.mode == "incremental":
        return None
    if parent.checkpoint_id is None:
        return "no backups here lead to a checkpoint that the engine still has"
    if report.disk.id in parent.full:
        return "no backups of it here lead to the checkpoint that the others start from"
    if report.info.fallback:
        return "the host has no list of what changed since the checkpoint"
    return "the engine has no record of what changed since the checkpoint"
