"""A disk on Sunday and on Monday, the backups of both, and what a restore makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tapestream import (
    BackupInfo,
    CopyResult,
    RawImageSink,
    Source,
    TarStreamSink,
    TarStreamSource,
    copy,
    restore_chain,
)
from tests.disks import noise

KIB = 1024
MIB = 1024 * KIB

HOLE = 512 * KIB
# Not a whole number of clusters.
SUNDAY = noise(MIB) + bytes(HOLE) + noise(300 * KIB) + bytes(HOLE) + noise(65 * KIB + 512)
# The stretch that changed; a part of it was zeroed.
CHANGED = (HOLE, HOLE)
MONDAY = SUNDAY[:HOLE] + noise(128 * KIB) + bytes(HOLE - 128 * KIB) + SUNDAY[MIB:]

FULL = BackupInfo(disk_id="disk", checkpoint_id="sunday")
INCREMENTAL = BackupInfo(
    disk_id="disk", checkpoint_id="monday", parent_checkpoint_id="sunday", context="dirty"
)


def back_up(source: Source, tar: Path) -> CopyResult:
    with source, TarStreamSink(tar) as sink:
        return copy(source, sink)


def restored(tars: Sequence[Path], raw: Path) -> bytes:
    """The disk that a chain of backups restores."""
    with ExitStack() as stack:
        sources = [stack.enter_context(TarStreamSource(tar)) for tar in tars]
        restore_chain(sources, stack.enter_context(RawImageSink(raw)))
    return raw.read_bytes()
