"""CopyStatus: what a copy reports to whoever asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .._readable import rate_text, seconds_text, size_text
from .._shown import short_repr

Phase = Literal["extents", "data", "check", "commit", "waiting for drive", "waiting for tape"]


@dataclass(frozen=True, repr=False)
class CopyStatus:
    """What a copy is doing, and how far it is.

    Attributes:
        phase: "extents" while it asks the source what to read, "data" while it reads and writes,
            "check" while the source checks itself, and "commit" while the sink makes everything
            final. "waiting for drive" while another backup has the drive, and "waiting for tape"
            while it waits for the next tape to be loaded: both may come in any other phase.
        data_bytes: Bytes of data written so far.
        total: Bytes of data to write; 0 in the phase "extents".
        seconds: Seconds since the copy began.
        waited: Seconds for which the sink waited for data, or the copy for a drive or a tape.
        rate: Bytes of data per second in the last ten seconds.
    """

    phase: Phase
    data_bytes: int
    total: int
    seconds: float
    waited: float
    rate: float

    def __repr__(self) -> str:
        done = f"{size_text(self.data_bytes)} of {size_text(self.total)}"
        after = f"after {seconds_text(self.seconds)}, {rate_text(self.rate)}"
        return short_repr(self, f"{self.phase}, {done} {after}")
