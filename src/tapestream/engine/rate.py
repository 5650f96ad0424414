"""Limits the bytes per second that copies request and send.

    RateLimit        what the user passes to one copy, or to several
    Line             one direction of a limit: lets threads continue when it is their turn
    Turns            whose turn it is, and when; no threads, no clock
    Pace             one copy's part of a limit
    PacedReader, PacedWriter   wait before they request data, or send it

The limit is a token bucket that holds one buffer. It fills at the rate, and every request takes its
bytes out of it first. So in any period, a copy moves at most the rate times the period, plus one
buffer. A request is at most half a buffer: if a thread wakes up late, the other half compensates.

If several copies wait, the copy that has had the fewest bytes since it began to wait goes first.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from .._process import OfThisProcess
from .._typing import override
from ..arguments import number
from ..backend.abilities import Prefetches, ability, cancel
from ..backend.checks import done
from ..backend.forwarding import ForwardingReader, ForwardingWriter
from ..backend.protocols import Reader, Writer
from .learning.gap import MAX_GAP, PRIOR_COST
from .queue import Cancelled

PAGE = 4096
FASTEST = 10**18
# Seconds. A request takes at most this long at the rate. At a low rate, a whole buffer would take
# minutes, and the first buffer would be a burst.
LONGEST_REQUEST = 0.25
# Seconds. A reader requests this much in advance, so that a connection that is hardly faster than
# the limit is kept busy. At a low rate, it requests one range after another.
AHEAD = 0.1


class RateLimit(OfThisProcess):
    """A limit of bytes per second, for `max_rate` of one copy or of several together.

    Copies in threads of one process that use the same limit share it evenly. A copy that needs less
    than its share leaves the rest to the others. Reading and writing are limited separately, each
    to this rate.

    Args:
        bytes_per_second: The rate, from 4096 to 10**18.

    Raises:
        UsageError: It is not a whole number, or too small.
    """

    def __init__(self, bytes_per_second: int) -> None:
        rate = number("bytes_per_second", bytes_per_second, least=PAGE, most=FASTEST)
        self._lines = Line(rate), Line(rate)

    @property
    def bytes_per_second(self) -> int:
        """The rate. It can be set at any time, also while copies run."""
        return self._lines[0].rate

    @bytes_per_second.setter
    def bytes_per_second(self, rate: int) -> None:
        number("bytes_per_second", rate, least=PAGE, most=FASTEST)
        for line in self._lines:
            line.rate = rate

    def __repr__(self) -> str:
        return f"RateLimit({self.bytes_per_second})"


class Flow:
    """What one copy takes from a line.

    Attributes:
        reached: Where its next request begins, in bytes of the line; see `Turns`.
        has_ended: True if it must wait no longer.
    """

    def __init__(self) -> None:
        self.reached = 0.0
        self.has_ended = False


class Turn:
    """A request that waits for its turn.

    Attributes:
        flow: The copy that made it.
        size: Bytes in it.
        burst: Bytes in a full bucket. A request that is larger waits until it is full.
        begins: The turn with the lowest number is next; see `Turns`.
        woken: Notified when this turn may be next.
    """

    def __init__(self, flow: Flow, size: int, burst: int, begins: float) -> None:
        self.flow = flow
        self.size = size
        self.burst = burst
        self.begins = begins
        self.woken: threading.Condition | None = None


class Turns:
    """Whose turn it is, and when. The caller passes the time, and holds the lock.

    Each flow counts its own bytes, and the one with the fewest is next. A flow that joins, or joins
    again, begins where the others are: it gets nothing for the time before.

    Args:
        rate: Bytes per second.
        now: The time in seconds.
    """

    def __init__(self, rate: int, now: float) -> None:
        self.rate = rate
        self._now = now
        self._missing = 0.0  # bytes that the bucket lacks until it is full
        self._reached = 0.0  # where the last turn began
        self._waiting: list[Turn] = []

    def join(self, flow: Flow, size: int, burst: int) -> Turn:
        """Wait for a turn."""
        turn = Turn(flow, size, burst, max(flow.reached, self._reached))
        flow.reached = turn.begins + size
        self._waiting.append(turn)
        return turn

    def first(self) -> Turn | None:
        """The next turn; None if nobody waits."""
        return min(self._waiting, key=lambda turn: turn.begins, default=None)

    def of(self, flow: Flow) -> list[Turn]:
        """The turns for which a flow waits."""
        return [turn for turn in self._waiting if turn.flow is flow]

    def seconds(self, turn: Turn, now: float) -> float:
        """How long until the bucket has the bytes of a turn; 0 if it has them."""
        self._fill(now)
        lacking = self._missing - max(turn.burst - turn.size, 0)
        return lacking / self.rate if lacking >= 1 else 0.0  # a clock cannot show less than a byte

    def go(self, turn: Turn) -> None:
        """Take the bytes of a turn out of the bucket."""
        self._missing += turn.size
        self._reached = turn.begins

    def leave(self, turn: Turn) -> None:
        """Stop waiting for a turn, because it has come or is given up."""
        self._waiting.remove(turn)

    def change(self, rate: int, now: float) -> None:
        """Fill the bucket at another rate from now on."""
        self._fill(now)
        self.rate = rate

    def _fill(self, now: float) -> None:
        self._missing = max(0.0, self._missing - (now - self._now) * self.rate)
        self._now = now


class Line:
    """Lets threads go one after another, at a rate."""

    def __init__(self, rate: int) -> None:
        # Reentrant: a signal handler may change the rate, or end a copy, while its thread holds it.
        self._lock = threading.RLock()
        self._turns = Turns(rate, time.monotonic())

    @property
    def rate(self) -> int:
        """Bytes per second."""
        return self._turns.rate

    @rate.setter
    def rate(self, rate: int) -> None:
        with self._lock:
            self._turns.change(rate, time.monotonic())
            self._wake_first()

    def take(self, flow: Flow, size: int, burst: int) -> None:
        """Wait until this many bytes may be moved; see `Turn`.

        Raises:
            Cancelled: The copy ends.
        """
        with self._lock:
            turn = self._turns.join(flow, size, burst)
            try:
                self._wait(turn)
                self._turns.go(turn)
            finally:
                self._turns.leave(turn)
                self._wake_first()

    def end(self, flow: Flow) -> None:
        """End all waits of a flow, now and later."""
        with self._lock:
            flow.has_ended = True
            for turn in self._turns.of(flow):
                _wake(turn)

    def _wait(self, turn: Turn) -> None:
        while not turn.flow.has_ended:
            seconds = None
            if turn is self._turns.first():
                seconds = self._turns.seconds(turn, time.monotonic())
                if not seconds:
                    return
            turn.woken = turn.woken or threading.Condition(self._lock)
            turn.woken.wait(seconds)
        raise Cancelled

    def _wake_first(self) -> None:
        first = self._turns.first()
        if first is not None:
            _wake(first)


def _wake(turn: Turn) -> None:
    if turn.woken is not None:
        turn.woken.notify()


class Pace:
    """The share of one copy in a limit.

    Args:
        limit: The limit, which several copies may share.
        buffer_size: Bytes that may be moved without a wait.

    Attributes:
        size: Bytes in the largest request, and in the buffers.
        gap: The largest gap in bytes that takes no more time, at this rate, than a request. The
            copy does not measure requests: most of their time would be the wait for a turn.
    """

    def __init__(self, limit: RateLimit, buffer_size: int) -> None:
        rate = limit.bytes_per_second
        size = min(buffer_size // 2, int(rate * LONGEST_REQUEST))
        self.size = max(size - size % PAGE, PAGE)
        self.gap = min(int(PRIOR_COST * rate), MAX_GAP)
        self._burst = min(2 * self.size, buffer_size)
        self._reads, self._writes = limit._lines  # noqa: SLF001 - of this module alone
        self._reading, self._writing = Flow(), Flow()

    @property
    def is_fast(self) -> bool:
        """True if requests wait so briefly that they should be made in advance."""
        return self.size <= self._reads.rate * AHEAD

    def read(self, size: int) -> None:
        """Wait until this many bytes may be requested.

        Raises:
            Cancelled: The copy ends.
        """
        self._reads.take(self._reading, size, self._burst)

    def write(self, size: int) -> None:
        """Wait until this many bytes may be sent.

        Raises:
            Cancelled: The copy ends.
        """
        self._writes.take(self._writing, size, self._burst)

    def cancel(self) -> None:
        """End all waits of this copy."""
        self._reads.end(self._reading)
        self._writes.end(self._writing)


class PacedReader(ForwardingReader):
    """Requests data at a pace. It passes on what the engine announces, one chunk at a time.

    Args:
        wrapped: The reader that gets the requests.
        pace: Decides when they may be made.
        piece_size: The piece size of the sink: chunks end at multiples of it, see `plan_requests`.
    """

    def __init__(self, wrapped: Reader, pace: Pace, piece_size: int) -> None:
        super().__init__(wrapped)
        self._pace = pace
        self._piece_size = piece_size
        self._chunk_size = pace.size - pace.size % piece_size
        self._prefetches = ability(wrapped, Prefetches)
        self.prefetch_depth = self._prefetches.prefetch_depth if self._prefetches else 1
        self._wanted: deque[tuple[int, int]] = deque()  # (start, end) of what is not yet requested
        self._requested: deque[float] = deque()  # when each request was made that is not yet read

    def prefetch(self, start: int, length: int) -> None:
        """Note a range. It is requested when its turn has come."""
        self._wanted.append((start, start + length))

    @override
    def readinto(self, start: int, buffer: memoryview) -> None:
        while self._wanted and self._may_request():
            self._request(*self._wanted.popleft())
        super().readinto(start, buffer)
        self._requested.popleft()

    def cancel(self) -> None:
        """End a wait for the rate, and cancel the wrapped reader."""
        self._pace.cancel()
        cancel(self.wrapped)

    def _may_request(self) -> bool:
        if not self._requested:
            return True
        may_be_early = len(self._requested) < self.prefetch_depth and self._pace.is_fast
        return may_be_early and time.monotonic() - self._requested[0] < AHEAD

    def _request(self, start: int, end: int) -> None:
        """Request the first chunk of a range, and put the rest back."""
        length = min(self._chunk_size - start % self._piece_size, end - start)
        if start + length < end:
            self._wanted.appendleft((start + length, end))
        self._pace.read(length)
        if self._prefetches is not None:
            done(self._prefetches, "prefetch", start, length)
        self._requested.append(time.monotonic())


class PacedWriter(ForwardingWriter):
    """Sends data at a pace."""

    def __init__(self, wrapped: Writer, pace: Pace) -> None:
        super().__init__(wrapped)
        self._pace = pace

    @override
    def write(self, start: int, buffer: memoryview) -> None:
        self._pace.write(len(buffer))
        super().write(start, buffer)

    def cancel(self) -> None:
        """End a wait for the rate, and cancel the wrapped writer."""
        self._pace.cancel()
        cancel(self.wrapped)
