"""A limited number of samples of a copy, for a chart, however long the copy takes."""

from __future__ import annotations

from typing import NamedTuple

# A chart cannot show more, and the result stays small.
MAX_SAMPLES = 512


class CopySample(NamedTuple):
    """How far a copy was at a point in time.

    Attributes:
        seconds: Seconds since the copy began.
        data_bytes: Bytes of data written until then.
        waited: Seconds until then for which the sink waited for data, or the copy for a drive or a
            tape.
    """

    seconds: float
    data_bytes: int
    waited: float


class Samples:
    """Keeps up to `MAX_SAMPLES` samples: if there are more, it drops every second one.

    Attributes:
        kept: The samples, in order. No value in them ever decreases.
    """

    def __init__(self) -> None:
        self.kept = [CopySample(0.0, 0, 0.0)]
        self._seen = 0
        self._every = 1  # one in this many of those that were seen is kept

    def add(self, sample: CopySample) -> None:
        """Take one more sample; it may be dropped."""
        self._seen += 1
        if self._seen % self._every == 0:
            self._keep(sample)
        if len(self.kept) == MAX_SAMPLES:
            del self.kept[1::2]
            self._every *= 2

    def end(self, sample: CopySample) -> None:
        """Take the last sample, which is always kept."""
        self._keep(sample)

    def _keep(self, sample: CopySample) -> None:
        # `waited` is read while other threads change it, so it may seem to decrease.
        before = self.kept[-1].waited
        self.kept.append(sample._replace(waited=max(sample.waited, before)))
