"""Whole backups of a VM: to a folder, to tape, into a stream; full and incremental; restored."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestream import RawImageSink, TarStreamSource, restore_chain
from tapestream.archive import Archive, read_catalog, read_folder
from tapestream.errors import CertificateError, LocalIOError, UsageError
from tapestream.ovirt import back_up_vm, connect, exit_on_sigterm, find_vm, host_here, restore_vm
from tapestream.tape import Catalog, TapeDrive
from tapestream.testing import (
    Cartridge,
    EngineDouble,
    FakeDrive,
    ImageioDaemon,
    VmDouble,
    compare_images,
    write_pattern,
)

from .steps import FAST, MIB, calls


@pytest.fixture
def vm(engine: EngineDouble) -> VmDouble:
    vm = engine.add_vm("mail", [MIB, MIB])
    for number, disk in enumerate(vm.disks, 1):
        write_pattern(disk.path, [f"write -P {number} 0 256k"])
    return vm


@pytest.fixture
def one_disk(engine: EngineDouble) -> VmDouble:
    vm = engine.add_vm("web", [MIB])
    write_pattern(vm.disks[0].path, ["write -P 7 0 256k"])
    return vm


@pytest.fixture
def connection(engine: EngineDouble) -> Iterator[Any]:
    with connect() as connection:
        yield connection
    left = engine.leftovers()
    assert (left.transfers, left.backups, left.locked_disks) == ((), (), ())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "backups"
    path.mkdir()
    return path


def compare_restored(archive: Archive, vm: VmDouble, tmp_path: Path) -> None:
    """Restore the newest state of each disk, and compare it with the disk."""
    for disk in vm.disks:
        image = tmp_path / "restored.raw"
        with archive.find(vm=vm.id, disk=disk.id).open() as sources, RawImageSink(image) as sink:
            restore_chain(sources, sink)
        compare_images(disk.path, image, b_format="raw")
        image.unlink()


def test_a_folder(
    engine: EngineDouble, connection: Any, vm: VmDouble, folder: Path, tmp_path: Path
) -> None:
    full = back_up_vm(connection, "mail", folder, timeouts=FAST)
    assert [report.disk.mode for report in full.disks] == ["full", "full"]
    assert [report.reason for report in full.disks] == [None, None]
    assert sorted(os.listdir(folder)) == sorted(Path(each.place).name for each in full.disks)
    assert Path(full.disks[0].place).name.startswith("mail_mail_Disk1_")
    assert engine.leftovers().checkpoints == (full.checkpoint_id,)
    with TarStreamSource(full.disks[1].place) as source:
        assert source.attachments["vm.ovf"] == vm.ovf.encode()
        assert source.info.vm_name == "mail"
        assert source.info.created == full.created.replace(microsecond=0)
    write_pattern(vm.disks[0].path, ["write -P 9 512k 64k"])
    seen = []
    changes = back_up_vm(
        connection,
        "mail",
        str(folder),
        incremental=True,
        progress=lambda disk: seen.append(disk.name),
        timeouts=FAST,
    )
    assert seen == ["mail_Disk1", "mail_Disk2"]
    assert changes.parent_id == full.checkpoint_id
    assert [report.disk.mode for report in changes.disks] == ["incremental", "incremental"]
    assert changes.disks[0].result.data_bytes == 65536
    compare_restored(read_folder(folder), vm, tmp_path)


def test_a_disk_that_has_no_good_backup(
    engine: EngineDouble, connection: Any, vm: VmDouble, folder: Path, tmp_path: Path
) -> None:
    full = back_up_vm(connection, vm.id, folder, timeouts=FAST)
    Path(full.disks[1].place).unlink()
    changes = back_up_vm(connection, vm.id, folder, incremental=True, timeouts=FAST)
    assert [report.disk.mode for report in changes.disks] == ["incremental", "full"]
    reasons = [report.reason for report in changes.disks]
    assert reasons[0] is None
    assert reasons[1] is not None
    assert reasons[1].startswith("no backups of it here lead to")
    compare_restored(read_folder(folder), vm, tmp_path)


def test_an_incremental_backup_without_one_before(
    connection: Any, one_disk: VmDouble, folder: Path
) -> None:
    report = back_up_vm(connection, "web", folder, incremental=True, timeouts=FAST)
    [disk] = report.disks
    assert (report.parent_id, disk.disk.mode) == (None, "full")
    assert disk.reason == "no backups here lead to a checkpoint that the engine still has"


def test_a_host_without_a_list_of_changes(
    engine: EngineDouble, connection: Any, one_disk: VmDouble, folder: Path, tmp_path: Path
) -> None:
    """The engine said that it would be incremental, and the host has it in full only."""
    back_up_vm(connection, "web", folder, timeouts=FAST)
    engine.when("POST", "/imagetransfers", one_disk.checkpoints[0].disks.clear)
    report = back_up_vm(connection, "web", folder, incremental=True, timeouts=FAST)
    [disk] = report.disks
    assert (disk.disk.mode, disk.info.fallback) == ("full", True)
    assert disk.reason == "the host has no list of what changed since the checkpoint"
    assert "_full" in Path(disk.place).name
    compare_restored(read_folder(folder), one_disk, tmp_path)


def test_what_is_missing_is_in_the_report(connection: Any, vm: VmDouble, folder: Path) -> None:
    """Disks that nobody chose to leave out, and files of programs that were killed."""
    first = back_up_vm(connection, "mail", folder, disks=["mail_Disk1"], timeouts=FAST)
    assert (first.not_backed_up, first.unfinished) == ((), ())
    whole = Path(first.disks[0].place)
    killed = whole.rename(folder / f".{whole.name}.partial")
    vm.attachments[1].active = False
    second = back_up_vm(connection, "mail", folder, timeouts=FAST)
    assert [disk.name for disk in second.not_backed_up] == ["mail_Disk2"]
    assert second.unfinished == (str(killed),)


def test_a_name_that_is_taken(connection: Any, one_disk: VmDouble, folder: Path) -> None:
    first, second = (
        back_up_vm(connection, "web", folder, template="{disk}", timeouts=FAST) for _ in range(2)
    )
    assert [Path(each.disks[0].place).name for each in (first, second)] == [
        "web_Disk1.tar",
        "web_Disk1-2.tar",
    ]
    for each in (first, second):
        with TarStreamSource(each.disks[0].place) as source:
            assert source.info.checkpoint_id == each.checkpoint_id


def test_a_copy_that_fails(
    engine: EngineDouble, connection: Any, vm: VmDouble, folder: Path, tmp_path: Path
) -> None:
    """The first disk is complete, and counts; the next backup starts where both are good."""
    full = back_up_vm(connection, vm.id, folder, timeouts=FAST)
    engine.refuse("POST", "/imagetransfers", 400, "[No.]", skip=1)
    with pytest.raises(Exception, match=r"cannot start the download of disk mail_Disk2: No") as e:
        back_up_vm(connection, vm.id, folder, incremental=True, timeouts=FAST)
    [note] = e.value.__notes__
    assert note.startswith("Disk mail_Disk1 is complete, and can be restored: /")
    assert len(os.listdir(folder)) == 3
    assert engine.leftovers().checkpoints == (full.checkpoint_id,)
    again = back_up_vm(connection, vm.id, folder, incremental=True, timeouts=FAST)
    assert again.parent_id == full.checkpoint_id
    compare_restored(read_folder(folder), vm, tmp_path)


def test_tapes(connection: Any, vm: VmDouble, tmp_path: Path) -> None:
    tape = FakeDrive(Cartridge())
    with (
        Catalog(tmp_path / "tapes.db") as catalog,
        TapeDrive("/dev/nst0", open_device=tape.open) as drive,
    ):
        drive.write_label("A1")
        options: Any = {"catalog": catalog, "timeouts": FAST}
        full = back_up_vm(connection, vm.id, drive, **options)
        assert [report.place for report in full.disks] == ["tape A1, file 1", "tape A1, file 2"]
        write_pattern(vm.disks[0].path, ["write -P 9 512k 64k"])
        changes = back_up_vm(connection, vm.id, drive, incremental=True, **options)
        assert changes.parent_id == full.checkpoint_id
        compare_restored(read_catalog(catalog, drive), vm, tmp_path)


def test_one_stream(
    engine: EngineDouble, connection: Any, vm: VmDouble, one_disk: VmDouble, folder: Path
) -> None:
    stream = io.BytesIO()
    report = back_up_vm(connection, "web", stream, timeouts=FAST)
    assert report.disks[0].place == "a BytesIO"
    with TarStreamSource(io.BytesIO(stream.getvalue())) as source:
        assert source.info.vm_name == "web"
    starts = calls(engine, "POST /imagetransfers")
    with pytest.raises(UsageError, match=r"2 disks to back up, and a BytesIO takes one stream"):
        back_up_vm(connection, "mail", stream, timeouts=FAST)
    report = back_up_vm(connection, "mail", "/dev/null", disks=["mail_Disk2"], timeouts=FAST)
    assert [each.disk.name for each in report.disks] == ["mail_Disk2"]
    assert calls(engine, "POST /imagetransfers") == starts + 1


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("none", {}, r"none does not exist\. For a folder, make it first"),
        ("file", {}, "is a file. Pass the folder"),
        ("-", {"incremental": True}, "where an incremental backup starts is not known"),
        ("-", {"template": "{vm}"}, "the target is no folder"),
        (".", {"catalog": object()}, "the target is no tape drive"),
        (".", {"disks": ["x"]}, "has no disk x"),
    ],
)
def test_what_cannot_be_done_starts_nothing(
    engine: EngineDouble,
    connection: Any,
    one_disk: VmDouble,
    tmp_path: Path,
    target: str,
    options: dict[str, Any],
    message: str,
) -> None:
    (tmp_path / "file").touch()
    where = target if target == "-" else tmp_path / target
    with pytest.raises(UsageError, match=message):
        back_up_vm(connection, "web", where, **options)
    assert calls(engine, "/backups") == 0


def test_the_hosts_have_another_ca(
    engine: EngineDouble, connection: Any, one_disk: VmDouble, folder: Path
) -> None:
    with pytest.raises(CertificateError):
        back_up_vm(connection, "web", folder, cafile=engine.cafile, timeouts=FAST)
    assert engine.leftovers().checkpoints == ()
    assert os.listdir(folder) == []


def test_a_program_on_a_host(
    engine: EngineDouble, connection: Any, one_disk: VmDouble, folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "vdsm.id"
    file.write_text(f"{engine.host.hardware_id}\n")
    back_up_vm(connection, "web", folder, vdsm_id=str(file), timeouts=FAST)
    [body] = [call.body for call in engine.calls if call.path == "/imagetransfers" and call.body]
    assert f'<host id="{engine.host.id}"' in body
    disks = find_vm(connection, "web").disks
    file.write_text("another-host\n")
    assert host_here(connection, disks, str(file)) is None
    engine.host.status = "down"
    file.write_text(f"{engine.host.hardware_id}\n")
    assert host_here(connection, disks, str(file)) is None
    with pytest.raises(LocalIOError, match="cannot read the id of this host"):
        host_here(connection, disks, str(tmp_path))


def test_what_a_killed_run_left_is_in_the_report(
    engine: EngineDouble,
    connection: Any,
    one_disk: VmDouble,
    folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (folder / ".web.tar.partial").write_bytes(b"")
    (tmp_path / "y.run").write_text("foreign\n")
    report = back_up_vm(connection, "web", folder, state=tmp_path, timeouts=FAST)
    assert [run.file.name for run in report.killed] == ["y.run"]
    warnings = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert warnings.count(f"Found {report.killed[0]}") == 1


NAMES = [
    """a & b <c> "d" 'e'""",
    "two\nlines, a tab\tand ../a/slash",
    "\U0001f418 ünï *",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_every_kind(
    engine: EngineDouble, connection: Any, folder: Path, tmp_path: Path, name: str
) -> None:
    """They go through the engine's XML, the OVF, the tars and the names of the files."""
    engine.add_vm("another", [MIB])
    vm = engine.add_vm(name, [MIB])
    back_up_vm(connection, name, folder, timeouts=FAST)
    write_pattern(vm.disks[0].path, ["write -P 9 512k 64k"])
    report = back_up_vm(connection, name, folder, incremental=True, timeouts=FAST)
    assert report.disks[0].disk.mode == "incremental"
    assert report.disks[0].info.vm_name == name
    compare_restored(read_folder(folder), vm, tmp_path)
    restored = restore_vm(connection, folder, vm=name, name="new", timeouts=FAST)
    assert [disk.name for disk in restored.disks] == [f"{name}_Disk1"]
    assert [disk.name for disk in engine.vms[-1].disks] == [f"{name}_Disk1"]
    assert all(path.parent == folder for path in folder.rglob("*"))


def test_a_storage_domain_with_a_space(daemon: ImageioDaemon, tmp_path: Path, folder: Path) -> None:
    with EngineDouble(tmp_path / "other", daemon=daemon, storage_domains=["all my data"]) as engine:
        engine.add_vm("web", [MIB])
        file = tmp_path / "vdsm.id"
        file.write_text(engine.host.hardware_id)
        with connect(engine.write_config(tmp_path / "there")) as connection:
            found = host_here(connection, find_vm(connection, "web").disks, str(file))
            assert found == engine.host.id
        searches = [call.query.get("search", "") for call in engine.calls]
    assert 'storage.name="all my data"' in searches
    assert (
        f'hw_id={found} and status=up and datacenter="Default"'.replace(
            str(found), file.read_text()
        )
        in searches
    )


def test_sigterm() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught, exit_on_sigterm():
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with exit_on_sigterm():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
