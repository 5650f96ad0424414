"""Puts the backups of a chain in order: by checkpoint ids, not by names, dates or given order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .._log import Log
from .._readable import kind_text
from ..errors import ChainError, UsageError
from .info import BackupInfo, local_time

log = Log("tapestream.chain")


def order_by_checkpoint(
    backups: Sequence[BackupInfo], places: Sequence[str | None] = ()
) -> list[int]:
    """Put backups in the order of their chain, from its last full backup on.

    Args:
        backups: The backups, in any order. A full backup may have a parent, too, if it was taken
            instead of an incremental one; the backups before it are not needed.
        places: Where each backup is, for errors.

    Returns:
        Indexes into `backups`, oldest first, from the last full backup on.

    Raises:
        ChainError: They are not one chain of one disk.
        UsageError: No backup was given.
    """
    if not backups:
        raise UsageError("there is no backup to restore")
    return _Backups(backups, places or [None] * len(backups)).in_order()


def describe_backup(backup: BackupInfo, place: str | None = None) -> str:
    """Say which backup of a chain this is, and where it is, in an error."""
    which = backup.backup_id or backup.checkpoint_id or "without id"
    disk = f" of disk {backup.disk_name}" if backup.disk_name else ""
    when = f" of {local_time(backup.created)}" if backup.created else ""
    kind = kind_text(backup.context)
    return f"the {kind} backup {which}{disk}{when}{f' ({place})' if place else ''}"


class _Backups:
    """The given backups, with a description of each for errors."""

    def __init__(self, backups: Sequence[BackupInfo], places: Sequence[str | None]) -> None:
        self._backups = backups
        self._names = [describe_backup(*each) for each in zip(backups, places, strict=True)]

    def in_order(self) -> list[int]:
        """See `order_by_checkpoint`."""
        self._check_disk()
        by_checkpoint = self._by(
            "checkpoint_id",
            "made",
            "Pass only one of them: they are copies, or one was tried again.",
        )
        newest_first: list[int] = []
        based = False
        i: int | None = self._last(by_checkpoint)
        while i is not None:  # this ends: `_last` finds no last backup, or two, if it is a circle
            newest_first.append(i)
            based = based or self._backups[i].context == "zero"
            parent = by_checkpoint.get(self._backups[i].parent_checkpoint_id)
            if parent is None and not based:
                raise self._lacking(i)
            i = parent
        others = [name for i, name in enumerate(self._names) if i not in newest_first]
        if others:
            raise ChainError(
                f"{others[0]} is not of the chain of the others",
                hint="Leave it out, or pass its own chain alone.",
            )
        full = [self._backups[i].context for i in newest_first].index("zero")
        return newest_first[full::-1]

    def _check_disk(self) -> None:
        first = self._backups[0]
        if first.disk_id is None and len(self._backups) > 1:
            log.warning("the backups do not say of which disk they are, so this is not checked")
        for backup, name in zip(self._backups, self._names, strict=True):
            if backup.disk_id != first.disk_id:
                raise ChainError(
                    f"{self._names[0]} is of disk {first.disk_id}, {name} of {backup.disk_id}",
                    hint="Pass the backups of one disk: each disk of a VM has its own chain.",
                )

    def _by(self, field: str, does: str, hint: str) -> dict[str | None, int]:
        """The backups by one of their checkpoints, which no two of them may share."""
        found: dict[str | None, int] = {}
        for i, backup in enumerate(self._backups):
            checkpoint = getattr(backup, field)
            if checkpoint is not None and (other := found.setdefault(checkpoint, i)) != i:
                raise ChainError(
                    f"two backups {does} checkpoint {checkpoint}: {self._names[other]} and "
                    f"{self._names[i]}",
                    hint=hint,
                )
        return found

    def _last(self, by_checkpoint: Mapping[str | None, int]) -> int:
        """The last backup: no other one starts from it."""
        by_parent = self._by(
            "parent_checkpoint_id",
            "start from",
            "Pass the one that leads to the point in time to restore.",
        )
        ends = [
            i for i, backup in enumerate(self._backups) if backup.checkpoint_id not in by_parent
        ]
        if not ends:
            raise ChainError("the backups start from one another in a circle")
        if len(ends) > 1:
            raise self._gap(ends, by_checkpoint)
        return ends[0]

    def _gap(self, ends: Sequence[int], by_checkpoint: Mapping[str | None, int]) -> ChainError:
        """The error for backups that are not one chain: it says what is missing between them."""
        first, second = (self._names[i] for i in ends[:2])
        between = f"no backup leads from {first} to {second}"
        for i, backup in enumerate(self._backups):
            if backup.context == "dirty" and backup.parent_checkpoint_id not in by_checkpoint:
                lacking = self._lacking(i)
                return ChainError(f"{between}: {lacking.message}", hint=lacking.hint)
        return ChainError(
            f"{between}, nor back: they belong to two chains",
            hint="Pass the chain of one of them alone, from its full backup on.",
        )

    def _lacking(self, i: int) -> ChainError:
        """The error for an incremental backup whose parent was not given."""
        parent = self._backups[i].parent_checkpoint_id
        if parent is None:
            return ChainError(f"{self._names[i]} does not say from which checkpoint it starts")
        silent = [
            name
            for backup, name in zip(self._backups, self._names, strict=True)
            if backup.checkpoint_id is None and name != self._names[i]
        ]
        but = f"; {silent[0]} does not say which checkpoint it made" if silent else ""
        return ChainError(
            f"{self._names[i]} starts from checkpoint {parent}: no backup that made it was "
            f"given{but}",
            hint=f"Add the backup whose checkpoint_id is {parent}, and all that it needs itself: "
            "see the backup-info.json of your backups, or Catalog.find(checkpoint_id=...) for "
            "tapes.",
        )
