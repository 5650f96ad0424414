"""A few samples of a copy, for a chart of it, however long it takes."""

from __future__ import annotations

from typing import NamedTuple

# A chart shows no more, and a result stays small.
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
    """Keeps up to `MAX_SAMPLES` samples: if there are more, every second one goes.

    Attributes:
        kept: The samples, in order. No value in them ever decreases.
    """

    def __init__(self) -> None:
        self.kept = [CopySample(0.0, 0, 0.0)]
        self._seen = 0
        self._every = 1  # of those that were seen, one in so many is kept

    def add(self, sample: CopySample) -> None:
        """Take one more, perhaps."""
        self._seen += 1
        if self._seen % self._every == 0:
            self._keep(sample)
        if len(self.kept) == MAX_SAMPLES:
            del self.kept[1::2]
            self._every *= 2

    def end(self, sample: CopySample) -> None:
        """Take the last one, in any case."""
        self._keep(sample)

    def _keep(self, sample: CopySample) -> None:
        # The waiting is read while other threads change it.
        before = self.kept[-1].waited
        self.kept.append(sample._replace(waited=max(sample.waited, before)))
