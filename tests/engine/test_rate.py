"""A limit of the rate: the rule by a clock that the test moves, and real copies."""

from __future__ import annotations

import _thread
import heapq
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count, cycle, repeat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestream import (
    Cancel,
    DiscardSink,
    Extent,
    OperationCancelledError,
    RateLimit,
    RawImageSink,
    RawImageSource,
    Reader,
    TarStreamSink,
    TarStreamSource,
    compare,
    copy,
    restore_chain,
    verify,
)
from tapestream.backend import ForwardingReader, ForwardingSource
from tapestream.engine.learning.gap import Limits
from tapestream.engine.options import CopyOptions
from tapestream.engine.rate import Flow, Turns
from tapestream.errors import ClosedError, LocalIOError, UsageError
from tapestream.testing import ImageioDaemon, MemorySink, MemorySource
from tests.disks import noise
from tests.leftovers import threads
from tests.rates import Request, excess, watch

KIB, MIB = 1024, 1024**2


def simulated(
    rate: Callable[[float], int],
    consumers: Sequence[tuple[int, Iterator[tuple[float, int]]]],
    seconds: float,
    burst: int = 2 * MIB,
) -> list[Request]:
    """Let consumers wait for their turns, by a clock that goes from event to event.

    Args:
        rate: The rate at each time; it may change each second.
        consumers: For each, the number of its copy, and the pauses before its requests and their
            sizes.
        seconds: How long.
        burst: Bytes in a full bucket.
    """
    turns, flows = Turns(rate(0), 0), {number: Flow() for number, _ in consumers}
    waiting: dict[int, tuple[int, Iterator[tuple[float, int]]]] = {}
    order = count()
    events: list[tuple[float, int, Any]] = []

    def come(now: float, number: int, wanted: Iterator[tuple[float, int]]) -> None:
        pause, size = next(wanted)
        heapq.heappush(events, (now + pause, next(order), (number, wanted, size)))

    for second in range(int(seconds)):
        heapq.heappush(events, (second, next(order), None))
    for number, wanted in consumers:
        come(0, number, wanted)
    found: list[Request] = []
    now = 0.0
    while True:
        first = turns.first()
        ready = now + turns.seconds(first, now) if first else float("inf")
        if min(ready, events[0][0] if events else float("inf")) >= seconds:
            return found
        if events and events[0][0] <= ready:
            now, _, event = heapq.heappop(events)
            if event is None:
                turns.change(rate(now), now)
            else:
                number, wanted, size = event
                waiting[id(turns.join(flows[number], size, burst))] = number, wanted
        elif first:
            now = ready
            if not turns.seconds(first, now):
                number, wanted = waiting.pop(id(first))
                turns.go(first)
                turns.leave(first)
                found.append(Request(now, first.size, number))
                come(now, number, wanted)


def bytes_of(granted: list[Request], number: int | None = None) -> int:
    return sum(each.size for each in granted if number in (None, each.copy))


