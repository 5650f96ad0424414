"""Backups of a VM: started, waited for, and finalized in every outcome."""

from __future__ import annotations

import os
import uuid
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, Literal

import tapestream

from .._log import Log
from .._readable import count_text, size_text, time_text
from .._shown import short_repr
from ..cancel import Cancel
from ..errors import EngineError, UsageError
from .asking import CONFLICT, NOT_FOUND, asking, repeat
from .cleaning import clean_up, uninterrupted
from .patience import Patience, patience_of
from .sdk import sdk, types
from .state import RunRecord, state_directory
from .timeouts import EngineTimeouts
from .transfers import INACTIVITY_TIMEOUT, Transfer, running_transfer
from .vm_checkpoints import remove_checkpoint
from .vms import VM, VMDisk, the_vm
from .waiting import Waiting, wait_for

log = Log("tapestream.ovirt")
Phase = types.BackupPhase
Mode = Literal["full", "incremental"]
_ENDED = (Phase.SUCCEEDED, Phase.FAILED)
_ENDING = (Phase.FINALIZING, *_ENDED)


@dataclass(frozen=True, repr=False)
class BackupDisk:
    """A disk of a backup.

    Attributes:
        id: Its id.
        name: Its name.
        size: Its virtual size in bytes.
        mode: "incremental" if the backup has what changed since the parent checkpoint; "full" if it
            has to be copied whole.
    """

    id: str
    name: str
    size: int
    mode: Mode

    def __repr__(self) -> str:
        return short_repr(self, f"{self.name} ({self.id}), {size_text(self.size)}, {self.mode}")


class VMBackup:
    """A backup that is ready: its disks can be downloaded.

    Attributes:
        id: Its id.
        vm_id: The VM.
        vm_name: The VM's name.
        ovf: The VM's configuration, from which the engine can make it again; "" if it has none.
        created: When it was made: the disks are backed up as they were then.
        checkpoint_id: The checkpoint that it made; None if no disk can have one.
        parent_id: The checkpoint that it starts from; None for a full backup.
        disks: Its disks.
    """

    def __init__(
        self,
        vm: VM,
        ready: Any,
        disks: tuple[BackupDisk, ...],
        record: RunRecord,
    ) -> None:
        self.id: str = ready.id
        self.vm_id = vm.id
        self.vm_name = vm.name
        self.ovf = vm.ovf
        created: datetime | None = ready.creation_date
        if created is None or created.utcoffset() is None:
            created = datetime.now(timezone.utc)
        self.created = created
        self.checkpoint_id: str | None = ready.to_checkpoint_id
        self.parent_id: str | None = ready.from_checkpoint_id
        self.disks = disks
        self._record = record
        self._copied: set[str] = set()

    def __repr__(self) -> str:
        what = f"{self.vm_name}, {time_text(self.created)}, {count_text(len(self.disks), 'disk')}"
        return short_repr(self, what)

    def disk(self, disk: str | BackupDisk) -> BackupDisk:
        """One of its disks, by id or name.

        Raises:
            UsageError: It has no such disk.
        """
        wanted = disk.id if isinstance(disk, BackupDisk) else disk
        for each in self.disks:
            if wanted in (each.id, each.name):
                return each
        raise UsageError(f"the backup of VM {self.vm_name} has no disk {wanted}")

    def info(self, disk: str | BackupDisk) -> tapestream.BackupInfo:
        """What is known about the backup of a disk, for the `info` of a source."""
        one = self.disk(disk)
        return tapestream.BackupInfo(
            vm_id=self.vm_id,
            vm_name=self.vm_name,
            disk_id=one.id,
            disk_name=one.name,
            backup_id=self.id,
            checkpoint_id=self.checkpoint_id,
            parent_checkpoint_id=self.parent_id if one.mode == "incremental" else None,
            created=self.created,
        )

    def started(self, transfer_id: str, disk: str | BackupDisk) -> None:
        """Note that a transfer of a disk was started; `download_transfer` does that.

        Raises:
            LocalIOError: It cannot be noted in the file of this run.
        """
        self._record.note({"transfer": transfer_id, "disk": self.disk(disk).id})

    def copied(self, disk: str | BackupDisk) -> None:
        """Note that a disk is copied. `download_transfer` does that when its block has ended well.

        Raises:
            LocalIOError: It cannot be noted in the file of this run.
        """
        one = self.disk(disk)
        self._record.note({"copied": one.id})
        self._copied.add(one.id)

    @property
    def missing(self) -> tuple[BackupDisk, ...]:
        """The disks that are not copied yet."""
        return tuple(disk for disk in self.disks if disk.id not in self._copied)


