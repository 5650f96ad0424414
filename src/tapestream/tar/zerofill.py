"""Reads on after what cannot be read: a bad sector of a disk, a bad record of a tape."""

from __future__ import annotations

import logging

from ..errors import LocalIOError
from ..files.inputs import Input

log = logging.getLogger("tapestream.tar")

# What is skipped for one error: a sector, and more and more where errors follow each other.
# Otherwise a dead disk would be tried for days.
SECTOR = 4096
MOST = 1024**2


class BridgedInput:
    """Gives zeros for what cannot be read of a stream.

    Args:
        stream: The stream.

    Attributes:
        name: That of the stream.
        offset: How many bytes were given.
        bridged: Offset and length of what was zeros since this list was last emptied.
        was_needed: True once something could not be read.
    """

    def __init__(self, stream: Input) -> None:
        self.name = stream.name
        self.offset = 0
        self.bridged: list[tuple[int, int]] = []
        self.was_needed = False
        self._stream = stream
        self._zeros = 0
        self._step = SECTOR

    def readinto(self, buffer: memoryview) -> int:
        """See `Input`.

        Raises:
            LocalIOError: The stream cannot go on after the bad place.
        """
        if self._zeros:
            return self._give_zeros(buffer)
        try:
            count = self._stream.readinto(buffer)
        except LocalIOError as e:
            self._zeros = self._stream.pass_over(self._step)
            if not self._zeros:
                raise
            self.was_needed = True
            if self._step == SECTOR:  # the first of a bad place
                log.warning("reading on behind: %s", e.args[0])
            self._step = min(2 * self._step, MOST)
            return self._give_zeros(buffer)
        self._step = SECTOR
        self.offset += count
        return count

    def _give_zeros(self, buffer: memoryview) -> int:
        count = min(self._zeros, len(buffer))
        buffer[:count] = bytes(count)
        self.bridged.append((self.offset, count))
        self._zeros -= count
        self.offset += count
        return count
