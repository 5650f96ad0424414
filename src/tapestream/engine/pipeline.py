"""The pipeline: N readers, a bounded and ordered hand-over, one or N writers, one cancel.

    plan ──▶ claim ──▶ reader ──▶ put ──▶ [ window of blocks ] ──▶ take ──▶ writer ──▶ release
                                   └──────────── when it is due ──────────────┘

Blocks are numbered in the order of the plan when they are claimed. A block may be filled only
when it is less than one window ahead of the oldest block that is not yet released. So a buffer is
always left for the block that is due, readers cannot starve each other, and memory is bounded by
the window, whatever the order in which readers finish.

Where data is wanted in order, by a sink that has shown to take it at once, a reader's own thread
writes the block that is due: to wake up another one costs more, and the data is still in the cache
of its processor. A sink that takes its time works in a thread of its own, beside the reading.

Digests are computed by the readers; where there is only one, those of large segments by the
writer's thread, while writing takes less time than reading: then one block is digested while the
next is received.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from ..protocols import Digester, Reader, Writer
from .arrange import Operation, data_of
from .buffers import BufferPool
from .gap import Limits, Seen
from .plan import Block, Request

Arrange = Callable[[Block, memoryview | None], Iterable[Operation]]
Inspect = Callable[[int, memoryview], None]

log = logging.getLogger("tapestream.copy")

# The calling thread looks for a KeyboardInterrupt this often, in seconds: one that another thread
# received, or that `_thread.interrupt_main` simulates, would not end its wait.
WAKE_UP = 0.2

# A reader hears of no further range when those ahead have so many bytes: the other readers want
# something to read, too.
ANNOUNCED = 32 * 1024**2

# A sink takes data at once when a block is written in so small a part of the time of its reading.
AT_ONCE = 1 / 4

# Where segments have so many bytes on average, the writer may compute the digests. Measured on 2
# processors shared with the server: 1.04 to 1.11 times as fast over a unix socket, 2 to 6 % slower
# over TLS, which leaves no processor free. Of small segments there is nothing to gain: the two
# threads then wait for each other's turn in the interpreter.
WRITER_DIGESTS = 256 * 1024


class Cancelled(BaseException):
    """Ends a worker after another one failed; never leaves the pipeline."""


class Filled(NamedTuple):
    """A block on its way from a reader to a writer."""

    number: int
    block: Block
    buffer: memoryview | None
    reading: float = 0.0  # seconds, as the others
    inspecting: float = 0.0
    digesting: float | None = 0.0  # None: the writer is to do it


class Moved(NamedTuple):
    """What went through.

    Attributes:
        requests: Reads asked of the source.
        read: Bytes in them.
        written: Bytes of data written.
        underruns: How often no writer had anything to write, after the first block.
        stalled: How long that was, in seconds.
    """

    requests: int = 0
    read: int = 0
    written: int = 0
    underruns: int = 0
    stalled: float = 0.0


class Handover:
    """The shared state of all workers, behind one lock.

    Args:
        plan: Requests in ascending order.
        pool: Its `count` is the window.
        ordered: Hand blocks to `take` in their order; otherwise as they come.
        streaming: When the blocks run out, hand on none until the window is full.
        readers: How many workers will claim and put.
        writers: How many workers will take and release.

    Attributes:
        finished: Set when all workers have ended, or one has failed.
        error: The first error.
        at_work: How many workers run.
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
    ) -> None:
        self.finished = threading.Event()
        self.error: BaseException | None = None
        self.at_work = 0
        self.moved = Moved()
        self._plan = plan
        self._pool = pool
        self._ordered = ordered
        self._streaming = self._filling = streaming
        self._claimed = 0
        self._taken = 0
        self._writing = 0
        self._idle_since: float | None = None
        self._is_quick = False
        self._has_time = False
        self._oldest = 0
        self._released: set[int] = set()
        self._ready: dict[int, Filled] = {}
        self._readers = self._readers_left = readers
        self._workers_left = readers + writers
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._work = threading.Condition(self._lock)

    def claim(self) -> tuple[int, Request] | None:
        """The next request, with the number of its first block; None when the plan is done."""
        with self._lock:
            self._check()
            request = next(self._plan, None)
            if request is None:
                return None
            first = self._claimed
            self._claimed += len(request.blocks)
            if request.length:
                self.moved = self.moved._replace(
                    requests=self.moved.requests + 1, read=self.moved.read + request.length
                )
            return first, request

    def buffer(self, number: int, length: int) -> memoryview | None:
        """Wait until block `number` may be filled; a buffer for it if it has data."""
        with self._lock:
            while number >= self._oldest + self._pool.count:
                self._check()
                self._room.wait()
            self._check()
            return self._pool.take() if length else None

    @property
    def writer_digests(self) -> bool:
        """True when the only writer has more time for digests than the only reader has."""
        return self._ordered and not self._streaming and self._readers == 1 and self._has_time

    def put(self, filled: Filled) -> bool:
        """Hand a filled block over.

        Returns:
            True when the caller is to write it, and release it, as if it had taken it.
        """
        with self._lock:
            self._check()
            is_due = filled.number == self._taken and not self._writing
            at_once = self._ordered and not self._streaming and self._is_quick
            if at_once and is_due and filled.digesting is not None:
                self._begin_writing()
                return True
            self._ready[filled.number] = filled
            if self._filling:
                if len(self._ready) == self._pool.count:
                    self._work.notify()
            elif is_due or not self._ordered:
                self._work.notify()
            return False

    def take(self) -> Filled | None:
        """Wait for a block to write; None when all have been taken."""
        with self._lock:
            while True:
                self._check()
                number = self._next_ready()
                if number is not None:
                    self._begin_writing()
                    return self._ready.pop(number)
                if self._all_taken() and not (self._ordered and self._writing):
                    return None
                self._work.wait()

    def release(self, filled: Filled, written: int, seconds: float) -> None:
        """Give the buffer of a block back, and let the window move on.

        Args:
            filled: The block, which was written.
            written: Bytes of data in it.
            seconds: How long that took, without the digests.
        """
        with self._lock:
            self.moved = self.moved._replace(written=self.moved.written + written)
            if filled.buffer is not None:
                self._pool.give_back(filled.buffer)
                reader = filled.reading + filled.inspecting
                self._has_time = seconds < reader
                reader += filled.digesting or 0
                self._is_quick = seconds * self._readers <= reader * AT_ONCE
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
            stalled = self.moved.stalled + time.monotonic() - self._idle_since
            self.moved = self.moved._replace(underruns=self.moved.underruns + 1, stalled=stalled)
            self._idle_since = None

    def _end_writing(self) -> None:
        self._writing -= 1
        if self._next_ready() is not None or self._all_taken():
            self._work.notify_all()
        elif not self._writing:
            self._idle_since = time.monotonic()
            self._filling = self._streaming

    def _all_taken(self) -> bool:
        return self._readers_left == 0 and self._taken == self._claimed

    def _next_ready(self) -> int | None:
        if self._filling:
            if len(self._ready) < self._pool.count and self._readers_left:
                return None
            self._filling = False
        if not self._ordered:
            return next(iter(self._ready), None)
        return self._taken if self._taken in self._ready and not self._writing else None

    def _check(self) -> None:
        if self.error is not None:
            raise Cancelled


