"""A VM is restored whole, or nothing of it stays."""

from __future__ import annotations

import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from tapestream import BackupInfo, RawImageSource, TarStreamSink, TarStreamSource, copy
from tapestream.archive import read_folder
from tapestream.errors import (
    EngineError,
    NoRestorePointError,
    TapestreamError,
    UsageError,
)
from tapestream.ovirt import NewDisk, clean_up_killed_runs, connect, qcow2_size, restore_vm
from tapestream.testing import EngineDouble, VmDouble, compare_images, write_pattern

from .steps import FAST, MIB, calls

MONDAY = datetime(2026, 11, 16, 22, 0, tzinfo=timezone.utc)


@pytest.fixture
def connection(engine: EngineDouble) -> Iterator[Any]:
    with connect() as connection:
        yield connection
    left = engine.leftovers()
    assert (left.transfers, left.locked_disks, left.tokens) == ((), (), 0)


@pytest.fixture
def vm(engine: EngineDouble) -> VmDouble:
    """A VM that is no more the only one with its id."""
    vm = engine.add_vm("mail", [2 * MIB, MIB])
    vm.memory = 2048
    vm.comment = "the old one"
    vm.attachments[1].interface = "sata"
    vm.attachments[1].pass_discard = True
    vm.attachments[1].active = False
    write_pattern(vm.disks[0].path, ["write -P 1 0 64k", "write -P 2 1M 4k"])
    write_pattern(vm.disks[1].path, ["write -P 3 512k 64k"])
    return vm


def back_up(
    vm: VmDouble,
    folder: Path,
    night: int,
    disks: tuple[int, ...] = (0, 1),
    ovf: str | None = None,
) -> None:
    """What `back_up_vm` leaves in a folder: a tar for each disk, and the OVF with it."""
    attachments = {"vm.ovf": (ovf or vm.ovf).encode()}
    folder.mkdir(exist_ok=True)
    for number in disks:
        disk = vm.disks[number]
        raw = folder.with_name(f"{disk.id}.raw")
        subprocess.run(["qemu-img", "convert", "-O", "raw", disk.path, raw], check=True)
        info = BackupInfo(
            vm_id=vm.id,
            vm_name=vm.name,
            disk_id=disk.id,
            disk_name=disk.name,
            backup_id=f"backup-{night}",
            checkpoint_id=f"checkpoint-{night}",
            created=MONDAY + timedelta(days=night),
        )
        with (
            RawImageSource(raw, info=info) as source,
            TarStreamSink(folder / f"{disk.name}-{night}.tar", attachments=attachments) as sink,
        ):
            copy(source, sink)


@pytest.fixture
def backups(vm: VmDouble, tmp_path: Path) -> Path:
    back_up(vm, tmp_path / "backups", 0)
    return tmp_path / "backups"


def restore(connection: Any, sources: Any, **options: Any) -> Any:
    options = {"name": "mail-2", "timeouts": FAST, **options}
    return restore_vm(connection, sources, **options)


def same(old: VmDouble, new: VmDouble) -> None:
    """Compare whole disks, and what the VM knows of them."""
    for before, after in zip(old.attachments, new.attachments, strict=True):
        assert before.disk.id != after.disk.id
        assert facts_of(before) == facts_of(after)
        compare_images(before.disk.path, after.disk.path)


def facts_of(attachment: Any) -> tuple[object, ...]:
    disk = attachment.disk
    return (
        attachment.interface,
        attachment.bootable,
        attachment.active,
        attachment.pass_discard,
        disk.name,
        disk.size,
        disk.format,
        disk.incremental,
        disk.storage_domain,
        disk.status,
    )


