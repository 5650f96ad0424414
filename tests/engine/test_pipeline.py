"""The pipeline with backends in memory: order, bounds, and the end of everything on an error."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from typing_extensions import Buffer

from tapestream.engine.buffers import BufferPool
from tapestream.engine.learning.gap import Limits
from tapestream.engine.pipeline import Pipeline
from tapestream.engine.plan import plan_requests
from tapestream.engine.queue import Counts
from tapestream.model.extents import Extent, Extents, Run
from tapestream.testing.memory import MemoryReader, MemorySink, MemorySource, MemoryWriter
from tests.disks import noise

BUFFER = 4096
SEGMENT = 4 * BUFFER


class Disk:
    """A disk in memory, and all that its readers and writers must share in a test."""

    def __init__(self, size: int, *, seed: int = 0) -> None:
        self.content = noise(size, seed)
        self.source = MemorySource(self.content, before_read=lambda at, _: self.before_read(at))
        self.sink = MemorySink()
        self.sink.begin(self.source.info, Extents.of(self.source.extents()))
        self.starts: list[int] = []
        self.before_read: Callable[[int], None] = lambda start: None
        self.before_write: Callable[[int], None] = lambda start: None
        self.cancelled = threading.Event()
        self.writers: list[DiskWriter] = []
        self.digests: dict[tuple[int, int], bytes] = {}

    @property
    def copy(self) -> bytearray:
        return self.sink.disk

    def extents(self, *, every: int) -> Extents:
        """Data and zeros in turn."""
        starts = range(0, len(self.content), every)
        return Extents.of(
            Extent(start, min(every, len(self.content) - start), zero=bool(i % 2))
            for i, start in enumerate(starts)
        )


class DiskReader(MemoryReader):
    def __init__(self, disk: Disk) -> None:
        super().__init__(disk.source)
        self._disk = disk

    def cancel(self) -> None:
        super().cancel()
        self._disk.cancelled.set()


class DiskWriter(MemoryWriter):
    def __init__(self, disk: Disk) -> None:
        super().__init__(disk.sink)
        self._disk = disk
        disk.writers.append(self)

    def write(self, start: int, buffer: memoryview) -> None:
        self._disk.before_write(start)
        self._disk.starts.append(start)
        super().write(start, buffer)

    def digested(self, start: int, length: int, digest: bytes) -> None:
        assert max(self._disk.starts, default=-1) < start + length - 1
        assert (start, length) not in self._disk.digests
        self._disk.digests[start, length] = digest

    def zero(self, start: int, length: int) -> None:
        self._disk.starts.append(start)
        super().zero(start, length)

    def cancel(self) -> None:
        super().cancel()
        self._disk.cancelled.set()


def transfer(
    disk: Disk,
    extents: Extents,
    *,
    readers: int = 1,
    reader: type[DiskReader] = DiskReader,
    writers: int = 1,
    buffers: int = 8,
    ordered: bool = True,
    gap: int = 0,
    ahead: int = sys.maxsize,
    **options: Any,
) -> Counts:
    pool = BufferPool(buffers, BUFFER)
    plan = plan_requests(
        extents.runs(),
        segment_size=SEGMENT,
        request_size=2 * SEGMENT,
        buffer_size=BUFFER,
        limits=lambda: Limits(gap, 2 * SEGMENT, ahead=ahead),
    )
    try:
        return Pipeline(ordered=ordered, **options).run(
            plan,
            [reader(disk) for _ in range(readers)],
            [DiskWriter(disk) for _ in range(writers)],
            pool,
        )
    finally:
        pool.close()


def expected(disk: Disk, extents: Extents) -> bytes:
    image = bytearray(disk.content)
    for extent in extents:
        if extent.zero:
            image[extent.start : extent.start + extent.length] = bytes(extent.length)
    return bytes(image)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    left = [t for t in threading.enumerate() if t.name.startswith("tapestream")]
    for thread in left:
        thread.join(10)  # its work has ended; the thread itself may take a moment longer
    assert not any(thread.is_alive() for thread in left)


@pytest.mark.parametrize("every", [1000, BUFFER, 10_000, 100_000])
@pytest.mark.parametrize(
    ("readers", "writers", "buffers"), [(1, 1, 2), (4, 1, 2), (4, 1, 16), (3, 3, 4), (1, 4, 8)]
)
@pytest.mark.parametrize("gap", [0, 2000])
def test_every_pair_copies_everything(
    every: int, readers: int, writers: int, buffers: int, gap: int
) -> None:
    disk = Disk(300_001)
    extents = disk.extents(every=every)
    moved = transfer(
        disk,
        extents,
        readers=readers,
        writers=writers,
        buffers=buffers,
        ordered=writers == 1,
        gap=gap,
    )
    assert bytes(disk.copy) == expected(disk, extents)
    assert moved.read >= sum(e.length for e in extents if not e.zero)
    if writers == 1:
        assert disk.starts == sorted(disk.starts)


def test_a_sequential_sink_gets_order_whatever_the_readers_do() -> None:
    disk = Disk(500_000)
    rng = random.Random(7)
    disk.before_read = lambda start: time.sleep(rng.random() / 500)
    extents = disk.extents(every=5000)
    transfer(disk, extents, readers=8, buffers=16)
    assert bytes(disk.copy) == expected(disk, extents)
    assert disk.starts == sorted(disk.starts)


def test_readers_stop_one_window_ahead_of_a_slow_writer() -> None:
    disk = Disk(100 * BUFFER)
    reads: list[int] = []
    ahead: list[int] = []
    disk.before_read = reads.append
    disk.before_write = lambda start: ahead.append(max(reads) - start)
    transfer(disk, Extents.of([Extent(0, 100 * BUFFER)]), readers=4, buffers=5)
    assert max(ahead) < 5 * BUFFER


def test_the_block_that_is_due_is_never_starved() -> None:
    """The first request is slow; the other readers must not take all the buffers meanwhile."""
    disk = Disk(64 * BUFFER)
    others_are_full = threading.Event()
    reads: set[int] = set()

    def slow_first(start: int) -> None:
        reads.add(start)
        if len(reads) >= 2:
            others_are_full.set()
        if start == 0:
            others_are_full.wait(5)

    disk.before_read = slow_first
    transfer(disk, Extents.of([Extent(0, 64 * BUFFER)]), readers=4, buffers=10)
    assert disk.copy == disk.content


def test_segments_are_digested_whole_and_in_order() -> None:
    disk = Disk(400_000)
    extents = disk.extents(every=30_000)
    transfer(disk, extents, readers=3, new_hash=hashlib.sha256, gap=100_000)
    assert sum(length for _, length in disk.digests) == sum(e.length for e in extents if not e.zero)
    for (start, length), digest in disk.digests.items():
        assert digest == hashlib.sha256(disk.content[start : start + length]).digest()


class Sha256:
    """Remembers who computed it."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.threads: set[str] = set()

    def update(self, data: Buffer, /) -> None:
        self.threads.add(threading.current_thread().name.rpartition("-")[0])
        self.hash.update(data)

    def digest(self) -> bytes:
        return self.hash.digest()


