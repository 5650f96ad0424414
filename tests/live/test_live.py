"""Backups of a running machine that goes on writing, taken as oVirt takes them.

What is restored is compared with the disk as another program read it during the backup.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tapestream import TarStreamSource, verify
from tapestream.errors import ChainError, TransferError

from .conftest import MIB, SIZE
from .host import Host
from .machine import Guest


def test_a_full_backup(host: Host) -> None:
    """It is of the moment at which it started, whatever is written meanwhile."""
    with host.machine.backup("c1") as backup, Guest(host.machine, seed=1) as guest:
        result = host.back_up(backup, "vda", progress=guest)
    assert result.context == "zero"
    assert result.data_bytes > SIZE // 2
    host.check("vda", "c1")
    with host.machine.backup("c2") as backup:
        host.back_up(backup, "vda")
    assert host.truth("vda", "c1").read_bytes() != host.truth("vda", "c2").read_bytes()


def test_incremental_backups(host: Host) -> None:
    """The guest goes on writing: each change is in the one backup that has to have it."""
    checkpoints = ["c1", "c2", "c3", "c4"]
    parent = None
    with Guest(host.machine, seed=2) as guest:
        for checkpoint in checkpoints:
            guest.wait_for(20)
            with host.machine.backup(checkpoint, parent) as backup:
                result = host.back_up(backup, "vda", progress=guest)
            assert result.context == ("dirty" if parent else "zero")
            parent = checkpoint
    for number in range(1, len(checkpoints) + 1):
        host.check("vda", *checkpoints[:number])
    host.upload_and_check("vda", *checkpoints)


def test_an_idle_disk(host: Host) -> None:
    """Its incremental backup has nothing in it, and is a good link of the chain."""
    for checkpoint, parent in [("c1", None), ("c2", "c1"), ("c3", "c2")]:
        with host.machine.backup(checkpoint, parent) as backup:
            result = host.back_up(backup, "vda")
        if checkpoint == "c2":
            assert (result.context, result.data_bytes, result.zero_bytes) == ("dirty", 0, 0)
            host.machine.write("vda", "write -P 1 1M 64k")
    assert result.data_bytes == 64 * 1024
    with TarStreamSource(host.tar("vda", "c2")) as source:
        assert verify(source).ok
    host.check("vda", "c1", "c2")
    host.check("vda", "c1", "c2", "c3")


def test_several_disks(start: Callable[..., Host]) -> None:
    """All of the same moment, each over its own transfer; the raw one is always backed up whole."""
    host = start(vda="qcow2", vdb="qcow2", vdc="raw")
    disks = list(host.machine.disks)
    with Guest(host.machine, seed=3) as guest, ThreadPoolExecutor() as threads:
        for checkpoint, parent in [("c1", None), ("c2", "c1")]:
            with host.machine.backup(checkpoint, parent) as backup:
                jobs = [
                    threads.submit(host.back_up, backup, disk, fallback="full", progress=guest)
                    for disk in disks
                ]
                contexts = [job.result().context for job in jobs]
            assert contexts == (["dirty", "dirty", "zero"] if parent else ["zero"] * 3)
    for disk in disks:
        host.check(disk, "c1", "c2")
    host.check("vdc", "c2")


def test_a_disk_that_grows(host: Host) -> None:
    """It grows between two backups; the next ones have what the new part holds."""
    with Guest(host.machine, seed=4), host.machine.backup("c1") as backup:
        host.back_up(backup, "vda")
    host.machine.resize("vda", SIZE + 16 * MIB)
    host.machine.write("vda", f"write -P 1 {SIZE - 100} 200", f"write -P 2 {SIZE + 8 * MIB} 1M")
    with Guest(host.machine, seed=5) as guest:
        for checkpoint, parent in [("c2", "c1"), ("c3", "c2")]:
            with host.machine.backup(checkpoint, parent) as backup:
                result = host.back_up(backup, "vda", progress=guest)
            assert result.size == SIZE + 16 * MIB
    host.check("vda", "c1")
    host.check("vda", "c1", "c2")
    host.upload_and_check("vda", "c1", "c2", "c3")


def test_a_snapshot_between_backups(host: Host) -> None:
    """What changed before it is in the bitmap of one layer, what changed after it in another's."""
    checkpoints = ["c1", "c2", "c3"]
    with Guest(host.machine, seed=6) as guest:
        for number, checkpoint in enumerate(checkpoints):
            parent = checkpoints[number - 1] if number else None
            with host.machine.backup(checkpoint, parent) as backup:
                host.back_up(backup, "vda", progress=guest)
            guest.wait_for(10)
            host.machine.snapshot("vda")
            guest.wait_for(10)
    for number in range(1, len(checkpoints) + 1):
        host.check("vda", *checkpoints[:number])


