"""How large a gap to read through, learnt from the time that requests take.

    a + b·x    seconds for a request of x bytes
    b·g        to read through a gap of g bytes
    a          to make another request instead

So gaps of up to a/b bytes are worth reading. On a local socket that is some hundred KiB. On a slow
line that several connections keep full, another request costs almost nothing: the others use the
line meanwhile.

The costs can be measured only while all readers do the same. A small request among large ones waits
in their queue, and its time says nothing about its cost. So all readers make small requests for a
while, and then all of them make large ones.

The next reply arrives while a reader digests what it has read. So a request costs the time from one
request to the next, minus the time spent on its data, which is the same for any request size.
"""

from __future__ import annotations

import threading
from operator import add
from typing import NamedTuple

MIB = 1024**2

# A larger gap delays the other requests by more than any request costs.
MAX_GAP = MIB
# Seconds that a GET costs with an idle daemon. Used until requests of two sizes were measured.
PRIOR_COST = 0.0005
# Largest request with gaps during a trial: large enough to measure, and cheap if it does not pay.
TRIAL_SPAN = MIB
# A trial takes at least this many requests of each reader, and this many seconds: in a shorter one
# the delays of the line and of the scheduler hide the difference. The first request of each reader
# does not count: it waited for requests of the trial before.
TRIAL_REQUESTS = 4
TRIAL_SECONDS = 0.02
# The result is used for this many times as long as the trials took. Then new trials begin, since
# the line may have changed.
EXPLOIT_FACTOR = 100


class Limits(NamedTuple):
    """How far a request may reach.

    Attributes:
        max_gap: Largest gap in bytes to read through.
        span: Largest request in bytes that has a gap in it.
        trial: Number of the trial that the request belongs to.
    """

    max_gap: int
    span: int
    trial: int = 0


class Sample(NamedTuple):
    """What some requests took.

    Attributes:
        requests: Number of requests.
        bytes: Bytes in all of them together.
        data: How many of these bytes were not gaps.
        reading: Seconds until their bytes had arrived.
        seconds: Seconds that their readers spent on them, without the time they waited for the
            writer.
    """

    requests: int = 0
    bytes: int = 0
    data: int = 0
    reading: float = 0.0
    seconds: float = 0.0

    def plus(self, other: Sample) -> Sample:
        """The sum of both."""
        return Sample(*map(add, self, other))


_TRY_SMALL = Limits(0, 0)
_TRY_LARGE = Limits(MAX_GAP, TRIAL_SPAN)


class AutoGap:
    """Learns which gaps are worth reading from the time that requests take.

    Three phases follow each other: a trial of small requests, a trial of large ones, and the use of
    what the two have shown.

    Args:
        request_size: Largest request in bytes.
        readers: How many readers work at the same time.
    """

    def __init__(self, request_size: int, readers: int) -> None:
        self._request_size = request_size
        self._readers = readers
        self._lock = threading.Lock()
        self._break_even: int | None = None
        self._small = self._large = self._seen = Sample()
        self._early = 0
        self._limits = _TRY_SMALL

    def limits(self) -> Limits:
        """How far the next request may reach."""
        with self._lock:
            return self._limits

    def observe(self, limits: Limits, sample: Sample) -> None:
        """Learn what a request took."""
        with self._lock:
            if limits.trial != self._limits.trial:
                return
            if self._early < self._readers:
                self._early += 1
                return
            self._seen = self._seen.plus(sample)
            if self._is_over():
                self._next()

    def _is_over(self) -> bool:
        seconds = self._seen.seconds
        if self._is_trial:
            enough = self._seen.requests >= TRIAL_REQUESTS * self._readers
            return enough and seconds >= TRIAL_SECONDS * self._readers
        return seconds >= EXPLOIT_FACTOR * (self._small.seconds + self._large.seconds)

    @property
    def _is_trial(self) -> bool:
        return self._limits.trial % 3 != 2

    def _next(self) -> None:
        """Begin the next phase."""
        number = self._limits.trial + 1
        if number % 3 == 0:
            following = _TRY_SMALL
        elif number % 3 == 1:
            self._small = self._seen
            following = _TRY_LARGE
        else:
            self._large = self._seen
            self._break_even = break_even_gap(self._small, self._large, self._break_even)
            following = Limits(self._break_even, self._request_size)
        self._limits = following._replace(trial=number)
        self._early, self._seen = 0, Sample()


def break_even_gap(small: Sample, large: Sample, before: int | None) -> int:
    """The largest gap in bytes that costs no more than a request.

    Args:
        small: What small requests took.
        large: What large requests took.
        before: The result of the last trials; None if there is none yet. It is kept if all requests
            had about the same length, as on a disk of large extents.
    """
    small_length, large_length = small.bytes / small.requests, large.bytes / large.requests
    if large_length < 2 * small_length:
        return _bounded(PRIOR_COST, large.reading / large.bytes) if before is None else before
    # Only large requests show this time: while a small one is read, others are under way.
    per_data_byte = (large.seconds - large.reading) / large.data
    small_time = (small.seconds - per_data_byte * small.data) / small.requests
    large_time = large.reading / large.requests
    per_byte = (large_time - small_time) / (large_length - small_length)
    return _bounded(small_time - per_byte * small_length, per_byte)


def _bounded(per_request: float, per_byte: float) -> int:
    if per_byte <= 0:
        return MAX_GAP
    return max(0, min(int(per_request / per_byte), MAX_GAP))
