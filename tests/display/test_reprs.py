"""What a prompt shows of an object: one short line, which says what it is, and no secret."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

from tapestream import Cancel, CopyResult, CopyStatus, DiscardSink, copy
from tapestream.fleet import FleetReport, JobReport
from tapestream.model.info import BackupInfo
from tapestream.tape import TapeDrive, TapeLabel, TapePlace
from tapestream.testing import (
    Cartridge,
    FakeDrive,
    ImageioDaemon,
    MemorySink,
    MemorySource,
    Pattern,
    create_image,
)
from tapestream.testing.images import ImageServer

MIB = 1024**2
WHEN = datetime(2026, 11, 15, 22, 30, tzinfo=timezone.utc)
INFO = BackupInfo(vm_name="mail", disk_name="Disk1")
UUID = "123e4567-e89b-12d3-a456-42661417400{}"


def copied() -> tuple[CopyResult, MemorySource, MemorySink]:
    with MemorySource(bytes(6 * MIB), info=INFO) as source, MemorySink() as sink:
        return copy(source, sink), source, sink


def check(*shown: tuple[object, str]) -> None:
    for value, line in shown:
        assert repr(value) == line
        assert len(line) <= 100


def test_what_a_copy_has() -> None:
    _, source, sink = copied()
    cancel, cancelled = Cancel(), Cancel()
    cancelled.cancel("enough\n" * 30)
    status = CopyStatus("data", 3 * MIB, 6 * MIB, 2.5, 0.1, 1.26e6)
    check(
        (source, "<MemorySource: mail, Disk1, 6.0 MiB>"),
        (sink, "<MemorySink: committed, 6.0 MiB>"),
        (DiscardSink(), "DiscardSink()"),
        (cancel, "<Cancel: not cancelled>"),
        (status, "<CopyStatus: data, 3.0 MiB of 6.0 MiB after 2.5 s, 1.3 MB/s>"),
        (Pattern(b"ab", 3 * MIB), "<Pattern: 3.0 MiB of b'ab'>"),
    )
    assert repr(cancelled).startswith(r"<Cancel: cancelled, enough\nenough\n")
    assert len(repr(cancelled)) == 100


def test_the_state_of_a_drive() -> None:
    double = FakeDrive(Cartridge(name="A00001"))
    drive = TapeDrive("/dev/nst0", open_device=double.open)
    drive.write_label("A00001")
    status = drive.status()
    drive.close()
    check(
        (status, "<TapeStatus: file 1, block 0>"),
        (
            replace(status, file=None, block=None, at_end_of_data=True, write_protected=True),
            "<TapeStatus: the driver has lost count, end of data, write-protected>",
        ),
        (replace(status, online=False), "<TapeStatus: not ready>"),
        (replace(status, online=False, is_empty=True), "<TapeStatus: no cartridge>"),
        (
            TapePlace("/dev/nst0", "A1", 3, 1, UUID.format(1), (UUID.format(2),) * 5),
            "TapePlace(drive='/dev/nst0', label='A1', file=3, volume=1)",
        ),
        (
            TapeLabel("A1", UUID.format(1), (UUID.format(2),) * 5),
            f"TapeLabel(name='A1', tape_id='{UUID.format(1)}')",
        ),
    )
    assert repr(double).startswith("<FakeDrive: <Cartridge A00001: ")
    assert repr(FakeDrive()) == "<FakeDrive: no cartridge>"


def test_the_servers_of_tests(tmp_path: Path) -> None:
    assert repr(ImageioDaemon(tmp_path)).startswith("<ImageioDaemon: not running, /")
    disk = tmp_path / "disk.qcow2"
    create_image(disk, MIB)
    with ImageServer(disk) as server:
        assert repr(server).startswith("<ImageServer: /")
        assert repr(server).endswith("/disk.qcow2>")


def test_a_fleet() -> None:
    good = JobReport("j1", "mail", "host1", places={"d1": "A00001:3"}, data_bytes=5, seconds=1.0)
    bad = replace(good, name="", error="no such drive")
    check(
        (good, "<JobReport: mail, A00001:3>"),
        (bad, "<JobReport: j1, failed: no such drive>"),
        (FleetReport((good, bad), 65.0), "<FleetReport: 2 jobs, 1 failed, 0:01:05>"),
    )


def test_a_vm() -> None:
    pytest.importorskip("ovirtsdk4")
    from tapestream.ovirt import (  # noqa: PLC0415
        VM,
        BackupDisk,
        DiskReport,
        RestoredDisk,
        Transfer,
        VMBackupReport,
        VMDisk,
        VMRestoreReport,
    )

    id_ = UUID.format(0)
    disk = VMDisk(id_, "Disk1", 50 * 1024**3, True, True, id_)
    part = BackupDisk(id_, "Disk1", 50 * 1024**3, "full")
    result, _, _ = copied()
    report = DiskReport(part, "/backups/disk.tar", INFO, result)
    restored = RestoredDisk(id_, "Disk1", INFO, ("a", "b"), result)
    url = "https://host/images/the-ticket"
    check(
        (VM(id_, "mail", "<Envelope/>" * 1000, (disk, disk)), f"<VM: mail ({id_}), 2 disks>"),
        (disk, f"<VMDisk: Disk1 ({id_}), 50.0 GiB>"),
        (replace(disk, active=False), f"<VMDisk: Disk1 ({id_}), 50.0 GiB, not backed up>"),
        (part, f"<BackupDisk: Disk1 ({id_}), 50.0 GiB, full>"),
        (report, "<DiskReport: Disk1, full, 6.0 MiB, /backups/disk.tar>"),
        (restored, f"<RestoredDisk: Disk1 ({id_}), 6.0 MiB from 2 backups>"),
        (
            Transfer(id_, UUID.format(1), url, url, id_),
            f"<Transfer: {id_} of disk {UUID.format(1)}>",
        ),
    )
    backup = VMBackupReport(id_, "mail", id_, WHEN, id_, None, (report, report))
    assert repr(backup).startswith("<VMBackupReport: mail, 2026-11-1")
    assert repr(backup).endswith(", 2 disks, 12.0 MiB of data>")
    again = VMRestoreReport(id_, "mail", None, (restored,), (), has_new_ids=True)
    assert repr(again) == "<VMRestoreReport: mail, 1 disk>"
