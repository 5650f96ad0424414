"""What is not known to be on tape: the end of a stream, kept to be written again."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from typing_extensions import Buffer

# Behind the end of any tape: what lies there is not confirmed.
NOWHERE = 2**62


class Border(NamedTuple):
    """Where a data member ends and the next begins.

    Attributes:
        offset: Bytes of the volume before it.
        start: Disk offset of the next data member; the disk's size after the last one.
    """

    offset: int
    start: int


class Unconfirmed:
    """The members of a volume from the first one on that is not wholly on tape.

    At the hard end of a tape they are written again, on the next: the same bytes, for a member
    looks the same on any volume.

    Args:
        start: Disk offset of the first data member.

    Attributes:
        whole: How many data members of this volume are known to be on tape.
        data: The bytes from the first border on.
    """

    def __init__(self, start: int) -> None:
        self.whole = 0
        self.data = bytearray()
        self._borders = deque([Border(0, start)])

    @property
    def start(self) -> int:
        """Disk offset of the first data member that is kept."""
        return self._borders[0].start

    @property
    def members(self) -> int:
        """How many data members of this volume are complete, be they on tape or not."""
        return self.whole + len(self._borders) - 1

    def add(self, data: Buffer) -> None:
        """Keep the next bytes of the volume."""
        self.data += data

    def end_member(self, next_start: int) -> None:
        """A member, with its padding, is complete."""
        offset = self._borders[0].offset + len(self.data)
        self._borders.append(Border(offset, next_start))

    def confirm(self, accepted: int) -> None:
        """Forget the members that lie in the first `accepted` bytes of the volume."""
        done = self._borders[0].offset
        while len(self._borders) > 1 and self._borders[1].offset <= accepted:
            self._borders.popleft()
            self.whole += 1
        del self.data[: self._borders[0].offset - done]

    def move(self, offset: int) -> None:
        """What is kept begins at `offset` of the next volume."""
        moved = offset - self._borders[0].offset
        self._borders = deque(Border(b.offset + moved, b.start) for b in self._borders)
        self.whole = 0