def run(
    plan: Iterator[Request],
    readers: Sequence[Reader],
    writers: Sequence[Writer],
    pool: BufferPool,
    *,
    ordered: bool,
    streaming: bool,
    arrange: Arrange,
    digester: Callable[[int, int], Digester | None],
    inspect: Inspect | None = None,
    observe: Callable[[Limits, Seen], None],
    progress: Callable[[int], None],
) -> Moved:
    """Move everything in the plan from the readers to the writers.

    Args:
        plan: What to move.
        readers: One thread is started for each.
        writers: One thread is started for each.
        pool: Where the data lies in between.
        ordered: Write blocks in the order of the plan; takes a single writer.
        streaming: See `Sink.streaming`.
        arrange: What a writer is asked to do for a block.
        digester: See `Sink.digester`.
        inspect: Called with the offset and the bytes of every piece of data, in the threads of the
            readers, before it is written.
        observe: Hears of every request, with its limits, what it took.
        progress: Called with the number of data bytes in every block that was written.

    Returns:
        What went through.

    Raises:
        BaseException: The first error of any worker, or KeyboardInterrupt. All workers have
            ended; readers and writers are still to be closed.
    """
    handover = Handover(
        plan,
        pool,
        ordered=ordered,
        streaming=streaming,
        readers=len(readers),
        writers=len(writers),
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
        threading.Thread(target=partial(_guarded, handover, do), name=name, daemon=True)
        for name, do in work
    ]
    try:
        for thread in threads:
            thread.start()
        while not handover.finished.wait(WAKE_UP):
            continue
    except BaseException as e:  # noqa: BLE001 - KeyboardInterrupt, too, ends the threads first
        handover.fail(e)
    if handover.error is not None:
        _end(handover, [*readers, *writers])
        raise handover.error
    for thread in threads:
        thread.join()
    return handover.moved


def _end(handover: Handover, workers: Sequence[Reader | Writer]) -> None:
    """Cancel all workers, and wait until they have ended.

    No further KeyboardInterrupt cuts this short: what the workers use is closed next, and a
    late write would go into whatever file has got the descriptor's number by then.
    """
    while True:
        try:
            for worker in workers:
                _cancel(worker)
            while handover.at_work:  # an interrupted Thread.join() takes a live thread for dead
                time.sleep(0.01)
        except KeyboardInterrupt:
            continue
        return


def _cancel(worker: Reader | Writer) -> None:
    try:
        worker.cancel()
    except Exception:
        # The others must be cancelled all the same, and the first error is the one to raise.
        log.exception("a reader or writer could not be cancelled")


def _guarded(handover: Handover, work: Callable[[], None]) -> None:
    """Run a worker; whatever it raises ends all the others."""
    try:
        handover.worker_starts()
    except Cancelled:
        return
    try:
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
        # No segment goes on behind its request: all of it is digested by the same thread.
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
            reading += filled.reading
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
    began = time.monotonic()
    reader.readinto(block.start, buffer[: block.length])
    read = time.monotonic()
    examination.inspect(block, buffer)
    inspected = time.monotonic()
    if digest:
        examination.digest(block, buffer)
    ended = time.monotonic()
    return filled._replace(
        reading=read - began,
        inspecting=inspected - read,
        digesting=ended - inspected if digest else None,
    )


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
                reader.request(request.start, request.length)
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
        if filled.buffer is not None and filled.digesting is None:
            examination.digest(filled.block, filled.buffer)
        write_block(filled)
    writer.flush()


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
            writer.zero(operation.start, operation.length)
        else:
            writer.write(operation.start, operation.data)
    written = sum(p.length for p in filled.block.pieces if p.segment is not None)
    handover.release(filled, written, time.monotonic() - began)
    if written:
        progress(written)
