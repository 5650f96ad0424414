"""Drives that take no time: what the way to a tape, and back, costs us alone.

These are doubles. A real drive moves the tape; these only count, or serve a file.
"""

from __future__ import annotations

import os
from pathlib import Path
from random import Random
from typing import BinaryIO

from typing_extensions import override

from benchmarks.model import MIB, Job
from tapestream import DiscardSink, TarStreamSink, TarStreamSource, compare, copy
from tapestream.stream.sink import TAPE_PART_SIZE
from tapestream.tape import Command, DeviceStatus, Flag, TapeDevice, TapeDrive
from tapestream.testing import MemorySource, Pattern

RECORD_SIZE = MIB
# More than a processor's own cache holds: no disk comes out of that.
UNIT = Random(1).randbytes(MIB) * 16


class _Double(TapeDevice):
    """A blank tape, or one with a single tape file; it knows where it stands."""

    def __init__(self, records: int) -> None:
        self._records = records
        self._position = self._file = 0

    @override
    def command(self, command: Command, count: int = 1) -> None:
        if command is Command.REWIND:
            self._position = self._file = 0
        elif command is Command.WRITE_FILEMARKS:
            self._position += count
            self._file += count

    @override
    def status(self) -> DeviceStatus:
        flags = Flag.ONLINE
        if self._position == 0:
            flags |= Flag.BEGINNING
        if self._position >= self._records:
            flags |= Flag.END_OF_DATA
        return DeviceStatus(flags, self._file, self._position, 0, 0)

    @override
    def position(self) -> int:
        return self._position

    @override
    def close(self) -> None:
        pass


class Dropping(_Double):
    """Counts the records, and drops them, or puts them into a file, to be looked at."""

    def __init__(self, keep: BinaryIO | None) -> None:
        super().__init__(0)
        self._keep = keep

    @override
    def write(self, record: memoryview) -> int:
        self._position += 1
        return self._keep.write(record) if self._keep else len(record)

    @override
    def readinto(self, buffer: memoryview) -> int:
        return 0


class Serving(_Double):
    """Has a tar in its first tape file, in records: it reads them from a file."""

    def __init__(self, tar: BinaryIO) -> None:
        super().__init__(os.fstat(tar.fileno()).st_size // RECORD_SIZE)
        self._tar = tar

    @override
    def write(self, record: memoryview) -> int:
        raise NotImplementedError

    @override
    def readinto(self, buffer: memoryview) -> int:
        at = self._position * RECORD_SIZE
        count = os.preadv(self._tar.fileno(), [buffer[:RECORD_SIZE]], at)
        self._position += 1
        return count


def drive(device: TapeDevice) -> TapeDrive:
    """A drive with this device."""

    def open_device(path: str, *, read_only: bool) -> TapeDevice:  # noqa: ARG001
        return device

    return TapeDrive("/dev/nst0", open_device=open_device)


def disk(size: int) -> MemorySource:
    """A disk whose bytes cost a memcpy each, over one connection, so to say."""
    return MemorySource(Pattern(UNIT, size), max_readers=1)


def write_file(job: Job) -> None:
    """The tar that goes to tape, to a file."""
    options = {"record_size": RECORD_SIZE, "part_size": TAPE_PART_SIZE, **job.options}
    with disk(job.size) as source, TarStreamSink(job.target, **options) as sink:
        copy(source, sink)


def write_tape(job: Job) -> None:
    with open(job.target, "wb") as keep:
        device = Dropping(None if job.target == os.devnull else keep)
        with (
            drive(device) as tape,
            disk(job.size) as source,
            TarStreamSink(tape, record_size=RECORD_SIZE, **job.options) as sink,
        ):
            copy(source, sink)


def read_file(job: Job) -> None:
    with TarStreamSource(job.source, **job.options) as source:
        copy(source, DiscardSink())


def read_tape(job: Job) -> None:
    with (
        open(job.source, "rb") as tar,
        drive(Serving(tar)) as tape,
        TarStreamSource(tape, **job.options) as source,
    ):
        copy(source, DiscardSink())


def check(job: Job) -> None:
    """Make sure that a tar holds the disk."""
    with TarStreamSource(Path(job.source)) as source, disk(job.size) as wanted:
        assert compare(source, wanted).equal
