"""How large a gap to read through, learnt from the data per second that requests bring.

    a + b·x    seconds for a request of x bytes
    b·g        to read through a gap of g bytes
    a          to make another request instead

So gaps of up to a/b bytes are worth reading. On a local socket that is some hundred KiB. On a slow
line that several connections keep full, another request costs almost nothing: the others use the
line meanwhile.

Two trials show a and b: requests without gaps, and large ones with all gaps in them. Through the
gaps of that disk it pays to read exactly if the large ones brought more data per second. The time
of a reader for its bytes alone would mislead: what it does meanwhile, and what it leaves to the
other readers, counts as well.

The costs can be measured only while all readers do the same. A small request among large ones waits
in their queue, and its time says nothing about its cost. So all readers make small requests for a
while, and then all of them make large ones.
"""

from __future__ import annotations

import sys
import threading
from operator import add
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .shape import Ask

KIB, MIB = 1024, 1024**2

# A larger gap delays the other requests by more than any request costs.
MAX_GAP = MIB
# Seconds that a GET costs with an idle daemon. Used until requests of two sizes were measured.
PRIOR_COST = 0.0005
# Largest request with gaps during a trial: large enough to measure, and cheap if it does not pay.
TRIAL_SPAN = MIB
# Bytes. A reader that has this much still to read gets no further range in such a trial, so it has
# two requests of the largest size under way. What was announced before the trial ends is read as
# well, and is waste if gaps do not pay.
TRIAL_AHEAD = TRIAL_SPAN + 1
# A trial takes at least this many requests of each reader, and this many seconds: in a shorter one
# the delays of the line and of the scheduler hide the difference. Measured on a line of 1 Gbit/s:
# the first 0.02 seconds of a copy show two thirds of its rate, as the connections are new; later
# stretches of 0.02 seconds differ by a factor of 3, and stretches of 0.1 seconds by 1.5. Large
# requests differ less. The first request of each reader does not count: it waited for requests of
# the trial before.
TRIAL_REQUESTS = 4
SMALL_SECONDS, LARGE_SECONDS = 0.1, 0.02
# The result is used for this many times as long as the trials took. Then new trials begin, since
# the line may have changed.
EXPLOIT_FACTOR = 50
# Seconds, the most: a server that stalls in a trial makes it long, and its result wrong.
LONGEST_USE = 600.0
# Seconds for which each reader uses a gap that no trial has shown yet: trials after that cost up to
# 4 % of them. Most incremental backups are over before.
GUESS_SECONDS = 2.0


class Limits(NamedTuple):
    """How far a request may reach.

    Attributes:
        max_gap: Largest gap in bytes to read through.
        span: Largest request in bytes that has a gap in it.
        trial: Number of the trial that the request belongs to.
        ahead: A reader that has this many bytes still to read, with gaps, gets no further range.
        ask: How the request is made; None if the source has only one way.
    """

    max_gap: int
    span: int
    trial: int = 0
    ahead: int = sys.maxsize
    ask: Ask | None = None


class Sample(NamedTuple):
    """What some requests took.

    Attributes:
        requests: Number of requests.
        bytes: Bytes in all of them together.
        data: How many of these bytes were not gaps.
        seconds: Seconds that their readers spent on them, without the time they waited for the
            writer.
        waited: Seconds that they waited for the writer.
    """

    requests: int = 0
    bytes: int = 0
    data: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def plus(self, other: Sample) -> Sample:
        """The sum of both."""
        return Sample(*map(add, self, other))


class Known(NamedTuple):
    """What is known about the requests of a server, and how far its trials are.

    Attributes:
        max_gap: The largest gap in bytes that costs no more than a request; None before any trials.
        phase: `SMALL`, `LARGE` or `USE`.
        seconds: How long each reader uses this before new trials.
        small: What the trial of small requests has shown.
        seen: What the requests of this phase took so far.
    """

    max_gap: int | None
    phase: int
    seconds: float = 0.0
    small: Sample = Sample()
    seen: Sample = Sample()


SMALL, LARGE, USE = range(3)

