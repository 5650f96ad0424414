"""A backup to tape is read directly into the records that are written."""

from __future__ import annotations

import ctypes
import gc
import mmap
import weakref
from dataclasses import replace
from typing import cast

import pytest

from tapestream import (
    BackupInfo,
    Extent,
    Extents,
    Reader,
    TarStreamSink,
    TarStreamSource,
    Writer,
    copy,
)
from tapestream.backend import (
    ForwardingReader,
    ForwardingSink,
    ForwardingSource,
    ForwardingWriter,
)
from tapestream.drive.device import TapeDevice
from tapestream.drive.records import SLAB
from tapestream.tape import TapeDrive
from tapestream.testing.drive import Cartridge, FakeDevice, FakeDrive
from tapestream.testing.memory import MemorySink, MemorySource, Pattern
from tests.disks import noise

from .backups import Stacker, quick_copy

KIB, MIB = 1024, 1024**2


class Addresses(set[range]):
    """Stretches of memory."""

    def note(self, memory: memoryview) -> None:
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self.add(range(start, start + len(memory)))

    def hold(self, inner: range) -> bool:
        return any(inner.start < each.stop and each.start < inner.stop for each in self)


class WatchedSource(ForwardingSource):
    """Notes into which memory it is read."""

    def __init__(self, wrapped: MemorySource, read: Addresses) -> None:
        super().__init__(wrapped)
        self.read = read

    def open_reader(self) -> Reader:
        return WatchedReader(super().open_reader(), self.read)


class WatchedReader(ForwardingReader):
    def __init__(self, wrapped: Reader, read: Addresses) -> None:
        super().__init__(wrapped)
        self.read = read

    def readinto(self, start: int, buffer: memoryview) -> None:
        self.read.note(buffer)
        super().readinto(start, buffer)


class Shifted(ForwardingSink):
    """Puts a disk into a larger one, after this many bytes of data."""

    def __init__(self, wrapped: TarStreamSink, before: bytes) -> None:
        super().__init__(wrapped)
        self.before = before

    def begin(self, info: BackupInfo, extents: Extents) -> None:
        shift = len(self.before)
        moved = [Extent(e.start + shift, e.length, zero=e.zero) for e in extents]
        first = Extent(0, shift)
        super().begin(replace(info, size=info.size + shift), Extents.of([first, *moved]))

    def open_writer(self) -> Writer:
        writer = super().open_writer()
        writer.write(0, memoryview(self.before))
        return ShiftedWriter(writer, len(self.before))


class ShiftedWriter(ForwardingWriter):
    def __init__(self, wrapped: Writer, shift: int) -> None:
        super().__init__(wrapped)
        self.shift = shift

    def write(self, start: int, buffer: memoryview) -> None:
        super().write(start + self.shift, buffer)

    def zero(self, start: int, length: int) -> None:
        super().zero(start + self.shift, length)


def test_a_wrapper_that_writes_elsewhere_lends_nothing() -> None:
    """Otherwise data would be read into places where other data is still to be written from."""
    before, disk = noise(300 * KIB), noise(3000 * KIB)
    station = Stacker()
    with (
        MemorySource(disk) as source,
        TarStreamSink(station.tape, checksum=None, record_size=64 * KIB) as sink,
    ):
        quick_copy(source, Shifted(sink, before))
    with TarStreamSource(station.tape, file=0) as source, MemorySink() as restored:
        quick_copy(source, restored)
    assert restored.disk == before + disk


@pytest.mark.parametrize("checksum", [None, "sha256"])
def test_data_is_read_into_the_records(checksum: str | None) -> None:
    written, read = Addresses(), Addresses()

    class Watched(FakeDevice):
        def write(self, record: memoryview) -> int:
            written.note(record)
            return super().write(record)

    def open_device(path: str, *, read_only: bool) -> TapeDevice:
        return Watched(double, read_only=read_only)

    size = 5 * SLAB
    double = FakeDrive(Cartridge(512 * MIB))
    with (
        TapeDrive("/dev/nst0", open_device=open_device) as drive,
        WatchedSource(MemorySource(Pattern(noise(MIB), size), max_readers=1), read) as source,
        TarStreamSink(drive, checksum=checksum) as sink,
    ):
        copy(source, sink, buffer_size=MIB, buffer_memory=8 * MIB)
    copied = [memory for memory in read if not written.hold(memory)]
    # Only what lies across the end of a slab is read into a buffer of the copy.
    assert len(copied) <= 2
    assert len(read) - len(copied) >= 2 * SLAB // MIB


@pytest.mark.parametrize("room", [300, 555, 700, 1111])
def test_large_buffers_over_several_tapes(room: int) -> None:
    """What was read into the records of one tape, and is not on it, is on the next."""
    disk = noise(3000 * KIB)
    extents = [
        Extent(0, 1500 * KIB),
        Extent(1500 * KIB, 100 * KIB, zero=True),
        Extent(1600 * KIB, 1400 * KIB),
    ]
    station = Stacker(*(Cartridge(room * KIB, early) for early in (0, 150 * KIB) * 10))
    station.backup(disk, extents, part_size=128 * KIB, on_volume_full=station.next_tape)
    assert len(station.requests) > 1
    expected = disk[: 1500 * KIB] + bytes(100 * KIB) + disk[1600 * KIB :]
    assert station.restore() == expected


@pytest.mark.parametrize("early", [0, 3 * MIB])
def test_the_memory_of_a_full_tape_is_freed(early: int) -> None:
    """Immediately, and not only when Python looks for cycles."""
    slabs: dict[int, weakref.ref[mmap.mmap]] = {}
    alive: list[int] = []

    class Watched(FakeDevice):
        def write(self, record: memoryview) -> int:
            slabs[id(record.obj)] = weakref.ref(cast("mmap.mmap", record.obj))
            alive.append(sum(ref() is not None for ref in slabs.values()))
            return super().write(record)

    def open_device(path: str, *, read_only: bool) -> TapeDevice:
        return Watched(station.double, read_only=read_only)

    tapes = [Cartridge(20 * MIB, early) for _ in range(5)]
    station = Stacker(*tapes, open_device=open_device)
    gc.disable()
    try:
        station.backup(
            noise(MIB) * 80,
            record_size=MIB,
            part_size=MIB,
            on_volume_full=station.next_tape,
        )
    finally:
        gc.enable()
    assert len(station.requests) >= 4
    assert max(alive) <= 4
