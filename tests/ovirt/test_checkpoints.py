"""Where the next incremental backup starts, by what the engine has and what can be restored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from tapestream import BackupInfo, Source
from tapestream.archive import Archive
from tapestream.errors import EngineTimeoutError
from tapestream.ovirt import (
    Parent,
    checkpoints,
    parent_of,
    remove_checkpoint,
    vm_backup,
)
from tapestream.testing import EngineDouble, VmDouble
from tapestream.testing.engine.entities import Checkpoint

from .steps import FAST, MIB, SHORT


@dataclass(frozen=True)
class Kept:
    """A backup that only says what it is."""

    info: BackupInfo
    problem: str | None = None

    @property
    def place(self) -> str:
        return str(self.identity)

    @property
    def identity(self) -> tuple[str | None, ...]:
        return self.info.disk_id, self.info.checkpoint_id

    def open(self, *, cancel: object = None) -> Source:
        raise NotImplementedError


def with_checkpoints(engine: EngineDouble, *ids: str) -> VmDouble:
    """A VM with two disks. The engine lists its checkpoints in another order."""
    vm = engine.add_vm("mail", [MIB, MIB])
    parents = dict(zip(ids, (None, *ids), strict=False))
    vm.checkpoints = [Checkpoint(id_, vm.disks, parents[id_], None) for id_ in sorted(ids)]
    return vm


def archive(vm: VmDouble, good: Mapping[int, str]) -> Archive:
    """Full backups: for each disk, the names of the checkpoints, one letter each."""
    return Archive(
        Kept(BackupInfo(vm_id=vm.id, disk_id=vm.disks[number].id, checkpoint_id=letter))
        for number, letters in good.items()
        for letter in letters
    )


@pytest.mark.parametrize(
    ("in_engine", "good", "parent", "full"),
    [
        ("cab", {0: "cab", 1: "cab"}, "b", []),  # the newest is not the last by name
        ("cab", {0: "cab", 1: "ca"}, "a", []),  # the copy of disk 1 failed last night
        ("cab", {0: "cabx", 1: "cabx"}, "b", []),  # the engine has lost the newest
        ("cab", {0: "cab"}, "b", [1]),  # disk 1 is new
        ("cab", {0: "b", 1: "c"}, "b", [1]),  # no checkpoint is good for both
        ("cab", {}, None, [0, 1]),
        ("", {0: "cab", 1: "cab"}, None, [0, 1]),
        ("cab", {0: "x", 1: "x"}, None, [0, 1]),
    ],
)
def test_the_parent(
    engine: EngineDouble,
    connection: Any,
    in_engine: str,
    good: Mapping[int, str],
    parent: str | None,
    full: list[int],
) -> None:
    vm = with_checkpoints(engine, *in_engine)
    found = parent_of(connection, "mail", None, archive(vm, good))
    assert found == Parent(parent, tuple(vm.disks[number].id for number in full))


def test_the_parent_of_one_disk(engine: EngineDouble, connection: Any) -> None:
    vm = with_checkpoints(engine, *"cab")
    kept = archive(vm, {0: "c", 1: "cab"})
    assert parent_of(connection, vm.id, ["mail_Disk2"], kept) == Parent("b", ())


def test_a_checkpoint_that_the_engine_cannot_use(engine: EngineDouble, connection: Any) -> None:
    vm = with_checkpoints(engine, *"cab")
    engine.lose_checkpoint(vm, "b")
    assert [each.id for each in checkpoints(connection, vm.id)] == ["c", "a", "b"]
    assert [each.usable for each in checkpoints(connection, vm.id)] == [True, True, False]
    kept = archive(vm, {0: "cab", 1: "cab"})
    assert parent_of(connection, vm.id, None, kept).checkpoint_id == "a"


def test_removing_one(engine: EngineDouble, connection: Any) -> None:
    vm = engine.add_vm("mail", [MIB])
    made = []
    for _ in range(2):
        with vm_backup(connection, vm.id, timeouts=FAST) as backup:
            backup.copied(backup.disks[0])
        made.append(str(backup.checkpoint_id))
    assert engine.leftovers().checkpoints == tuple(made)
    engine.drop("DELETE", "/vms/*/checkpoints/*", carry_out=True)
    assert remove_checkpoint(connection, vm.id, made[0], FAST)
    assert not remove_checkpoint(connection, vm.id, made[0], FAST)
    engine.phases.checkpoint_remove = ("invalid",)
    with pytest.raises(EngineTimeoutError, match=f"checkpoint {made[1]} is in phase invalid after"):
        remove_checkpoint(connection, vm.id, made[1], SHORT)
