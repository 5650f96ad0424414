"""Layout: where the data of a disk will be in the tar, before it is written."""

from __future__ import annotations

from ..model.extents import Extents, Kind
from . import format as fmt
from .medium import Lender


class Layout:
    """Where the data members of one volume will be, and the memory from which they are written.

    The members follow each other without gaps, so their places are known.

    Args:
        extents: All extents of the disk.
        part_size: Largest size of a data member in bytes.
        start: Disk offset of a data member.
        offset: Offset in the volume of the header of that member.
        lend: Lends memory for a part of the volume.
    """

    def __init__(
        self, extents: Extents, part_size: int, start: int, offset: int, lend: Lender
    ) -> None:
        self._part_size = part_size
        self._offset = offset
        self._lend = lend
        self._runs = extents.within(start, extents.size)
        self._start = self._end = start

    def memory(self, start: int, length: int) -> memoryview | None:
        """The memory for data of the disk; None if it is not within one member.

        This only looks forward: it also returns None for data in an extent before the last one.
        """
        while start >= self._end:
            run = next(self._runs, None)
            if run is None:
                return None
            self._offset += fmt.extent_length(self._end - self._start, self._part_size)
            self._start, self._end = run[0], run[0] + run[1]
            if run[2] is not Kind.DATA:
                self._start = self._end
        part, at = divmod(start - self._start, self._part_size)
        if start < self._start or start + length > self._end or at + length > self._part_size:
            return None
        before = part * (fmt.BLOCK + self._part_size) + fmt.BLOCK
        return self._lend(self._offset + before + at, length)
