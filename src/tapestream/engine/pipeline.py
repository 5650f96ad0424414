"""The pipeline: N readers, a bounded queue that reorders, and one or N writers.

    plan ──▶ claim ──▶ reader ──▶ put ──▶ [ window of chunks ] ──▶ take ──▶ writer ──▶ release

The thread that has read a chunk also writes it while that takes less time than to wake the writer's
thread.

The digest of a segment travels with the chunk in which the segment ends. The reader makes it, while
the data is in its processor's cache. If there is only one reader, the writer may make it instead,
while the reader receives more.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, cast

from ..backend.abilities import (
    Flushes,
    Hash,
    HasShapes,
    LendsMemory,
    Prefetches,
    TakesDigests,
    ability,
)
from ..backend.checks import done, fill, memory_of, write, zero
from ..backend.protocols import Reader, Writer
from ..backend.running import Running
from .buffers import BufferPool
from .learning.gap import Limits, Sample
from .operations import Operation, coalesced, data_of, one_by_one
from .plan import Chunk, Request
from .queue import ChunkQueue, Counts, FilledChunk, SegmentDigest
from .workers import Workers

# A reader that has this many bytes still to read gets no further range: the other readers need
# something to read, too.
MAX_ANNOUNCED = 32 * 1024**2

# Bytes. If the segments of a request are at least this long on average, the writer may digest it.
# With shorter ones there is nothing to gain: each thread waits for the other's turn in the
# interpreter.
LARGE_SEGMENT = 256 * 1024

# Seconds. To pass a chunk to another thread takes two wake-ups, and turns of two threads in the
# interpreter (measured for 2 MiB: 0.1 ms of processor time over a unix socket, 0.3 ms over TLS).
LITTLE = 0.0003


def _ignore(*_: object) -> None:
    pass


def _lender(writer: Writer) -> LendsMemory | None:
    """The writer if it lends memory itself: a wrapper may write to another place."""
    lends: object = ability(writer, LendsMemory)
    return cast("LendsMemory", lends) if lends is writer else None


def _lend_nothing(*_: int) -> None:
    return None


class Pipeline(NamedTuple):
    """How chunks go from readers to writers.

    Args:
        ordered: Write chunks in the order of the plan; takes a single writer.
        streaming: See `Streams.streaming`.
        coalesce_zeros: See `CoalescesZeros.coalesce_zeros`; ignored if ordered.
        new_hash: See `Digests.new_hash`; None to make no digests.
        observe: Called after every request, with its limits and what it took.
        progress: Called with the number of data bytes in every chunk that was written.
        watch: Called a few times a second, in the calling thread, with the bytes of data written so
            far, and the seconds for which the writers have waited for data so far.
        max_announced: A reader that has this many bytes still to read gets no further range.
        large_segment: The writer digests no request whose segments are shorter on average.
    """

    ordered: bool
    streaming: bool = False
    coalesce_zeros: int = 0
    new_hash: Callable[[], Hash | None] | None = None
    observe: Callable[[Limits, Sample], None] = _ignore
    progress: Callable[[int], None] = _ignore
    watch: Callable[[int, float], None] = _ignore
    max_announced: int = MAX_ANNOUNCED
    large_segment: int = LARGE_SEGMENT

    def run(
        self,
        plan: Iterator[Request],
        readers: Sequence[Reader],
        writers: Sequence[Writer],
        pool: BufferPool,
        run: Running | None = None,
    ) -> Counts:
        """Move everything in the plan from the readers to the writers.

        Args:
            plan: The requests to move.
            readers: One thread is started for each.
            writers: One thread is started for each.
            pool: The buffers for the data.
            run: The copy that this is part of, which others may end; None to make a new one.

        Returns:
            How much was moved.

        Raises:
            BaseException: The first error of any worker, or KeyboardInterrupt. All workers have
                ended; readers and writers are still to be closed.
        """
        lends = _lender(writers[0]) if self.ordered else None
        queue = ChunkQueue(
            plan,
            pool,
            ordered=self.ordered,
            streaming=self.streaming,
            readers=len(readers),
            lend=_lend_nothing if lends is None else partial(memory_of, lends),
        )
        # The writer may digest if there is only one reader: several readers share the digests.
        # Measured on 2 processors with sha256, compared with digests by the reader alone: 1.22
        # times as fast over a unix socket, 1.03 to 1.1 times over TLS. A version that timed every
        # chunk, and chose the threads by that, was not faster than this rule: 0.97 to 1.05 times
        # over a unix socket, 0.9 times over TLS, 0.97 to 1.02 times for a raw image. With a drive
        # that is slower than this, the window fills up, and the reader digests.
        shares = len(readers) == 1 and self.ordered and self.new_hash is not None
        outputs = [self._output(queue, each) for each in writers]
        # Only what is written in order, and without a wait for the whole window, may be written by
        # the thread that has read it.
        here = outputs[0] if self.ordered and not self.streaming else None
        read = partial(self._read, queue, writer_may_digest=shares, here=here)
        work = [
            *((f"reader-{i}", partial(read, each)) for i, each in enumerate(readers)),
            *((f"writer-{i}", partial(self._write, queue, each)) for i, each in enumerate(outputs)),
        ]
        Workers(queue, [*readers, *writers]).run(
            work, run or Running(), lambda: self.watch(queue.counts.written, queue.stalled)
        )
        return queue.counts

    def _read(
        self,
        queue: ChunkQueue,
        reader: Reader,
        *,
        writer_may_digest: bool,
        here: _Output | None,
    ) -> None:
        hasher = _SegmentHasher(self.new_hash)
        since = time.monotonic()
        for first, request in self._announced(queue, reader):
            # A segment never continues in another request: one thread makes all of its digest.
            has_large = request.data >= request.segments * self.large_segment
            writer_digests = writer_may_digest and has_large and queue.writer_keeps_up
            waiting = 0.0
            for number, chunk in enumerate(request.chunks, first):
                asked = time.monotonic()
                buffer = queue.buffer(number, chunk)
                began = time.monotonic()
                waiting += began - asked
                digests: Sequence[SegmentDigest] | None = None
                if buffer is not None:
                    fill(reader, chunk.start, buffer[: chunk.length])
                    if not writer_digests:
                        digests = hasher.digests(chunk, buffer)
                filled = FilledChunk(number, chunk, buffer, digests)
                if here is None or writer_digests or not here.costs_little:
                    queue.put(filled)
                    continue
                began = time.monotonic()
                queue.put(filled, wake=False)
                while (due := queue.take_due()) is not None:
                    here.write(due)
                waiting += time.monotonic() - began
            now = time.monotonic()
            if request.length:
                took = now - since - waiting
                sample = Sample(1, request.length, request.data, took, waiting)
                self.observe(request.limits, sample)
            since = now
        queue.reader_done()

    def _announced(self, queue: ChunkQueue, reader: Reader) -> Iterator[tuple[int, Request]]:
        """Yield the requests of a reader, each after it was announced."""
        waiting: deque[tuple[int, Request]] = deque()
        prefetches = ability(reader, Prefetches)
        depth = 1 if prefetches is None else prefetches.prefetch_depth
        has_shapes, shape = ability(reader, HasShapes), None
        most = self.max_announced
        while True:
            while (
                len(waiting) < depth
                and sum(request.length for _, request in waiting) < most
                and (claimed := queue.claim()) is not None
            ):
                request = claimed[1]
                ask = request.limits.ask
                if ask is not None and ask.shape != shape and has_shapes is not None:
                    shape = ask.shape
                    done(has_shapes, "use", shape)
                if request.length and prefetches is not None:
                    done(prefetches, "prefetch", request.start, request.length)
                waiting.append(claimed)
                most = self.max_announced
                if request.data < request.length:
                    most = min(most, request.limits.ahead)
            if not waiting:
                return
            yield waiting.popleft()

    def _write(self, queue: ChunkQueue, output: _Output) -> None:
        while (filled := queue.take()) is not None:
            output.write(filled)
        output.flush()

    def _output(self, queue: ChunkQueue, writer: Writer) -> _Output:
        operations = (
            one_by_one if self.ordered else partial(coalesced, coalesce_zeros=self.coalesce_zeros)
        )
        return _Output(queue, writer, operations, _SegmentHasher(self.new_hash), self.progress)


class _Output:
    """Writes chunks with one writer, in the thread of the writer or in one that has read them.

    Attributes:
        costs_little: True while a chunk is written in less time than its way to another thread
            takes.
    """

    def __init__(
        self,
        queue: ChunkQueue,
        writer: Writer,
        operations: Callable[[Chunk, memoryview | None], Iterator[Operation]],
        hasher: _SegmentHasher,
        progress: Callable[[int], None],
    ) -> None:
        self._queue = queue
        self._writer = writer
        self._operations = operations
        self._hasher = hasher
        self._progress = progress
        self._takes = ability(writer, TakesDigests)
        self.costs_little = False

    def write(self, filled: FilledChunk) -> None:
        """Write a chunk, and give it back."""
        began = time.monotonic()
        chunk, buffer, digests = filled.chunk, filled.buffer, filled.digests
        if digests is None and buffer is not None:
            digests = self._hasher.digests(chunk, buffer)
        digested = 0 if self._takes is None else _hand_over(digests or (), self._takes)
        for start, length, data in self._operations(chunk, buffer):
            if data is None:
                zero(self._writer, start, length)
            else:
                write(self._writer, start, data)
        written = sum(p.length for p in chunk.pieces if p.segment is not None)
        self._queue.release(filled, written, digested)
        if written:
            self._progress(written)
        self.costs_little = time.monotonic() - began < LITTLE

    def flush(self) -> None:
        """Flush the writer if it can."""
        flushes = ability(self._writer, Flushes)
        if flushes is not None:
            done(flushes, "flush")


def _hand_over(digests: Sequence[SegmentDigest], writer: TakesDigests) -> int:
    """Give digests to the writer, and return the number of bytes in their segments."""
    for (start, length), digest in digests:
        done(writer, "digested", start, length, digest)
    return sum(segment.length for segment, _ in digests)


class _SegmentHasher:
    """Computes digests in one thread."""

    def __init__(self, new_hash: Callable[[], Hash | None] | None) -> None:
        self._new_hash = new_hash
        self._hash: Hash | None = None

    def digests(self, chunk: Chunk, buffer: memoryview) -> list[SegmentDigest]:
        """The digests of the segments that end in a chunk. One may have begun in another chunk."""
        ended: list[SegmentDigest] = []
        if self._new_hash is None:
            return ended
        for piece in chunk.pieces:
            segment = piece.segment
            if segment is None:
                continue
            if piece.start == segment.start:
                self._hash = self._new_hash()
            if self._hash is None:
                continue
            self._hash.update(data_of(piece, chunk, buffer))
            if piece.start + piece.length == segment.start + segment.length:
                ended.append((segment, self._hash.digest()))
        return ended
