"""Backups of the double: what they hold, and what is left of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tapestream.testing import EngineDouble, VmDouble, create_image, write_pattern
from tapestream.testing.engine.storage import bitmaps

from .clients import (
    MIB,
    connected,
    content,
    dirty,
    finish,
    reach,
    ready_backup,
    sdk,
    start_backup,
    transferring,
    truth,
    types,
)

CLUSTER = 64 * 1024  # what a bitmap of qemu-img records with


@pytest.fixture
def vm(engine: EngineDouble) -> VmDouble:
    vm = engine.add_vm("mail", [2 * MIB])
    write_pattern(vm.disks[0].path, ["write -P 1 0 128k"])
    return vm


def test_a_backup_holds_the_disk_of_its_start(
    engine: EngineDouble, vm: VmDouble, tmp_path: Path
) -> None:
    [disk] = vm.disks
    with connected(engine) as system:
        backup = start_backup(system, vm)
        expected = truth(disk, tmp_path)
        write_pattern(disk.path, ["write -P 2 0 1M"])  # before it is ready
        reach(backup.get, "ready")
        transfer = transferring(system, disk, backup)
        write_pattern(disk.path, ["write -P 3 0 2M"])  # while it is downloaded
        assert content(engine, transfer) == expected
        transfer.finalize()
        finish(backup)
    left = engine.leftovers()
    assert left.nothing_open
    assert len(left.checkpoints) == 1
    assert truth(disk, tmp_path) == b"\3" * 2 * MIB


def test_an_incremental_backup_has_what_changed_since_its_parent(
    engine: EngineDouble, vm: VmDouble
) -> None:
    [disk] = vm.disks
    points = []
    with connected(engine) as system:
        for number in range(3):
            backup, point = ready_backup(system, vm)
            points.append(point)
            # Also a write during a backup counts as after its checkpoint.
            write_pattern(disk.path, [f"write -P 4 {2 * number * CLUSTER} 4k"])
            finish(backup)
        for point, clusters in zip(points, ([0, 2, 4], [2, 4], [4]), strict=True):
            backup, _ = ready_backup(system, vm, point)
            [listed] = backup.disks_service().list()
            assert listed.backup_mode == types.DiskBackupMode.INCREMENTAL
            transfer = transferring(system, disk, backup)
            assert dirty(engine, transfer) == [(c * CLUSTER, (c + 1) * CLUSTER) for c in clusters]
            transfer.finalize()
            finish(backup)
    assert engine.leftovers().nothing_open


def test_what_is_written_during_an_incremental_backup_is_in_the_next(
    engine: EngineDouble, vm: VmDouble
) -> None:
    [disk] = vm.disks
    with connected(engine) as system:
        backup, first = ready_backup(system, vm)
        finish(backup)
        backup, second = ready_backup(system, vm, first)
        write_pattern(disk.path, [f"write -P 5 {7 * CLUSTER} 64k"])
        transfer = transferring(system, disk, backup)
        assert dirty(engine, transfer) == []
        transfer.finalize()
        finish(backup)
        backup, _ = ready_backup(system, vm, second)
        transfer = transferring(system, disk, backup)
        assert dirty(engine, transfer) == [(7 * CLUSTER, 8 * CLUSTER)]


def test_a_disk_that_the_parent_lacks_is_backed_up_in_full(
    engine: EngineDouble, vm: VmDouble, tmp_path: Path
) -> None:
    raw = tmp_path / "disk.raw"
    create_image(raw, MIB, "raw")
    with connected(engine) as system:
        backup, point = ready_backup(system, vm)
        finish(backup)
        other = engine.add_vm("other", [MIB, raw])
        vm.attachments += other.attachments
        other.attachments.clear()
        backup, _ = ready_backup(system, vm, point)
        modes = [disk.backup_mode.value for disk in backup.disks_service().list()]
        assert modes == ["incremental", "full", "full"]
        # The new checkpoint has no raw disk: nothing records what changes on it.
        points = system.vms_service().vm_service(vm.id).checkpoints_service()
        newest = points.list()[-1]
        assert newest.parent_id == point
        listed = points.checkpoint_service(newest.id).disks_service().list()
        assert [disk.id for disk in listed] == [disk.id for disk in vm.disks[:2]]


def test_a_vm_with_raw_disks_alone_has_no_checkpoint(engine: EngineDouble, tmp_path: Path) -> None:
    raw = tmp_path / "disk.raw"
    raw.write_bytes(b"raw!" * 1024)
    vm = engine.add_vm("raw", [raw])
    with connected(engine) as system:
        backup, point = ready_backup(system, vm)
        assert point is None
        transfer = transferring(system, vm.disks[0], backup)
        raw.write_bytes(b"new!" * 1024)
        assert content(engine, transfer) == b"raw!" * 1024


def test_a_failed_backup_leaves_an_event_and_no_checkpoint(
    engine: EngineDouble, vm: VmDouble
) -> None:
    engine.phases.backup_start = ("initializing", "starting", "failed")
    with connected(engine) as system:
        backup = start_backup(system, vm)
        id_ = backup.get().id
        assert len(vm.checkpoints) == 1
        assert [disk.status for disk in vm.disks] == ["locked"]
        reach(backup.get, "failed")
        assert vm.checkpoints == []
        [newest, *_] = system.events_service().list(search=id_)
        assert newest.code == 10795
        assert id_ in newest.description
        assert newest.severity == types.LogSeverity.ERROR
        assert system.events_service().list(search="no such backup") == []
    assert engine.leftovers().nothing_open


def test_the_checkpoint_is_shown_when_it_is_made(engine: EngineDouble, vm: VmDouble) -> None:
    with connected(engine) as system:
        backup = start_backup(system, vm)
        assert backup.get().to_checkpoint_id is None
        assert reach(backup.get, "ready").to_checkpoint_id == vm.checkpoints[0].id


def test_a_checkpoint_is_removed(engine: EngineDouble, vm: VmDouble) -> None:
    points = []
    with connected(engine) as system:
        for _ in range(3):
            backup, point = ready_backup(system, vm)
            points.append(point)
            finish(backup)
        service = system.vms_service().vm_service(vm.id).checkpoints_service()
        middle = service.checkpoint_service(points[1])
        middle.remove()
        assert [point.state.value for point in service.list()] == ["created", "invalid", "created"]
        with pytest.raises(sdk.Error, match=f"{points[1]} is invalid"):
            start_backup(system, vm, points[1])
        with pytest.raises(sdk.NotFoundError):
            middle.get()
        found = [(point.id, point.parent_id) for point in service.list()]
    assert found == [(points[0], None), (points[2], points[0])]
    assert bitmaps(vm.disks[0]) == {points[0], points[2]}
    assert engine.leftovers().checkpoints == (points[0], points[2])


def test_a_transfer_says_which_disk_it_is_as_an_engine_does(
    engine: EngineDouble, vm: VmDouble
) -> None:
    with connected(engine) as system:
        backup, _ = ready_backup(system, vm)
        transferring(system, vm.disks[0], backup)
        [found] = system.image_transfers_service().list()
        assert (found.image.id, found.disk) == (vm.disks[0].id, None)


def test_what_is_left_open_is_listed(engine: EngineDouble, vm: VmDouble) -> None:
    assert engine.leftovers().nothing_open
    with connected(engine) as system:
        backup, point = ready_backup(system, vm)
        transfer = transferring(system, vm.disks[0], backup)
        left = engine.leftovers()
        assert left.transfers == (transfer.get().id,)
        assert left.backups == (backup.get().id,)
        assert left.locked_disks == (vm.disks[0].id,)
        assert left.checkpoints == (point,)
        assert left.tokens == 1
        transfer.finalize()
        assert engine.leftovers().transfers == ()
        backup.finalize()
        # Nobody polls it any more: the engine ends it all the same.
        assert engine.leftovers().backups == engine.leftovers().locked_disks == ()
        assert not engine.leftovers().nothing_open  # the login
    assert engine.leftovers().nothing_open


def test_the_copies_of_a_backup_go_with_it(
    engine: EngineDouble, vm: VmDouble, tmp_path: Path
) -> None:
    with connected(engine) as system:
        backup, _ = ready_backup(system, vm)
        copies = list(tmp_path.rglob("backups/*/*.qcow2"))
        assert len(copies) == 1
        finish(backup)
    assert list(tmp_path.rglob("backups/*/*.qcow2")) == []
