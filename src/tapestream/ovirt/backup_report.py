"""What a backup of a VM was, as `back_up_vm` returns it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import tapestream

from .._readable import count_text, size_text, time_text
from .._shown import short_repr
from .backups import BackupDisk
from .leftovers import KilledRun
from .vms import VMDisk


@dataclass(frozen=True, repr=False)
class DiskReport:
    """The backup of a disk.

    Attributes:
        disk: The disk, and the mode of the backup that was taken.
        place: Where it is: a path, or a tape and its file.
        info: What the backup says about itself.
        result: What the copy did.
        reason: Why it is a full backup although an incremental one was asked for; None otherwise.
    """

    disk: BackupDisk
    place: str
    info: tapestream.BackupInfo
    result: tapestream.CopyResult
    reason: str | None = None

    def __repr__(self) -> str:
        data = size_text(self.result.data_bytes)
        return short_repr(self, f"{self.disk.name}, {self.disk.mode}, {data}, {self.place}")


@dataclass(frozen=True, repr=False)
class VMBackupReport:
    """The backup of a VM: every disk was copied.

    Attributes:
        vm_id: The VM.
        vm_name: Its name.
        backup_id: The backup.
        created: When it was made: the disks are backed up as they were then.
        checkpoint_id: The checkpoint from which the next incremental backup can start; None if no
            disk can have one.
        parent_id: The checkpoint from which this one starts; None for a full backup.
        disks: The backups of the disks, in the order in which they were made.
        not_backed_up: Disks of the VM that the engine does not back up: those that the VM does not
            use, and LUNs. Empty if disks were chosen.
        killed: What was found of earlier runs that were killed, and what was done.
        unfinished: Files in the folder, of backups that were not finished: nothing needs them.
    """

    vm_id: str
    vm_name: str
    backup_id: str
    created: datetime
    checkpoint_id: str | None
    parent_id: str | None
    disks: tuple[DiskReport, ...]
    not_backed_up: tuple[VMDisk, ...] = ()
    killed: tuple[KilledRun, ...] = ()
    unfinished: tuple[str, ...] = ()

    def __repr__(self) -> str:
        data = size_text(sum(disk.result.data_bytes for disk in self.disks))
        disks = f"{count_text(len(self.disks), 'disk')}, {data} of data"
        return short_repr(self, f"{self.vm_name}, {time_text(self.created)}, {disks}")
