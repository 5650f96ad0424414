"""Which disk of which VM is meant by a name or an id. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..errors import UsageError
from ..model.info import BackupInfo
from .backups import StoredBackup

# How many candidates an error lists.
_MOST = 20

# An id; or a name, if there is no id.
Key = tuple[str | None, str | None]


@dataclass(frozen=True)
class Disk:
    """All backups of one disk.

    Attributes:
        backups: The backups. A disk may have been moved from one VM to another.
        vms: Only the backups of these VMs are meant, and those that do not say of which VM they
            are. Empty if all are meant.
    """

    backups: tuple[StoredBackup, ...]
    vms: frozenset[Key] = frozenset()

    def is_meant(self, backup: StoredBackup) -> bool:
        """Whether a backup is of the VM that was asked for."""
        return not self.vms or _vm(backup.info) in {*self.vms, (None, None)}

    def __str__(self) -> str:
        info = self.backups[-1].info
        disk = _both("disk", info.disk_name, info.disk_id)
        return f"{disk} of {_both('VM', info.vm_name, info.vm_id)}"


def disks(backups: Iterable[StoredBackup]) -> list[Disk]:
    """Sort backups by their disks."""
    found: dict[object, list[StoredBackup]] = {}
    for backup in backups:
        found.setdefault(_disk(backup.info), []).append(backup)
    return [Disk(tuple(of_disk)) for of_disk in found.values()]


def matching(backups: Sequence[StoredBackup], vm: str | None, disk: str | None) -> list[Disk]:
    """The disks that match: by an id if one is the same, otherwise by names.

    Raises:
        UsageError: `vm` is the name of several VMs, or an argument is no text.
    """
    for name, value in (("vm", vm), ("disk", disk)):
        if not isinstance(value, (str, type(None))):
            raise UsageError(f"{name} must be a name, an id or None, not {value!r}")
    vms = frozenset() if vm is None else _vms(backups, vm)
    if vm is not None and not vms:
        return []
    found = [Disk(of_disk.backups, vms) for of_disk in disks(backups)]
    found = [each for each in found if any(_vm(b.info) in vms for b in each.backups) or not vms]
    if disk is None:
        return found
    return _with(found, lambda info: info.disk_id == disk) or _with(
        found, lambda info: info.disk_name == disk
    )


def the_one(backups: Sequence[StoredBackup], vm: str | None, disk: str | None) -> Disk:
    """The one disk that matches.

    Raises:
        UsageError: None matches, or several do; the text lists what there is.
    """
    found = matching(backups, vm, disk)
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"{_asked(vm, disk)} can be any of {len(found)} disks: {_listed(map(str, found))}",
            hint="Pass vm= and disk= so that only one matches; the ids always do.",
        )
    there = _listed(map(str, disks(backups)))
    raise UsageError(
        f"there is no backup of {_asked(vm, disk)} here",
        hint=f"There are backups of {there}." if there else "There are no backups here at all.",
    )


def _vms(backups: Iterable[StoredBackup], vm: str) -> frozenset[Key]:
    """The VM of this id; otherwise that of this name."""
    infos = [backup.info for backup in backups]
    if any(info.vm_id == vm for info in infos):
        return frozenset({(vm, None)})
    found = {_vm(info): info for info in infos if info.vm_name == vm}
    if len([key for key in found if key[0] is not None]) > 1:
        raise UsageError(
            f"{vm} is the name of {len(found)} VMs: "
            f"{_listed(_both('VM', info.vm_name, info.vm_id) for info in found.values())}",
            hint="Pass the id of the VM.",
        )
    return frozenset(found)


def _with(found: Iterable[Disk], matches: Callable[[BackupInfo], bool]) -> list[Disk]:
    return [disk for disk in found if any(matches(backup.info) for backup in disk.backups)]


def _vm(info: BackupInfo) -> Key:
    return (info.vm_id, None) if info.vm_id is not None else (None, info.vm_name)


def _disk(info: BackupInfo) -> object:
    """What all backups of a disk have in common. A name is only unique within its VM."""
    return info.disk_id if info.disk_id is not None else (_vm(info), info.disk_name)


def _both(what: str, name: str | None, id_: str | None) -> str:
    if name is None and id_ is None:
        return f"an unknown {what}"
    return f"{what} {name} ({id_})" if name and id_ else f"{what} {name or id_}"


def _asked(vm: str | None, disk: str | None) -> str:
    of_vm = f" of VM {vm}" if vm is not None else ""
    return f"disk {disk}{of_vm}" if disk is not None else f"a disk{of_vm}"


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _MOST} more" if len(listed) > _MOST else ""
    return "; ".join(listed[:_MOST]) + more
