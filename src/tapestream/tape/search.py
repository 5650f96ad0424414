"""Selects and orders the backups that `find` returns, for a tape and for the catalog."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from ..arguments import flag
from ..errors import UsageError
from ..model.info import BackupFilter, BackupInfo

if TYPE_CHECKING:
    from .backups import CatalogBackup
    from .scan import TapeEntry

Found = TypeVar("Found", "TapeEntry", "CatalogBackup")


def check_search(ids: BackupFilter, incomplete: object) -> None:
    """Check the arguments of `find`.

    Raises:
        UsageError: An argument of `find` cannot work.
    """
    flag("incomplete", incomplete)
    known = BackupFilter.__annotations__
    if unknown := ids.keys() - known:
        raise UsageError(
            f"backups cannot be found by {min(unknown)}",
            hint=f"find() takes {', '.join(known)} and incomplete.",
        )


def search(
    backups: Iterable[Found], ids: BackupFilter, place: Callable[[Found], Any], *, incomplete: bool
) -> list[Found]:
    """Select backups, and put those first that one would most likely restore.

    Args:
        backups: All backups.
        ids: Only backups with these ids.
        place: Returns a backup's place; of backups of the same age, the later place comes first.
        incomplete: True to include those that are not complete.

    Returns:
        The newest first; of several attempts at one backup, or copies of it, complete ones first.
    """
    found = [
        one
        for one in backups
        if one.info is not None and (one.complete or incomplete) and one.info.matches(**ids)
    ]
    newest: dict[object, float] = {}
    for one in found:
        newest[_which(one)] = max(newest.get(_which(one), 0.0), _age(one.info))
    return sorted(
        found,
        key=lambda one: (newest[_which(one)], one.complete, _age(one.info), place(one)),
        reverse=True,
    )


def _which(one: TapeEntry | CatalogBackup) -> object:
    """A key that is the same for all attempts at one backup, and all copies of it."""
    info = one.info
    if info is None or info.backup_id is None:
        return one.set_id or id(one)
    return info.vm_id, info.disk_id, info.backup_id


def _age(info: BackupInfo | None) -> float:
    """When a backup was made, in seconds since 1970; 0 if it does not say."""
    return info.created.timestamp() if info and info.created else 0.0
