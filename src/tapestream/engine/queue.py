"""The hand-over: what readers and writers share, under one lock.

Chunks are numbered in the order of the plan when they are claimed. A chunk may be filled only
when it is less than one window ahead of the oldest chunk that is not yet released. So a buffer is
always left for the chunk that is due, readers cannot starve each other, and memory is bounded by
the window, whatever the order in which readers finish.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from .buffers import BufferPool
from .placement import Balance, Spent
from .plan import Chunk, Request


class Cancelled(BaseException):
    """Ends a worker after another one failed; never leaves the pipeline."""


class FilledChunk(NamedTuple):
    """A chunk on its way from a reader to a writer."""

    number: int
    chunk: Chunk
    buffer: memoryview | None
    spent: Spent = Spent()
    is_digested: bool = True  # False: the writer is to do it


class Counts(NamedTuple):
    """What went through.

    Attributes:
        requests: Reads asked of the source.
        read: Bytes in them.
        written: Bytes of data written.
        underruns: How often no writer had anything to write, after the first chunk.
        stalled: How long that was, in seconds.
    """

    requests: int = 0
    read: int = 0
    written: int = 0
    underruns: int = 0
    stalled: float = 0.0


class ChunkQueue:
    """The shared state of all workers, under one lock.

    Args:
        plan: Requests in ascending order.
        pool: Its `count` is the window.
        ordered: Hand chunks to `take` in their order; otherwise as they come.
        streaming: When the chunks run out, hand on none until the window is full.
        readers: How many workers will claim and put.
        writers: How many workers will take and release.
        shares_processors: See `HasLocalServer.server_is_local`.

    Attributes:
        finished: Set when all workers have ended, or one has failed.
        error: The first error.
        at_work: How many workers run.
        is_ended: Set when no worker runs any more, nor will, after an error.
        moved: What was claimed and released so far.
    """

    def __init__(
        self,
        plan: Iterator[Request],
        pool: BufferPool,
        *,
        ordered: bool,
        streaming: bool,
        readers: int,
        writers: int,
        shares_processors: bool,
    ) -> None:
        self.finished = threading.Event()
        self.error: BaseException | None = None
        self.at_work = 0
        self.is_ended = False
        self.counts = Counts()
        self._plan = plan
        self._pool = pool
        self._ordered = ordered
        self._streaming = self._filling = streaming
        self._claimed = 0
        self._taken = 0
        self._writing = 0
        self._idle_since: float | None = None
        self._balance = Balance(readers, shares_processors=shares_processors)
        self._oldest = 0
        self._released: set[int] = set()
        self._ready: dict[int, FilledChunk] = {}
        self._readers_left = readers
        self._workers_left = readers + writers
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._work = threading.Condition(self._lock)

    def claim(self) -> tuple[int, Request] | None:
        """The next request, with the number of its first chunk; None when the plan is done."""
        with self._lock:
            self._check()
            request = next(self._plan, None)
            if request is None:
                return None
            first = self._claimed
            self._claimed += len(request.chunks)
            if request.length:
                self.counts = self.counts._replace(
                    requests=self.counts.requests + 1, read=self.counts.read + request.length
                )
            return first, request

    def buffer(self, number: int, length: int) -> memoryview | None:
        """Wait until chunk `number` may be filled; a buffer for it if it has data."""
        with self._lock:
            while number >= self._oldest + self._pool.count:
                self._check()
                self._room.wait()
            self._check()
            return self._pool.take() if length else None

    @property
    def writer_digests(self) -> bool:
        """True when the only writer is to digest, beside the only reader."""
        return self._ordered and not self._streaming and self._balance.writer_digests

    def put(self, filled: FilledChunk) -> bool:
        """Hand a filled chunk over.

        Returns:
            True when the caller is to write it, and release it, as if it had taken it.
        """
        with self._lock:
            self._check()
            is_due = filled.number == self._taken and not self._writing
            at_once = self._ordered and not self._streaming and self._balance.is_quick
            if at_once and is_due and filled.is_digested:
                self._begin_writing()
                return True
            self._ready[filled.number] = filled
            if self._filling:
                if self._is_full():
                    self._work.notify()
            elif is_due or not self._ordered:
                self._work.notify()
            return False

    def take(self) -> FilledChunk | None:
        """Wait for a chunk to write; None when all have been taken."""
        with self._lock:
            while True:
                self._check()
                number = self._next_ready()
                if number is not None:
                    self._begin_writing()
                    return self._ready.pop(number)
                if self._all_taken():
                    return None
                self._work.wait()

    def release(self, filled: FilledChunk, written: int, seconds: float) -> None:
        """Give the buffer of a chunk back, and let the window move on.

        Args:
            filled: The chunk, which was written.
            written: Bytes of data in it.
            seconds: How long that took, without the digests.
        """
        with self._lock:
            self.counts = self.counts._replace(written=self.counts.written + written)
            if filled.buffer is not None:
                self._pool.give_back(filled.buffer)
                self._balance.weigh(filled.spent, seconds)
            self._end_writing()
            self._released.add(filled.number)
            moved = self._oldest
            while self._oldest in self._released:
                self._released.remove(self._oldest)
                self._oldest += 1
            if self._oldest > moved:
                self._room.notify_all()

    def reader_done(self) -> None:
        """A reader found the plan done."""
        with self._lock:
            self._readers_left -= 1
            self._work.notify_all()

    def worker_starts(self) -> None:
        """A reader or writer begins; one that is late finds the error, and touches nothing."""
        with self._lock:
            self._check()
            self.at_work += 1

    def worker_done(self) -> None:
        """A reader or writer ends."""
        with self._lock:
            self.at_work -= 1
            self._workers_left -= 1
            if self._workers_left == 0:
                self.finished.set()

    @property
    def is_complete(self) -> bool:
        """True when all workers have ended, and none has failed."""
        return self._workers_left == 0 and self.error is None

    def fail(self, error: BaseException) -> None:
        """Keep the first error, and wake everybody up to end."""
        with self._lock:
            if self.error is None:
                self.error = error
            self._room.notify_all()
            self._work.notify_all()
            self.finished.set()

    def _begin_writing(self) -> None:
        self._taken += 1
        self._writing += 1
        if self._idle_since is not None:
            stalled = self.counts.stalled + time.monotonic() - self._idle_since
            self.counts = self.counts._replace(underruns=self.counts.underruns + 1, stalled=stalled)
            self._idle_since = None

    def _end_writing(self) -> None:
        self._writing -= 1
        if self._next_ready() is not None or self._all_taken():
            self._work.notify_all()
        elif not self._writing:
            self._idle_since = time.monotonic()
            self._filling = self._streaming

    def _is_full(self) -> bool:
        """No further chunk may be filled: also one that was released early takes its place."""
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
        return self._taken if self._taken in self._ready and not self._writing else None

    def _check(self) -> None:
        if self.error is not None:
            raise Cancelled
