"""The pipeline: N readers, a bounded and ordered hand-over, one or N writers, one cancel.

    plan ──▶ claim ──▶ reader ──▶ put ──▶ [ window of blocks ] ──▶ take ──▶ writer ──▶ release
                                   └──────────── when it is due ──────────────┘

How blocks are handed over is told in `handover`, who writes and digests them in `balance`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from ..backend.contract import done, fill, write, zero
from ..backend.protocols import Digester, Reader, Writer
from ..backend.running import Running
from .buffers import BufferPool
from .gap import Limits, Seen
from .operations import Operation, data_of
from .placement import Spent
from .plan import Block, Request
from .queue import Cancelled, Filled, Handover, Moved
from .threads import start

Arrange = Callable[[Block, memoryview | None], Iterable[Operation]]
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
    observe: Callable[[Limits, Seen], None],
    progress: Callable[[int], None],
    use: Running | None = None,
) -> Moved:
    """Move everything in the plan from the readers to the writers.

    Args:
        plan: What to move.
        readers: One thread is started for each.
        writers: One thread is started for each.
        pool: Where the data lies in between.
        ordered: Write blocks in the order of the plan; takes a single writer.
        streaming: See `Sink.streaming`.
        shares_processors: See `Source.shares_processors`.
        arrange: What a writer is asked to do for a block.
        digester: See `Sink.digester`.
        inspect: Called with the offset and the bytes of every piece of data, in the threads of the
            readers, before it is written.
        observe: Hears of every request, with its limits, what it took.
        progress: Called with the number of data bytes in every block that was written.
        use: The copy that is made, which may be ended by others; None for one of its own.

    Returns:
        What went through.

    Raises:
        BaseException: The first error of any worker, or KeyboardInterrupt. All workers have
            ended; readers and writers are still to be closed.
    """
    use = use or Running()
    handover = Handover(
        plan,
        pool,
        ordered=ordered,
        streaming=streaming,
        readers=len(readers),
        writers=len(writers),
        shares_processors=shares_processors,
    )
    write_block = [partial(_write_block, handover, w, arrange, progress) for w in writers]
    at_once = write_block[0]
    examine = partial(_Examination, digester, inspect)
    work = [
        (f"tapestream-reader-{i}", partial(_read, handover, reader, examine(), observe, at_once))
        for i, reader in enumerate(readers)
    ] + [
        (f"tapestream-writer-{i}", partial(_write, handover, writer, examine(), write))
        for i, (writer, write) in enumerate(zip(writers, write_block, strict=True))
    ]
    threads = [
        # Daemons, for one whose start() was interrupted may never begin.
        threading.Thread(target=partial(_guarded, handover, do, use), name=name, daemon=True)
        for name, do in work
    ]
    workers: list[Reader | Writer] = [*readers, *writers]
    try:
        try:
            with use.failing(handover.fail):
                for thread in threads:
                    start(thread)
                while not handover.finished.wait(WAKE_UP):
                    continue
        except BaseException as e:  # noqa: BLE001 - KeyboardInterrupt, too, ends the threads first
            handover.fail(e)
        _end(handover, workers)
    finally:
        _end(handover, workers)  # an interrupt may have come before the one above
    if handover.error is not None:
        raise handover.error
    for thread in threads:
        thread.join()
    return handover.moved


def _end(handover: Handover, workers: Sequence[Reader | Writer]) -> None:
    """Cancel all workers if they are not done, and wait until they have ended.

    No further KeyboardInterrupt cuts this short: what the workers use is closed next, and a
    late write would go into whatever file has got the descriptor's number by then.
    """
    while not (handover.is_complete or handover.is_ended):
        try:
            handover.fail(Cancelled())
            for worker in workers:
                _cancel(worker)
            while handover.at_work:  # an interrupted Thread.join() takes a live thread for dead
                time.sleep(0.01)
            handover.is_ended = True
        except KeyboardInterrupt:
            continue


def _cancel(worker: Reader | Writer) -> None:
    try:
        worker.cancel()
    except Exception:
        # The others must be cancelled all the same, and the first error is the one to raise.
        log.exception("a reader or writer could not be cancelled")


def _guarded(handover: Handover, work: Callable[[], None], use: Running) -> None:
    """Run a worker; whatever it raises ends all the others."""
    try:
        handover.worker_starts()
    except Cancelled:
        return
    try:
        with use.here():
            work()
    except Cancelled:
        pass
    except BaseException as e:  # noqa: BLE001 - raised again by run()
        handover.fail(e)
    finally:
        handover.worker_done()


def _read(
    handover: Handover,
    reader: Reader,
    examination: _Examination,
    observe: Callable[[Limits, Seen], None],
    write_block: Callable[[Filled], None],
) -> None:
    since = time.monotonic()
    for first, request in _announced(handover, reader):
        # No segment goes on after its request: all of it is digested by the same thread.
        are_large = request.data >= request.segments * WRITER_DIGESTS
        digest = not (are_large and examination.has_digests and handover.writer_digests)
        waiting = reading = 0.0
        for number, block in enumerate(request.blocks, first):
            asked = time.monotonic()
            buffer = handover.buffer(number, block.length)
            waiting += time.monotonic() - asked
            filled = Filled(number, block, buffer)
            if buffer is not None:
                filled = _fill(filled, buffer, reader, examination, digest=digest)
            reading += filled.spent.reading
            if handover.put(filled):
                write_block(filled)
        now = time.monotonic()
        if request.length:
            seconds = now - since - waiting
            observe(request.limits, Seen(1, request.length, request.data, reading, seconds))
        since = now
    handover.reader_done()


def _fill(
    filled: Filled, buffer: memoryview, reader: Reader, examination: _Examination, *, digest: bool
) -> Filled:
    """Read a block, and do what is to be done with its data before it is written."""
    block = filled.block
    began, worked = time.monotonic(), time.thread_time()
    fill(reader, block.start, buffer[: block.length])
    read, worked = time.monotonic(), time.thread_time() - worked
    examination.inspect(block, buffer)
    inspected = time.monotonic()
    if digest:
        examination.digest(block, buffer)
    spent = Spent(read - began, worked, inspected - read, time.monotonic() - inspected)
    return filled._replace(spent=spent, is_digested=digest)


def _announced(handover: Handover, reader: Reader) -> Iterator[tuple[int, Request]]:
    """What the reader is to read, one after the other; it hears of it ahead."""
    waiting: deque[tuple[int, Request]] = deque()
    while True:
        while (
            len(waiting) < reader.ahead
            and sum(request.length for _, request in waiting) < ANNOUNCED
            and (claimed := handover.claim()) is not None
        ):
            request = claimed[1]
            if request.length:
                done(reader, "request", request.start, request.length)
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

    def digest(self, block: Block, buffer: memoryview) -> None:
        """Feed the digests of its segments; the first may have begun in the block before."""
        for piece in block.pieces:
            if piece.segment is None:
                continue
            if piece.start == piece.segment.start:
                self._digest = self._digester(*piece.segment)
            if self._digest is not None:
                self._digest.update(data_of(piece, block, buffer))

    def inspect(self, block: Block, buffer: memoryview) -> None:
        """Show every piece of data."""
        if self._inspect is not None:
            for piece in block.pieces:
                if piece.segment is not None:
                    self._inspect(piece.start, data_of(piece, block, buffer))


def _write(
    handover: Handover,
    writer: Writer,
    examination: _Examination,
    write_block: Callable[[Filled], None],
) -> None:
    while (filled := handover.take()) is not None:
        if filled.buffer is not None and not filled.is_digested:
            began = time.monotonic()
            examination.digest(filled.block, filled.buffer)
            digesting = time.monotonic() - began
            spent = filled.spent._replace(digesting=digesting, writer_digested=True)
            filled = filled._replace(spent=spent)
        write_block(filled)
    done(writer, "flush")


def _write_block(
    handover: Handover,
    writer: Writer,
    arrange: Arrange,
    progress: Callable[[int], None],
    filled: Filled,
) -> None:
    began = time.monotonic()
    for operation in arrange(filled.block, filled.buffer):
        if operation.data is None:
            zero(writer, operation.start, operation.length)
        else:
            write(writer, operation.start, operation.data)
    written = sum(p.length for p in filled.block.pieces if p.segment is not None)
    handover.release(filled, written, time.monotonic() - began)
    if written:
        progress(written)
