"""Cleans up what runs have left that were killed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from .._log import Log
from ..cancel import Cancel
from ..errors import OperationCancelledError, TapestreamError
from .backups import EngineBackup
from .patience import Patience, patience_of
from .restore_record import restore_of, undo_restore
from .sdk import sdk
from .state import Facts, OldRecord, old_records, state_directory
from .timeouts import EngineTimeouts
from .transfers import DiskTransfers
from .vm_checkpoints import remove_checkpoint

log = Log("tapestream.ovirt")


@dataclass(frozen=True)
class KilledRun:
    """What was found of a run that was killed, or could not clean up, and what was done.

    Attributes:
        file: The file that the run left.
        vm_name: The VM; "" if the file does not say.
        backup_id: The backup; "" for a restore, or if the file does not say.
        started: When the run started, as an RFC 3339 time; "" if the file does not say.
        done: What was done, as sentences without their full stops.
        problem: Why it could not be cleaned up, or is not ours to clean up. The file is still
            there. None if everything is done, and the file is gone.
        kind: Whether it was a backup or a restore.
    """

    file: Path
    vm_name: str = ""
    backup_id: str = ""
    started: str = ""
    done: tuple[str, ...] = ()
    problem: str | None = None
    kind: Literal["backup", "restore"] = "backup"

    def __str__(self) -> str:
        if not self.started:
            return f"{self.file}: {self.problem}"
        text = f"the {self.kind} of VM {self.vm_name} that started at {_local(self.started)}"
        done = ", ".join(self.done) or "nothing was left of it"
        problem = f"; {self.problem}" if self.problem else ""
        return f"{text} was killed, or could not clean up: {done}{problem}"


def _local(time: str) -> str:
    """A time of a file, in the local time zone, for people."""
    try:
        return f"{datetime.fromisoformat(time).astimezone():%Y-%m-%d %H:%M:%S %Z}"
    except ValueError:  # the file says something else
        return time


def clean_up_killed_runs(
    connection: sdk.Connection,
    *,
    state: str | os.PathLike[str] | None = None,
    timeouts: EngineTimeouts | None = None,
    cancel: Cancel | None = None,
) -> list[KilledRun]:
    """Do what runs could not do that were killed, or whose clean-up failed.

    See `vm_backup` and `restore_vm`. Their transfers are cancelled, their backups are finalized,
    and a checkpoint is removed unless every disk was copied. A VM that was not restored to its end
    is removed, with its new disks. Runs that are under way are left alone. Each run that is found
    is a warning in the log. `back_up_vm` and `restore_vm` call this first.

    Args:
        connection: The connection to the engine.
        state: The directory with the files of the runs; None for `$XDG_STATE_HOME/tapestream`.
        timeouts: How long to wait.
        cancel: Ends the waiting. What is not cleaned up then is left for the next call.

    Returns:
        What was found: also files of runs with another engine, and files that cannot be read. They
        are left alone.

    Raises:
        LocalIOError: The directory cannot be read.
        OperationCancelledError: It was cancelled.
    """
    patience = patience_of(timeouts, cancel)
    found = []
    for record in old_records(state_directory(state)):
        run = _cleaned(connection, record, patience)
        log.warning("Found %s", run)
        found.append(run)
    return found


@dataclass(frozen=True)
class _Run:
    """What the file of a run says."""

    engine: str
    vm_id: str
    vm_name: str
    backup_id: str
    started: str
    disks: frozenset[str]
    transfers: frozenset[str]
    checkpoint_id: str | None
    copied: frozenset[str]

    @property
    def is_complete(self) -> bool:
        return self.disks <= self.copied


def _run_of(facts: Sequence[Facts]) -> _Run | None:
    """Read the lines of a file; None if it is not about a backup, or is damaged."""
    try:
        first, *later = facts
        if first["kind"] != "backup":
            return None
        engine, vm_id, vm_name, backup_id, started = (
            str(first[name]) for name in ("engine", "vm_id", "vm_name", "backup_id", "started")
        )
        return _Run(
            engine,
            vm_id,
            vm_name,
            backup_id,
            started,
            frozenset(map(str, first["disks"])),
            frozenset(str(each["transfer"]) for each in later if "transfer" in each),
            next((each["checkpoint"] for each in later if "checkpoint" in each), None),
            frozenset(str(each["copied"]) for each in later if "copied" in each),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _cleaned(connection: sdk.Connection, record: OldRecord, patience: Patience) -> KilledRun:
    facts = record.facts or ()
    run = _run_of(facts) or restore_of(facts)
    if run is None:
        problem = "it is no file about a backup, or it is damaged: look at it, and remove it"
        return KilledRun(record.path, problem=problem)
    found = KilledRun(record.path, run.vm_name, started=run.started)
    if isinstance(run, _Run):
        found = replace(found, backup_id=run.backup_id)
    else:
        found = replace(found, kind="restore")
    if run.engine != connection.url:
        return replace(found, problem=f"it is left for a run with the engine {run.engine}")
    done: list[str] = []
    try:
        if isinstance(run, _Run):
            _clean(connection, run, patience, done)
        else:
            done += undo_restore(run.vm(connection, patience), run.disks)
        record.remove()
    except OperationCancelledError:
        raise
    except TapestreamError as e:
        return replace(found, done=tuple(done), problem=f"{e.message}; the next run tries again")
    return replace(found, done=tuple(done))


def _clean(connection: sdk.Connection, run: _Run, patience: Patience, done: list[str]) -> None:
    backup = EngineBackup(connection, run.vm_id, run.vm_name, run.backup_id, patience)
    is_open = backup.is_open()
    for disk_id in sorted(run.disks):
        transfers = DiskTransfers(connection, disk_id, f"the download of disk {disk_id}", patience)
        # While the backup is open, it locks its disks: every transfer of them is one of its own.
        for id_ in transfers.open_ids():
            if is_open or id_ in run.transfers:
                transfers.cancel(id_)
                done.append(f"a download of disk {disk_id} is cancelled")
    checkpoint_id = backup.finalize(must_succeed=False) or run.checkpoint_id
    if is_open:
        done.append("the backup is finalized")
    if checkpoint_id is None:
        return
    if run.is_complete:
        done.append(f"checkpoint {checkpoint_id} stays, because every disk was copied")
    elif remove_checkpoint(
        connection, run.vm_id, checkpoint_id, patience.limits, cancel=patience.cancel
    ):
        done.append(f"checkpoint {checkpoint_id} is removed, because not every disk was copied")
