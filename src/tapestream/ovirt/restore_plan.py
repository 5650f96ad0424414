"""What a VM is restored from: a chain for each of its disks, all of the same backup, and its OVF.

Nothing here asks the engine, or changes anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

import tapestream

from ..arguments import path as checked_path
from ..cancel import Cancel
from ..errors import NoRestorePointError, UsageError
from .backup_program import OVF_NAME
from .ovf import Ovf, OvfDisk, read_ovf

if TYPE_CHECKING:
    Place: TypeAlias = (
        tapestream.archive.Archive | tapestream.tape.TapeDrive | str | os.PathLike[str]
    )
else:
    Place = Any  # for typing.get_type_hints


@dataclass(frozen=True)
class PlannedDisk:
    """A disk, and what it is restored from."""

    ovf: OvfDisk
    chain: tapestream.archive.Chain


@dataclass(frozen=True)
class RestorePlan:
    """What a VM is restored from.

    Attributes:
        ovf: What its OVF says.
        ovf_text: The OVF.
        time: When the backup was made; None if it does not say.
        disks: Its disks, in the order of the OVF.
        left_out: Disks that are in the OVF, and are not restored.
    """

    ovf: Ovf
    ovf_text: str
    time: datetime | None
    disks: tuple[PlannedDisk, ...]
    left_out: tuple[OvfDisk, ...]


def archive_of(
    sources: Place | Iterable[Place], cancel: Cancel | None = None
) -> tapestream.archive.Archive:
    """The backups in folders, in tars, on the tapes in drives, and of archives.

    Args:
        sources: One or several of these.
        cancel: Ends the reading of a tape.

    Raises:
        UsageError: A source is something else.
        TapestreamError: One cannot be read.
    """
    one = isinstance(
        sources, (tapestream.archive.Archive, tapestream.tape.TapeDrive, str, os.PathLike)
    )
    places: list[Place] = [sources] if one else list(sources)  # type: ignore[list-item, arg-type]
    if not places:
        raise UsageError("there is no source to restore from")
    found = tapestream.archive.Archive([])
    for place in places:
        found += _archive_at(place, cancel)
    return found


def _archive_at(place: Place, cancel: Cancel | None) -> tapestream.archive.Archive:
    if isinstance(place, tapestream.archive.Archive):
        return place
    if isinstance(place, tapestream.tape.TapeDrive):
        return tapestream.archive.read_tape(place, cancel=cancel)
    path = checked_path("a source", place)
    if os.path.isdir(path):
        return tapestream.archive.read_folder(path)
    if not os.path.isfile(path):
        raise UsageError(
            f"{path} is neither a folder nor a file with a backup",
            hint="Pass a folder, tars, a TapeDrive or an Archive. A pipe has one disk, and can be "
            "read once: restore it with new_disk and upload_transfer.",
        )
    archive = tapestream.archive.read_folder(os.path.dirname(path) or ".")
    chosen = [each for each in archive.backups if os.path.samefile(each.place, path)]
    if chosen:
        return tapestream.archive.Archive(chosen)
    skipped = (*archive.unreadable, *archive.ignored)
    name = os.path.basename(path)
    why = next((each.reason for each in skipped if os.path.basename(each.place) == name), "")
    raise UsageError(f"{path} is no backup that can be restored: {why}")


def plan_restore(
    archive: tapestream.archive.Archive,
    *,
    vm: str | None,
    at: datetime | str | None,
    disks: Iterable[str] | None,
    ovf: str | None,
    cancel: Cancel | None,
) -> RestorePlan:
    """Find what to restore: see `restore_vm`.

    Raises:
        NoRestorePointError: There is no backup of all disks, or it cannot be restored.
        UsageError: A VM or a disk is not there; or there is no OVF.
    """
    names = _vm_of(archive, vm)
    chains, failures = _newest_chains(archive, names, at)
    if not chains:
        raise next(iter(failures.values()))
    newest = max(chains.values(), key=_time)
    text = ovf if ovf is not None else _ovf_of(newest, chains.values(), cancel)
    found = read_ovf(text)
    chosen = [disk for disk in found.disks if disk.is_image]
    if disks is not None:
        chosen = _choose(chosen, disks)
    for disk in chosen:
        if disk.id in failures:
            raise failures[disk.id]
        if disk.id not in chains:
            raise UsageError(
                f"there is no backup of disk {disk.name} of VM {found.name}",
                hint="Name the disks to restore, to restore the VM without this one.",
            )
    same = {_backup_of(chains[disk.id]) for disk in chosen}
    if len(same) > 1:
        raise _of_several_backups(archive, names, chosen, chains, newest)
    planned = tuple(PlannedDisk(disk, chains[disk.id]) for disk in chosen)
    left_out = tuple(disk for disk in found.disks if disk not in chosen)
    return RestorePlan(found, text, newest.info.created, planned, left_out)


def _vm_of(archive: tapestream.archive.Archive, vm: str | None) -> str:
    """The id of the VM that is meant, or its name if its backups have no id."""
    vms = {
        backup.info.vm_id or backup.info.vm_name or "": backup.info.vm_name
        for backup in archive.backups
        if vm is None or vm in (backup.info.vm_id, backup.info.vm_name)
    }
    if len(vms) == 1 and (found := next(iter(vms))):
        return found
    known = sorted({f"{each.info.vm_name} ({each.info.vm_id})" for each in archive.backups})
    which = f"of VM {vm}" if vm is not None else "of a VM"
    if not vms:
        what = f"there is no backup {which}"
    else:
        what = "there are backups of several VMs" + (f" with the name {vm}" if vm else "")
    raise UsageError(what, hint=f"There are backups of: {', '.join(known) or 'nothing'}.")


def _newest_chains(
    archive: tapestream.archive.Archive, vm: str, at: datetime | str | None
) -> tuple[dict[str, tapestream.archive.Chain], dict[str, NoRestorePointError]]:
    """For each disk of the VM the chain to restore, or why there is none, by the disk's id."""
    disk_ids = {
        backup.info.disk_id: None
        for backup in archive.backups
        if backup.info.disk_id is not None and vm in (backup.info.vm_id, backup.info.vm_name)
    }
    chains: dict[str, tapestream.archive.Chain] = {}
    failures: dict[str, NoRestorePointError] = {}
    for disk_id in disk_ids:
        try:
            chains[disk_id] = archive.find(vm=vm, disk=disk_id, at=at)
        except NoRestorePointError as e:  # it counts only if the VM had this disk then
            failures[disk_id] = e
    if not chains and not failures:
        raise UsageError(f"no backup of VM {vm} says which disk it is of")
    return chains, failures


