"""Jobs whose sources are in memory, and simulated drives, for workers in this process."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial

from tapestream import BackupInfo, Source
from tapestream.errors import LocalIOError
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


def open_disk(info: BackupInfo) -> Iterator[tuple[Source, Mapping[str, bytes]]]:
    OPENED.append(str(info.disk_id))
    if info.vm_name == "broken":
        raise ValueError("this source is broken")
    if info.vm_name == "lost file":
        raise LocalIOError("cannot read /somewhere", FileNotFoundError())
    make = SlowSource if info.vm_name == "slow" else partial(MemorySource, DATA)
    with make(info=info) as source:
        yield source, {}


def job(disk: str, *, name: str = "", host: str = "host") -> BackupJob:
    """A VM with one disk."""
    info = BackupInfo(backup_id="monday", disk_id=disk, vm_name=name)
    return BackupJob(f"monday {disk}", (disk,), host, partial(open_disk, info), name)


class VM:
    """A VM with two disks. Each time when it is opened, it is another backup, unless it is kept.

    Args:
        keep: Whether its backup stays the same, as one does that the program itself has started.
        broken: The disk that cannot be read, until it is mended.
    """

    disk_ids = "boot", "data"

    def __init__(self, *, keep: bool = False, broken: str = "") -> None:
        self.keep = keep
        self.broken = broken
        self.backups = 0
        self.ends: list[BaseException | None] = []

    def open_disks(self) -> Iterator[tuple[Source, Mapping[str, bytes]]]:
        self.backups += 1
        backup_id = "kept" if self.keep else f"backup-{self.backups}"
        try:
            for disk_id in self.disk_ids:
                info = BackupInfo(backup_id=backup_id, disk_id=disk_id, metadata={"of": "mine"})
                with MemorySource(DATA, info=info, before_read=partial(self._read, disk_id)) as one:
                    yield one, {"vm.ovf": disk_id.encode()}
        except BaseException as e:
            self.ends.append(e)
            raise
        self.ends.append(None)

    def _read(self, disk_id: str, start: int, length: int) -> None:
        if disk_id == self.broken:
            raise ConnectionError(f"disk {disk_id} is broken")

    def job(self, *, disk_ids: tuple[str, ...] = disk_ids) -> BackupJob:
        return BackupJob("monday", disk_ids, "host", self.open_disks)
