"""Which backups make a chain: the checkpoint ids tell, not names, dates or the order given."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from .errors import ChainError, UsageError
from .info import BackupInfo

log = logging.getLogger("tapestream.chain")


def in_order(backups: Sequence[BackupInfo]) -> list[int]:
    """Put backups in the order of their chain, from its last full backup on.

    Args:
        backups: Them, in any order. A full backup may have a parent, too: where an incremental
            one was asked for, but could not be had. What is before it is not needed.

    Returns:
        Their indexes, oldest first.

    Raises:
        ChainError: They are not one chain of one disk.
        UsageError: There are none.
    """
    if not backups:
        raise UsageError("there is no backup to restore")
    _check_disk(backups)
    by_checkpoint = _by_checkpoint(backups)
    i: int | None = _last(backups)
    newest_first: list[int] = []
    while i is not None:  # in no circle: two backups would start from where one is entered
        newest_first.append(i)
        based = any(backups[i].context == "zero" for i in newest_first)
        i = _parent(backups[i], by_checkpoint, needed=not based)
    others = [backup for i, backup in enumerate(backups) if i not in newest_first]
    if others:
        raise ChainError(f"{name(others[0])} is not of the chain of the others")
    full = [backups[i].context for i in newest_first].index("zero")
    return newest_first[full::-1]


def name(backup: BackupInfo) -> str:
    """Name a backup in an error."""
    kind = "full" if backup.context == "zero" else "incremental"
    which = backup.backup_id or backup.checkpoint_id or "without id"
    when = f" of {backup.created:%Y-%m-%d %H:%M} UTC" if backup.created else ""
    return f"the {kind} backup {which}{when}"


def _check_disk(backups: Sequence[BackupInfo]) -> None:
    first = backups[0]
    if first.disk_id is None and len(backups) > 1:
        log.warning("the backups do not say of which disk they are: that is not checked")
    for backup in backups:
        if backup.disk_id != first.disk_id:
            raise ChainError(
                f"{name(first)} is of disk {first.disk_id}, {name(backup)} of {backup.disk_id}"
            )


def _by_checkpoint(backups: Sequence[BackupInfo]) -> dict[str, int]:
    found: dict[str, int] = {}
    for i, backup in enumerate(backups):
        if backup.checkpoint_id is None:
            continue
        other = found.setdefault(backup.checkpoint_id, i)
        if other != i:
            raise ChainError(
                f"two backups made checkpoint {backup.checkpoint_id}: {name(backups[other])} and "
                f"{name(backup)}"
            )
    return found


def _last(backups: Sequence[BackupInfo]) -> int:
    """The backup from which no other starts."""
    by_parent: dict[str, int] = {}
    for i, backup in enumerate(backups):
        parent = backup.parent_checkpoint_id
        if parent is None:
            continue
        other = by_parent.setdefault(parent, i)
        if other != i:
            raise ChainError(
                f"two backups start from checkpoint {parent}: {name(backups[other])} and "
                f"{name(backup)}"
            )
    ends = [i for i, backup in enumerate(backups) if backup.checkpoint_id not in by_parent]
    if not ends:
        raise ChainError("the backups start from one another in a circle")
    if len(ends) > 1:
        first, second = (name(backups[i]) for i in ends[:2])
        raise ChainError(f"no backup leads from {first} to {second}, nor back")
    return ends[0]


def _parent(backup: BackupInfo, by_checkpoint: Mapping[str, int], *, needed: bool) -> int | None:
    """The backup that this one starts from; None where there is none, and none is needed."""
    parent = backup.parent_checkpoint_id
    found = None if parent is None else by_checkpoint.get(parent)
    if found is not None or not needed:
        return found
    if parent is None:
        raise ChainError(f"{name(backup)} does not say from which checkpoint it starts")
    raise ChainError(f"{name(backup)} starts from checkpoint {parent}: no backup of that is there")
