"""Jobs whose sources are in memory, and simulated drives, for workers in this process."""

from __future__ import annotations

from functools import partial

from tapestream import BackupInfo
from tapestream.fleet import BackupJob, Drive
from tapestream.tape import TapeDrive
from tapestream.testing import Cartridge, FakeDrive, MemorySource

DATA = bytes(range(256)) * 256
DRIVES: dict[str, FakeDrive] = {}
# The disks whose sources were opened.
OPENED: list[str] = []


def open_drive(device: str) -> TapeDrive:
    return TapeDrive(device, open_device=DRIVES[device].open)


def new_drive(name: str, *, label: str | None = None) -> Drive:
    DRIVES[name] = FakeDrive(Cartridge())
    if label is not None:
        with open_drive(name) as tape:
            tape.write_label(label)
    return Drive(name, open_drive)


def open_source(info: BackupInfo) -> MemorySource:
    OPENED.append(str(info.disk_id))
    if info.vm_name == "broken":
        raise ValueError("this source is broken")
    return MemorySource(DATA, info=info)


def job(disk: str, *, name: str = "", host: str = "host") -> BackupJob:
    info = BackupInfo(backup_id="monday", disk_id=disk, vm_name=name)
    return BackupJob("monday", disk, host, partial(open_source, info), name)
