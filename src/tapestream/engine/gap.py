"""How large a gap to read through: a fixed number, or what pays by what is measured on the way.

A request for x bytes takes about a + b·x seconds. To read through a gap of g bytes costs b·g; not
to, one more request, costs a. So gaps up to a/b are worth reading. On a local socket that is some
hundred KiB. On a slow line that several connections keep full, a request costs almost nothing,
since the others use the line meanwhile.

That only shows while all readers do the same: a small request among large ones waits in their
queue, and its time says nothing of what it costs. So the readers try both in turn: all of them
small requests for a while, then all of them large ones.
"""

from __future__ import annotations

import threading
from typing import NamedTuple, Protocol

KIB, MIB = 1024, 1024**2

# Beyond this, reading nothing delays the other requests more than any request costs.
MAX_GAP = MIB
# What a GET costs an idle daemon, in seconds: believed until requests of both sizes were seen.
PRIOR_COST = 0.0005
# Requests below this tell what a request costs, larger ones what a byte costs.
SMALL = 512 * KIB
# Largest request with gaps while that is only tried: large enough, and little when it is wrong.
TRIAL_SPAN = MIB
# A trial takes this many requests for each reader; the first is the end of what was before.
TRIAL_REQUESTS = 4
# After so many bytes, the other kind of request is tried again: the line may have changed.
TRY_AGAIN = 256 * MIB
# Weight of the newest measurement in a running mean.
NEWEST = 1 / 8


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


class Gap(Protocol):
    """Decides about gaps, for one copy; used by all readers."""

    def limits(self) -> Limits:
        """What holds for the next request."""
        ...

    def observe(self, limits: Limits, length: int, seconds: float) -> None:
        """Hear how many bytes a request was for, and how long it took."""
        ...


class FixedGap:
    """Always the same gap, whatever it costs."""

    def __init__(self, max_gap: int, request_size: int) -> None:
        self._limits = Limits(max_gap, request_size)

    def limits(self) -> Limits:
        """See `Gap.limits`."""
        return self._limits

    def observe(self, limits: Limits, length: int, seconds: float) -> None:
        """See `Gap.observe`: of no interest."""


class AutoGap:
    """The gap that pays by what the requests so far took.

    Args:
        request_size: Largest request in bytes.
        readers: How many readers work at the same time.
    """

    def __init__(self, request_size: int, readers: int) -> None:
        self._request_size = request_size
        self._readers = readers
        self._lock = threading.Lock()
        self._small = _Mean()
        self._large = _Mean()
        self._trial = 0
        self._trials = [Limits(MAX_GAP, TRIAL_SPAN), Limits(0, 0)]  # still to come
        self._seen = 0
        self._read = 0
        self._now: Limits | None = None
        self._next()

    def limits(self) -> Limits:
        """See `Gap.limits`."""
        with self._lock:
            return self._now or Limits(self.worth(), self._request_size, self._trial)

    def observe(self, limits: Limits, length: int, seconds: float) -> None:
        """See `Gap.observe`."""
        with self._lock:
            if limits.trial != self._trial:
                return
            self._seen += 1
            if self._seen <= self._readers:
                return
            (self._small if length < SMALL else self._large).add(length, seconds)
            self._read += length
            if self._now is not None and self._seen >= TRIAL_REQUESTS * self._readers:
                self._next()
            elif self._now is None and self._read >= TRY_AGAIN:
                small = length < SMALL
                self._trials = [Limits(MAX_GAP, TRIAL_SPAN) if small else Limits(0, 0)]
                self._next()

    def worth(self) -> int:
        """The largest gap in bytes that costs no more than a request."""
        small, large = self._small, self._large
        if not (small.seen and large.seen):
            some = small if small.seen else large
            return min(int(PRIOR_COST * some.length / some.seconds), MAX_GAP) if some.seen else 0
        per_byte = (large.seconds - small.seconds) / (large.length - small.length)
        per_request = small.seconds - per_byte * small.length
        if per_byte <= 0:
            return MAX_GAP
        return max(0, min(int(per_request / per_byte), MAX_GAP))

    def _next(self) -> None:
        """Begin the next trial, or, after the last, to use what was learned."""
        self._trial += 1
        self._seen = self._read = 0
        self._now = self._trials.pop(0)._replace(trial=self._trial) if self._trials else None


class _Mean:
    """Running means of the length and the time of some requests."""

    def __init__(self) -> None:
        self.seen = False
        self.length = self.seconds = 0.0

    def add(self, length: int, seconds: float) -> None:
        seconds = max(seconds, 1e-9)  # a coarse clock may show none at all
        weight = NEWEST if self.seen else 1.0
        self.length += weight * (length - self.length)
        self.seconds += weight * (seconds - self.seconds)
        self.seen = True
