from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import NamedTuple

import pytest

from tapestream import BackupInfo, Extent, TarStreamSink, copy
from tapestream.testing import ImageioDaemon, MemorySource, serve_image

from .program import ZONE

MIB = 1024**2
SUNDAY = datetime(2026, 11, 15, 22, 30, tzinfo=timezone.utc)
INFO = BackupInfo(
    vm_id="vm-1",
    vm_name="mail",
    disk_id="disk-1",
    disk_name="mail_Disk1",
    checkpoint_id="sunday",
    created=SUNDAY,
)


@pytest.fixture(autouse=True)
def known_surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For the program in this process; `environment` has the same for others."""
    monkeypatch.setenv("TZ", ZONE)
    monkeypatch.setenv("COLUMNS", "80")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


class Week(NamedTuple):
    """A folder with a full backup and an incremental one, and the disks that they hold."""

    folder: Path
    sunday: bytes
    monday: bytes

    @property
    def full(self) -> Path:
        return self.folder / "sunday.tar"

    @property
    def incremental(self) -> Path:
        return self.folder / "monday.tar"


@pytest.fixture(scope="session")
def shared_week(tmp_path_factory: pytest.TempPathFactory) -> Week:
    """Not to be changed."""
    random_bytes = random.Random(1).randbytes
    sunday = random_bytes(2 * MIB) + bytes(4 * MIB) + random_bytes(MIB) + bytes(MIB)
    changed = random_bytes(MIB)
    monday = bytes(MIB) + sunday[MIB : 3 * MIB] + changed + sunday[4 * MIB :]
    week = Week(tmp_path_factory.mktemp("week"), sunday, monday)
    full = [Extent(i * MIB, MIB, zero=i in {2, 3, 4, 5, 7}) for i in range(8)]
    incremental = [
        Extent(0, MIB, zero=True, dirty=True),
        Extent(MIB, 2 * MIB, dirty=False),
        Extent(3 * MIB, MIB, dirty=True),
        Extent(4 * MIB, 4 * MIB, dirty=False),
    ]
    later = replace(
        INFO,
        checkpoint_id="monday",
        parent_checkpoint_id="sunday",
        created=SUNDAY + timedelta(days=1),
        context="dirty",
    )
    for path, disk, extents, info in [
        (week.full, sunday, full, INFO),
        (week.incremental, monday, incremental, later),
    ]:
        with (
            MemorySource(disk, extents, info=info) as source,
            TarStreamSink(path, attachments={"vm.ovf": b"<vm/>"}) as sink,
        ):
            copy(source, sink)
    return week


@pytest.fixture
def week(shared_week: Week, tmp_path: Path) -> Week:
    """A copy, which the test may change."""
    folder = tmp_path / "week"
    shutil.copytree(shared_week.folder, folder)
    return shared_week._replace(folder=folder)


class Disk(NamedTuple):
    """A disk that a real daemon serves: its image, and files with its transfer URLs."""

    image: Path
    url: str
    url_file: Path
    cafile: Path


def write_sparse(path: Path, disk: bytes) -> None:
    """Write an image with holes where the disk has zeros."""
    with path.open("wb") as file:
        for start in range(0, len(disk), MIB):
            if any(disk[start : start + MIB]):
                file.seek(start)
                file.write(disk[start : start + MIB])
        file.truncate(len(disk))


@pytest.fixture
def disk(daemon: ImageioDaemon, shared_week: Week, tmp_path: Path) -> Iterator[Disk]:
    """The disk of Sunday, to read and to write."""
    image = tmp_path / "served.raw"
    write_sparse(image, shared_week.sunday)
    url_file = tmp_path / "url"
    with serve_image(image, format="raw", read_only=False) as nbd:
        url = daemon.add_ticket(nbd, len(shared_week.sunday), ops=["read", "write"])
        url_file.write_text(f"{url}\n")
        yield Disk(image, url, url_file, daemon.cafile)