def test_a_vm_is_restored_beside_the_old_one(
    engine: EngineDouble, connection: Any, vm: VmDouble, backups: Path
) -> None:
    watched: list[str] = []

    def progress(disk: NewDisk) -> None:
        watched.append(disk.name)

    report = restore(connection, backups, progress=progress)
    old, new = engine.vms
    assert (new.id, new.name) == (report.vm_id, report.vm_name)
    assert new.id != old.id
    assert (new.memory, new.comment, new.status) == (2048, "the old one", "down")
    same(old, new)
    assert report.has_new_ids
    assert report.created == MONDAY
    assert [disk.id for disk in report.disks] == [disk.id for disk in new.disks]
    assert [disk.name for disk in report.disks] == ["mail_Disk1", "mail_Disk2"]
    assert report.disks[0].result.data_bytes == 68 * 1024
    assert report.disks[0].places == (str(backups / "mail_Disk1-0.tar"),)
    assert watched == ["mail_Disk1", "mail_Disk2"]
    assert clean_up_killed_runs(connection) == []


def test_a_disk_is_stored_as_the_old_one(
    engine: EngineDouble, connection: Any, vm: VmDouble, tmp_path: Path
) -> None:
    """The double keeps its images in files, so this is what it was asked for."""
    before, first, second = vm.ovf.split("<Disk ")
    first = first.replace('wipe-after-delete="false"', 'wipe-after-delete="true"')
    second = second.replace('volume-type="Sparse"', 'volume-type="Preallocated"')
    ovf = "<Disk ".join([before, first, second])
    back_up(vm, tmp_path / "backups", 0, ovf=ovf)
    restore(connection, tmp_path / "backups")
    wanted = [ET.fromstring(each.body) for each in engine.calls if each.path == "/disks"]
    names = ["name", "sparse", "wipe_after_delete", "initial_size"]
    with TarStreamSource(tmp_path / "backups" / "mail_Disk1-0.tar") as source:
        size = qcow2_size(source.extents(), 2 * MIB)
    assert [[disk.findtext(name) for name in names] for disk in wanted] == [
        ["mail_Disk1", "true", "true", str(size)],
        ["mail_Disk2", "false", None, None],
    ]


def test_a_lost_vm_comes_back_as_it_was(
    engine: EngineDouble, connection: Any, vm: VmDouble, backups: Path
) -> None:
    """Its old disks are still there: they are not those that it gets."""
    vm.status = "down"
    connection.system_service().vms_service().vm_service(vm.id).remove(detach_only=True)
    report = restore(connection, backups, name="mail")
    [new] = engine.vms
    assert (new.id, report.has_new_ids) == (vm.id, False)
    same(vm, new)


def test_an_earlier_time(
    engine: EngineDouble, connection: Any, vm: VmDouble, backups: Path
) -> None:
    before = [disk.path.with_suffix(".before") for disk in vm.disks]
    for disk, kept in zip(vm.disks, before, strict=True):
        kept.write_bytes(disk.path.read_bytes())
        write_pattern(disk.path, ["write -P 9 0 128k"])
    back_up(vm, backups, 1)
    restore(connection, backups, at="2026-11-17 00:00 UTC")
    for disk, kept in zip(engine.vms[1].disks, before, strict=True):
        compare_images(kept, disk.path)


def test_tars_one_by_one_and_an_archive(
    engine: EngineDouble, connection: Any, vm: VmDouble, backups: Path
) -> None:
    restore(connection, sorted(backups.iterdir()))
    restore(connection, read_folder(backups), name="mail-3", vm="mail")
    for new in engine.vms[1:]:
        same(vm, new)


def test_one_disk_of_it(
    engine: EngineDouble, connection: Any, vm: VmDouble, tmp_path: Path
) -> None:
    back_up(vm, tmp_path / "backups", 0, (1,))
    with pytest.raises(UsageError, match="no backup of disk mail_Disk1 of VM mail"):
        restore(connection, tmp_path / "backups")
    report = restore(connection, tmp_path / "backups", disks=["mail_Disk2"])
    assert report.left_out == ("mail_Disk1",)
    [disk] = engine.vms[1].disks
    compare_images(vm.disks[1].path, disk.path)


def test_a_night_on_which_a_disk_failed(
    engine: EngineDouble, connection: Any, vm: VmDouble, backups: Path
) -> None:
    back_up(vm, backups, 1, (0,))
    with pytest.raises(NoRestorePointError) as caught:
        restore(connection, backups)
    assert "cannot be restored as it was at one moment" in str(caught.value)
    assert caught.value.newest == MONDAY
    restore(connection, backups, at=caught.value.newest)
    same(vm, engine.vms[1])


