"""The pipeline: N readers, a bounded and ordered hand-over, one or N writers, one cancel.

    plan ──▶ claim ──▶ reader ──▶ put ──▶ [ window of chunks ] ──▶ take ──▶ writer ──▶ release
                                   └──────────── when it is due ──────────────┘

How chunks are handed over is in `queue`, which threads write and digest them in `placement`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from ..backend.abilities import Digester, Flushes, Prefetches, ability, cancel
from ..backend.checks import done, fill, write, zero
from ..backend.protocols import Reader, Writer
from ..backend.running import Running
from .buffers import BufferPool
from .gap import Limits, Sample
from .operations import Operation, data_of
from .placement import Spent
from .plan import Chunk, Request
from .queue import Cancelled, ChunkQueue, Counts, FilledChunk
from .threads import start

Arrange = Callable[[Chunk, memoryview | None], Iterable[Operation]]
Inspect = Callable[[int, memoryview], None]

log = logging.getLogger("tapestream.copy")

# The calling thread looks for a KeyboardInterrupt this often, in seconds: one that another thread
# received, or that `_thread.interrupt_main` simulates, would not end its wait.
WAKE_UP = 0.2

# A reader hears of no further range when those ahead have so many bytes: the other readers want
# something to read, too.
ANNOUNCED = 32 * 1024**2

# Where segments have so many bytes on average, the writer may compute the digests. Of small ones
# there is nothing to gain: the two threads then wait for each other's turn in the interpreter.
WRITER_DIGESTS = 256 * 1024


def run(
    plan: Iterator[Request],
    readers: Sequence[Reader],
    writers: Sequence[Writer],
    pool: BufferPool,
    *,
    ordered: bool,
    streaming: bool,
    shares_processors: bool = False,
    arrange: Arrange,
    digester: Callable[[int, int], Digester | None],
    inspect: Inspect | None = None,
    observe: Callable[[Limits, Sample], None],
    progress: Callable[[int], None],
    use: Running | None = None,
) -> Counts:
    """Move everything in the plan from the readers to the writers.

    Args:
        plan: What to move.
        readers: One thread is started for each.
        writers: One thread is started for each.
        pool: Where the data lies in between.
        ordered: Write chunks in the order of the plan; takes a single writer.
        streaming: See `Streams.streaming`.
        shares_processors: See `HasLocalServer.server_is_local`.
        arrange: What a writer is asked to do for a chunk.
        digester: See `MakesDigesters.digester`.
        inspect: Called with the offset and the bytes of every piece of data, in the threads of the
            readers, before it is written.
        observe: Hears of every request, with its limits, what it took.
        progress: Called with the number of data bytes in every chunk that was written.
        use: The copy that is made, which may be ended by others; None for one of its own.

    Returns:
        What went through.

    Raises:
        BaseException: The first error of any worker, or KeyboardInterrupt. All workers have
            ended; readers and writers are still to be closed.
    """
    use = use or Running()
    queue = ChunkQueue(
        plan,
        pool,
        ordered=ordered,
        streaming=streaming,
        readers=len(readers),
        writers=len(writers),
        shares_processors=shares_processors,
    )
    write_chunk = [partial(_write_chunk, queue, w, arrange, progress) for w in writers]
    at_once = write_chunk[0]
    examine = partial(_Examination, digester, inspect)
    work = [
        (f"tapestream-reader-{i}", partial(_read, queue, reader, examine(), observe, at_once))
        for i, reader in enumerate(readers)
    ] + [
        (f"tapestream-writer-{i}", partial(_write, queue, writer, examine(), write))
        for i, (writer, write) in enumerate(zip(writers, write_chunk, strict=True))
    ]
    threads = [
        # Daemons, for one whose start() was interrupted may never begin.
        threading.Thread(target=partial(_guarded, queue, do, use), name=name, daemon=True)
        for name, do in work
    ]
    workers: list[Reader | Writer] = [*readers, *writers]
    try:
        try:
            with use.failing(queue.fail):
                for thread in threads:
                    start(thread)
                while not queue.finished.wait(WAKE_UP):
                    continue
        except BaseException as e:  # noqa: BLE001 - KeyboardInterrupt, too, ends the threads first
            queue.fail(e)
        _end(queue, workers)
    finally:
        _end(queue, workers)  # an interrupt may have come before the one above
    if queue.error is not None:
        raise queue.error
    for thread in threads:
        thread.join()
    return queue.counts


def _end(queue: ChunkQueue, workers: Sequence[Reader | Writer]) -> None:
    """Cancel all workers if they are not done, and wait until they have ended.

    No further KeyboardInterrupt cuts this short: what the workers use is closed next, and a
    late write would go into whatever file has got the descriptor's number by then.
    """
    while not (queue.is_complete or queue.is_ended):
        try:
            queue.fail(Cancelled())
            for worker in workers:
                _cancel(worker)
            while queue.at_work:  # an interrupted Thread.join() takes a live thread for dead
                time.sleep(0.01)
            queue.is_ended = True
        except KeyboardInterrupt:
            continue


def _cancel(worker: Reader | Writer) -> None:
    try:
        cancel(worker)
    except Exception:
        # The others must be cancelled all the same, and the first error is the one to raise.
        log.exception("a reader or writer could not be cancelled")


def _guarded(queue: ChunkQueue, work: Callable[[], None], use: Running) -> None:
    """Run a worker; whatever it raises ends all the others."""
    try:
        queue.worker_starts()
    except Cancelled:
        return
    try:
        with use.here():
            work()
    except Cancelled:
        pass
    except BaseException as e:  # noqa: BLE001 - raised again by run()
        queue.fail(e)
    finally:
        queue.worker_done()


def _read(
    queue: ChunkQueue,
    reader: Reader,
    examination: _Examination,
    observe: Callable[[Limits, Sample], None],
    write_chunk: Callable[[FilledChunk], None],
) -> None:
    since = time.monotonic()
    for first, request in _announced(queue, reader):
        # No segment goes on after its request: all of it is digested by the same thread.
        are_large = request.data >= request.segments * WRITER_DIGESTS
        digest = not (are_large and examination.has_digests and queue.writer_digests)
        waiting = reading = 0.0
        for number, chunk in enumerate(request.chunks, first):
            asked = time.monotonic()
            buffer = queue.buffer(number, chunk.length)
            waiting += time.monotonic() - asked
            filled = FilledChunk(number, chunk, buffer)
            if buffer is not None:
                filled = _fill(filled, buffer, reader, examination, digest=digest)
            reading += filled.spent.reading
            if queue.put(filled):
                write_chunk(filled)
        now = time.monotonic()
        if request.length:
            seconds = now - since - waiting
            observe(request.limits, Sample(1, request.length, request.data, reading, seconds))
        since = now
    queue.reader_done()


def _fill(
    filled: FilledChunk,
    buffer: memoryview,
    reader: Reader,
    examination: _Examination,
    *,
    digest: bool,
) -> FilledChunk:
    """Read a chunk, and do what is to be done with its data before it is written."""
    chunk = filled.chunk
    began, worked = time.monotonic(), time.thread_time()
    fill(reader, chunk.start, buffer[: chunk.length])
    read, worked = time.monotonic(), time.thread_time() - worked
    examination.inspect(chunk, buffer)
    inspected = time.monotonic()
    if digest:
        examination.digest(chunk, buffer)
    spent = Spent(read - began, worked, inspected - read, time.monotonic() - inspected)
    return filled._replace(spent=spent, is_digested=digest)


def _announced(queue: ChunkQueue, reader: Reader) -> Iterator[tuple[int, Request]]:
    """What the reader is to read, one after the other; it hears of it ahead."""
    waiting: deque[tuple[int, Request]] = deque()
    prefetches = ability(reader, Prefetches)
    depth = 1 if prefetches is None else prefetches.prefetch_depth
    while True:
        while (
            len(waiting) < depth
            and sum(request.length for _, request in waiting) < ANNOUNCED
            and (claimed := queue.claim()) is not None
        ):
            request = claimed[1]
            if request.length and prefetches is not None:
                done(prefetches, "prefetch", request.start, request.length)
            waiting.append(claimed)
        if not waiting:
            return
        yield waiting.popleft()


class _Examination:
    """What one thread does with data before it is written."""

    def __init__(
        self, digester: Callable[[int, int], Digester | None], inspect: Inspect | None
    ) -> None:
        self._digester = digester
        self._inspect = inspect
        self._digest: Digester | None = None

    @property
    def has_digests(self) -> bool:
        """True when the last segment had a digest."""
        return self._digest is not None

    def digest(self, chunk: Chunk, buffer: memoryview) -> None:
        """Feed the digests of its segments; the first may have begun in the chunk before."""
        for piece in chunk.pieces:
            if piece.segment is None:
                continue
            if piece.start == piece.segment.start:
                self._digest = self._digester(*piece.segment)
            if self._digest is not None:
                self._digest.update(data_of(piece, chunk, buffer))

    def inspect(self, chunk: Chunk, buffer: memoryview) -> None:
        """Show every piece of data."""
        if self._inspect is not None:
            for piece in chunk.pieces:
                if piece.segment is not None:
                    self._inspect(piece.start, data_of(piece, chunk, buffer))


def _write(
    queue: ChunkQueue,
    writer: Writer,
    examination: _Examination,
    write_chunk: Callable[[FilledChunk], None],
) -> None:
    while (filled := queue.take()) is not None:
        if filled.buffer is not None and not filled.is_digested:
            began = time.monotonic()
            examination.digest(filled.chunk, filled.buffer)
            digesting = time.monotonic() - began
            spent = filled.spent._replace(digesting=digesting, writer_digested=True)
            filled = filled._replace(spent=spent)
        write_chunk(filled)
    flushes = ability(writer, Flushes)
    if flushes is not None:
        done(flushes, "flush")


def _write_chunk(
    queue: ChunkQueue,
    writer: Writer,
    arrange: Arrange,
    progress: Callable[[int], None],
    filled: FilledChunk,
) -> None:
    began = time.monotonic()
    for operation in arrange(filled.chunk, filled.buffer):
        if operation.data is None:
            zero(writer, operation.start, operation.length)
        else:
            write(writer, operation.start, operation.data)
    written = sum(p.length for p in filled.chunk.pieces if p.segment is not None)
    queue.release(filled, written, time.monotonic() - began)
    if written:
        progress(written)