@contextmanager
def vm_backup(
    connection: sdk.Connection,
    vm: str | VM,
    disks: Iterable[str] | None = None,
    parent: str | None = None,
    *,
    full: Collection[str] = (),
    state: str | os.PathLike[str] | None = None,
    timeouts: EngineTimeouts | None = None,
    cancel: Cancel | None = None,
) -> Iterator[VMBackup]:
    """Start a backup of a VM, wait until it is ready, and finalize it in every outcome.

        with vm_backup(connection, "mail") as backup:
            for disk in backup.disks:
                with download_transfer(connection, backup, disk) as transfer:
                    ...

    Every disk is backed up as it was when the backup started. The engine makes a checkpoint then.
    It counts only if every disk was copied: it is removed if the block raises, or ends without a
    download of each disk. If the clean-up fails after another error, that error is raised, and the
    other one is a note of it.

    If the program is killed, `clean_up_killed_runs` does the rest.

    Args:
        connection: The connection to the engine.
        vm: The VM: its id, its name, or what `find_vm` returned.
        disks: Ids or names of disks; None for all that can be backed up.
        parent: The checkpoint that an incremental backup starts from, such as that of `parent_of`;
            None for a full backup.
        full: The ids of disks to copy whole although there is a parent.
        state: The directory for a file about this run; None for `$XDG_STATE_HOME/tapestream`.
        timeouts: How long to wait.
        cancel: Ends the waiting until it is ready. The end of the backup is waited for in any case.

    Raises:
        UsageError: There is no such VM or disk.
        LocalIOError: The file about this run cannot be written.
        EnginePhaseError: The backup did not get ready, or could not be finalized.
        EngineError: The engine refused something, or cannot be reached.
        OperationCancelledError: It was cancelled.
    """
    patience = patience_of(timeouts, cancel)
    found = the_vm(connection, vm)
    chosen = found.choose(disks)
    id_ = str(uuid.uuid4())
    run = EngineBackup(connection, found.id, found.name, id_, patience)
    ending = replace(run, patience=patience.to_the_end())
    first = {
        "kind": "backup",
        "engine": connection.url,
        "vm_id": found.id,
        "vm_name": found.name,
        "backup_id": id_,
        "disks": [disk.id for disk in chosen],
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    with RunRecord(state_directory(state), id_, first) as record:
        backup: VMBackup | None = None
        try:
            run.start(chosen, parent)
            ready = run.wait_until_ready()
            record.note({"checkpoint": ready.to_checkpoint_id})
            backup = VMBackup(found, ready, run.disks(chosen, full), record)
            yield backup
        except BaseException as e:
            clean_up(e, lambda: _end(ending, record, keep=False))
            raise
        if backup.missing:
            names = ", ".join(disk.name for disk in backup.missing)
            log.warning("The checkpoint is removed, because these disks were not copied: %s", names)
        keep = not backup.missing
        clean_up(None, lambda: _end(ending, record, keep=keep))


def _end(run: EngineBackup, record: RunRecord, *, keep: bool) -> None:
    """End a backup. If that fails, the record stays, so that the next run tries again."""
    checkpoint_id = run.finalize(must_succeed=keep)
    if checkpoint_id is not None and not keep:
        remove_checkpoint(run.connection, run.vm_id, checkpoint_id, run.patience.limits)
    record.remove()


@contextmanager
def download_transfer(
    connection: sdk.Connection,
    backup: VMBackup,
    disk: str | BackupDisk,
    *,
    host: str | None = None,
    inactivity_timeout: int = INACTIVITY_TIMEOUT,
    timeouts: EngineTimeouts | None = None,
    cancel: Cancel | None = None,
) -> Iterator[Transfer]:
    """Download a disk of a backup: start a transfer, and finalize or cancel it in every outcome.

    If the block ends well, the transfer is finalized, and the disk counts as copied. After an
    error, the transfer is cancelled.

    Args:
        connection: The connection to the engine.
        backup: The backup, which is ready.
        disk: The disk: its id, its name, or one of `backup.disks`.
        host: The id of the host that serves it, such as that of `host_here`; None for any.
        inactivity_timeout: Seconds after which the engine ends a transfer that nobody uses.
        timeouts: How long to wait.
        cancel: Ends the waiting until it has started. Its end is waited for in any case.

    Raises:
        UsageError: The backup has no such disk.
        EnginePhaseError: It did not start, or could not be finalized.
        EngineError: The engine refused something, or cannot be reached.
        OperationCancelledError: It was cancelled.
    """
    one = backup.disk(disk)
    wanted = types.ImageTransfer(
        disk=types.Disk(id=one.id),
        backup=types.Backup(id=backup.id),
        host=types.Host(id=host) if host is not None else None,
        direction=types.ImageTransferDirection.DOWNLOAD,
        format=types.DiskFormat.RAW,
        inactivity_timeout=inactivity_timeout,
        # A paused download could be resumed, but nobody would do that.
        timeout_policy=types.ImageTransferTimeoutPolicy.CANCEL,
    )
    with running_transfer(
        connection,
        wanted,
        f"the download of disk {one.name}",
        patience_of(timeouts, cancel),
        lambda transfer_id: backup.started(transfer_id, one),
    ) as transfer:
        yield transfer
    backup.copied(one)


@dataclass(frozen=True)
class EngineBackup:
    """A backup in the engine, in whatever phase, or not there.

    Attributes:
        connection: The connection to the engine.
        vm_id: The VM.
        vm_name: The VM's name, for errors.
        id: The id that was asked for.
        patience: How long to wait, and what ends that early.
    """

    connection: sdk.Connection
    vm_id: str
    vm_name: str
    id: str
    patience: Patience

    @property
    def description(self) -> str:
        """What people see, and by what it is found if an old engine gives it another id."""
        return f"tapestream {self.id}"

    @property
    def what(self) -> str:
        """What it is, for errors."""
        return f"backup {self.id} of VM {self.vm_name}"

    def find(self) -> Any:
        """The backup; None if the engine does not have it, or not even the VM."""
        try:
            with asking(f"look for {self.what}"):
                backups = self._all().list()
        except EngineError as e:
            if e.status != NOT_FOUND:
                raise
            return None
        ours = (
            each for each in backups if each.id == self.id or each.description == self.description
        )
        return next(ours, None)

    def start(self, disks: Iterable[VMDisk], parent: str | None) -> None:
        """Start it. A request whose reply was lost is not made twice."""
        wanted = types.Backup(
            id=self.id,
            description=self.description,
            disks=[types.Disk(id=disk.id) for disk in disks],
            from_checkpoint_id=parent,
        )

        def add() -> None:
            with asking(f"start a backup of VM {self.vm_name}"):
                uninterrupted(lambda: self._all().add(wanted))

        try:
            repeat(add, self.patience, done=lambda: self.find() is not None)
        except EngineError as e:
            if e.status == CONFLICT and (others := self._others()):
                e.hint = f"A backup of this VM is open: {others}. Finalize it if nobody uses it."
            raise

    def wait_until_ready(self) -> Any:
        """Wait until it is ready, and return it."""
        on_the_way = (Phase.INITIALIZING, Phase.STARTING)
        return self._wait(self.id, [Phase.READY], on_the_way, self.patience.limits.backup_start)

    def disks(self, chosen: Iterable[VMDisk], full: Collection[str]) -> tuple[BackupDisk, ...]:
        """Its disks, and how each is backed up; those in `full` are copied whole."""
        with asking(f"list the disks of {self.what}"):
            found = self._one(self.id).disks_service().list()
        incremental = {
            disk.id for disk in found if disk.backup_mode is types.DiskBackupMode.INCREMENTAL
        }
        return tuple(
            BackupDisk(
                disk.id,
                disk.name,
                disk.size,
                "incremental" if disk.id in incremental - set(full) else "full",
            )
            for disk in chosen
        )

    def is_open(self) -> bool:
        """Whether it is there, and somebody has to finalize it."""
        found = repeat(self.find, self.patience)
        return found is not None and found.phase not in _ENDING

    def finalize(self, *, must_succeed: bool) -> str | None:
        """Finalize it, and wait for its end.

        Args:
            must_succeed: Whether it is an error if the engine says that it has failed.

        Returns:
            The checkpoint that it made, which may be removed only now; None if the engine does not
            have it, or it made none.
        """
        found = repeat(self.find, self.patience, ends=True)
        if found is None:
            return None
        self._finalize(found.id, must_succeed=must_succeed)
        # The checkpoint may have been made meanwhile.
        if found.to_checkpoint_id is None:
            found = repeat(self.find, self.patience, ends=True)
        return None if found is None else found.to_checkpoint_id

    def _others(self) -> str:
        """The backups of the VM that are open; "" if that cannot be known."""
        with suppress(EngineError), asking(f"list the backups of VM {self.vm_name}"):
            return ", ".join(
                f"{each.id} ({each.description})" if each.description else each.id
                for each in self._all().list()
                if each.phase not in _ENDED
            )
        return ""

    def _finalize(self, id_: str, *, must_succeed: bool) -> None:
        one = self._one(id_)

        def finalize() -> None:
            with asking(f"finalize {self.what}"):
                one.finalize()

        def is_ending() -> bool:
            with asking(f"look at {self.what}"):
                return one.get().phase in _ENDING

        try:
            repeat(finalize, self.patience, done=is_ending, ends=True)
            if must_succeed:
                goal, on_the_way = [Phase.SUCCEEDED], [Phase.READY, Phase.FINALIZING]
            else:  # also from a phase that the SDK does not know: it is to end, not to be good
                goal, on_the_way = [*_ENDED], [*Phase, None]
            self._wait(id_, goal, on_the_way, self.patience.limits.backup_end)
        except EngineError as e:
            if e.status != NOT_FOUND:  # the engine forgets a backup some time after its end
                raise

    def _wait(
        self, id_: str, goal: Collection[Any], on_the_way: Collection[Any], seconds: float
    ) -> Any:
        waiting = Waiting(self.what, goal, on_the_way, seconds, about=id_)
        return wait_for(self.connection, waiting, self._one(id_).get, self.patience)

    def _one(self, id_: str) -> Any:
        return self._all().backup_service(id_)

    def _all(self) -> Any:
        vms = self.connection.system_service().vms_service()
        return vms.vm_service(self.vm_id).backups_service()
