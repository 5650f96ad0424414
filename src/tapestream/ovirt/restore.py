"""Restores a VM: new disks, their contents, and a new VM from the OVF that has them."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import tapestream

from .._readable import count_text, size_text, time_text
from .._shown import short_repr
from ..cancel import Cancel
from ..errors import UsageError
from .cleaning import clean_up
from .connection import host_trust
from .disks import NewDisk, new_disk, qcow2_size, storage_domain_id
from .leftovers import KilledRun, clean_up_killed_runs
from .new_vm import cluster_id, has_vm, require_free_name
from .patience import Patience, patience_of
from .restore_plan import Place, PlannedDisk, RestorePlan, archive_of, plan_restore
from .restore_record import new_record, undo_restore
from .sdk import sdk
from .state import RunRecord, state_directory
from .timeouts import EngineTimeouts
from .uploads import upload_transfer
from .vms import VDSM_ID, VMDisk, host_here

# Letters and digits of any language, as the engine takes them in the name of a VM.
_NAME = re.compile(r"[\w.+-]{1,255}")


@dataclass(frozen=True, repr=False)
class RestoredDisk:
    """A disk that was restored.

    Attributes:
        id: The id of the new disk.
        name: Its name.
        info: What the backup says about itself: the disk is as it was then.
        places: The backups that it was restored from, the oldest first.
        result: What the copy did.
    """

    id: str
    name: str
    info: tapestream.BackupInfo
    places: tuple[str, ...]
    result: tapestream.CopyResult

    def __repr__(self) -> str:
        data = size_text(self.result.data_bytes)
        backups = count_text(len(self.places), "backup")
        return short_repr(self, f"{self.name} ({self.id}), {data} from {backups}")


@dataclass(frozen=True, repr=False)
class VMRestoreReport:
    """What `restore_vm` did.

    Attributes:
        vm_id: The id of the new VM.
        vm_name: Its name.
        created: When the backup was made: the VM is as it was then. None if it does not say.
        disks: Its disks.
        left_out: The names of disks that the VM had, and that were not restored: LUNs, which are in
            no backup, and disks that were not asked for.
        has_new_ids: Whether the VM got a new id and new MAC addresses, because the engine still has
            the old VM.
        killed: What was found of earlier runs that were killed, and what was done.
    """

    vm_id: str
    vm_name: str
    created: datetime | None
    disks: tuple[RestoredDisk, ...]
    left_out: tuple[str, ...]
    has_new_ids: bool
    killed: tuple[KilledRun, ...] = ()

    def __repr__(self) -> str:
        then = f" as of {time_text(self.created)}" if self.created else ""
        return short_repr(self, f"{self.vm_name}{then}, {count_text(len(self.disks), 'disk')}")


def restore_vm(
    connection: sdk.Connection,
    sources: Place | Iterable[Place],
    *,
    name: str,
    vm: str | None = None,
    at: datetime | str | None = None,
    disks: Iterable[str] | None = None,
    ovf: str | None = None,
    cluster: str | None = None,
    storage_domain: str | None = None,
    verify_first: bool = False,
    max_rate: int | tapestream.RateLimit | None = None,
    progress: Callable[[NewDisk], Any] | None = None,
    cafile: str | os.PathLike[str] | None = None,
    secure: bool | None = None,
    vdsm_id: str = VDSM_ID,
    state: str | os.PathLike[str] | None = None,
    timeouts: EngineTimeouts | None = None,
    cancel: Cancel | None = None,
) -> VMRestoreReport:
    """Restore a VM as it was at a point in time, as a new VM with new disks.

        with connect() as connection:
            restore_vm(connection, "/backups", vm="mail", name="mail-restored")

    Everything is checked before the engine is changed: that each disk has a chain, that the backups
    of all disks were made together, that there is an OVF, and that the name is free. Then the VM is
    made, and a disk after the other is made and written. The disks are attached at the end, in the
    order and with the settings that the OVF has. The VM is down.

    First, what earlier runs have left that were killed is cleaned up.

    After any error, and after a Ctrl-C, the new VM and its disks are removed. If that fails, its
    errors are notes of the first one. If the program is killed, `clean_up_killed_runs` does it: the
    comment of the VM says until the end that it is being restored.

    If the engine still has the old VM, the new one gets a new id and new MAC addresses. Otherwise
    it gets those of the old VM. Disks always get new ids, and so have no checkpoints: the next
    backup of the VM is a full one.

    Args:
        connection: The connection to the engine, made with `connect`.
        sources: A folder with backups, tars, a `TapeDrive` with a tape, or an `Archive`; or several
            of them.
        name: The name of the new VM.
        vm: Name or id of the VM in the backups; None if all are of one VM.
        at: The point in time, as for `Archive.find`; None for the newest backup.
        disks: Names or ids of the disks to restore; None for all that the VM had.
        ovf: The OVF; None for the one that was kept with the backup as `vm.ovf`.
        cluster: Name or id of the cluster; None for that of the OVF.
        storage_domain: Name or id of the storage domain for the disks; None for the one where each
            of them was.
        verify_first: Read all backups twice: write only after every byte was checked.
        max_rate: Bytes per second at most, as for `copy`.
        progress: Called with each disk before it is written; returns the `progress` of its copy.
        cafile: The CA that signed the hosts' certificates; None for that of the settings of
            `connect`.
        secure: False to accept any certificate of a host; None for the settings of `connect`.
        vdsm_id: The file in which a host has its own id. If this is a host, it takes the data over
            its unix socket.
        state: The directory for a file about this run; None for `$XDG_STATE_HOME/tapestream`.
        timeouts: How long to wait for the engine.
        cancel: Ends the restore, as a Ctrl-C does: also a wait for the engine, except that for the
            end of an upload. What was made is removed. A request that is under way ends first.

    Returns:
        What was done. The VM is complete.

    Raises:
        NoRestorePointError: There is no backup of all disks for that time, or it cannot be
            restored. Nothing was changed.
        UsageError: An argument cannot work. Nothing was changed.
        EngineError: The engine refused something, failed, or cannot be reached.
        TapestreamError: A backup is damaged, or the copy failed.
    """
    patience = patience_of(timeouts, cancel)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(
            f"a VM cannot have the name {name!r}",
            hint="It can have letters, digits, '-', '_', '.' and '+'.",
        )
    plan = plan_restore(
        archive_of(sources, cancel), vm=vm, at=at, disks=disks, ovf=ovf, cancel=cancel
    )
    require_free_name(connection, name)
    cluster = cluster_id(connection, cluster, plan.ovf.cluster)
    domains = [_domain_of(connection, disk, storage_domain, patience) for disk in plan.disks]
    killed = clean_up_killed_runs(connection, state=state, timeouts=timeouts, cancel=cancel)
    new_ids = has_vm(connection, plan.ovf.vm_id)
    run = _Run(
        connection,
        patience,
        _host(connection, plan, domains, vdsm_id),
        *host_trust(connection, cafile, secure),
        {"verify_first": verify_first, "max_rate": max_rate, "cancel": cancel},
        progress,
    )
    begun = new_record(connection, name)
    new = begun.vm(connection, patience)
    ending = begun.vm(connection, patience.to_the_end())
    with RunRecord(state_directory(state), begun.id, begun.first) as record:
        try:
            vm_id = new.make(plan.ovf_text, cluster, new_ids=new_ids)
            restored = [
                run.restore(disk, domain, record)
                for disk, domain in zip(plan.disks, domains, strict=True)
            ]
            for disk, done in zip(plan.disks, restored, strict=True):
                new.attach(vm_id, done.id, disk.ovf)
            new.unmark(vm_id, plan.ovf.comment)
        except BaseException as e:
            clean_up(e, lambda: undo_restore(ending, run.disk_ids, record.remove))
            raise
        clean_up(None, record.remove)
    return VMRestoreReport(
        vm_id=vm_id,
        vm_name=name,
        created=plan.time,
        disks=tuple(restored),
        left_out=tuple(disk.name for disk in plan.left_out),
        has_new_ids=new_ids,
        killed=tuple(killed),
    )


@dataclass(frozen=True)
class _Run:
    """How one disk after the other is restored: what `restore_vm` was given.

    Attributes:
        disk_ids: The disks that were made so far, or may have been.
    """

    connection: sdk.Connection
    patience: Patience
    host: str | None
    cafile: str | os.PathLike[str] | None
    secure: bool
    options: dict[str, Any]
    progress: Callable[[NewDisk], Any] | None
    disk_ids: list[str] = field(default_factory=list)

    def restore(self, disk: PlannedDisk, domain: str, record: RunRecord) -> RestoredDisk:
        """Make a disk, and restore its contents."""
        cancel = self.options["cancel"]
        disk_id = str(uuid.uuid4())
        record.note({"disk": disk_id})
        self.disk_ids.append(disk_id)
        info = disk.chain.info
        with disk.chain.open(cancel=cancel) as chain:
            extents = tapestream.merge_chain(chain, cancel=cancel).extents()
            is_thin = disk.ovf.is_sparse and not disk.ovf.is_raw
            with (
                new_disk(
                    self.connection,
                    disk.ovf.name,
                    info.size,
                    domain,
                    disk_format="raw" if disk.ovf.is_raw else "cow",
                    sparse=disk.ovf.is_sparse,
                    initial_size=qcow2_size(extents, info.size) if is_thin else None,
                    wipe_after_delete=disk.ovf.wipe_after_delete,
                    disk_id=disk_id,
                    timeouts=self.patience.limits,
                    cancel=cancel,
                ) as new,
                upload_transfer(
                    self.connection,
                    new,
                    host=self.host,
                    timeouts=self.patience.limits,
                    cancel=cancel,
                ) as transfer,
                tapestream.ImageioUploadSink(
                    transfer.url,
                    proxy_url=transfer.proxy_url,
                    cafile=self.cafile,
                    secure=self.secure,
                    cancel=cancel,
                ) as sink,
            ):
                progress = self.progress(new) if self.progress is not None else None
                result = tapestream.restore_chain(chain, sink, progress=progress, **self.options)
        places = tuple(backup.place for backup in disk.chain.backups)
        return RestoredDisk(new.id, disk.ovf.name, info, places, result)


def _domain_of(
    connection: sdk.Connection, disk: PlannedDisk, wanted: str | None, patience: Patience
) -> str:
    """The id of the storage domain for a disk."""
    name = wanted or disk.ovf.storage_domain_id
    if name is None:
        raise UsageError(
            f"it is not known in which storage domain disk {disk.ovf.name} was",
            hint="Pass storage_domain.",
        )
    try:
        return storage_domain_id(connection, name, patience)
    except UsageError as e:
        if wanted is not None:
            raise
        raise UsageError(
            f"disk {disk.ovf.name} was in storage domain {name}, which the engine does not have",
            hint=f"Pass storage_domain. {e.hint}",
        ) from e


def _host(
    connection: sdk.Connection, plan: RestorePlan, domains: list[str], vdsm_id: str
) -> str | None:
    """The id of the host that this program runs on, if it can serve the new disks."""
    disks = [
        VMDisk(disk.ovf.id, disk.ovf.name, disk.chain.info.size, True, True, domain)
        for disk, domain in zip(plan.disks, domains, strict=True)
    ]
    return host_here(connection, disks, vdsm_id)
