"""The replay buffer: what must be written again if the tape does not hold it.

    preamble │ member │ member │ mem        the records of a tape file, in memory
                      ▲    ▲   ▲
          start of replay  │   length: what was put into records
                           accepted: what is on tape

The records are the buffer: nothing is copied for it. It holds up to one member of the tar, one
record that is not yet full, and what one write adds.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import NamedTuple

from ..drive.records import RecordWriter
from ..errors import EndOfTapeError
from ..tar.medium import VolumeFull


class Boundary(NamedTuple):
    """Where a data member ends and the next begins.

    Attributes:
        offset: Bytes of the tape file before it.
        start: Disk offset of the data member after it.
    """

    offset: int
    start: int


class ReplayBuffer:
    """One tape file, and the members in it that are not known to be on tape.

    A member looks the same on any volume: the same bytes are written again.

    Args:
        writer: Writes the tape file.

    Attributes:
        writer: The same.
        whole: How many data members of the tape file are known to be on tape.
    """

    def __init__(self, writer: RecordWriter) -> None:
        self.writer = writer
        self.whole = 0
        # The first is where the replay begins; none before the preamble is complete.
        self._boundaries: deque[Boundary] = deque()
        self._end: int | None = None

    @property
    def start(self) -> int | None:
        """Disk offset of the first member that is not on tape; None where no member is."""
        return self._boundaries[0].start if self.whole else None

    @property
    def has_member(self) -> bool:
        """True when a data member is complete, on tape or not."""
        return self.whole + len(self._boundaries) > 1

    @property
    def has_preamble(self) -> bool:
        """True when everything before the data is complete, on tape or not."""
        return bool(self._boundaries)

    @property
    def length(self) -> int:
        """Bytes that would have to be written again."""
        if not self._boundaries:
            return 0
        end = self.writer.length if self._end is None else self._end
        return end - self._boundaries[0].offset

    def write(self, data: memoryview | bytes) -> None:
        """Put data into records; see `RecordWriter.write`.

        Raises:
            VolumeFull: The tape takes no more of them.
        """
        try:
            self.writer.write(data)
        except EndOfTapeError as e:
            self._confirm()
            raise VolumeFull(self.start) from e
        self._confirm()

    def boundary(self, start: int | None) -> None:
        """See `OutputMedium.boundary`."""
        if start is None:
            self._end = self.writer.length
        else:
            self._boundaries.append(Boundary(self.writer.length, start))

    def replay(self, before: ReplayBuffer) -> None:
        """Write again what the volume before does not hold, and free its records.

        Raises:
            VolumeFull: The tape does not hold it either. All of it is in records all the same.
        """
        first, length = before._boundaries[0].offset, before.length
        shift = self.writer.length - first
        self._boundaries.extend(Boundary(b.offset + shift, b.start) for b in before._boundaries)
        for piece in before.writer.kept(first, first + length):
            with suppress(VolumeFull):
                self.write(piece)
        if self.writer.is_full:
            raise VolumeFull(self.start)

    def _confirm(self) -> None:
        """Forget the members that are on tape."""
        boundaries, accepted = self._boundaries, self.writer.accepted
        while len(boundaries) > 1 and boundaries[1].offset <= accepted:
            boundaries.popleft()
            self.whole += 1
        self.writer.forget(boundaries[0].offset if boundaries else accepted)