def test_a_machine_that_was_switched_off(host: Host) -> None:
    """The bitmaps are kept in the image: the next backup goes on from the checkpoint."""
    with host.machine.backup("c1") as backup:
        host.back_up(backup, "vda")
    host.machine.write("vda", "write -P 1 5M 1M")
    host.machine.power_cycle()
    host.machine.write("vda", "write -P 2 9M 1M")
    with Guest(host.machine, seed=7) as guest, host.machine.backup("c2", "c1") as backup:
        result = host.back_up(backup, "vda", progress=guest)
    assert result.context == "dirty"
    host.check("vda", "c1", "c2")


class Do:
    """Progress of a copy that does something once, when the first bytes are written."""

    def __init__(self, action: Callable[[], None]) -> None:
        self.action = action
        self.done = False

    def update(self, n: int) -> None:
        if not self.done:
            self.done = True
            self.action()


@pytest.mark.parametrize("ending", ["backup ended", "machine killed"])
def test_the_backup_ends_in_the_middle_of_a_copy(host: Host, tmp_path: Path, ending: str) -> None:
    """The copy fails, says what may have happened, and leaves nothing that looks like a backup."""
    with host.machine.backup("c1") as backup:
        end = backup.end if ending == "backup ended" else host.machine.kill
        with pytest.raises(TransferError, match=r"disk machine_vda .*: cannot read") as caught:
            host.back_up(backup, "vda", progress=Do(end))
    assert "cannot open the disk" in caught.value.hint
    assert "whether the VM was switched off or died" in caught.value.hint
    assert not list(tmp_path.glob("*tar*"))


def test_a_full_scratch_disk(host: Host) -> None:
    """It is the guest's write that fails; the backup stays what it was."""
    with host.machine.backup("c1", scratch_size=MIB) as backup:
        host.machine.write("vda", "write -P 1 0 300k")
        with pytest.raises(OSError, match="No space left"):
            host.machine.write("vda", "write -P 2 1M 4M")
        host.back_up(backup, "vda")
    host.check("vda", "c1")


def test_a_copy_is_tried_again_in_the_same_backup(host: Host) -> None:
    """The disk is still what it was when the backup started."""

    def fail() -> None:
        raise RuntimeError("the tape is full")

    with Guest(host.machine, seed=8) as guest, host.machine.backup("c1") as backup:
        with pytest.raises(RuntimeError, match="the tape is full"):
            host.back_up(backup, "vda", progress=Do(fail))
        start = backup.read_whole("vda", host.truth("vda", "start"))
        host.back_up(backup, "vda", progress=guest)
    assert host.truth("vda", "c1").read_bytes() == start.read_bytes()
    host.check("vda", "c1")


def test_the_next_backup_after_a_failed_copy(start: Callable[..., Host]) -> None:
    """It starts from the last checkpoint at which all of its disks were copied, not the newest."""
    host = start(vda="qcow2", vdb="qcow2")
    disks = list(host.machine.disks)

    def back_up(checkpoint: str, parent: str | None, *names: str) -> None:
        for disk in disks:
            host.machine.write(disk, *(f"write -P {ord(checkpoint[1])} {n}M 64k" for n in range(8)))
        with host.machine.backup(checkpoint, parent) as backup:
            for disk in names:
                host.back_up(backup, disk)

    back_up("c1", None, *disks)
    back_up("c2", "c1", "vda")  # the copy of vdb failed
    back_up("c3", "c2", *disks)
    host.check("vda", "c1", "c2", "c3")
    with pytest.raises(ChainError, match="c3"):
        host.check("vdb", "c1", "c3")
    back_up("c4", "c1", *disks)
    for disk in disks:
        host.check(disk, "c1", "c4")