def who_digests(
    disk: Disk,
    *,
    read: Callable[[int], float],
    write: Callable[[int], float],
    every: int = 10**9,
    **options: Any,
) -> list[str]:
    """Copy with reads and writes that take so many seconds: who digested each segment."""
    hashes: list[Sha256] = []

    def new_hash() -> Sha256:
        hashes.append(Sha256())
        return hashes[-1]

    disk.before_read = lambda start: time.sleep(read(start))
    disk.before_write = lambda start: time.sleep(write(start))
    extents = disk.extents(every=every)
    transfer(disk, extents, new_hash=new_hash, large_segment=2 * BUFFER, **options)
    assert sum(length for _, length in disk.digests) == sum(e.length for e in extents if not e.zero)
    for (start, length), digest in disk.digests.items():
        assert digest == hashlib.sha256(disk.content[start : start + length]).digest()
    assert all(len(each.threads) == 1 for each in hashes)
    threads = {each.digest(): thread for each in hashes for thread in each.threads}
    return [threads[disk.digests[segment]] for segment in sorted(disk.digests)]


READER, WRITER = "tapestream-reader", "tapestream-writer"


@pytest.mark.parametrize(("streaming", "share"), [(False, 0.5), (True, 0)])
def test_the_writer_digests_when_it_has_more_time(streaming: bool, share: float) -> None:
    disk = Disk(20 * SEGMENT)
    found = who_digests(disk, read=lambda _: 0.005, write=lambda _: 0, streaming=streaming)
    assert found.count(WRITER) > len(found) * share


