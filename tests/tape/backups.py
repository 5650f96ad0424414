"""Small backups on tapes of the double, and the operator who changes the tapes."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from tapestream import BackupInfo, Extent, TarStreamSink, TarStreamSource, copy
from tapestream.drive.opening import OpenDevice
from tapestream.engine.copy import CopyResult
from tapestream.model.extents import Kind
from tapestream.tape import TapeDrive, TapeEntry, VolumeRequest
from tapestream.tar import format as fmt
from tapestream.testing.drive import Cartridge, FakeDrive
from tapestream.testing.memory import MemorySink, MemorySource

from .tapes import impatient

KIB = 1024
RECORD_SIZE = 64 * KIB
CREATED = datetime(2026, 11, 23, 15, 0, 1, tzinfo=timezone.utc)


class Stacker:
    """A drive with a stack of tapes: when the next one is asked for, the next one is loaded.

    Attributes:
        double: The drive.
        tape: The same, as the library sees it.
        shelf: All tapes in the order of their loading; behind the last come large blank ones.
        number: Which of them is in the drive.
        requests: All that was asked for.
    """

    def __init__(
        self, *shelf: Cartridge, open_device: OpenDevice | None = None, **options: Any
    ) -> None:
        self.shelf = list(shelf) or [Cartridge()]
        self.double = FakeDrive(self.shelf[0], **options)
        self.tape = impatient(TapeDrive("/dev/nst0", open_device=open_device or self.double.open))
        self.number = 0
        self.requests: list[VolumeRequest] = []

    def load(self, number: int) -> None:
        self.tape.release()
        while number >= len(self.shelf):
            self.shelf.append(Cartridge())
        self.number = number
        self.double.swap(self.shelf[number])

    def next_tape(self, request: VolumeRequest) -> None:
        self.requests.append(request)
        self.load(self.number + 1)

    def backup(
        self,
        disk: bytes,
        extents: Sequence[Extent] | None = None,
        *,
        disk_id: str = "disk",
        **options: Any,
    ) -> CopyResult:
        """Append a backup to what is on the tape."""
        self.tape.end_of_data()
        info = BackupInfo(vm_id="vm", disk_id=disk_id, created=CREATED)
        options = {"record_size": RECORD_SIZE, "part_size": RECORD_SIZE, **options}
        source = MemorySource(disk, extents, info=info)
        with source, TarStreamSink(self.tape, **options) as sink:
            return quick_copy(source, sink)

    def restore(
        self, number: int = 0, *, disk_id: str = "disk", sink: MemorySink | None = None
    ) -> bytes:
        """Restore the newest backup of that disk which begins on that tape."""
        self.load(number)
        entries = [e for e in self.tape.scan() if e.info and e.info.disk_id == disk_id]
        self.tape.go_to_file([e for e in entries if e.volume == 1][-1].file)
        sink = sink or MemorySink()
        with TarStreamSource(self.tape, on_next_volume=self.next_tape) as source, sink:
            quick_copy(source, sink)
            return bytes(sink.disk)


def quick_copy(source: Any, sink: Any) -> CopyResult:
    """Copy in small buffers, so that there are several of a small disk."""
    return copy(source, sink, buffer_size=64 * KIB, buffer_memory=256 * KIB)


def scan(cartridge: Cartridge) -> list[TapeEntry]:
    """What is on a tape, seen in another drive."""
    with TapeDrive("/dev/nst1", open_device=FakeDrive(cartridge).open) as drive:
        return list(drive.scan())


def restored_image(disk: bytes, extents: Sequence[Extent]) -> bytes:
    """What a `MemorySink` holds after a restore."""
    image = bytearray(disk)
    for e in extents:
        if e.kind is not Kind.DATA:
            fill = 0 if e.kind is Kind.ZERO else MemorySink.FILL
            image[e.start : e.start + e.length] = bytes([fill]) * e.length
    return bytes(image)


def whole_members(records: Sequence[bytes]) -> dict[str, bytes]:
    """The members of a tape file up to where it ends or is torn."""
    stream, at = b"".join(records), 0
    found = {}
    while len(stream) >= at + 512 and (header := fmt.parse_header(stream[at : at + 512])):
        data = stream[at + 512 : at + 512 + header.size]
        if len(data) < header.size:
            break
        found[header.name] = data
        at += 512 + header.size + fmt.padding(header.size)
    return found


def tar_members(records: Sequence[bytes]) -> dict[str, bytes]:
    """The members of a tape file as Python's own tar sees them."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(b"".join(records)), mode="r:") as tar:
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            found[member.name] = file.read()
    return found


def start_of(member: str) -> int:
    """Disk offset of a data member."""
    return int(member.partition("@")[2])
