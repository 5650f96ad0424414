"""Jobs whose sources are in memory, and simulated drives, for workers in this process."""

from __future__ import annotations

import time
from functools import partial

from tapestream import BackupInfo
from tapestream.fleet import BackupJob, Drive
from tapestream.tape import TapeDrive
from tapestream.testing import Cartridge, FakeDrive, MemorySource

DATA = bytes(range(256)) * 256
DRIVES: dict[str, FakeDrive] = {}
# The disks whose sources were opened.
OPENED: list[str] = []
# How many slow sources were open, after each was opened or closed.
BUSY = [0]


def open_drive(device: str) -> TapeDrive:
    return TapeDrive(device, open_device=DRIVES[device].open)


def new_drive(name: str, *, label: str | None = None) -> Drive:
    DRIVES[name] = FakeDrive(Cartridge())
    if label is not None:
        with open_drive(name) as tape:
            tape.write_label(label)
    return Drive(name, open_drive)


class SlowSource(MemorySource):
    """It is open for long enough to meet another one."""

    def __init__(self, info: BackupInfo) -> None:
        super().__init__(DATA, info=info)
        BUSY.append(BUSY[-1] + 1)
        time.sleep(0.3)

    def close(self) -> None:
        if not self.closed:
            BUSY.append(BUSY[-1] - 1)
        super().close()


def open_source(info: BackupInfo) -> MemorySource:
    OPENED.append(str(info.disk_id))
    if info.vm_name == "broken":
        raise ValueError("this source is broken")
    return SlowSource(info) if info.vm_name == "slow" else MemorySource(DATA, info=info)


def job(disk: str, *, name: str = "", host: str = "host") -> BackupJob:
    info = BackupInfo(backup_id="monday", disk_id=disk, vm_name=name)
    return BackupJob("monday", disk, host, partial(open_source, info), name)
