"""How large a gap to read through: what pays, by what is measured on the way.

A request for x bytes takes about a + b·x seconds. To read through a gap of g bytes costs b·g; not
to, one more request, costs a. So gaps up to a/b are worth reading. On a local socket that is some
hundred KiB. On a slow line that several connections keep full, a request costs almost nothing,
since the others use the line meanwhile.

That only shows while all readers do the same: a small request among large ones waits in their
queue, and its time says nothing of what it costs. So the readers try both in turn: all of them
small requests for a while, then all of them large ones.

While a reader digests or writes what it has read, the next reply comes. So it is not the time of
its reading that counts, but all the time from one request to the next, less what it does with the
data: data must be read either way.
"""

from __future__ import annotations

import threading
from operator import add
from typing import NamedTuple

MIB = 1024**2

# Beyond this, reading nothing delays the other requests more than any request costs.
MAX_GAP = MIB
# What a GET costs an idle daemon, in seconds: believed while requests of one size only were seen.
PRIOR_COST = 0.0005
# Largest request with gaps while that is only tried: large enough, and little when it is wrong.
TRIAL_SPAN = MIB
# A trial takes at least so many requests of each reader, and so long in seconds: a shorter one
# is lost in what the line and the scheduler hold back. The first request of each reader does not
# count: it waited for what was before.
TRIAL_REQUESTS = 4
TRIAL_SECONDS = 0.02
# What was learned is used for so many times as long as the trials took: the line may change.
EXPLOIT_FACTOR = 100


class Limits(NamedTuple):
    """What a request may reach over.

    Attributes:
        max_gap: Largest gap in bytes to read through.
        span: Largest request in bytes that has a gap in it.
        trial: Number of the trial that it belongs to.
    """

    max_gap: int
    span: int
    trial: int = 0


class Sample(NamedTuple):
    """What some requests took.

    Attributes:
        requests: How many.
        bytes: Bytes in them.
        data: Those that were not gaps.
        reading: Seconds in which their bytes were waited for and received.
        seconds: All seconds that their reader spent on them, other than waiting for the writer.
    """

    requests: int = 0
    bytes: int = 0
    data: int = 0
    reading: float = 0.0
    seconds: float = 0.0

    def plus(self, other: Sample) -> Sample:
        """These and others."""
        return Sample(*map(add, self, other))


_TRY_SMALL = Limits(0, 0)
_TRY_LARGE = Limits(MAX_GAP, TRIAL_SPAN)


class AutoGap:
    """The gap that pays by what the requests so far took.

    It goes round: a trial of small requests, one of large ones, and then what they taught.

    Args:
        request_size: Largest request in bytes.
        readers: How many readers work at the same time.
    """

    def __init__(self, request_size: int, readers: int) -> None:
        self._request_size = request_size
        self._readers = readers
        self._lock = threading.Lock()
        self._worth: int | None = None
        self._small = self._large = self._seen = Sample()
        self._early = 0
        self._limits = _TRY_SMALL

    def limits(self) -> Limits:
        """What holds for the next request."""
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
        """Begin the next trial, or, after the second, use what was learned."""
        number = self._limits.trial + 1
        if number % 3 == 0:
            following = _TRY_SMALL
        elif number % 3 == 1:
            self._small = self._seen
            following = _TRY_LARGE
        else:
            self._large = self._seen
            self._worth = break_even_gap(self._small, self._large, self._worth)
            following = Limits(self._worth, self._request_size)
        self._limits = following._replace(trial=number)
        self._early, self._seen = 0, Sample()


def break_even_gap(small: Sample, large: Sample, before: int | None) -> int:
    """The largest gap in bytes that costs no more than a request.

    Args:
        small: What small requests took.
        large: What large ones took.
        before: What was found before; holds on where all requests were of much the same length,
            as on a disk of large extents.
    """
    small_length, large_length = small.bytes / small.requests, large.bytes / large.requests
    if large_length < 2 * small_length:
        return _bounded(PRIOR_COST, large.reading / large.bytes) if before is None else before
    # Only with large requests is it seen apart: of the small ones more are under way.
    per_data_byte = (large.seconds - large.reading) / large.data
    small_time = (small.seconds - per_data_byte * small.data) / small.requests
    large_time = large.reading / large.requests
    per_byte = (large_time - small_time) / (large_length - small_length)
    return _bounded(small_time - per_byte * small_length, per_byte)


def _bounded(per_request: float, per_byte: float) -> int:
    if per_byte <= 0:
        return MAX_GAP
    return max(0, min(int(per_request / per_byte), MAX_GAP))
