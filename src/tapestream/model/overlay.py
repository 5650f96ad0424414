"""A chain of backups as layers of one disk: for every byte, the newest that tells is right.

Tuesday, incremental    |----------|BB|---------------|00|
Monday, incremental     |--|AAAAA|---------|AA|----------|
Sunday, full            |FFFFFFFFFFFF|000000000|FFFFFFFFF|
the disk on Tuesday     |FF|AAAAA|F|BB|000|AA|00|FFFFF|00|

Letters are data, 0 is zeros, and what an incremental backup calls clean is told by one below.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right, insort
from collections.abc import Iterator, Sequence
from heapq import heapreplace
from typing import NamedTuple

from .extents import Extents, Kind, Run, within


class Stretch(NamedTuple):
    """A stretch of the disk that one layer tells."""

    start: int
    length: int
    kind: Kind
    layer: int


class Layers:
    """Which layer tells what the disk is, and where.

    Args:
        extents: Those of a full backup, and of incremental ones that change it, oldest first. The
            disk may grow from one to the next.

    Attributes:
        extents: Those of the disk as the last layer left it.
    """

    def __init__(self, extents: Sequence[Extents]) -> None:
        self._starts = array("q")
        self._kinds = bytearray()
        self._layers = array("L")
        for start, _, kind, layer in _newest_wins(extents):
            if self._starts and (self._kinds[-1], self._layers[-1]) == (kind, layer):
                continue
            self._starts.append(start)
            self._kinds.append(kind)
            self._layers.append(layer)
        self._size = extents[-1].size
        self.extents = Extents.of_runs(s[:3] for s in self.within(0, self._size))

    def within(self, start: int, end: int) -> Iterator[Stretch]:
        """Yield what lies between two offsets, cut there."""
        for i, first, length in within(self._starts, self._size, start, end):
            yield Stretch(first, length, Kind(self._kinds[i]), self._layers[i])

    def data_within(self, start: int, end: int) -> Iterator[Stretch]:
        """Yield the data between two offsets, cut there."""
        return (s for s in self.within(start, end) if s.kind is Kind.DATA)

    def told_by(self, layer: int) -> Iterator[Run]:
        """Yield what one layer tells, ordered."""
        for i, found in enumerate(self._layers):
            if found == layer:
                start = self._starts[i]
                end = self._starts[i + 1] if i + 1 < len(self._starts) else self._size
                yield start, end - start, Kind(self._kinds[i])

    def layer_at(self, start: int) -> int:
        """Which layer tells the byte at an offset."""
        return self._layers[bisect_right(self._starts, start) - 1]


def _newest_wins(extents: Sequence[Extents]) -> Iterator[Stretch]:
    size = extents[-1].size
    cursors = [_Cursor(extents[i], i, size) for i in range(len(extents))]
    borders = [(0, layer) for layer in range(len(extents))]  # a heap: where its extent ends
    telling: list[int] = []  # the layers that tell what is at `position`, ascending
    position = 0
    while position < size:
        while borders[0][0] == position:
            cursor = cursors[borders[0][1]]
            if cursor.tells:
                telling.remove(cursor.layer)
            cursor.move_on()
            if cursor.tells:
                insort(telling, cursor.layer)
            heapreplace(borders, (cursor.end, cursor.layer))
        end = borders[0][0]
        yield Stretch(position, end - position, cursors[telling[-1]].kind, telling[-1])
        position = end


class _Cursor:
    """Walks one layer; where the disk had not yet grown to, an incremental one tells nothing.

    Attributes:
        layer: Number of the layer.
        end: Where the extent ends at which it stands.
        kind: What kind of extent that is.
    """

    def __init__(self, extents: Extents, layer: int, size: int) -> None:
        self.layer = layer
        self.end = 0
        self.kind = Kind.CLEAN
        self._runs = extents.runs()
        self._behind = size, Kind.CLEAN if layer else Kind.ZERO

    @property
    def tells(self) -> bool:
        """True when it tells what is there."""
        return self.kind is not Kind.CLEAN

    def move_on(self) -> None:
        """Go to the next extent."""
        run = next(self._runs, None)
        if run is None:
            self.end, self.kind = self._behind
        else:
            start, length, self.kind = run
            self.end = start + length