def without_ovf(vm: VmDouble, backups: Path) -> None:
    for path in backups.iterdir():
        path.unlink()
    raw = backups.with_name(f"{vm.disks[0].id}.raw")
    info = BackupInfo(vm_id=vm.id, vm_name="mail", disk_id=vm.disks[0].id)
    with RawImageSource(raw, info=info) as source, TarStreamSink(backups / "x.tar") as sink:
        copy(source, sink)


def cut(vm: VmDouble, backups: Path) -> None:
    with (backups / "mail_Disk2-0.tar").open("r+b") as file:
        file.truncate(20480)


def of_two_vms(vm: VmDouble, backups: Path) -> None:
    vm.name, vm.id = "news", "another"
    back_up(vm, backups, 1)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"name": "mail"}, "there is a VM mail already"),
    ({"name": "a b"}, "cannot have the name 'a b'"),
    ({"vm": "news"}, "no backup of VM news"),
    ({"cluster": "x"}, "no cluster x. Choose one of: Default"),
    ({"storage_domain": "x"}, "no storage domain x. It has: data"),
    ({"disks": ["x"]}, "the VM had not one disk x. Its disks were mail_Disk1"),
    ({"at": "2020-01-01 00:00"}, "no backup of .* or before"),
    ({"at": "noon"}, "at is no point in time"),
    ({"ovf": "<a/>"}, "the OVF cannot be used"),
]


def changed_nothing(engine: EngineDouble) -> bool:
    return {call.method for call in engine.calls if "/sso/" not in call.path} <= {"GET"}


def test_a_wrong_argument_touches_nothing(
    engine: EngineDouble, connection: Any, backups: Path
) -> None:
    for options, message in WRONG:
        with pytest.raises(TapestreamError, match=message):
            restore(connection, backups, **options)
    assert changed_nothing(engine)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_ovf, "has no vm.ovf"),
        (cut, "is not complete: it has no end"),
        (of_two_vms, "backups of several VMs. There are backups of: mail"),
    ],
)
def test_what_cannot_be_restored_touches_nothing(
    engine: EngineDouble,
    connection: Any,
    vm: VmDouble,
    backups: Path,
    change: Callable[[VmDouble, Path], None],
    message: str,
) -> None:
    change(vm, backups)
    with pytest.raises(TapestreamError, match=message):
        restore(connection, backups)
    assert changed_nothing(engine)


def test_a_storage_domain_that_is_gone(
    engine: EngineDouble, connection: Any, vm: VmDouble, backups: Path
) -> None:
    ovf = vm.ovf.replace(vm.disks[0].storage_domain.id, "gone")
    with pytest.raises(UsageError, match="mail_Disk1 was in storage domain gone") as caught:
        restore(connection, backups, ovf=ovf)
    assert caught.value.hint == "Pass storage_domain. It has: data."
    restore(connection, backups, ovf=ovf, storage_domain="data")
    same(*engine.vms)