@pytest.mark.parametrize("streaming", [False, True])
def test_a_slow_writer_does_not_digest(streaming: bool) -> None:
    disk = Disk(20 * SEGMENT)
    found = who_digests(disk, read=lambda _: 0, write=lambda _: 0.005, streaming=streaming)
    assert found.count(READER) > len(found) / 2


@pytest.mark.parametrize("options", [{"readers": 3}, {"every": BUFFER}], ids=str)
def test_readers_digest(options: dict[str, Any]) -> None:
    """Several of them, or small extents."""
    found = who_digests(Disk(12 * SEGMENT), read=lambda _: 0.002, write=lambda _: 0, **options)
    assert set(found) == {READER}


def test_who_digests_may_change() -> None:
    """Whichever side is slow, in turn."""

    def slow(turn: int) -> Callable[[int], float]:
        return lambda start: 0.003 if start // (8 * SEGMENT) % 2 == turn else 0.0

    found = who_digests(Disk(48 * SEGMENT), read=slow(0), write=slow(1), buffers=8)
    assert set(found) == {READER, WRITER}


class BoomError(Exception):
    pass


def boom(_: int) -> None:
    raise BoomError


def boom_at(start: int) -> Callable[[int], None]:
    def fail(position: int) -> None:
        if position >= start:
            raise BoomError

    return fail


@pytest.mark.parametrize("readers", [1, 4])
@pytest.mark.parametrize("writers", [1, 4])
@pytest.mark.parametrize("start", [0, 150_000, 299_000])
@pytest.mark.parametrize("side", ["before_read", "before_write"])
def test_an_error_ends_everything(readers: int, writers: int, start: int, side: str) -> None:
    disk = Disk(300_001)
    setattr(disk, side, boom_at(start))
    with pytest.raises(BoomError):
        transfer(
            disk,
            Extents.of([Extent(0, 300_001)]),
            readers=readers,
            writers=writers,
            ordered=writers == 1,
        )
    assert disk.cancelled.is_set()


def test_an_error_of_progress_ends_everything() -> None:
    disk = Disk(300_001)
    with pytest.raises(BoomError):
        transfer(disk, disk.extents(every=9000), readers=4, progress=boom)


def test_an_error_of_a_hash_ends_everything() -> None:
    class Bad(Sha256):
        def update(self, data: Buffer, /) -> None:
            raise BoomError

    disk = Disk(300_001)
    with pytest.raises(BoomError):
        transfer(disk, disk.extents(every=9000), readers=4, new_hash=Bad)


def test_an_error_of_the_plan_ends_everything() -> None:
    def bad_plan() -> Iterator[tuple[int, int, object]]:
        raise BoomError
        yield

    disk = Disk(10)
    pool = BufferPool(2, BUFFER)
    with pytest.raises(BoomError):
        Pipeline(ordered=True).run(
            bad_plan(),  # type: ignore[arg-type]
            [DiskReader(disk)],
            [DiskWriter(disk)],
            pool,
        )


@pytest.mark.parametrize("side", ["before_read", "before_write"])
def test_a_blocked_worker_is_cancelled(side: str) -> None:
    """One worker blocks until it is cancelled, as in a stalled pipe; another one fails."""
    disk = Disk(300_001)
    other = "before_write" if side == "before_read" else "before_read"
    blocked = threading.Event()

    def block(start: int) -> None:
        if start > 0:
            blocked.set()
            assert disk.cancelled.wait(60)

    def fail_when_blocked(start: int) -> None:
        if start >= 3 * BUFFER or side == "before_read":
            assert blocked.wait(60)
            raise BoomError

    setattr(disk, side, block)
    setattr(disk, other, fail_when_blocked)
    with pytest.raises(BoomError):
        transfer(disk, disk.extents(every=9000), readers=2)


