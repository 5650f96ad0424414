"""Reads on after what cannot be read: a bad sector of a disk, a bad record of a tape."""

from __future__ import annotations

import logging

from ..errors import LocalIOError
from .medium import InputMedium

log = logging.getLogger("tapestream.tar")

# What is skipped for one error: a sector, and more and more where errors follow each other.
# Otherwise a dead disk would be tried for days.
SECTOR = 4096
MOST = 1024**2


class ZeroFilledInput:
    """Gives zeros for what cannot be read of a stream.

    Args:
        medium: Where it is read from.

    Attributes:
        name: That of the medium.
        offset: How many bytes were given.
        filled: Offset and length of what was zeros since this list was last emptied.
        was_needed: True once something could not be read.
    """

    def __init__(self, medium: InputMedium) -> None:
        self.name = medium.name
        self.offset = 0
        self.filled: list[tuple[int, int]] = []
        self.was_needed = False
        self._medium = medium
        self._zeros = 0
        self._step = SECTOR

    def readinto(self, buffer: memoryview) -> int:
        """Read at least one byte; return 0 at the end.

        Raises:
            LocalIOError: The medium cannot go on after the bad place.
        """
        if self._zeros:
            return self._give_zeros(buffer)
        try:
            count = self._medium.readinto(buffer)
        except LocalIOError as e:
            self._zeros = self._medium.skip_unreadable(self._step)
            if not self._zeros:
                raise
            self.was_needed = True
            if self._step == SECTOR:  # the first of a bad place
                log.warning("reading on behind: %s", e.message)
            self._step = min(2 * self._step, MOST)
            return self._give_zeros(buffer)
        self._step = SECTOR
        self.offset += count
        return count

    def _give_zeros(self, buffer: memoryview) -> int:
        count = min(self._zeros, len(buffer))
        buffer[:count] = bytes(count)
        self.filled.append((self.offset, count))
        self._zeros -= count
        self.offset += count
        return count