def test_sources_that_are_none(connection: Any, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x" * 512)
    for sources, message in (
        ([], "no source to restore from"),
        (tmp_path / "nowhere", "neither a folder nor a file"),
        ([tmp_path / "x"], "is no backup that can be restored"),
    ):
        with pytest.raises(UsageError, match=message):
            restore(connection, sources)


def damaged(engine: EngineDouble, backups: Path) -> None:
    path = backups / "mail_Disk2-0.tar"
    text = path.read_bytes()
    path.write_bytes(text.replace(b"\3" * 512, b"\4" * 512, 1))


def refused(method: str, path: str, **options: Any) -> Callable[[EngineDouble, Path], None]:
    def refuse(engine: EngineDouble, _: Path) -> None:
        engine.refuse(method, path, 400, "[The test does not want it.]", **options)

    return refuse


FAILURES: dict[str, Callable[[EngineDouble, Path], None]] = {
    "the VM is refused": refused("POST", "/vms"),
    "the VM cannot be seen": refused("GET", "/vms/*-*", skip=1),
    "a disk is refused": refused("POST", "/disks", skip=1),
    "a disk is illegal": lambda engine, _: engine.when(
        "POST", "/disks", lambda: setattr(engine.phases, "disk_add", ("illegal",)), skip=1
    ),
    "a transfer is refused": refused("POST", "/imagetransfers", skip=1),
    "a transfer gets stuck": lambda engine, _: setattr(
        engine.phases, "transfer_start", ("initializing", "dancing")
    ),
    "a backup is damaged": damaged,
    "a transfer is not finalized": lambda engine, _: setattr(
        engine.phases, "transfer_finalize", ("finalizing_failure", "finished_failure")
    ),
    "a disk is not attached": refused("POST", "/vms/*/diskattachments", skip=1),
    "the comment is not changed": refused("PUT", "/vms/*"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_nothing_stays_after_a_failure(
    engine: EngineDouble, connection: Any, vm: VmDouble, backups: Path, failure: str
) -> None:
    FAILURES[failure](engine, backups)
    with pytest.raises(TapestreamError) as caught:
        restore(connection, backups)
    assert not hasattr(caught.value, "__notes__")
    assert engine.vms == [vm]
    assert engine.disks == vm.disks
    assert clean_up_killed_runs(connection) == []


def test_a_clean_up_that_fails_hides_nothing(
    engine: EngineDouble, connection: Any, vm: VmDouble, backups: Path
) -> None:
    refused("POST", "/vms/*/diskattachments")(engine, backups)
    engine.refuse("DELETE", "/vms/*", 400, "[It stays.]")
    with pytest.raises(EngineError, match="cannot attach disk mail_Disk1") as caught:
        restore(connection, backups)
    assert caught.value.__notes__ == ["While cleaning up: cannot remove the VM mail-2: It stays."]
    report = restore(connection, backups, name="mail-3")
    [found] = report.killed
    assert str(found).startswith("the restore of VM mail-2 that started at ")
    assert found.done == ("the VM mail-2 is removed",)  # its disks were removed by the first run
    assert [each.name for each in engine.vms] == ["mail", "mail-3"]
    assert len(engine.disks) == 4


@pytest.mark.parametrize(
    ("method", "path", "carry_out"),
    [
        ("POST", "/vms", False),
        ("POST", "/vms", True),
        ("POST", "/disks", True),
        ("POST", "/vms/*/diskattachments", True),
        ("PUT", "/vms/*", True),
    ],
)
def test_a_lost_reply(
    engine: EngineDouble,
    connection: Any,
    vm: VmDouble,
    backups: Path,
    method: str,
    path: str,
    *,
    carry_out: bool,
) -> None:
    """libcurl sends a request once more."""
    engine.drop(method, path, carry_out=carry_out, times=2)
    restore(connection, backups)
    assert len(engine.vms) == 2
    same(*engine.vms)


def test_somebody_takes_the_name(
    engine: EngineDouble, connection: Any, vm: VmDouble, backups: Path
) -> None:
    engine.when("POST", "/vms", lambda: engine.add_vm("mail-2", [MIB]))
    with pytest.raises(UsageError, match="there is a VM mail-2 already"):
        restore(connection, backups)
    assert [each.name for each in engine.vms] == ["mail", "mail-2"]
    assert len(engine.vms[1].disks) == 1


def test_a_file_that_is_left_although_the_vm_is_restored(
    engine: EngineDouble, connection: Any, vm: VmDouble, backups: Path, tmp_path: Path
) -> None:
    kept: list[bytes] = []
    state = tmp_path / "state"
    engine.when("PUT", "/vms/*", lambda: kept.extend(path.read_bytes() for path in state.iterdir()))
    restore(connection, backups, state=state)
    (state / "old.run").write_bytes(kept[0])
    [found] = clean_up_killed_runs(connection, state=state, timeouts=FAST)
    assert found.done == ("the VM mail-2 stays, because it was restored",)
    same(*engine.vms)
    assert list(state.iterdir()) == []
    assert calls(engine, "DELETE") == 0
