"""Chains of backups to restore, with what the disk was at each of them."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st

from tapestream import BackupInfo, Extent, Reader, Source, TarStreamSink, TarStreamSource, copy
from tapestream.backend.abilities import ChecksEnd, ability
from tapestream.backend.checks import finish, rewind
from tapestream.backend.forwarding import ForwardingSource
from tapestream.model.extents import Extents, Kind
from tapestream.testing.memory import MemorySink, MemorySource

CREATED = datetime(2026, 11, 22, 21, 0, 0, tzinfo=timezone.utc)
# Stands where nobody may read: in what is clean, and in what is zero.
POISON = 0xDD

DATA, ZERO, CLEAN = Kind.DATA, Kind.ZERO, Kind.CLEAN


@dataclass(frozen=True)
class Link:
    """One backup of a chain.

    Attributes:
        info: What it says of itself.
        extents: Its extents.
        disk: What the whole disk was.
        readable: The same, with poison where a restore of the chain may not read this backup.
    """

    info: BackupInfo
    extents: list[Extent]
    disk: bytes
    readable: bytes

    def memory(self, **options: Any) -> MemorySource:
        """It as a source in memory."""
        source = MemorySource(self.readable, self.extents, **options)
        source.info = replace(self.info, size=len(self.disk))  # also of a disk without extents
        return source

    def tar(self, **options: Any) -> bytes:
        """It as a tar."""
        out = io.BytesIO()
        options = {"record_size": 512, **options}
        with self.memory() as source, TarStreamSink(out, **options) as sink:
            copy(source, sink, buffer_size=4096, buffer_memory=16384)
        return out.getvalue()


def info(
    number: int, *, full: bool = False, parent: int | None = None, **fields: Any
) -> BackupInfo:
    """Backup number so-and-so; an incremental one starts from the one before."""
    if parent is None and not full:
        parent = number - 1
    return BackupInfo(
        **{
            "vm_id": "vm",
            "disk_id": "disk",
            "backup_id": f"b{number}",
            "checkpoint_id": f"c{number}",
            "parent_checkpoint_id": None if parent is None else f"c{parent}",
            "created": CREATED + timedelta(days=number),
            "context": "zero" if full else "dirty",
            **fields,
        }
    )


def link(before: Link | None, number: int, runs: Sequence[tuple[int, Kind]], seed: int = 0) -> Link:
    """The next backup, by the lengths and kinds of its extents; the first one is full."""
    noise = random.Random(f"{seed} {number}")
    old = before.disk if before else b""
    disk, readable, extents = bytearray(old), bytearray(), []
    start = 0
    for length, kind in runs:
        end = start + length
        if kind is DATA:
            content = noise.randbytes(length)
        elif kind is ZERO:
            content = bytes(length)
        else:
            content = old[start:end].ljust(length, b"\0")
        disk[start:end] = content
        readable += content if kind is DATA else bytes([POISON]) * length
        extents.append(
            Extent(
                start,
                length,
                zero=not any(content) if kind is CLEAN else kind is ZERO,
                dirty=None if before is None else kind is not CLEAN,
            )
        )
        start = end
    assert len(disk) == start, "a disk does not shrink"
    given = info(number, full=before is None)
    return Link(given, extents, bytes(disk), bytes(readable))


def chain(*links: Sequence[tuple[int, Kind]], seed: int = 0) -> list[Link]:
    """A full backup and incremental ones."""
    made: list[Link] = []
    for number, runs in enumerate(links, 1):
        made.append(link(made[-1] if made else None, number, runs, seed))
    return made


@st.composite
def chains(draw: st.DrawFn, *, max_links: int = 6, max_length: int = 6000) -> list[Link]:
    """Random chains of a disk that may grow."""
    made: list[Link] = []
    seed = draw(st.integers(0, 2**16))
    size = draw(st.sampled_from([0, 1, 512, 4096, 9000, 20000])) + draw(st.integers(0, 600))
    for number in range(1, draw(st.integers(1, max_links)) + 1):
        before = len(made[-1].disk) if made else 0
        kinds = [DATA, ZERO, CLEAN] if made else [DATA, ZERO]
        runs: list[tuple[int, Kind]] = []
        at = 0
        while at < size:
            kind = draw(st.sampled_from(kinds))
            length = min(draw(st.integers(1, max_length)), size - at)
            if kind is CLEAN and at < before:
                length = min(length, before - at)
            runs.append((length, kind))
            at += length
        made.append(link(made[-1] if made else None, number, runs, seed))
        size += draw(st.sampled_from([0, 0, 0, 1, 511, 5000]))
    return made


# Three days of a disk of 40 KiB, which grows on the last; everything is in it.
K = 1024
WEEK = chain(
    [(9 * K, DATA), (3 * K, ZERO), (12 * K, DATA), (8 * K, ZERO), (8 * K, DATA)],
    [(4 * K, CLEAN), (7 * K, DATA), (5 * K, CLEAN), (4 * K, ZERO), (20 * K, CLEAN)],
    [(1 * K, DATA), (5 * K, CLEAN), (1 * K, ZERO), (27 * K, CLEAN), (6 * K, DATA), (3 * K, CLEAN)],
)


def week() -> list[Source]:
    """The three days as tars in memory."""
    return [TarStreamSource(io.BytesIO(day.tar())) for day in WEEK]


def untouched(sink: MemorySink) -> bool:
    """True when the sink heard of nothing, but perhaps that it is aborted."""
    return sink.state in ("new", "aborted") and sink.info == BackupInfo() and not sink.writers


class Watched(ForwardingSource):
    """Another source, and how it is used.

    Attributes:
        calls: The names of the methods that were called.
        open_now: What is open, from `open_reader` to `finish`, of those that share this list.
    """

    def __init__(
        self, source: Source, *, device: str | None = None, open_now: list[Watched] | None = None
    ) -> None:
        super().__init__(source)
        self.calls: list[str] = []
        self.open_now = open_now if open_now is not None else []
        self.device = device

    @property
    def max_readers(self) -> int:
        return 1 if self.device else super().max_readers

    @property
    def sequential(self) -> bool:
        return super().sequential or self.device is not None

    def extents(self) -> Extents:
        self.calls.append("extents")
        return Extents.of(super().extents(), context=self.info.context)

    def check_complete(self) -> None:
        self.calls.append("check_complete")
        checks = ability(self.wrapped, ChecksEnd)
        if checks is not None:
            checks.check_complete()

    def rewind(self) -> None:
        self.calls.append("rewind")
        rewind(self.wrapped)

    def open_reader(self) -> Reader:
        self.calls.append("open_reader")
        if self.device:
            assert not self.open_now, "two use the same drive at the same time"
        self.open_now.append(self)
        return super().open_reader()

    def finish(self) -> str | None:
        self.calls.append("finish")
        self.open_now.remove(self)
        return finish(self.wrapped)

    def close(self) -> None:
        self.calls.append("close")
        super().close()
