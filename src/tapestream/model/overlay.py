"""A chain of backups as an overlay: every byte comes from the newest backup that has it.

Tuesday, incremental    |----------|BB|---------------|00|
Monday, incremental     |--|AAAAA|---------|AA|----------|
Sunday, full            |FFFFFFFFFFFF|000000000|FFFFFFFFF|
the disk on Tuesday     |FF|AAAAA|F|BB|000|AA|00|FFFFF|00|

Letters are data, 0 is zeros. Where an incremental backup is clean (-), an older layer has the byte.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right, insort
from collections.abc import Iterator, Sequence
from heapq import heapreplace
from typing import NamedTuple

from .extents import Extents, Kind, Run, within


class LayerRun(NamedTuple):
    """A stretch of the disk that one layer provides."""

    start: int
    length: int
    kind: Kind
    layer: int


class Overlay:
    """Which layer provides which stretch of the disk.

    Args:
        layers: The extents of a full backup, and of the incremental ones that change it, oldest
            first. The disk may grow from one to the next.

    Attributes:
        extents: The extents of the disk as the last layer left it.
    """

    def __init__(self, layers: Sequence[Extents]) -> None:
        self._starts = array("q")
        self._kinds = bytearray()
        self._layers = array("L")
        for start, _, kind, layer in _newest_wins(layers):
            if self._starts and (self._kinds[-1], self._layers[-1]) == (kind, layer):
                continue
            self._starts.append(start)
            self._kinds.append(kind)
            self._layers.append(layer)
        self._size = layers[-1].size
        self.extents = Extents.of_runs(run[:3] for run in self.within(0, self._size))

    def within(self, start: int, end: int) -> Iterator[LayerRun]:
        """Yield the runs between two offsets, cut there."""
        for i, first, length in within(self._starts, self._size, start, end):
            yield LayerRun(first, length, Kind(self._kinds[i]), self._layers[i])

    def data_within(self, start: int, end: int) -> Iterator[LayerRun]:
        """Yield the runs of data between two offsets, cut there."""
        return (run for run in self.within(start, end) if run.kind is Kind.DATA)

    def provided_by(self, layer: int) -> Iterator[Run]:
        """Yield the runs that one layer provides, in ascending order."""
        for i, found in enumerate(self._layers):
            if found == layer:
                start = self._starts[i]
                end = self._starts[i + 1] if i + 1 < len(self._starts) else self._size
                yield start, end - start, Kind(self._kinds[i])

    def layer_at(self, start: int) -> int:
        """The layer that provides the byte at an offset."""
        return self._layers[bisect_right(self._starts, start) - 1]


def _newest_wins(layers: Sequence[Extents]) -> Iterator[LayerRun]:
    size = layers[-1].size
    cursors = [_Cursor(extents, i, size) for i, extents in enumerate(layers)]
    ends = [(0, layer) for layer in range(len(layers))]  # a heap: where each layer's extent ends
    providing: list[int] = []  # the layers that have data or zeros at `position`, ascending
    position = 0
    while position < size:
        while ends[0][0] == position:
            cursor = cursors[ends[0][1]]
            if cursor.provides:
                providing.remove(cursor.layer)
            cursor.move_on()
            if cursor.provides:
                insort(providing, cursor.layer)
            heapreplace(ends, (cursor.end, cursor.layer))
        end = ends[0][0]
        yield LayerRun(position, end - position, cursors[providing[-1]].kind, providing[-1])
        position = end


class _Cursor:
    """Walks one layer, to the end of the disk.

    After the end of a layer the full backup provides zeros and an incremental one nothing.

    Attributes:
        layer: Number of the layer.
        end: Where the current extent ends.
        kind: What kind of extent that is.
    """

    def __init__(self, extents: Extents, layer: int, size: int) -> None:
        self.layer = layer
        self.end = 0
        self.kind = Kind.CLEAN
        self._runs = extents.runs()
        self._after = size, Kind.CLEAN if layer else Kind.ZERO

    @property
    def provides(self) -> bool:
        """True if this layer has data or zeros in the current extent."""
        return self.kind is not Kind.CLEAN

    def move_on(self) -> None:
        """Go to the next extent."""
        run = next(self._runs, None)
        if run is None:
            self.end, self.kind = self._after
        else:
            start, length, self.kind = run
            self.end = start + length