def test_keyboard_interrupt_ends_everything() -> None:
    disk = Disk(300_001)

    def interrupt(start: int) -> None:
        signal.raise_signal(signal.SIGINT)
        assert disk.cancelled.wait(60)

    disk.before_write = interrupt
    with pytest.raises(KeyboardInterrupt):
        transfer(disk, Extents.of([Extent(0, 300_001)]), readers=4)
    assert disk.cancelled.is_set()


def test_a_second_interrupt_does_not_leave_before_the_threads() -> None:
    """What they use is closed next: a late write would go into somebody else's file."""
    disk = Disk(300_001)
    ended = threading.Event()

    def stubborn(start: int) -> None:
        signal.raise_signal(signal.SIGINT)
        assert disk.cancelled.wait(60)
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
        ended.set()

    disk.before_write = stubborn
    with pytest.raises(KeyboardInterrupt):
        transfer(disk, Extents.of([Extent(0, 300_001)]), readers=4)
    assert ended.is_set()


def test_a_second_interrupt_while_the_first_is_noted() -> None:
    """A reader that walks over a long part of the plan holds the lock meanwhile."""
    disk = Disk(300_001)
    walking, walked = threading.Event(), threading.Event()

    def slow(runs: Iterator[Run]) -> Iterator[Run]:
        yield next(runs)
        walking.set()
        walked.wait(60)
        yield from runs

    class SlowExtents:
        def __init__(self, extents: Extents) -> None:
            self._extents = extents

        def runs(self) -> Iterator[Run]:
            return slow(self._extents.runs())

    def interrupt_twice() -> None:
        assert walking.wait(60)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
        walked.set()

    extents = SlowExtents(disk.extents(every=100_000))
    with ThreadPoolExecutor() as pool:
        interrupts = pool.submit(interrupt_twice)
        with pytest.raises(KeyboardInterrupt):
            transfer(disk, extents)  # type: ignore[arg-type]
        assert walked.is_set()
        assert disk.cancelled.is_set()
        assert interrupts.result() is None


@pytest.mark.parametrize("seed", range(3))
def test_a_streaming_sink_that_takes_any_order(seed: int) -> None:
    """Blocks that were written early fill the window, too."""
    disk = Disk(100 * BUFFER)
    rng = random.Random(seed)
    disk.before_read = lambda start: time.sleep(rng.choice([0, 0, 0, 0.004]))
    disk.before_write = lambda start: time.sleep(rng.choice([0, 0, 0.002]))
    extents = Extents.of([Extent(0, len(disk.content))])
    transfer(disk, extents, readers=3, writers=2, buffers=10, ordered=False, streaming=True)
    assert bytes(disk.copy) == disk.content


def test_a_cancel_that_fails_hides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Bad(DiskReader):
        def cancel(self) -> None:
            raise OSError("cannot cancel")

    disk = Disk(300_001)
    disk.before_write = boom
    with pytest.raises(BoomError):
        transfer(disk, disk.extents(every=5000), readers=2, reader=Bad)
    assert disk.cancelled.is_set()
    assert "cannot cancel" in caplog.text


def test_writers_flush_only_after_success() -> None:
    disk = Disk(100_000)
    disk.before_write = boom_at(50_000)
    with pytest.raises(BoomError):
        transfer(disk, disk.extents(every=5000), writers=3, ordered=False)
    assert [w.flushed for w in disk.writers] == [0, 0, 0]

    disk = Disk(100_000)
    transfer(disk, disk.extents(every=5000), writers=3, ordered=False)
    assert [w.flushed for w in disk.writers] == [1, 1, 1]


# --- A sink that should not be stopped and started ---


def test_a_streaming_sink_starts_with_full_buffers() -> None:
    disk = Disk(64 * BUFFER)
    written_before: list[int] = []

    def before_read(start: int) -> None:
        if start == 7 * BUFFER:
            time.sleep(0.1)  # enough for a writer that does not wait
            written_before.append(len(disk.starts))

    disk.before_read = before_read
    moved = transfer(disk, disk.extents(every=len(disk.content)), buffers=8, streaming=True)
    assert bytes(disk.copy) == disk.content
    assert written_before == [0]
    assert moved.stalled > 0


