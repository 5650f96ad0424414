"""Disks of many extents, made up as they are read: what an extent costs us alone."""

from __future__ import annotations

from pathlib import Path
from random import Random

from benchmarks.model import MIB, Job
from tapestream import DiscardSink, Extents, TarStreamSink, TarStreamSource, compare, copy
from tapestream.testing import MemorySource, Pattern

UNIT = Random(1).randbytes(MIB)


def disk(extents: Extents) -> MemorySource:
    """A disk whose bytes cost a memcpy each."""
    return MemorySource(Pattern(UNIT, extents.size), extents)


def write_tar(job: Job) -> None:
    """Its extents come as JSON, as from a server."""
    source = disk(Extents.parse(Path(job.source).read_bytes()))
    with source, TarStreamSink(job.target, checksum="sha256") as sink:
        copy(source, sink)


def read_tar(job: Job) -> None:
    with TarStreamSource(job.source) as source:
        if job.options.get("check"):
            assert compare(source, disk(source.extents())).equal
        else:
            copy(source, DiscardSink())
