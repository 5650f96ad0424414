"""What tests can do to disks and checkpoints, names that XML cannot have, secrets, and the end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tapestream.testing import EngineDouble, VmDouble, create_image, image_info

from .clients import (
    MIB,
    connected,
    finish,
    ready_backup,
    start_backup,
    transferring,
    types,
)


@pytest.fixture
def vm(engine: EngineDouble) -> VmDouble:
    return engine.add_vm("mail", [MIB])


def bitmaps(vm: VmDouble) -> list[list[str]]:
    """The names of the bitmaps of each disk."""
    found = [image_info(disk.path)["format-specific"]["data"] for disk in vm.disks]
    return [[bitmap["name"] for bitmap in each.get("bitmaps", [])] for each in found]


def test_disks_come_and_go(engine: EngineDouble, vm: VmDouble) -> None:
    with connected(engine) as system:
        backup, first = ready_backup(system, vm)
        finish(backup)
        new = engine.add_disk(vm, MIB)
        assert (new.name, vm.disks[1], engine.disks[1]) == ("mail_Disk2", new, new)
        assert [each.bootable for each in vm.attachments] == [True, False]
        backup, second = ready_backup(system, vm, first)
        modes = [disk.backup_mode.value for disk in backup.disks_service().list()]
        assert modes == ["incremental", "full"]
        finish(backup)
        engine.remove_disk(vm.disks[0])
        assert [vm.disks, engine.disks] == [[new], [new]]
        service = system.vms_service().vm_service(vm.id).checkpoints_service()
        listed = service.checkpoint_service(second).disks_service().list()
        assert [disk.id for disk in listed] == [new.id]


def test_a_checkpoint_that_another_program_removes(engine: EngineDouble, vm: VmDouble) -> None:
    with connected(engine) as system:
        points = []
        for _ in range(3):
            backup, point = ready_backup(system, vm)
            points.append(point)
            finish(backup)
    engine.remove_checkpoint(vm, points[1])
    assert engine.leftovers().checkpoints == (points[0], points[2])
    assert vm.checkpoints[1].parent == points[0]
    assert bitmaps(vm) == [[points[0], points[2]]]
    with pytest.raises(ValueError, match="has no checkpoint"):
        engine.remove_checkpoint(vm, points[1])


def test_a_disk_grows(engine: EngineDouble, vm: VmDouble) -> None:
    [disk] = vm.disks
    with connected(engine) as system:
        backup, point = ready_backup(system, vm)
        with pytest.raises(ValueError, match="mail_Disk1 cannot be changed: it is locked"):
            engine.grow_disk(disk, 2 * MIB)
        finish(backup)
        engine.grow_disk(disk, 2 * MIB)
        assert image_info(disk.path)["virtual-size"] == disk.size == 2 * MIB
        assert bitmaps(vm) == [[point]]
        found = system.disks_service().disk_service(disk.id).get()
        assert found.provisioned_size == 2 * MIB
    with pytest.raises(RuntimeError, match="qemu-img"):
        engine.grow_disk(disk, MIB)


def test_a_disk_is_converted(engine: EngineDouble, vm: VmDouble) -> None:
    """The checkpoint still lists it, but a backup that starts from there fails."""
    [disk] = vm.disks
    with connected(engine) as system:
        backup, point = ready_backup(system, vm)
        finish(backup)
        engine.convert_disk(disk, "raw")
        found = system.disks_service().disk_service(disk.id).get()
        assert (found.format, found.backup) == (types.DiskFormat.RAW, types.DiskBackup.NONE)
        backup = start_backup(system, vm, point)
        assert backup.get().phase is types.BackupPhase.FAILED
        assert system.events_service().list()[0].description.endswith("failed.")
        backup, none = ready_backup(system, vm)
        assert none is None
        finish(backup)
    assert engine.leftovers().nothing_open


def test_an_image_of_the_test_stays(engine: EngineDouble, tmp_path: Path) -> None:
    """It is neither removed nor changed, and nothing is written next to it."""
    folder = tmp_path / "images"
    folder.mkdir()
    path = folder / "golden.qcow2"
    create_image(path, MIB)
    before = path.read_bytes()
    vm = engine.add_vm("golden", [str(path)])
    engine.convert_disk(vm.disks[0], "raw")
    first = vm.disks[0].path
    assert image_info(first)["format"] == "raw"
    engine.convert_disk(vm.disks[0], "qcow2")
    assert not first.exists()
    engine.remove_disk(vm.disks[0])
    assert list(folder.iterdir()) == [path]
    assert path.read_bytes() == before


def test_no_two_disks_have_one_name(engine: EngineDouble) -> None:
    vm = engine.add_vm("web", [MIB, MIB])
    engine.remove_disk(vm.disks[0])
    engine.add_disk(vm, MIB)
    assert [disk.name for disk in vm.disks] == ["web_Disk2", "web_Disk3"]
    assert [each.bootable for each in vm.attachments] == [False, False]


@pytest.mark.parametrize("name", ["a\x1b[31m", "a\0", "a\rb", "\ud800", "\ufffe"])
def test_a_name_that_xml_cannot_have(engine: EngineDouble, tmp_path: Path, name: str) -> None:
    for wrong in (
        lambda: engine.add_vm(name),
        lambda: EngineDouble(tmp_path, storage_domains=[name]),
        lambda: EngineDouble(tmp_path, clusters=[name]),
    ):
        with pytest.raises(ValueError, match="XML cannot have it"):
            wrong()
    assert engine.vms == []


def test_names_arrive_as_they_are(engine: EngineDouble) -> None:
    names = ["a & b <c> \"d\" 'e'", "x and y", "two\nlines\tand a tab", "\U0001f418 ünï"]
    for name in names:
        engine.add_vm(name, [MIB])
    with connected(engine) as system:
        service = system.vms_service()
        assert [vm.name for vm in service.list()] == names
        for name in names[1:]:
            assert [vm.name for vm in service.list(search=f'name="{name}"')] == [name]


def test_the_secrets(engine: EngineDouble, vm: VmDouble) -> None:
    with connected(engine) as system:
        backup, _ = ready_backup(system, vm)
        transfer = transferring(system, vm.disks[0], backup)
        ticket = transfer.get().transfer_url.rpartition("/")[2]
        transfer.finalize()
        finish(backup)
    [token] = engine.secrets - {engine.password, ticket}
    assert len(token) > 20


@pytest.mark.parametrize("end", ["raise LookupError", "raise SystemExit(1)", "pass"])
def test_a_program_that_does_not_stop_it(tmp_path: Path, end: str) -> None:
    """It ends with the program, although a client is still connected; and so does its daemon."""
    program = f"""
import pathlib, socket, ssl
from tapestream.testing import EngineDouble
engine = EngineDouble(pathlib.Path({str(tmp_path)!r}))
engine.start()
client = ssl._create_unverified_context().wrap_socket(
    socket.create_connection(("127.0.0.1", int(engine.url.rpartition(":")[2]))))
print(engine.daemon.pid, flush=True)
{end}
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == (0 if end == "pass" else 1), ended.stderr
    assert not Path("/proc", ended.stdout.strip()).exists()


def test_a_child_leaves_it_to_its_parent(tmp_path: Path) -> None:
    program = f"""
import os, pathlib, sys
from tapestream.testing import ImageioDaemon
daemon = ImageioDaemon(pathlib.Path({str(tmp_path)!r}))
daemon.start()
child = os.fork()
if not child:
    sys.exit()
os.waitpid(child, 0)
print(pathlib.Path("/proc", str(daemon.pid)).exists())
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ended.stdout == "True\n"
