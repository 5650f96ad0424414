"""What the writers of one sink share: which writes were lost, and what the server cannot do."""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator

from .._log import Log
from .capabilities import Capabilities

log = Log("tapestream.imageio")


class Stretches:
    """Stretches of a disk, ordered by their starts.

    Args:
        stretches: The start and the end of each, in the order of the starts.
        near: Stretches with gaps of up to this many bytes between them are joined.
    """

    def __init__(self, stretches: Iterable[tuple[int, int]], *, near: int = 0) -> None:
        self._starts = array("q")
        self._ends = array("q")
        for start, end in stretches:
            if self._ends and start - self._ends[-1] <= near:
                self._ends[-1] = max(end, self._ends[-1])
            else:
                self._starts.append(start)
                self._ends.append(end)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._ends, strict=True)

    def within(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of every overlap with a range."""
        i = bisect_right(self._ends, start)
        while i < len(self._starts) and self._starts[i] < end:
            yield max(start, self._starts[i]), min(end, self._ends[i])
            i += 1


class Ledger:
    """Records which writes were lost and what the server cannot do, for all writers of a sink."""

    def __init__(self, can: Capabilities) -> None:
        self.can_zero = can.zero
        self.can_flush = can.flush
        # True to flush with every request, so that nothing can be lost after its reply. This is
        # needed if a connection carries only one request, and for what is sent again.
        self.flush_each = False
        # True after `ImageioUploadSink.lost`, when lost writes are sent again.
        self.is_repair = False
        self.is_unflushed = False  # True after a writer was closed before it had flushed
        self._lost: list[tuple[int, int]] = []
        self._lock = threading.Lock()

    @property
    def has_lost(self) -> bool:
        """True when something must be written again."""
        return bool(self._lost)

    def lose(self, start: int, end: int) -> None:
        """Record that what was written from `start` to `end` may be gone."""
        log.info("A connection was lost before bytes %d to %d of the disk were flushed", start, end)
        with self._lock:
            self._lost.append((start, end))

    def take_lost(self) -> list[tuple[int, int]]:
        """Return the ranges that were lost, in order and without overlaps, and forget them."""
        with self._lock:
            lost, self._lost = self._lost, []
        return list(Stretches(sorted(lost)))
