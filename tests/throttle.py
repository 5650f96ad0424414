"""A wrapper as docs/abilities.md shows it, which also counts what it lets through."""

from __future__ import annotations

import threading
import time

from tapestream import Reader, Source
from tapestream.backend import ForwardingReader, ForwardingSource


class Throttled(ForwardingSource):
    """Reads another source, at no more than `rate` bytes per second."""

    def __init__(self, wrapped: Source, rate: float = 1e9) -> None:
        super().__init__(wrapped)
        self.rate = rate
        self.turn = threading.Lock()
        self.counts: list[int] = []

    def open_reader(self) -> Reader:
        return _ThrottledReader(super().open_reader(), self)


class _ThrottledReader(ForwardingReader):
    def __init__(self, wrapped: Reader, source: Throttled) -> None:
        super().__init__(wrapped)
        self.source = source

    def readinto(self, start: int, buffer: memoryview) -> None:
        with self.source.turn:
            time.sleep(len(buffer) / self.source.rate)
        super().readinto(start, buffer)
        self.source.counts.append(len(buffer))
