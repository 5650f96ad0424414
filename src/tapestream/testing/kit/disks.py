"""The disks that the conformance kit sends: small ones, with every kind of extent."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone

from ...model.extents import Extent, Extents, Kind
from ...model.info import BackupInfo
from ..memory import Hook, MemorySource, nothing

# Bytes. Most storage takes offsets and lengths that are multiples of this.
BLOCK = 4096
# Bytes of most of the disks: some hundred blocks, so that a check takes milliseconds.
SIZE = 1024**2


@dataclass(frozen=True)
class Disk:
    """A disk, or a backup of one.

    Attributes:
        content: The bytes of the disk.
        listed: Its extents.
        info: What is known about the backup, without `size` and `context`.
    """

    content: bytes
    listed: Sequence[Extent]
    info: BackupInfo = field(default_factory=BackupInfo)

    def source(self, before_read: Hook = nothing) -> MemorySource:
        """A source with this disk."""
        return MemorySource(self.content, self.listed, info=self.info, before_read=before_read)

    @property
    def extents(self) -> Extents:
        """The extents, as a copy passes them to `begin`."""
        return Extents.of(self.listed, context=self.source().info.context)

    def difference(self, found: bytes, before: bytes | None = None) -> str | None:
        """Say where a target differs from this disk; None if it does not.

        Args:
            found: What the target holds.
            before: What it held before; what is unchanged since the parent checkpoint must still be
                there. None if that is not to be compared.
        """
        if len(found) < len(self.content):
            return f"the target holds {len(found)} bytes of a disk of {len(self.content)}"
        for extent in self.listed:
            start, end = extent.start, extent.start + extent.length
            wanted = before if extent.kind is Kind.CLEAN else self.content
            if wanted is not None and wanted[start:end] != found[start:end]:
                kind = extent.kind.name.lower()
                at = next(i for i in range(start, end) if wanted[i] != found[i])
                return (
                    f"offset {at} reads as {found[at]:#04x}, not {wanted[at]:#04x}; it is in the "
                    f"{kind} extent of {extent.length} bytes at {start}"
                )
        return None


def noise(size: int, seed: int) -> bytes:
    """Bytes that never repeat, none of them zero: whatever is lost or mixed up is noticed."""
    data = random.Random(seed).randbytes(size)
    return data.replace(b"\0", b"\1")


def laid_out(
    lengths: Iterable[tuple[int, Kind]], seed: int, info: BackupInfo | None = None
) -> Disk:
    """A disk whose extents have these lengths and kinds. It is incremental if one is clean."""
    cut = [(length, kind) for length, kind in lengths if length]
    dirty = any(kind is Kind.CLEAN for _, kind in cut)
    listed: list[Extent] = []
    parts = []
    at = 0
    for length, kind in cut:
        zero = kind is Kind.ZERO
        listed.append(Extent(at, length, zero, dirty=kind is not Kind.CLEAN if dirty else None))
        parts.append(bytes(length) if zero else noise(length, seed + at))
        at += length
    return Disk(b"".join(parts), listed, info or BackupInfo())


def mixed(size: int, seed: int = 1, info: BackupInfo | None = None) -> Disk:
    """Large and small extents of data and of zeros; begins with data and ends with zeros."""
    lengths = [(size // 4, Kind.DATA), (size // 4, Kind.ZERO), (BLOCK, Kind.DATA)]
    lengths += [(BLOCK, Kind.ZERO), (size // 4, Kind.DATA)]
    left = size - sum(length for length, _ in lengths)
    return laid_out([*lengths, (left, Kind.ZERO)], seed, info)


def full(size: int, seed: int = 2) -> Disk:
    """All data."""
    return laid_out([(size, Kind.DATA)], seed)


def blank(size: int) -> Disk:
    """All zeros."""
    return laid_out([(size, Kind.ZERO)], 0)


def almost_blank(size: int, seed: int = 7) -> Disk:
    """One block of data, and one long stretch of zeros."""
    return laid_out([(BLOCK, Kind.DATA), (size - BLOCK, Kind.ZERO)], seed)


def fragmented(size: int, seed: int = 3) -> Disk:
    """Every other block is data."""
    blocks = [(BLOCK, Kind.ZERO if i % 2 else Kind.DATA) for i in range(size // BLOCK)]
    return laid_out([*blocks, (size % BLOCK, Kind.DATA)], seed)


def odd(size: int, seed: int = 4) -> Disk:
    """Extents that begin and end anywhere, some of one byte. The size is odd, up to `size`."""
    lengths = [(4097, Kind.DATA), (1, Kind.ZERO), (1, Kind.DATA), (70_001, Kind.ZERO)]
    left = (size - 1) // 2 * 2 + 1 - sum(length for length, _ in lengths)
    return laid_out([*lengths, (left, Kind.DATA)], seed)


def empty() -> Disk:
    """No bytes at all."""
    return Disk(b"", [])


def incremental(size: int, seed: int = 5) -> Disk:
    """Data and zeros that changed, between stretches that did not."""
    step = size // 8
    kinds = [Kind.CLEAN, Kind.DATA, Kind.ZERO, Kind.CLEAN, Kind.ZERO, Kind.DATA, Kind.CLEAN]
    left = size - step * len(kinds)
    info = BackupInfo(checkpoint_id="second", parent_checkpoint_id="first")
    return laid_out([*((step, kind) for kind in kinds), (left, Kind.DATA)], seed, info)


def named(size: int) -> Disk:
    """A disk whose info has all fields."""
    info = BackupInfo(
        vm_id="6d4ac5ab-9a0c-4ffc-a0ea-2a9b2b1e8f1c",
        vm_name="Übung / 試験 \U0001f4be",
        disk_id="0b3e1b64-2c7e-4b0f-8d51-0d7f4a3f3a2b",
        disk_name="disk one",
        backup_id="b5d6c1f0-3f0b-4c2e-9a56-4c0d1c7a3e11",
        checkpoint_id="c1",
        created=datetime(2026, 2, 28, 23, 59, 59, tzinfo=timezone.utc),
        metadata={"nested": {"list": [1, 2.5, None, "ü"]}, "empty": {}},
        fallback=True,
    )
    return mixed(size, 6, info)
