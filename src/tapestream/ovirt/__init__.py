"""Backup and restore of oVirt VMs: each step of a program alone, and whole programs.

It needs oVirt's engine SDK: `pip install "tapestream[ovirt]"`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy

if TYPE_CHECKING:
    from .backup_program import back_up_vm
    from .backup_report import DiskReport, VMBackupReport
    from .backups import BackupDisk, VMBackup, download_transfer, vm_backup
    from .connection import EngineConnection, EngineSettings, connect, read_settings
    from .disks import NewDisk, new_disk, qcow2_size
    from .leftovers import KilledRun, clean_up_killed_runs
    from .restore import RestoredDisk, VMRestoreReport, restore_vm
    from .restore_plan import archive_of
    from .signals import exit_on_sigterm
    from .timeouts import EngineTimeouts
    from .transfers import Transfer
    from .uploads import upload_transfer
    from .vm_checkpoints import Parent, VMCheckpoint, checkpoints, parent_of, remove_checkpoint
    from .vms import VM, VMDisk, VMEntry, find_vm, host_here, list_vms
else:
    # The same names again, loaded when first used; tests/test_names.py compares both lists.
    __getattr__, __dir__ = lazy(
        __name__,
        {
            ".backup_program": "back_up_vm",
            ".backup_report": "DiskReport VMBackupReport",
            ".backups": "BackupDisk VMBackup download_transfer vm_backup",
            ".connection": "EngineConnection EngineSettings connect read_settings",
            ".disks": "NewDisk new_disk qcow2_size",
            ".leftovers": "KilledRun clean_up_killed_runs",
            ".signals": "exit_on_sigterm",
            ".restore": "RestoredDisk VMRestoreReport restore_vm",
            ".restore_plan": "archive_of",
            ".timeouts": "EngineTimeouts",
            ".transfers": "Transfer",
            ".uploads": "upload_transfer",
            ".vm_checkpoints": "Parent VMCheckpoint checkpoints parent_of remove_checkpoint",
            ".vms": "VM VMDisk VMEntry find_vm host_here list_vms",
        },
    )

__all__ = [
    "VM",
    "BackupDisk",
    "DiskReport",
    "EngineConnection",
    "EngineSettings",
    "EngineTimeouts",
    "KilledRun",
    "NewDisk",
    "Parent",
    "RestoredDisk",
    "Transfer",
    "VMBackup",
    "VMBackupReport",
    "VMCheckpoint",
    "VMDisk",
    "VMEntry",
    "VMRestoreReport",
    "archive_of",
    "back_up_vm",
    "checkpoints",
    "clean_up_killed_runs",
    "connect",
    "download_transfer",
    "exit_on_sigterm",
    "find_vm",
    "host_here",
    "list_vms",
    "new_disk",
    "parent_of",
    "qcow2_size",
    "read_settings",
    "remove_checkpoint",
    "restore_vm",
    "upload_transfer",
    "vm_backup",
]
