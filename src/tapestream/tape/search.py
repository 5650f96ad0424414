"""Which backups are looked for, on a tape and in the catalog, and which comes first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from ..model.info import BackupInfo


class Found(Protocol):
    """A backup that was found."""

    @property
    def info(self) -> BackupInfo | None:
        """What it says of itself."""
        ...

    @property
    def set_id(self) -> str | None:
        """Identifies its volumes."""
        ...

    @property
    def complete(self) -> bool:
        """It is whole, as far as that is known."""
        ...


_T = TypeVar("_T", bound=Found)


def matches(info: BackupInfo, **ids: str | None) -> bool:
    """True when every id that is wanted, that is not None, is that of the backup."""
    return all(wanted is None or getattr(info, name) == wanted for name, wanted in ids.items())


def newest_first(found: Sequence[_T], place: Callable[[_T], Any]) -> list[_T]:
    """Put backups in the order in which somebody looks for one to restore.

    Args:
        found: The backups. Of several attempts at one backup, or copies, whole ones come first.
        place: Where one is; of those of one age, the later place comes first.
    """
    newest: dict[object, float] = {}
    for one in found:
        newest[_which(one)] = max(newest.get(_which(one), 0.0), _age(one.info))
    return sorted(
        found,
        key=lambda one: (newest[_which(one)], one.complete, _age(one.info), place(one)),
        reverse=True,
    )


def _which(one: Found) -> object:
    """A key that is the same for all attempts at one backup, and all copies of it."""
    info = one.info
    if info is None or info.backup_id is None:
        return one.set_id or id(one)
    return info.vm_id, info.disk_id, info.backup_id


def _age(info: BackupInfo | None) -> float:
    """When a backup was made, in seconds since 1970; 0 where it does not say."""
    return info.created.timestamp() if info and info.created else 0.0
