"""The part of a tape file that must be written again on the next tape if this one gets full.

    preamble │ member │ member │ mem        the records of a tape file, in memory
                      ▲    ▲   ▲
          start of replay  │   length: bytes that were put into records
                           accepted: bytes that are on tape

The records themselves are the replay buffer, so nothing is copied for it. It holds up to one member
of the tar, one record that is not yet full, and the data of one write.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from ..drive.records import RecordWriter


class Boundary(NamedTuple):
    """Where a data member ends and the next begins.

    Attributes:
        offset: Bytes of the tape file before the boundary.
        start: Disk offset of the data member after the boundary.
    """

    offset: int
    start: int


class TapeFile:
    """One tape file, and which members in it are not known to be on tape.

    A member has the same bytes on any volume, so they can be written again as they are.

    Args:
        writer: Writes the tape file.

    Attributes:
        writer: Writes the tape file.
        whole: How many data members of the tape file are known to be on tape.
    """

    def __init__(self, writer: RecordWriter) -> None:
        self.writer = writer
        self.whole = 0
        # The replay begins at the first boundary. There is none before the preamble is complete.
        self._boundaries: deque[Boundary] = deque()
        self._end: int | None = None

    @property
    def start(self) -> int | None:
        """Disk offset of the first member that is not on tape; None if no member is on tape."""
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

    def boundary(self, start: int | None) -> None:
        """See `OutputMedium.boundary`."""
        if start is None:
            self._end = self.writer.length
            self.writer.stop_lending()  # what follows is not the data that the memory was lent for
        else:
            self._boundaries.append(Boundary(self.writer.length, start))

    def confirm(self) -> None:
        """Free the records of members that are on tape."""
        boundaries, accepted = self._boundaries, self.writer.accepted
        while len(boundaries) > 1 and boundaries[1].offset <= accepted:
            boundaries.popleft()
            self.whole += 1
        self.writer.forget(boundaries[0].offset if boundaries else accepted)

    def take_over(self, before: TapeFile) -> Iterator[memoryview]:
        """Yield what the previous tape file does not hold. It must be written to this one.

        Each record of the previous file is free after it was written to this one.
        """
        first = before._boundaries[0].offset
        shift = self.writer.length - first
        self._boundaries.extend(Boundary(b.offset + shift, b.start) for b in before._boundaries)
        return before.writer.kept(first, first + before.length)