@pytest.mark.parametrize("rate", [100 * KIB, 3 * MIB, 200 * MIB])
@pytest.mark.parametrize("threads", [1, 8])
def test_the_rate_is_exact_over_a_minute(rate: int, threads: int) -> None:
    size = min(MIB, rate // 4)
    consumers = [(i, repeat((0.0, size))) for i in range(threads)]
    granted = simulated(lambda _: rate, consumers, 60, burst=2 * size)
    assert 0 <= bytes_of(granted) - 60 * rate <= 2 * size


def test_a_thread_that_wakes_up_late_catches_up() -> None:
    """A request takes 10 ms at this rate; the next may come as late."""
    rate = 100 * MIB
    pauses = cycle([(0.002, MIB), (0.017, MIB)])
    granted = simulated(lambda _: rate, [(0, pauses)], 60)
    assert bytes_of(granted) == pytest.approx(60 * rate, rel=0.001)
    assert excess(granted, rate) <= 2 * MIB + 1


wants = st.lists(
    st.tuples(st.one_of(st.just(0.0), st.floats(0, 0.5)), st.integers(1, MIB)), min_size=1
)


@given(
    rates=st.lists(st.integers(64 * KIB, 64 * MIB), min_size=1, max_size=3),
    consumers=st.lists(st.tuples(st.integers(0, 3), wants), min_size=1, max_size=6),
)
def test_no_window_sees_more_than_the_rate_and_a_buffer(
    rates: list[int], consumers: list[tuple[int, list[tuple[float, int]]]]
) -> None:
    found = [(number, iter([*wanted, (1e9, 1)])) for number, wanted in consumers]
    granted = simulated(lambda now: rates[int(now) % len(rates)], found, 10)
    assert excess(granted, max(rates)) <= 2 * MIB + 1
    # With one rate, it is also exact: nobody waits while the bucket has enough.
    if len(rates) == 1 and all(pause == 0 for _, wanted in consumers for pause, _ in wanted):
        total = sum(size for _, wanted in consumers for _, size in wanted)
        assert bytes_of(granted) >= min(total, 10 * rates[0] - MIB)


def test_copies_share_evenly_whatever_their_threads_and_requests() -> None:
    four_threads = [(0, repeat((0.0, MIB))) for _ in range(4)]
    others = [(1, repeat((0.0, 64 * KIB))), (2, repeat((0.0, MIB)))]
    granted = simulated(lambda _: 30 * MIB, [*four_threads, *others], 10)
    for number in range(3):
        assert bytes_of(granted, number) == pytest.approx(100 * MIB, rel=0.03)


def test_a_copy_that_needs_less_leaves_the_rest() -> None:
    slow = (0, repeat((0.5, MIB)))
    granted = simulated(lambda _: 30 * MIB, [slow, (1, repeat((0.0, MIB)))], 10)
    assert bytes_of(granted, 0) == pytest.approx(20 * MIB, abs=2 * MIB)
    assert bytes_of(granted) == pytest.approx(300 * MIB, abs=3 * MIB)


def test_a_copy_that_comes_late_gets_nothing_for_the_time_before() -> None:
    late = iter([(5.0, MIB), *[(0.0, MIB)] * 1000])
    granted = simulated(lambda _: 30 * MIB, [(0, repeat((0.0, MIB))), (1, late)], 10)
    after = [each for each in granted if each.time > 5]
    assert bytes_of(after, 1) == pytest.approx(bytes_of(after, 0), abs=2 * MIB)


def test_another_rate_counts_immediately() -> None:
    rate = lambda now: 10 * MIB if now < 5 else 40 * MIB  # noqa: E731
    granted = simulated(rate, [(0, repeat((0.0, MIB)))], 10)
    before = [each for each in granted if each.time < 5]
    assert bytes_of(before) == pytest.approx(50 * MIB, abs=2 * MIB)
    assert bytes_of(granted) == pytest.approx(250 * MIB, abs=3 * MIB)


# Real threads


class Announced(ForwardingSource):
    """A source whose readers take announcements, as those of a server do, and note them."""

    depth = 8

    def __init__(self, wrapped: Any) -> None:
        super().__init__(wrapped)
        self.sizes: list[int] = []
        self.ahead: list[int] = []

    def open_reader(self) -> Reader:
        return AnnouncedReader(super().open_reader(), self)


class AnnouncedReader(ForwardingReader):
    def __init__(self, wrapped: Reader, source: Announced) -> None:
        super().__init__(wrapped)
        self.source = source
        self.prefetch_depth = source.depth
        self.ranges: list[tuple[int, int]] = []

    def prefetch(self, start: int, length: int) -> None:
        self.ranges.append((start, length))
        self.source.sizes.append(length)

    def readinto(self, start: int, buffer: memoryview) -> None:
        self.source.ahead.append(len(self.ranges))
        assert self.ranges.pop(0) == (start, len(buffer))
        super().readinto(start, buffer)


SIZE = 3 * MIB + 5
# A rate at which the rest of a disk takes minutes.
SLOW = 4096


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(noise(SIZE))
    return path


@pytest.mark.parametrize(("rate", "ahead"), [(8 * MIB, 1), (1000 * MIB, 4)])
def test_a_server_is_asked_for_half_a_buffer_at_a_time(
    image: Path, tmp_path: Path, rate: int, ahead: int
) -> None:
    """Also if a segment of the tar is longer; and in advance only if the rate is high."""
    with RawImageSource(image) as raw, TarStreamSink(tmp_path / "disk.tar") as tar:
        src = Announced(raw)
        copy(src, tar, max_rate=rate, max_workers=1)
    assert src.sizes == [MIB, MIB, MIB, 5]
    assert max(src.ahead) == ahead
    again = tmp_path / "again.raw"
    with TarStreamSource(tmp_path / "disk.tar") as stream, RawImageSink(again) as target:
        copy(stream, target, max_rate=rate)
    assert again.read_bytes() == image.read_bytes()


def test_at_a_low_rate_a_request_takes_a_quarter_of_a_second(image: Path) -> None:
    with RawImageSource(image) as raw, DiscardSink() as dst:
        src = Announced(raw)
        copy(src, dst, max_rate=4 * MIB + 100, buffer_size=4 * MIB)
        assert src.sizes == [MIB, MIB, MIB, 5]


class Timer:
    """A copy never takes less time than its bytes allow; more is the machine's matter."""

    def __init__(self, size: int, rate: int, buffer: int) -> None:
        self.least = (size - buffer) / rate

    def __enter__(self) -> None:
        self.began = time.monotonic()

    def __exit__(self, *exc_info: object) -> None:
        assert time.monotonic() - self.began >= self.least


RATE, BUFFER = 4 * MIB, 128 * KIB
LIMITED: dict[str, Any] = {"max_rate": RATE, "buffer_size": BUFFER, "buffer_memory": 8 * MIB}


def test_all_that_pass_the_options_on_are_limited() -> None:
    disk = noise(MIB)
    with Timer(MIB, RATE, BUFFER), MemorySource(disk) as src:
        assert copy(src, DiscardSink(), **LIMITED).data_bytes == MIB
    with Timer(MIB, RATE, BUFFER), MemorySource(disk) as src:
        assert verify(src, **LIMITED).ok
    with Timer(MIB, RATE, BUFFER), MemorySource(disk) as src, MemorySink() as dst:
        assert restore_chain([src], dst, **LIMITED).data_bytes == MIB
    with Timer(MIB, RATE, BUFFER), MemorySource(disk) as a, MemorySource(disk) as b:
        assert compare(a, b, **LIMITED).equal


def test_a_comparison_limits_what_only_the_other_side_has() -> None:
    size = 2 * MIB
    with (
        Timer(size, RATE, MIB),  # it is read in blocks of 1 MiB
        MemorySource(bytes(size), [Extent(0, size, zero=True)]) as a,
        MemorySource(bytes(size)) as b,
    ):
        assert compare(a, b, **LIMITED).equal


def test_gaps_that_are_read_through_count() -> None:
    """The server reads them, too."""
    piece = 16 * KIB
    extents = [Extent(at, piece, zero=at % (2 * piece) > 0) for at in range(0, 2 * MIB, piece)]
    read = 3 * MIB // 2  # each request holds data, a gap and data again
    with Timer(read, RATE, BUFFER), MemorySource(bytes(2 * MIB), extents) as src:
        result = copy(src, DiscardSink(), max_gap=MIB, **LIMITED)
    assert (result.data_bytes, result.read_bytes) == (MIB, read)


@pytest.mark.parametrize(
    ("rate", "gap"), [(4096, 2), (100_000_000, 50_000), (10**10, MIB)], ids=["low", "", "high"]
)
def test_requests_are_not_measured_while_they_wait(rate: int, gap: int) -> None:
    """A gap may take as long as a request usually costs; it is not learnt from the waiting."""
    options = CopyOptions(max_rate=rate)
    pace = options.pace()
    assert pace is not None
    assert options.gap(MemorySource(b""), 2, pace) == Limits(gap, pace.size)
    fixed = CopyOptions(max_rate=rate, max_gap=5)
    assert fixed.gap(MemorySource(b""), 2, pace) == Limits(5, pace.size)


def test_what_is_sent_is_limited_after_a_stall() -> None:
    """The data that was read meanwhile does not follow in a burst."""
    stalled = 0.4

    def stall(start: int, length: int) -> None:
        if start == 0:
            time.sleep(stalled)

    with MemorySource(noise(2 * MIB), max_readers=1) as src, MemorySink(before_write=stall) as dst:
        began = time.monotonic()
        copy(src, dst, **LIMITED)
    # One buffer was sent before it, and one may follow immediately.
    assert time.monotonic() - began >= stalled + (2 * MIB - 2 * BUFFER) / RATE


def test_the_gaps_of_a_stream_do_not_count(tmp_path: Path) -> None:
    """They are not in it. So no request has one."""
    path, piece = tmp_path / "disk.tar", 16 * KIB
    extents = [Extent(at, piece, zero=at % (8 * piece) > 0) for at in range(0, 8 * MIB, piece)]
    with MemorySource(bytes(8 * MIB), extents) as src, TarStreamSink(path) as tar:
        copy(src, tar)
    with TarStreamSource(path) as stream:
        assert copy(stream, DiscardSink(), max_rate=100 * MIB).requests == 64


def test_copies_together_keep_to_a_limit_that_they_share() -> None:
    limit = RateLimit(8 * MIB)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with MemorySource(noise(2 * MIB)) as src:
                copy(src, DiscardSink(), max_rate=limit)
        except BaseException as e:  # noqa: BLE001 - asserted below
            errors.append(e)

    threads = [threading.Thread(target=run) for _ in range(3)]
    with Timer(6 * MIB, 8 * MIB, 2 * MIB):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []


def slowed(limit: RateLimit) -> Callable[[int, int], None]:
    """Make a limit slow after the first bytes were read."""

    def before_read(start: int, length: int) -> None:
        limit.bytes_per_second = SLOW

    return before_read


def close(source: MemorySource, _: Cancel) -> None:
    source.close()


def interrupt(_: MemorySource, __: Cancel) -> None:
    _thread.interrupt_main()


def cancel(_: MemorySource, cancel: Cancel) -> None:
    cancel.cancel("enough")


@pytest.mark.parametrize(
    ("end", "error"),
    [(close, ClosedError), (interrupt, KeyboardInterrupt), (cancel, OperationCancelledError)],
)
def test_a_wait_for_the_rate_ends_with_the_copy(
    end: Callable[[MemorySource, Cancel], None], error: type[BaseException]
) -> None:
    before = threading.enumerate()
    limit, cancels = RateLimit(8 * MIB), Cancel()
    src = MemorySource(bytes(16 * MIB), before_read=slowed(limit))
    timer = threading.Timer(0.3, end, [src, cancels])
    began = time.monotonic()
    timer.start()
    with pytest.raises(error):
        copy(src, DiscardSink(), max_rate=limit, cancel=cancels)
    timer.join()
    assert time.monotonic() - began < 20  # the next request would have to wait for minutes
    assert threads("tapestream", before) == []


@pytest.mark.parametrize("what_waits", ["a read of the copy", "a read of the other side"])
def test_a_comparison_that_waits_for_the_rate_is_cancelled(what_waits: str) -> None:
    before = threading.enumerate()
    limit, cancels = RateLimit(8 * MIB), Cancel()
    zeros = [Extent(0, 16 * MIB, zero=True)] if "other" in what_waits else None
    a = MemorySource(bytes(16 * MIB), zeros, before_read=slowed(limit))
    b = MemorySource(bytes(16 * MIB), before_read=slowed(limit))
    timer = threading.Timer(0.3, cancels.cancel)
    began = time.monotonic()
    timer.start()
    with pytest.raises(OperationCancelledError):
        compare(a, b, max_rate=limit, cancel=cancels)
    timer.join()
    assert time.monotonic() - began < 20
    assert threads("tapestream", before) == []


def test_a_wait_for_the_rate_ends_with_an_error() -> None:
    limit = RateLimit(8 * MIB)

    def fail(start: int, length: int) -> None:
        limit.bytes_per_second = SLOW
        raise LocalIOError("the disk is full")

    began = time.monotonic()
    with MemorySource(bytes(16 * MIB)) as src, pytest.raises(LocalIOError, match="is full"):
        copy(src, MemorySink(before_write=fail), max_rate=limit)
    assert time.monotonic() - began < 20


def test_others_go_on_after_a_copy_that_was_ended() -> None:
    limit = RateLimit(8 * MIB)
    with MemorySource(bytes(16 * MIB), before_read=slowed(limit)) as src:
        timer = threading.Timer(0.2, src.close)
        timer.start()
        with pytest.raises(ClosedError):
            copy(src, DiscardSink(), max_rate=limit)
        timer.join()
    limit.bytes_per_second = 100 * MIB
    with MemorySource(bytes(4 * MIB)) as src:
        assert copy(src, DiscardSink(), max_rate=limit).data_bytes == 4 * MIB


def test_a_higher_rate_ends_a_wait() -> None:
    limit = RateLimit(8 * MIB)
    timer = threading.Timer(0.3, setattr, [limit, "bytes_per_second", 1000 * MIB])

    def slow_down(start: int, length: int) -> None:
        if start == 0:
            limit.bytes_per_second = SLOW
            timer.start()

    began = time.monotonic()
    with MemorySource(bytes(16 * MIB), before_read=slow_down) as src:
        copy(src, DiscardSink(), max_rate=limit, max_workers=1)
    timer.join()
    assert time.monotonic() - began < 20


def test_a_copy_without_a_limit_runs_no_line_of_it(image: Path) -> None:
    """It costs nothing, not even a call for each chunk."""
    called: set[str] = set()

    def note(frame: Any, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.endswith("engine/rate.py"):
            called.add(frame.f_code.co_name)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        with RawImageSource(image) as src, DiscardSink() as dst:
            copy(src, dst)
            assert called == set()
            copy(Announced(src), MemorySink(), max_rate=100 * MIB)
            assert {"readinto", "take", "write"} <= called
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


@pytest.mark.parametrize("wrong", [0, 4095, -1, True, 1e9, "100M"])
def test_a_rate_that_cannot_be(wrong: Any) -> None:
    with pytest.raises(UsageError, match="bytes_per_second must be a whole number, at least 4096"):
        RateLimit(wrong)
    limit = RateLimit(4096)
    with pytest.raises(UsageError, match="bytes_per_second"):
        limit.bytes_per_second = wrong
    assert repr(limit) == "RateLimit(4096)"
    with pytest.raises(UsageError, match="max_rate, unless it is a RateLimit, must be a whole"):
        copy(MemorySource(b""), DiscardSink(), max_rate=wrong)


def test_a_rate_that_no_link_has() -> None:
    with pytest.raises(UsageError, match="bytes_per_second must be at most 1000000000000000000"):
        RateLimit(10**400)
    with pytest.raises(UsageError, match="must be at most 1000000000000000000"):
        copy(MemorySource(b""), DiscardSink(), max_rate=10**400)
    assert copy(MemorySource(b"x"), DiscardSink(), max_rate=10**18).data_bytes == 1


def test_copies_from_a_real_daemon(tmp_path: Path, daemon: ImageioDaemon) -> None:
    """`python -m tests.rates` does this for a minute, and reports how exact it was."""
    rate = 16 * MIB
    requests = watch(tmp_path, daemon, RateLimit(rate), copies=2, size=16 * MIB)
    took = requests[-1].time - requests[0].time
    assert sum(request.size for request in requests) == 32 * MIB
    assert max(request.size for request in requests) == MIB
    assert took >= (30 * MIB) / rate
    assert took < 10  # not as slow as if each waited for all