NOTHING = Known(None, SMALL)
# For a server on this host. Measured on 2 processors: a request costs as much as about 500 KiB over
# a unix socket, and as about 256 KiB over TLS.
OF_LOCAL = Known(256 * KIB, USE, GUESS_SECONDS)


class AutoGap:
    """Learns which gaps are worth reading from the time that requests take.

    Three phases follow each other: a trial of small requests, a trial of large ones, and the use of
    what the two have shown. The next copy from the same server continues where this one ends: so
    many small disks together have trials as often as a large one.

    Args:
        request_size: Largest request in bytes.
        readers: How many readers work at the same time.
        known: What the last copy knew.
    """

    def __init__(self, request_size: int, readers: int, known: Known = NOTHING) -> None:
        self._request_size = request_size
        self._readers = readers
        self._lock = threading.Lock()
        self._known = known
        self._seen = known.seen
        self._early = 0
        self._limits = self._limits_in(known.phase)

    def limits(self) -> Limits:
        """How far the next request may reach."""
        with self._lock:
            return self._limits

    def observe(self, limits: Limits, sample: Sample) -> None:
        """Learn what a request took."""
        with self._lock:
            if limits.trial != self._limits.trial:
                return
            if self.is_trial and self._early < self._readers:
                self._early += 1
                return
            self._seen = self._seen.plus(sample)
            if self._is_over():
                self._known = self._next()
                self._seen = Sample()
                self._early = 0
                self._limits = self._limits_in(self._limits.trial + 1)

    def known(self) -> Known:
        """What is known now: the next copy begins with it."""
        with self._lock:
            return self._known._replace(seen=self._seen)

    @property
    def is_trial(self) -> bool:
        """True while it tries something: then no other time says anything."""
        return self._known.phase != USE

    def _is_over(self) -> bool:
        seconds = self._seen.seconds / self._readers
        if self.is_trial:
            enough = self._seen.requests >= TRIAL_REQUESTS * self._readers
            least = SMALL_SECONDS if self._known.phase == SMALL else LARGE_SECONDS
            return enough and seconds >= least
        return seconds >= self._known.seconds

    def _next(self) -> Known:
        """What is known at the end of a phase."""
        max_gap, phase, _, small, _ = self._known
        if phase == SMALL:
            return Known(max_gap, LARGE, small=self._seen)
        if phase == USE:
            return Known(max_gap, SMALL)
        large = self._seen
        seconds = EXPLOIT_FACTOR * (small.seconds + large.seconds) / self._readers
        seconds = GUESS_SECONDS if _are_alike(small, large) else min(seconds, LONGEST_USE)
        return Known(break_even_gap(small, large, max_gap), USE, seconds)

    def _limits_in(self, trial: int) -> Limits:
        """How far a request may reach in this phase, which is the trial of this number."""
        if self._known.phase == SMALL:
            return Limits(0, 0, trial)
        if self._known.phase == LARGE:
            return Limits(MAX_GAP, TRIAL_SPAN, trial, TRIAL_AHEAD)
        return Limits(self._known.max_gap or 0, self._request_size, trial)


def break_even_gap(small: Sample, large: Sample, before: int | None) -> int:
    """The largest gap in bytes that costs no more than a request.

    Args:
        small: What small requests took.
        large: What large requests took.
        before: The result of the last trials; None if there is none yet. It is kept if all requests
            had about the same length, as on a disk of large extents.
    """
    if _are_alike(small, large):
        return _bounded(PRIOR_COST, large.seconds / large.bytes) if before is None else before
    small_length, small_time = small.bytes / small.requests, small.seconds / small.requests
    large_length, large_time = large.bytes / large.requests, large.seconds / large.requests
    per_byte = (large_time - small_time) / (large_length - small_length)
    return _bounded(small_time - per_byte * small_length, per_byte)


def _are_alike(small: Sample, large: Sample) -> bool:
    """True if the requests of both trials had about the same length: their times show no costs."""
    return large.bytes / large.requests < 2 * small.bytes / small.requests


def _bounded(per_request: float, per_byte: float) -> int:
    if per_byte <= 0:
        return MAX_GAP
    return max(0, min(int(per_request / per_byte), MAX_GAP))
