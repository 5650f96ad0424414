"""Disks of many extents, made up as they are read: what an extent costs us alone."""

from __future__ import annotations

from pathlib import Path
from random import Random

from benchmarks.model import MIB, Job
from tapestream import (
    BackupInfo,
    DiscardSink,
    Reader,
    Source,
    TarStreamSink,
    TarStreamSource,
    Writer,
    copy,
)
from tapestream.engine.options import REQUEST_SIZE
from tapestream.model.extents import Extents

# The byte at an offset of the disk is that at the offset modulo 1 MiB here.
PATTERN = memoryview(Random(1).randbytes(MIB) * (1 + REQUEST_SIZE // MIB))


class PatternSource(Source):
    """Its extents come as JSON, as from a server, and its bytes cost a memcpy."""

    max_readers = 4
    sequential = False

    def __init__(self, text: bytes) -> None:
        self._extents = Extents.parse(text)

    @property
    def info(self) -> BackupInfo:
        return BackupInfo(size=self._extents.size)

    def extents(self) -> Extents:
        return self._extents

    def open_reader(self) -> Reader:
        return _PatternReader()

    def close(self) -> None:
        pass


class _PatternReader(Reader):
    def readinto(self, start: int, buffer: memoryview) -> None:
        buffer[:] = PATTERN[start % MIB :][: len(buffer)]

    def close(self) -> None:
        pass


class PatternSink(DiscardSink):
    """Asserts that every byte is the one that belongs there."""

    def open_writer(self) -> Writer:
        return _PatternWriter()


class _PatternWriter(Writer):
    def write(self, start: int, buffer: memoryview) -> None:
        assert bytes(buffer) == bytes(PATTERN[start % MIB :][: len(buffer)])

    def zero(self, start: int, length: int) -> None:
        pass

    def close(self) -> None:
        pass


def write_tar(job: Job) -> None:
    text = Path(job.source).read_bytes()
    with PatternSource(text) as source, TarStreamSink(job.target, checksum="sha256") as sink:
        del text
        copy(source, sink)


def read_tar(job: Job) -> None:
    sink = PatternSink() if job.options.get("check") else DiscardSink()
    with TarStreamSource(job.source) as source, sink:
        copy(source, sink)
