"""How large a gap to read through: a fixed number, or what pays by what is measured on the way.

A request for x bytes takes about a + b·x seconds. To read through a gap of g bytes costs b·g; not
to, one more request, costs a. So gaps up to a/b are worth reading. On a local socket that is some
hundred KiB. On a slow line that several connections keep full, a request costs almost nothing,
since the others use the line meanwhile, and its measured time is all b·x: a gap is never worth it.
"""

from __future__ import annotations

import threading
from typing import NamedTuple, Protocol

KIB, MIB = 1024, 1024**2

# Beyond this, reading nothing delays the other requests more than any request costs.
MAX_GAP = MIB
# Until a small request was seen: the least that a GET was seen to cost an idle daemon, in seconds.
PRIOR_COST = 0.0005
# Requests below this tell what a request costs, larger ones what a byte costs.
SMALL = 512 * KIB
# While learning, and now and then later, reading through gaps is tried on this many bytes ...
PROBE_SIZE = 2 * MIB
# ... once in so many bytes, so that a wrong try wastes little ...
PROBE_EVERY = 64 * MIB
# ... and not reading through is tried once in so many requests.
DIRECT_EVERY = 16
LEARNING = 12
# Weight of the newest measurement in a running mean.
NEWEST = 1 / 8


class Limits(NamedTuple):
    """What the next request may reach over.

    Attributes:
        max_gap: Largest gap in bytes to read through.
        span: Largest request in bytes that has a gap in it.
    """

    max_gap: int
    span: int


class Gap(Protocol):
    """Decides about gaps, for one copy."""

    def limits(self) -> Limits:
        """What holds for the next request."""
        ...

    def observe(self, length: int, seconds: float) -> None:
        """Hear how long a request took."""
        ...


class FixedGap:
    """Always the same gap, whatever it costs."""

    def __init__(self, max_gap: int, request_size: int) -> None:
        self._limits = Limits(max_gap, request_size)

    def limits(self) -> Limits:
        """See `Gap.limits`."""
        return self._limits

    def observe(self, length: int, seconds: float) -> None:
        """See `Gap.observe`: of no interest."""


class AutoGap:
    """The gap that pays by what the requests so far took; for all threads.

    Args:
        request_size: Largest request in bytes.
    """

    def __init__(self, request_size: int) -> None:
        self._request_size = request_size
        self._lock = threading.Lock()
        self._turn = 0
        self._since_large = 0
        self._small = _Mean()
        self._large = _Mean()

    def limits(self) -> Limits:
        """See `Gap.limits`."""
        with self._lock:
            self._turn += 1
            if self._turn <= LEARNING:
                return Limits(MAX_GAP if self._turn % 2 else 0, PROBE_SIZE)
            if self._turn % DIRECT_EVERY == 0:
                return Limits(0, PROBE_SIZE)
            if self._since_large > PROBE_EVERY:
                self._since_large = 0
                return Limits(MAX_GAP, PROBE_SIZE)
            return Limits(self.worth(), self._request_size)

    def observe(self, length: int, seconds: float) -> None:
        """See `Gap.observe`."""
        with self._lock:
            if length < SMALL:
                self._small.add(length, seconds)
                self._since_large += length
            else:
                self._large.add(length, seconds)
                self._since_large = 0

    def worth(self) -> int:
        """The largest gap in bytes that costs no more than a request."""
        small, large = self._small, self._large
        if not large.seen:
            return int(PRIOR_COST * small.length / small.seconds) if small.seen else 0
        if not small.seen:
            return min(int(PRIOR_COST * large.length / large.seconds), MAX_GAP)
        per_byte = (large.seconds - small.seconds) / (large.length - small.length)
        per_request = small.seconds - per_byte * small.length
        if per_byte <= 0:
            return MAX_GAP
        return max(0, min(int(per_request / per_byte), MAX_GAP))


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