@pytest.mark.parametrize("readers", [1, 3])
@pytest.mark.parametrize("chunks", [0, 1, 7, 8, 9, 40])
def test_a_streaming_sink_gets_everything(readers: int, chunks: int) -> None:
    disk = Disk(chunks * BUFFER)
    transfer(disk, disk.extents(every=BUFFER), readers=readers, buffers=8, streaming=True)
    zeroed = bytes(disk.copy)
    for i in range(0, chunks, 2):
        assert zeroed[i * BUFFER : (i + 1) * BUFFER] == disk.content[i * BUFFER : (i + 1) * BUFFER]


def test_underruns_are_counted_and_each_fills_the_buffers() -> None:
    """A source that stops in the middle, until the writer has run dry."""
    disk = Disk(32 * BUFFER)
    dry = threading.Event()
    written_before: list[int] = []

    def before_read(start: int) -> None:
        if start == 16 * BUFFER:
            assert dry.wait(10)
        if start == 19 * BUFFER:
            time.sleep(0.1)  # enough for a writer that does not wait
            written_before.append(len(disk.starts))

    def before_write(start: int) -> None:
        if start == 15 * BUFFER:
            threading.Timer(0.1, dry.set).start()

    disk.before_read, disk.before_write = before_read, before_write
    moved = transfer(disk, disk.extents(every=len(disk.content)), buffers=4, streaming=True)
    assert bytes(disk.copy) == disk.content
    assert moved.underruns >= 1
    assert written_before == [16]


def test_an_error_ends_a_writer_that_waits_for_full_buffers() -> None:
    disk = Disk(32 * BUFFER)

    def before_read(start: int) -> None:
        if start == 2 * BUFFER:
            raise OSError("the source broke")

    disk.before_read = before_read
    with pytest.raises(OSError, match="the source broke"):
        transfer(disk, disk.extents(every=len(disk.content)), buffers=8, streaming=True)
    assert disk.starts == []


def writers_of(disk: Disk, *, read: float, write: float, **options: bool | int) -> list[str]:
    """Copy with reads and writes that take so many seconds: the names of the writing threads."""
    names: list[str] = []
    one_at_a_time = threading.Lock()

    def before_write(start: int) -> None:
        assert one_at_a_time.acquire(blocking=False), "two threads write at the same time"
        names.append(threading.current_thread().name)
        time.sleep(write)
        one_at_a_time.release()

    disk.before_read = lambda start: time.sleep(read)
    disk.before_write = before_write
    extents = Extents.of([Extent(0, len(disk.content))])
    transfer(disk, extents, **options)  # type: ignore[arg-type]
    assert bytes(disk.copy) == disk.content
    assert disk.starts == sorted(disk.starts)
    return names


@pytest.mark.parametrize("readers", [1, 3])
def test_a_slow_sink_is_written_beside_the_reading(readers: int) -> None:
    names = writers_of(Disk(60 * BUFFER), read=0, write=0.005, readers=readers)
    assert sum(name == "tapestream-writer-0" for name in names) > len(names) / 2


def test_a_streaming_sink_has_a_thread_of_its_own() -> None:
    names = writers_of(Disk(60 * BUFFER), read=0.001, write=0, streaming=True)
    assert set(names) == {"tapestream-writer-0"}


def test_it_counts_how_often_a_sink_that_takes_at_once_waits() -> None:
    def after_all_before_it(start: int) -> None:
        while len(disk.starts) < start // BUFFER:
            time.sleep(0.001)
        time.sleep(0.01)

    disk = Disk(20 * BUFFER)
    disk.before_read = after_all_before_it
    moved = transfer(disk, Extents.of([Extent(0, 20 * BUFFER)]))
    assert moved.underruns == 19
    assert moved.stalled > 0.1


