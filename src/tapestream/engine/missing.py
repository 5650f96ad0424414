"""Plans zeros in place of data that a source finds to be missing while it is read."""

from __future__ import annotations

from collections.abc import Iterator

from ..backend.abilities import FindsMissing
from ..backend.checks import missing_until
from ..model.extents import Extents, Kind, Run

# Bytes of data that may be planned before the source is asked again.
STEP = 16 * 1024**2


class MissingAsZeros:
    """The runs of a disk, with zeros in place of missing data. So a missing TiB costs nothing.

    Args:
        source: Reports what is missing.
        extents: All extents of its disk.

    Attributes:
        missing: Bytes of data that became zeros.
    """

    def __init__(self, source: FindsMissing, extents: Extents) -> None:
        self._source = source
        self._extents = extents
        self.missing = 0

    def runs(self) -> Iterator[Run]:
        """Yield all runs, with zeros in place of data that is known to be missing by then."""
        for first, length, kind in self._extents.runs():
            start, end = first, first + length
            while kind is Kind.DATA and (until := missing_until(self._source)) is not None:
                if start >= end:
                    break
                if start < until:
                    step = min(end, until) - start
                    self.missing += step
                    yield start, step, Kind.ZERO
                else:
                    step = min(STEP, end - start)
                    yield start, step, kind
                start += step
            if start < end:
                yield start, end - start, kind
