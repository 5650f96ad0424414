"""The queue between readers and writers. It reorders chunks, is bounded, and has one lock.

Chunks are numbered in the order of the plan when they are claimed. A chunk may be filled only
when it is less than one window ahead of the oldest chunk that is not yet released. So a buffer is
always left for the chunk that is due, readers cannot starve each other, and memory is bounded by
the window, whatever the order in which readers finish.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ..model.extents import Segment
from .buffers import BufferPool
from .plan import Chunk, Request


class Cancelled(BaseException):
    """Ends a worker after another one failed; never leaves the pipeline."""


SegmentDigest = tuple[Segment, bytes]


class FilledChunk(NamedTuple):
    """A chunk on its way from a reader to a writer.

    Attributes:
        number: Its place in the order of the plan.
        chunk: The chunk.
        buffer: Its data; None if it has only zeros.
        digests: The digests of the segments that end in it; None if the writer must make them.
    """

    number: int
    chunk: Chunk
    buffer: memoryview | None
    digests: Sequence[SegmentDigest] | None

    @property
    def writer_digests(self) -> bool:
        """True if the writer must make its digests."""
        return self.digests is None and self.buffer is not None


class Counts:
    """What went through the queue.

    Attributes:
        requests: Number of reads from the source.
        read: Bytes in them.
        written: Bytes of data written.
        digested: Bytes in the segments whose digests were given to a writer.
        underruns: How often all writers waited for data, after the first chunk.
        stalled: How long they waited, in seconds.
    """

    def __init__(self) -> None:
        self.requests = self.read = self.written = self.digested = self.underruns = 0
        self.stalled = 0.0


class ChunkQueue:
    """The shared state of all workers, under one lock.

    Args:
        plan: Requests in ascending order.
        pool: The buffers. Their number is the size of the window.
        ordered: True: `take` returns the chunks in the order of the plan. False: as they come.
        streaming: True: after the chunks ran out, `take` waits until the window is full.
        readers: How many workers will claim requests and put chunks.
        lend: See `LendsMemory.memory`.

    Attributes:
        error: The first error, which ended everything; None if there was none.
        counts: What was claimed and released so far.
    """

    def __init__(
        self,
        plan: Iterator[Request],
        pool: BufferPool,
        *,
        ordered: bool,
        streaming: bool,
        readers: int,
        lend: Callable[[int, int], memoryview | None],
    ) -> None:
        self.error: BaseException | None = None
        self.counts = Counts()
        self._plan = plan
        self._pool = pool
        self._ordered = ordered
        self._streaming = self._filling = streaming
        self._claimed = 0
        self._taken = 0
        self._writing = 0
        self._idle_since: float | None = None
        self._oldest = 0
        self._released: set[int] = set()
        self._ready: dict[int, FilledChunk] = {}
        self._readers_left = readers
        self._lend = lend
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._work = threading.Condition(self._lock)

    def claim(self) -> tuple[int, Request] | None:
        """The next request, with the number of its first chunk; None at the end of the plan."""
        with self._lock:
            self._check()
            request = next(self._plan, None)
            if request is None:
                return None
            first = self._claimed
            self._claimed += len(request.chunks)
            if request.length:
                self.counts.requests += 1
                self.counts.read += request.length
            return first, request

    def buffer(self, number: int, chunk: Chunk) -> memoryview | None:
        """Wait until chunk `number` may be filled, and return a buffer if it has data."""
        with self._lock:
            while number >= self._oldest + self._pool.count:
                self._check()
                self._room.wait()
            self._check()
            if not chunk.length:
                return None
            lent = self._lend(chunk.start, chunk.length)
            return self._pool.take() if lent is None else lent

    @property
    def writer_keeps_up(self) -> bool:
        """True while no more than half of the window waits to be written."""
        return 2 * len(self._ready) <= self._pool.count

    @property
    def stalled(self) -> float:
        """How long all writers have waited for data until now, in seconds; needs no lock."""
        since = self._idle_since
        return self.counts.stalled + (0.0 if since is None else time.monotonic() - since)

    def put(self, filled: FilledChunk, *, wake: bool = True) -> None:
        """Give a filled chunk to the writers.

        Args:
            filled: The chunk.
            wake: False if the caller calls `take_due` next.
        """
        with self._lock:
            self._check()
            self._ready[filled.number] = filled
            if not wake:
                return
            if self._filling:
                if self._is_full():
                    self._work.notify()
            elif not self._ordered or filled.number == self._taken:
                self._work.notify()

    def take_due(self) -> FilledChunk | None:
        """A chunk to write now; None if none is due, or if it is for the writer's own thread.

        That writes what it digests itself, and is left alone while it writes.
        """
        with self._lock:
            self._check()
            number = self._next_ready()
            if number is None or self._ready[number].writer_digests:
                return None
            return self._take()

    def take(self) -> FilledChunk | None:
        """Wait for a chunk to write; None after all have been taken."""
        with self._lock:
            while True:
                self._check()
                filled = self._take()
                if filled is not None:
                    return filled
                if self._all_taken():
                    return None
                self._work.wait()

    def release(self, filled: FilledChunk, written: int, digested: int) -> None:
        """Give the buffer of a chunk back, and move the window forward if the chunk was the oldest.

        Args:
            filled: The chunk that was written.
            written: Bytes of data in it.
            digested: Bytes in the segments whose digests came with it.
        """
        with self._lock:
            self.counts.written += written
            self.counts.digested += digested
            if filled.buffer is not None:
                self._pool.give_back(filled.buffer)
            self._end_writing()
            self._released.add(filled.number)
            moved = self._oldest
            while self._oldest in self._released:
                self._released.remove(self._oldest)
                self._oldest += 1
            if self._oldest > moved:
                self._room.notify_all()

    def reader_done(self) -> None:
        """Note that a reader found nothing more to read."""
        with self._lock:
            self._readers_left -= 1
            self._work.notify_all()

    def fail(self, error: BaseException) -> None:
        """Keep the first error, and wake up all workers: their next call raises `Cancelled`."""
        with self._lock:
            if self.error is None:
                self.error = error
            self._room.notify_all()
            self._work.notify_all()

    def _take(self) -> FilledChunk | None:
        if self._ordered and self._writing:
            return None
        number = self._next_ready()
        if number is None:
            return None
        self._begin_writing()
        return self._ready.pop(number)

    def _begin_writing(self) -> None:
        self._taken += 1
        self._writing += 1
        if self._idle_since is not None:
            self.counts.underruns += 1
            self.counts.stalled += time.monotonic() - self._idle_since
            self._idle_since = None

    def _end_writing(self) -> None:
        self._writing -= 1
        if self._next_ready() is not None or self._all_taken():
            self._work.notify_all()
        elif not self._writing:
            self._idle_since = time.monotonic()
            self._filling = self._streaming

    def _is_full(self) -> bool:
        """True if no further chunk may be filled. One released early still has its place."""
        return len(self._ready) + len(self._released) == self._pool.count

    def _all_taken(self) -> bool:
        return self._readers_left == 0 and self._taken == self._claimed

    def _next_ready(self) -> int | None:
        if self._filling:
            if self._readers_left and not self._is_full():
                return None
            self._filling = False
        if not self._ordered:
            return next(iter(self._ready), None)
        return self._taken if self._taken in self._ready else None

    def _check(self) -> None:
        if self.error is not None:
            raise Cancelled