def announced(readers: int, prefetches: int, **options: Any) -> int:
    """How many ranges a reader has announced at most, the one that it reads included."""
    heard: list[int] = []

    class Ahead(DiskReader):
        def __init__(self, disk: Disk) -> None:
            super().__init__(disk)
            self._waiting: list[tuple[int, int]] = []

        prefetch_depth = prefetches

        def prefetch(self, start: int, length: int) -> None:
            self._waiting.append((start, start + length))
            heard.append(len(self._waiting))

        def readinto(self, start: int, buffer: memoryview) -> None:
            first, end = self._waiting[0]
            if start == first:
                super().prefetch(first, end - first)
            super().readinto(start, buffer)
            if start + len(buffer) == end:
                self._waiting.pop(0)

    disk = Disk(300_001)
    extents = disk.extents(every=9000)
    transfer(disk, extents, readers=readers, reader=Ahead, **options)
    assert bytes(disk.copy) == expected(disk, extents)
    return max(heard)


@pytest.mark.parametrize(
    ("ahead", "most", "expected_ahead"),
    [(1, 1, 1), (2, 10**6, 2), (5, 10**6, 5), (5, 1, 1), (5, 2 * 9000, 2), (5, 2 * 9000 + 1, 3)],
)
@pytest.mark.parametrize("readers", [1, 3])
def test_a_reader_hears_of_ranges_ahead(
    ahead: int, most: int, expected_ahead: int, readers: int
) -> None:
    assert announced(readers, ahead, max_announced=most) == expected_ahead


@pytest.mark.parametrize(("gap", "expected_ahead"), [(9000, 2), (0, 5)])
@pytest.mark.parametrize("readers", [1, 3])
def test_few_ranges_with_gaps_are_announced_while_gaps_are_tried(
    gap: int, expected_ahead: int, readers: int
) -> None:
    """What is announced before a trial ends is read in vain if gaps do not pay."""
    assert announced(readers, 5, gap=gap, ahead=27_001) == expected_ahead


class Threads:
    """Which threads write, and for how long each write takes."""

    def __init__(self, disk: Disk, seconds: Callable[[int], float] = lambda start: 0) -> None:
        self._seconds = seconds
        self.names: list[str] = []
        disk.before_write = self._note
        # With reads that take no time, there is always something left for the writer's thread.
        disk.before_read = lambda start: time.sleep(0.001)

    def _note(self, start: int) -> None:
        self.names.append(threading.current_thread().name.rpartition("-")[0])
        if self._seconds(start):
            time.sleep(self._seconds(start))


ALL = 100 * BUFFER


def test_whoever_reads_writes_what_costs_nothing() -> None:
    disk = Disk(ALL)
    threads = Threads(disk)
    transfer(disk, disk.extents(every=ALL))
    assert disk.copy == disk.content
    # A busy machine can make single writes take long; then the writer's thread has the next one.
    assert threads.names.count("tapestream-reader") > 20
    assert threads.names[0] == "tapestream-writer"


@pytest.mark.parametrize("readers", [1, 3])
def test_the_writers_thread_writes_what_takes_long(readers: int) -> None:
    disk = Disk(ALL)
    threads = Threads(disk, lambda start: 0.001)
    transfer(disk, disk.extents(every=ALL), readers=readers)
    assert disk.copy == disk.content
    assert set(threads.names) == {"tapestream-writer"}


def test_a_sink_that_becomes_slow_holds_the_reader_up_once() -> None:
    disk = Disk(ALL)
    threads = Threads(disk, lambda start: 0.001 if start >= ALL // 2 else 0)
    transfer(disk, disk.extents(every=ALL))
    assert disk.copy == disk.content
    assert threads.names[:50].count("tapestream-reader") > 10
    assert threads.names[51:].count("tapestream-reader") == 0


def test_the_writers_thread_writes_a_stream() -> None:
    """Only that keeps a tape drive running while the source pauses."""
    disk = Disk(ALL)
    threads = Threads(disk)
    transfer(disk, disk.extents(every=ALL), streaming=True)
    assert disk.copy == disk.content
    assert set(threads.names) == {"tapestream-writer"}


@pytest.mark.parametrize("readers", [1, 3])
def test_an_error_of_a_write_in_a_readers_thread(readers: int) -> None:
    disk = Disk(ALL)

    def fail(start: int) -> None:
        if start >= ALL // 2:
            raise OSError(28, "no space")

    disk.before_write = fail
    with pytest.raises(OSError, match="no space"):
        transfer(disk, disk.extents(every=ALL), readers=readers)
    assert disk.copy[: ALL // 2] == disk.content[: ALL // 2]