def _ovf_of(
    newest: tapestream.archive.Chain,
    chains: Iterable[tapestream.archive.Chain],
    cancel: Cancel | None,
) -> str:
    """The OVF that was kept with one of the disks of a backup."""
    for chain in (newest, *(chain for chain in chains if _backup_of(chain) == _backup_of(newest))):
        with chain.backups[-1].open(cancel=cancel) as source:
            attachments = getattr(source, "attachments", {})
        if OVF_NAME in attachments:
            return str(attachments[OVF_NAME].decode())
    raise UsageError(
        f"the backup {newest.backups[-1].place} has no {OVF_NAME}: it is not known what the VM was",
        hint="Pass the OVF as `ovf`; or restore the disks only, with new_disk and upload_transfer.",
    )


def _choose(disks: Sequence[OvfDisk], wanted: Iterable[str]) -> list[OvfDisk]:
    if isinstance(wanted, str):
        raise UsageError(f"disks must be a list of ids or names, not {wanted!r}")
    names = list(wanted)
    for name in names:
        if len([disk for disk in disks if name in (disk.id, disk.name)]) != 1:
            listed = ", ".join(f"{disk.name} ({disk.id})" for disk in disks)
            raise UsageError(f"the VM had not one disk {name}", hint=f"Its disks were {listed}.")
    return [disk for disk in disks if disk.id in names or disk.name in names]


def _backup_of(chain: tapestream.archive.Chain) -> str | None:
    """What the backups of all disks of a VM have in common that were made together."""
    return chain.info.backup_id or chain.info.checkpoint_id


def _time(chain: tapestream.archive.Chain) -> float:
    return chain.info.created.timestamp() if chain.info.created is not None else 0.0


def _of_several_backups(
    archive: tapestream.archive.Archive,
    vm: str,
    disks: Sequence[OvfDisk],
    chains: dict[str, tapestream.archive.Chain],
    newest: tapestream.archive.Chain,
) -> NoRestorePointError:
    """The error for disks whose newest backups were not made together."""
    texts = [f"{disk.name} of {_when(chains[disk.id])}" for disk in disks]
    common = next(_common_points(archive, vm, disks, _time(newest)), None)
    can = (
        f"the newest backup of all of them is of {_when(common)}"
        if common is not None
        else "there is no backup of all of them"
    )
    return NoRestorePointError(
        f"VM {newest.info.vm_name or vm} cannot be restored as it was at one moment: the newest "
        f"backups are those of {', '.join(texts)}; {can}",
        newest=None if common is None else common.info.created,
        hint="Pass an earlier time as `at`, or restore the disks one by one.",
    )


def _common_points(
    archive: tapestream.archive.Archive, vm: str, disks: Sequence[OvfDisk], until: float
) -> Iterator[tapestream.archive.Chain]:
    """Chains of the first disk whose backup has all disks, the newest first."""
    of_others = [
        {
            _backup_of(point.chain)
            for point in archive.restore_points(vm=vm, disk=disk.id)
            if point.chain
        }
        for disk in disks[1:]
    ]
    for point in archive.restore_points(vm=vm, disk=disks[0].id):
        chain = point.chain
        if chain is None or _time(chain) > until:
            continue
        if all(_backup_of(chain) in others for others in of_others):
            yield chain


def _when(chain: tapestream.archive.Chain) -> str:
    created = chain.info.created
    return f"{created.astimezone():%Y-%m-%d %H:%M:%S %Z}" if created is not None else "unknown time"
