"""Reads past unreadable places, such as a bad sector or a bad tape record, and gives zeros."""

from __future__ import annotations

from .._log import Log
from ..errors import LocalIOError
from .medium import InputMedium

log = Log("tapestream.tar")

# Bytes to skip after an error: a sector, and twice as many after each further error in a row, up to
# MOST. Otherwise a dead disk would be tried for days.
SECTOR = 4096
MOST = 1024**2


class ZeroFilledInput:
    """Reads a stream, with zeros in place of the bytes that cannot be read.

    Args:
        medium: Where the stream is read from.

    Attributes:
        name: The medium's name.
        offset: How many bytes were read, including zeros.
        filled: (offset, length) of the zeros since the caller last emptied this list.
        was_needed: True after something could not be read.
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
            LocalIOError: The medium cannot continue after the bad place.
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
            if self._step == SECTOR:  # the first error of a bad place
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
