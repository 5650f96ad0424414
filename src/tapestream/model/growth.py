"""Checks, for a disk that grew within a chain, that no data in its new part is missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..errors import ChainError
from .extents import Extent, Extents, Kind

# The largest cluster of qcow2, in bytes.
LARGEST_CLUSTER = 2 * 1024**2
# Bytes. Changes are never reported in smaller units.
SECTOR = 512


def check_growth(names: Sequence[str], backups: Sequence[Extents]) -> None:
    """Make sure that each backup has all data in the part of the disk that is new since the last.

    Args:
        names: What the backups are called, for errors.
        backups: The extents of each, oldest first.

    Raises:
        ChainError: A disk shrinks, or a backup leaves out data after the old end of the disk.
    """
    for i in range(1, len(names)):
        before, now = backups[i - 1].size, backups[i].size
        if now < before:
            raise ChainError(
                f"the disk of {names[i - 1]} has {before} bytes, that of {names[i]} only {now}: "
                "a disk does not shrink",
                hint="They are of two disks, or one of them is not what its name says: restore "
                "the older backup alone.",
            )
        if any(_is_unknown(extent, backups[i], before) for extent in _after(backups[i], before)):
            raise ChainError(
                f"the disk had grown to {now} bytes by {names[i]}, which leaves out data "
                f"after the {before} bytes of the backup before it, {names[i - 1]}",
                hint="Restore the backup before it, and start a new chain with a full backup.",
            )


def _after(extents: Extents, start: int) -> Iterator[Extent]:
    """The extents that end after an offset, last first."""
    for i in reversed(range(len(extents))):
        extent = extents[i]
        if extent.start + extent.length <= start:
            return
        yield extent


def _is_unknown(extent: Extent, extents: Extents, old_end: int) -> bool:
    """True if an extent after the old end of the disk may have data that no backup has.

    A part that was never written reads as zeros. But it is reported as data if it shares a cluster
    with written data or with the old end, because a cluster is allocated as a whole.
    """
    if extent.zero or extent.dirty:
        return False
    start, end = extent.start, extent.start + extent.length
    if start < old_end:
        first = old_end + -old_end % LARGEST_CLUSTER
    elif start % SECTOR or (end % SECTOR and end != extents.size):
        return True
    else:
        first = start - start % LARGEST_CLUSTER
    return not all(_was_written(extents, at) for at in range(first, end, LARGEST_CLUSTER))


def _was_written(extents: Extents, cluster: int) -> bool:
    return any(
        kind is not Kind.CLEAN for _, _, kind in extents.within(cluster, cluster + LARGEST_CLUSTER)
    )
