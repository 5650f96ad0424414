"""What a restore has made in the engine, and how to remove it: the next run does it by a file."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial

from .cleaning import clean_up
from .disks import remove_disk
from .new_vm import NewVM
from .patience import Patience
from .sdk import sdk
from .state import Facts
from .transfers import DiskTransfers


@dataclass(frozen=True)
class RestoreRecord:
    """What the file of a restore says.

    Attributes:
        id: The id of the restore.
        engine: The URL of the engine.
        vm_name: The name of the new VM.
        started: When it started, as an RFC 3339 time.
        disks: The ids of the disks that were made, or may have been.
    """

    id: str
    engine: str
    vm_name: str
    started: str
    disks: tuple[str, ...] = ()

    @property
    def first(self) -> Facts:
        """The first line of the file."""
        return {
            "kind": "restore",
            "id": self.id,
            "engine": self.engine,
            "vm_name": self.vm_name,
            "started": self.started,
        }

    def vm(self, connection: sdk.Connection, patience: Patience) -> NewVM:
        """The new VM, which has a mark that no other VM has."""
        mark = f"tapestream is restoring this VM ({self.id})"
        return NewVM(connection, self.vm_name, mark, patience)


def new_record(connection: sdk.Connection, vm_name: str) -> RestoreRecord:
    """The record of a restore that begins now."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return RestoreRecord(str(uuid.uuid4()), connection.url, vm_name, now)


def restore_of(facts: Sequence[Facts]) -> RestoreRecord | None:
    """Read the lines of a file; None if it is not about a restore, or is damaged."""
    try:
        first, *later = facts
        if first["kind"] != "restore":
            return None
        id_, engine, vm_name, started = (
            str(first[name]) for name in ("id", "engine", "vm_name", "started")
        )
        disks = tuple(str(each["disk"]) for each in later if "disk" in each)
        return RestoreRecord(id_, engine, vm_name, started, disks)
    except (KeyError, TypeError, ValueError):
        return None


def undo_restore(
    new: NewVM, disk_ids: Sequence[str], done: Callable[[], object] = lambda: None
) -> list[str]:
    """Remove what a restore has made that did not end well; say what was there.

    A VM that has the disks, but not the mark, is restored: it stays.

    Args:
        new: The VM.
        disk_ids: The disks that were made for it.
        done: Called when everything is removed.

    Raises:
        EngineError: Something could not be removed.
    """
    if new.is_restored(disk_ids):
        done()
        return [f"the VM {new.name} stays, because it was restored"]
    found: list[str] = []

    def remove_vm() -> None:
        if new.remove():
            found.append(f"the VM {new.name} is removed")

    # Each is tried, even if one before it fails.
    clean_up(
        None,
        *(partial(_end_uploads, new, disk_id, found) for disk_id in disk_ids),
        remove_vm,
        *(partial(_remove_disk, new, disk_id, found) for disk_id in disk_ids),
    )
    done()
    return found


def _end_uploads(new: NewVM, disk_id: str, found: list[str]) -> None:
    what = f"the upload of disk {disk_id}"
    transfers = DiskTransfers(new.connection, disk_id, what, new.patience)
    # While one is ending, the disk is locked, and cannot be removed.
    for transfer_id in transfers.open_ids(ending=True):
        transfers.cancel(transfer_id)
        found.append(f"{what} is ended")


def _remove_disk(new: NewVM, disk_id: str, found: list[str]) -> None:
    if remove_disk(new.connection, disk_id, new.patience):
        found.append(f"the disk {disk_id} is removed")
