"""A VM that changes between its backups: disks come, go and grow; checkpoints are lost."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestream import RawImageSink, restore_chain
from tapestream.archive import read_folder
from tapestream.errors import EnginePhaseError
from tapestream.ovirt import VMBackupReport, back_up_vm, checkpoints, connect, restore_vm, vm_backup
from tapestream.testing import DiskDouble, EngineDouble, VmDouble, compare_images, write_pattern

from .steps import FAST, MIB


class Nights:
    """Backups of a VM into a folder, and what each disk was at each of them."""

    def __init__(self, engine: EngineDouble, connection: Any, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self.vm = engine.add_vm("mail", [MIB, MIB])
        self._connection = connection
        self._truth: dict[tuple[str, str], bytes] = {}
        folder.mkdir()

    def back_up(self, byte: int, **options: Any) -> VMBackupReport:
        """Write to each disk, and back up what changed, a day after the last time."""
        self.engine.pass_time(24 * 3600)
        for disk in self.vm.disks:
            write_pattern(disk.path, [f"write -P {byte} {byte * 64}k 64k"], disk.format)
        report = back_up_vm(
            self._connection, "mail", self.folder, incremental=True, timeouts=FAST, **options
        )
        for disk in self.vm.disks:
            self._truth[disk.id, report.backup_id] = self._bytes(disk)
        return report

    def check(self) -> int:
        """Restore every disk as it was at every backup; return how many that were."""
        archive = read_folder(self.folder)
        for (disk_id, backup_id), truth in self._truth.items():
            [point] = [
                point
                for point in archive.restore_points(vm=self.vm.id, disk=disk_id)
                if point.chain is not None and point.chain.info.backup_id == backup_id
            ]
            assert point.chain is not None
            image = self.folder.with_name("restored.raw")
            with point.chain.open() as sources, RawImageSink(image) as sink:
                restore_chain(sources, sink)
            assert image.read_bytes() == truth
            image.unlink()
        return len(self._truth)

    def check_vm(self) -> None:
        """Restore the VM, and compare its disks."""
        report = restore_vm(self._connection, self.folder, name="mail-2", timeouts=FAST)
        [new] = [vm for vm in self.engine.vms if vm.id == report.vm_id]
        for before, after in zip(self.vm.disks, new.disks, strict=True):
            compare_images(before.path, after.path, a_format=before.format, b_format=after.format)

    def _bytes(self, disk: DiskDouble) -> bytes:
        raw = self.folder.with_name("now.raw")
        subprocess.run(["qemu-img", "convert", "-O", "raw", disk.path, raw], check=True)
        return raw.read_bytes()


@pytest.fixture
def connection(engine: EngineDouble) -> Iterator[Any]:
    with connect() as connection:
        yield connection
    left = engine.leftovers()
    assert (left.transfers, left.backups, left.locked_disks) == ((), (), ())


@pytest.fixture
def nights(engine: EngineDouble, connection: Any, tmp_path: Path) -> Nights:
    return Nights(engine, connection, tmp_path / "backups")


def modes(report: VMBackupReport) -> list[str]:
    return [disk.disk.mode for disk in report.disks]


def test_a_disk_that_is_added(nights: Nights) -> None:
    """It is copied whole in the run of the others, which says why; then it is one of them."""
    first = nights.back_up(1)
    nights.engine.add_disk(nights.vm, MIB)
    second = nights.back_up(2)
    assert (second.parent_id, modes(second)) == (
        first.checkpoint_id,
        ["incremental", "incremental", "full"],
    )
    assert [disk.reason for disk in second.disks] == [
        None,
        None,
        "no backups of it here lead to the checkpoint that the others start from",
    ]
    third = nights.back_up(3)
    assert modes(third) == ["incremental"] * 3
    assert nights.check() == 8
    nights.check_vm()


def test_a_disk_that_is_removed(nights: Nights) -> None:
    """The others go on; it can still be restored as it was."""
    nights.back_up(1)
    nights.engine.remove_disk(nights.vm.disks[0])
    second = nights.back_up(2)
    assert modes(second) == ["incremental"]
    assert nights.check() == 3
    nights.check_vm()


def test_a_disk_that_grows(nights: Nights) -> None:
    nights.back_up(1)
    disk = nights.vm.disks[1]
    nights.engine.grow_disk(disk, 3 * MIB)
    write_pattern(disk.path, ["write -P 9 2M 64k"])
    second = nights.back_up(2)
    assert modes(second) == ["incremental", "incremental"]
    assert [report.disk.size for report in second.disks] == [MIB, 3 * MIB]
    nights.engine.grow_disk(disk, 4 * MIB)
    nights.back_up(3)
    assert nights.check() == 6
    nights.check_vm()


@pytest.mark.parametrize("lost", ["removed", "invalid"])
def test_the_newest_checkpoint_is_lost(nights: Nights, lost: str) -> None:
    """The next backup starts from the one before it."""
    first = nights.back_up(1)
    second = nights.back_up(2)
    lose = {
        "removed": nights.engine.remove_checkpoint,
        "invalid": nights.engine.lose_checkpoint,
    }[lost]
    lose(nights.vm, str(second.checkpoint_id))
    third = nights.back_up(3)
    assert (third.parent_id, modes(third)) == (first.checkpoint_id, ["incremental"] * 2)
    assert nights.check() == 6
    nights.check_vm()


def test_all_checkpoints_are_lost(nights: Nights) -> None:
    report = nights.back_up(1)
    nights.engine.remove_checkpoint(nights.vm, str(report.checkpoint_id))
    second = nights.back_up(2)
    assert (second.parent_id, modes(second)) == (None, ["full", "full"])
    assert {disk.reason for disk in second.disks} == {
        "no backups here lead to a checkpoint that the engine still has"
    }
    assert nights.check() == 4


def test_a_checkpoint_is_lost_at_the_last_moment(nights: Nights, connection: Any) -> None:
    """The engine refuses the backup that would start from it; the next one starts elsewhere."""
    nights.back_up(1)
    [checkpoint] = nights.vm.checkpoints
    nights.engine.when(
        "POST",
        "/vms/*/backups",
        lambda: nights.engine.remove_checkpoint(nights.vm, checkpoint.id),
    )
    with pytest.raises(Exception, match=f"Checkpoint {checkpoint.id} does not exist"):
        back_up_vm(
            connection,
            "mail",
            nights.folder,
            incremental=True,
            timeouts=FAST_REFUSAL,
        )
    assert modes(nights.back_up(2)) == ["full", "full"]
    assert nights.check() == 4


FAST_REFUSAL = type(FAST)(refused=0.05, poll=0.001, longest_poll=0.001)


def test_a_disk_of_which_the_engine_says_that_it_cannot(nights: Nights) -> None:
    """In oVirt 4.5, that changes nothing while the image is qcow2."""
    nights.back_up(1)
    nights.vm.disks[0].incremental = False
    assert modes(nights.back_up(2)) == ["incremental", "incremental"]
    assert nights.check() == 4


def test_a_disk_that_is_converted_to_raw(nights: Nights, caplog: pytest.LogCaptureFixture) -> None:
    """The checkpoints that list it are good for nothing; later ones are good for the others."""
    nights.back_up(1)
    [checkpoint] = nights.vm.checkpoints
    nights.engine.convert_disk(nights.vm.disks[0], "raw")
    with caplog.at_level(logging.WARNING):
        second = nights.back_up(2)
    assert (second.parent_id, modes(second)) == (None, ["full", "full"])
    assert (
        f"No incremental backup can start from checkpoint {checkpoint.id}: disk mail_Disk1 is raw"
        in caplog.text
    )
    third = nights.back_up(3)
    assert (third.parent_id, modes(third)) == (second.checkpoint_id, ["full", "incremental"])
    assert third.disks[0].reason == (
        "the engine has no record of what changed since the checkpoint"
    )
    assert nights.check() == 6
    nights.check_vm()


def test_a_backup_that_starts_from_such_a_checkpoint(nights: Nights, connection: Any) -> None:
    """A program that chooses the parent itself learns it from the engine."""
    report = nights.back_up(1)
    nights.engine.convert_disk(nights.vm.disks[0], "raw")
    before = checkpoints(connection, "mail")
    with (
        pytest.raises(EnginePhaseError, match="in phase failed"),
        vm_backup(connection, "mail", None, report.checkpoint_id, timeouts=FAST),
    ):
        pytest.fail("the host cannot find a bitmap")
    assert checkpoints(connection, "mail") == before


def test_a_vm_without_disks_any_more(nights: Nights) -> None:
    nights.back_up(1)
    vm: VmDouble = nights.vm
    for disk in vm.disks:
        nights.engine.remove_disk(disk)
    with pytest.raises(Exception, match="VM mail has no disk to back up"):
        nights.back_up(2)
    assert nights.check() == 2
