"""What tests on the level of `TapeDrive`, sink and source have in common."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from tapestream import BackupInfo, CopyResult, Extent, TarStreamSink, TarStreamSource, copy
from tapestream.tape import TapeDrive, TapeEntry, VolumeRequest
from tapestream.testing.memory import Hook, MemorySink, MemorySource, nothing
from tests.drive.stations import FakeStation, Station

KIB = 1024
RECORD = 64 * KIB
PART = 64 * KIB
# A block costs 8 bytes more than its data, a filemark 4.
BLOCK_COST, FILEMARK_COST = RECORD + 8, 4

Ask = Callable[[VolumeRequest], TapeDrive | None]


def impatient(drive: TapeDrive) -> TapeDrive:
    """The drive; an operator who does not come is not waited for."""
    drive.raw.poll_seconds, drive.raw.load_seconds = 0.001, 0.01
    return drive


def tape_drive(station: Station, number: int = 0) -> TapeDrive:
    path = (station.path, station.second_path)[number]
    return impatient(TapeDrive(path, open_device=station.open_device))


def disk(seed: int, size: int = 200 * KIB) -> bytes:
    return random.Random(seed).randbytes(size)


def backup(
    drive: TapeDrive,
    data: bytes,
    name: str | None = None,
    *,
    info: BackupInfo | None = None,
    extents: Sequence[Extent] | None = None,
    before_read: Hook = nothing,
    on_volume_full: Ask | None = None,
    record_size: int = RECORD,
    part_size: int = PART,
    checksum: str | None = "crc32",
    **options: Any,
) -> CopyResult:
    """Append a disk to what is on the tape."""
    info = info or BackupInfo(vm_id="vm", disk_id=name)
    with (
        MemorySource(data, extents, info=info, before_read=before_read) as source,
        TarStreamSink(
            drive,
            record_size=record_size,
            part_size=part_size,
            checksum=checksum,
            on_volume_full=on_volume_full,
            **options,
        ) as sink,
    ):
        # Little memory, and small pieces: the source is never far ahead of the tape.
        return copy(source, sink, buffer_size=RECORD, buffer_memory=4 * RECORD)


def restore(
    drive: TapeDrive, *, on_next_volume: Ask | None = None, sink: MemorySink | None = None
) -> bytes:
    """The disk in the backup at which the tape stands."""
    with (
        TarStreamSource(drive, on_next_volume=on_next_volume) as source,
        sink or MemorySink() as target,
    ):
        copy(source, target, buffer_size=RECORD, buffer_memory=4 * RECORD)
    return bytes(target.disk)


def places(result: CopyResult) -> list[tuple[str | None, int | None]]:
    """The label of the tape and the number of the tape file of each volume."""
    assert result.receipt is not None
    return [(place.label, place.file) for place in result.receipt.places]


def only(found: list[TapeEntry]) -> TapeEntry:
    assert len(found) == 1
    return found[0]


def restore_disk(drive: TapeDrive, name: str) -> bytes:
    """The only backup of a disk on the tape."""
    drive.go_to_file(only(drive.find(disk_id=name)).file)
    return restore(drive)


def listing(drive: TapeDrive) -> list[str]:
    """What lies on the tape, file by file, in short."""
    return [f"{describe(entry)}{'' if entry.complete else ' incomplete'}" for entry in drive.scan()]


def describe(entry: TapeEntry) -> str:
    if entry.label is not None:
        return f"label {entry.label}"
    if entry.info is None:
        return "foreign"
    number = f" volume {entry.volume}" if entry.volume > 1 or entry.continues else ""
    return f"{entry.info.disk_id}{number}"


def cases(station: Station, everything: Sequence[int], few: Sequence[int]) -> Sequence[int]:
    """All cases for the double; few for the real driver, where each takes a second."""
    return everything if isinstance(station, FakeStation) else few


def change_tape(station: Station, drive: TapeDrive, name: str, number: int = 0) -> None:
    """What an operator does, when nothing is going on."""
    drive.release()
    station.swap(name, number)
