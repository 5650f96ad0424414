"""Where a tar is written to and read from: one volume, such as a file, or several, such as tapes.

    preamble │ member │ member │ member │ manifest      one volume
             ▲        ▲        ▲        ▲
             boundary(start)            boundary(None)

The writer of the tar calls `boundary` at the end of each member. A medium with several volumes
keeps the bytes after the last boundary that is safely on the volume, and writes them again on the
next one. The reader of the tar asks for the next volume when it has read to the end of one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

# Lends the memory for bytes of the volume, given their offset and length, or returns None.
Lender = Callable[[int, int], "memoryview | None"]


class VolumeId(NamedTuple):
    """Identifies a volume of a backup.

    Attributes:
        set_id: Identifies the volumes that belong together.
        number: Number of the volume, from 1.
        backup: What the backup is, for people: VM, disk and date.
    """

    set_id: str
    number: int
    backup: str


class VolumeFull(Exception):  # noqa: N818 - not an error: the next volume follows
    """The volume is full before the end of the tar.

    Attributes:
        start: Disk offset of the first data member that is not completely on the volume; None if
            no data member is completely on it.
    """

    def __init__(self, start: int | None) -> None:
        super().__init__("the volume is full")
        self.start = start


class OutputMedium(Protocol):
    """Where a tar is written to."""

    @property
    def name(self) -> str:
        """The medium's name, for people."""

    @property
    def length(self) -> int:
        """Bytes that were written to the volume so far."""

    @property
    def is_ending(self) -> bool:
        """True when the tar should end this volume before the next member.

        That is so if the volume will soon be full, holds a complete data member, and another volume
        can follow.
        """

    def write(self, data: memoryview | bytes) -> None:
        """Write all the data.

        Raises:
            VolumeFull: The volume is full. The medium has kept the data all the same: it writes
                what is needed of it again, after `next_volume`.
            LocalIOError: The data cannot be written; nothing more should be.
        """

    def lender(self) -> Lender | None:
        """Lends the memory from which this volume is written; None if there is no such memory.

        `write` does not copy data that is already in its place there. Nothing is lent after
        `boundary(None)`.
        """
        return None

    def flush(self) -> None:
        """Write the bytes that were gathered; a tape writes only whole records."""

    def boundary(self, start: int | None) -> None:
        """Mark the end of a data member, or of the members before the data.

        The medium keeps what is written after this until the next boundary is on the volume. If
        the volume is full before, it writes that again at the first boundary of the next volume.

        Args:
            start: Disk offset of the data member that follows. None if none follows on this volume;
                what is written after this is then not needed on the next one.

        Raises:
            VolumeFull: This volume has no room for what had to be written again.
        """

    def next_volume(self, volume: VolumeId, left: int) -> None:
        """End this volume, and begin the next one.

        Args:
            volume: The next volume. If this volume holds no data member, the next one has the same
                number, and replaces it.
            left: Bytes of data that are not yet written.

        Raises:
            LocalIOError: There is no next volume, or this one cannot be ended.
        """

    def cancel(self) -> None:
        """Make a call that blocks, now or later, fail."""

    def commit(self) -> None:
        """Make what was written final."""

    def abort(self) -> None:
        """If possible, leave nothing that looks like a complete backup."""


class InputMedium(Protocol):
    """Where a tar is read from."""

    @property
    def name(self) -> str:
        """The medium's name, for people."""

    def readinto(self, buffer: memoryview) -> int:
        """Read at least one byte; return 0 at the end of the volume."""

    def skip_unreadable(self, length: int) -> int:
        """Skip a place that could not be read.

        Args:
            length: About how many bytes to skip.

        Returns:
            How many bytes were skipped; 0 if reading cannot continue.
        """

    def peek(self, offset: int, length: int) -> bytes | None:
        """Read ahead at `offset` from the beginning of the volume; None if that is impossible.

        The position of the medium does not change.
        """

    def check_position(self) -> None:
        """Make sure that everything was read from the right place.

        Raises:
            PositionLostError: Somebody moved the tape: what was read last may come from elsewhere.
        """

    def next_volume(self, volume: VolumeId) -> None:
        """Go to the beginning of the next volume.

        Args:
            volume: The volume to find.

        Raises:
            IncompleteStreamError: There is no way to get a next volume.
            TapestreamError: The volume was not found.
        """

    def rewind(self) -> None:
        """Go back to the beginning of the first volume, immediately or when it is read next.

        Raises:
            UsageError: The medium can be read only once.
        """

    def cancel(self) -> None:
        """Make a call that blocks, now or later, fail."""

    def close(self) -> None:
        """Close what the medium itself has opened."""
