"""Checkpoints of a VM: which there are, where an incremental backup can start, and removing one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import tapestream

from .._log import Log
from ..cancel import Cancel
from ..errors import EngineError
from .asking import NOT_FOUND, asking, repeat
from .patience import patience_of
from .sdk import sdk, types
from .timeouts import EngineTimeouts
from .vms import VM, VMDisk, the_vm
from .waiting import Waiting, wait_for

log = Log("tapestream.ovirt")
_GONE = "removed"


@dataclass(frozen=True)
class VMCheckpoint:
    """A checkpoint of a VM.

    Attributes:
        id: Its id.
        created: When it was made.
        usable: Whether an incremental backup can start from it, as far as the engine knows. It
            does not know whether what was backed up then is complete, and still there.
    """

    id: str
    created: datetime | None
    usable: bool


@dataclass(frozen=True)
class Parent:
    """Where the next incremental backup of a VM starts.

    Attributes:
        checkpoint_id: The checkpoint; None if every disk needs a full backup.
        full: The ids of the disks that need a full backup: no backups of them here lead to that
            checkpoint.
    """

    checkpoint_id: str | None
    full: tuple[str, ...]


def checkpoints(connection: sdk.Connection, vm: str | VM) -> list[VMCheckpoint]:
    """The checkpoints of a VM that the engine has, oldest first.

    Args:
        connection: The connection to the engine.
        vm: The VM: its id, its name, or what `find_vm` returned.

    Raises:
        UsageError: There is no such VM.
        EngineError: The engine refused a request, or cannot be reached.
    """
    vm = the_vm(connection, vm)
    with asking(f"list the checkpoints of VM {vm.name}"):
        found = _checkpoints(connection, vm.id).list()
    parents = {each.id: each.parent_id for each in found}

    def depth(id_: str) -> int:
        """How many are before it; the engine links each to the one before."""
        before = 0
        while (parent := parents.get(id_)) is not None and before < len(parents):
            before, id_ = before + 1, parent
        return before

    return [
        VMCheckpoint(each.id, each.creation_date, each.state is types.CheckpointState.CREATED)
        for each in sorted(found, key=lambda each: depth(each.id))
    ]


def parent_of(
    connection: sdk.Connection,
    vm: str | VM,
    disks: Iterable[str] | None,
    archive: tapestream.archive.Archive,
) -> Parent:
    """Choose the checkpoint from which the next incremental backup of a VM starts.

    The engine makes a checkpoint when a backup starts, for all its disks. It is only good for a
    disk if the disk can be restored as it was then. So the newest one that the engine has may be
    good for some disks only, or for none. This is the newest one that is good for as many of the
    disks as possible; the others need a full backup, in the same run.

    A disk that was converted to raw has lost its record of changes, but the checkpoints still list
    it: a backup that starts from one of these would fail. They are not chosen, with a warning in
    the log.

    Args:
        connection: The connection to the engine.
        vm: The VM: its id, its name, or what `find_vm` returned.
        disks: Ids or names of the disks; None for all that can be backed up.
        archive: The backups that are there, by which to restore later.

    Raises:
        UsageError: There is no such VM or disk.
        EngineError: The engine refused a request, or cannot be reached.
    """
    vm = the_vm(connection, vm)
    chosen = vm.choose(disks)
    good = {disk.id: set(archive.good_checkpoints(vm.id, disk.id)) for disk in chosen}
    usable = [each.id for each in reversed(checkpoints(connection, vm)) if each.usable]
    for raw in (disk for disk in chosen if disk.is_raw):
        usable = [id_ for id_ in usable if not _has_disk(connection, vm, id_, raw)]
    # Of several, `max` takes the first: the newest.
    best = max(usable, key=lambda id_: sum(id_ in each for each in good.values()), default=None)
    full = tuple(disk_id for disk_id, each in good.items() if best not in each)
    return Parent(None if len(full) == len(good) else best, full)


def _has_disk(connection: sdk.Connection, vm: VM, checkpoint_id: str, raw: VMDisk) -> bool:
    """Whether a checkpoint lists a disk, which is raw."""
    one = _checkpoints(connection, vm.id).checkpoint_service(checkpoint_id)
    with asking(f"list the disks of checkpoint {checkpoint_id}"):
        has = any(disk.id == raw.id for disk in one.disks_service().list())
    if has:
        log.warning(
            "No incremental backup can start from checkpoint %s: disk %s is raw now",
            checkpoint_id,
            raw.name,
        )
    return has


def remove_checkpoint(
    connection: sdk.Connection,
    vm_id: str,
    checkpoint_id: str,
    timeouts: EngineTimeouts | None = None,
    *,
    cancel: Cancel | None = None,
) -> bool:
    """Remove a checkpoint, and wait until it is gone.

    The engine removes none while a backup of the VM is open.

    Args:
        connection: The connection to the engine.
        vm_id: The id of the VM.
        checkpoint_id: The checkpoint.
        timeouts: How long to wait.
        cancel: Ends the waiting; the engine may remove it all the same.

    Returns:
        False if it was not there any more.

    Raises:
        EngineTimeoutError: It is not gone in time.
        EngineError: The engine refused it for too long, or cannot be reached.
        OperationCancelledError: It was cancelled.
    """
    patience = patience_of(timeouts, cancel)
    one = _checkpoints(connection, vm_id).checkpoint_service(checkpoint_id)
    what = f"checkpoint {checkpoint_id}"

    def remove() -> None:
        with asking(f"remove {what}"):
            one.remove()

    def look() -> Any:
        try:
            return one.get().state
        except sdk.NotFoundError:
            return _GONE

    try:
        repeat(remove, patience, ends=True)
    except EngineError as e:
        if e.status != NOT_FOUND:
            raise
        return False
    limit = patience.limits.checkpoint_end
    on_the_way = [*types.CheckpointState, None]
    waiting = Waiting(what, [_GONE], on_the_way, limit, checkpoint_id, phase_of=lambda state: state)
    wait_for(connection, waiting, look, patience)
    return True


def _checkpoints(connection: sdk.Connection, vm_id: str) -> Any:
    return connection.system_service().vms_service().vm_service(vm_id).checkpoints_service()
