"""Histories of backups, and a model that says, in the plainest way, what can be restored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from itertools import product

from hypothesis import strategies as st

from tapestream import BackupInfo, Cancel, Source
from tapestream.archive import StoredBackup

START = datetime(2026, 11, 1, 22, 0, 0, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Stored:
    """A backup of which only the info is known."""

    info: BackupInfo
    place: str
    problem: str | None = None

    @property
    def identity(self) -> str:
        return self.place

    def open(self, *, cancel: Cancel | None = None) -> Source:
        raise AssertionError("nothing is opened to find a chain")


def backup(
    checkpoint: str | None,
    parent: str | None = None,
    *,
    night: int = 0,
    place: str = "",
    problem: str | None = None,
    full: bool | None = None,
    **fields: object,
) -> Stored:
    """A backup of a night; without a parent, a full one."""
    is_full = parent is None if full is None else full
    known = {
        "vm_id": "vm-id",
        "vm_name": "mail",
        "disk_id": "disk-id",
        "disk_name": "mail_Disk1",
        "created": START + timedelta(days=night),
        **fields,
    }
    info = BackupInfo(
        checkpoint_id=checkpoint,
        parent_checkpoint_id=parent,
        context="zero" if is_full else "dirty",
        **known,  # type: ignore[arg-type]
    )
    return Stored(info, place or f"{checkpoint}.tar", problem)


def chains_to(backups: Sequence[StoredBackup], last: StoredBackup) -> set[tuple[str, ...]]:
    """Every chain that leads to a backup, as the places of its backups: by trying all of them."""
    if last.problem is not None:
        return set()
    if last.info.context == "zero":
        return {(last.place,)}
    found = set()
    for other in backups:
        if (
            other is not last
            and other.info.disk_id == last.info.disk_id
            and other.info.checkpoint_id is not None
            and other.info.checkpoint_id == last.info.parent_checkpoint_id
        ):
            found |= {(*chain, last.place) for chain in chains_to(backups, other)}
    return found


def newest_as_of(
    backups: Sequence[StoredBackup], at: datetime
) -> tuple[StoredBackup | None, set[tuple[str, ...]]]:
    """The newest backup of a disk at a time, and its chains; for histories without oddities.

    In these, every night is later than the one before, and copies have the same time.
    """
    known = [one for one in backups if one.info.created and one.info.created <= at]
    if not known:
        return None, set()
    last = max(known, key=lambda one: one.info.created or START)
    same = [one for one in known if one.info.checkpoint_id == last.info.checkpoint_id]
    return last, set().union(*(chains_to(backups, one) for one in same))


@st.composite
def histories(draw: st.DrawFn) -> dict[str, list[Stored]]:
    """The backups of each disk: nights with full, incremental, aborted, lost and copied ones."""
    disks: dict[str, list[Stored]] = {}
    for vm, disk in product("ab", "12"):
        made: list[Stored] = []
        checkpoints: list[str] = []
        for night in range(draw(st.integers(0, 7))):
            checkpoint = f"{vm}-{night}"  # shared by the disks of a VM
            parent = draw(st.sampled_from([None, *checkpoints[-3:]]))
            one = backup(
                checkpoint,
                parent,
                full=parent is None or draw(st.integers(0, 9)) == 0,
                night=night,
                place=f"{vm}{disk}-{night}.tar",
                vm_id=f"{vm}-id",
                vm_name=vm,
                disk_id=f"{vm}{disk}-id",
                disk_name=f"Disk{disk}",
            )
            checkpoints.append(checkpoint)
            fate = draw(st.sampled_from(["good"] * 6 + ["lost", "aborted", "copied", "merged"]))
            if fate == "aborted":
                made.append(replace(one, problem="it has no end"))
            elif fate != "lost":
                made.append(one)
            if fate == "copied":
                broken = draw(st.sampled_from([None, "it has no end"]))
                made.append(replace(one, place=f"{one.place}.copy", problem=broken))
            if fate == "merged":
                full = replace(one.info, context="zero", parent_checkpoint_id=None)
                made.append(Stored(full, f"{one.place}.merged"))
        disks[f"{vm}{disk}"] = draw(st.permutations(made))
    return disks
