"""Where a tar is written to and read from: one volume, such as a file, or several, such as tapes.

    preamble │ member │ member │ member │ manifest      one volume
             ▲        ▲        ▲        ▲
             boundary(start)            boundary(None)

The tar says where its members end. A medium of several volumes keeps what lies after the last
boundary that is safely on the volume, and writes it again on the next one. Whoever reads the tar
asks for the next volume when the one before has ended.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol


class VolumeId(NamedTuple):
    """Says which volume of a backup is meant.

    Attributes:
        set_id: Identifies the volumes that belong together.
        number: Number of the volume, from 1.
        backup: What the backup is, for people: VM, disk and date.
    """

    set_id: str
    number: int
    backup: str


class VolumeFull(Exception):  # noqa: N818 - not an error: the next volume follows
    """The volume is full, before the end of the tar.

    Attributes:
        start: Disk offset of the first data member that is not completely on the volume; None
            where no data member is.
    """

    def __init__(self, start: int | None) -> None:
        super().__init__("the volume is full")
        self.start = start


class OutputMedium(Protocol):
    """Where a tar is written to."""

    @property
    def name(self) -> str:
        """What it is called, for people."""
        ...

    @property
    def length(self) -> int:
        """Bytes of the volume that were written so far."""
        ...

    @property
    def is_ending(self) -> bool:
        """True when the volume should end before the next member.

        It will soon be full, it holds a whole data member, and another volume can follow.
        """
        ...

    def write(self, data: memoryview | bytes) -> None:
        """Write all of it.

        Raises:
            VolumeFull: The volume takes no more. The data was taken all the same: after
                `next_volume`, what is needed of it is written again.
            LocalIOError: It cannot be written; nothing more should be.
        """
        ...

    def flush(self) -> None:
        """Write what was gathered; a tape writes whole records only."""
        ...

    def boundary(self, start: int | None) -> None:
        """Say that a data member ends here, or the preamble of the volume.

        What is written from here on is kept until the next boundary is on the volume. If that does
        not happen, it is written again on the next volume, at the first boundary there.

        Args:
            start: Disk offset of the data member that follows. None where none follows on this
                volume: what is written from here on is not needed on the next one.

        Raises:
            VolumeFull: The volume does not hold what had to be written again.
        """
        ...

    def next_volume(self, volume: VolumeId, left: int) -> None:
        """End this volume, and begin the next one.

        Args:
            volume: The next one. It has the number of this one where this one holds no data
                member: then it takes its place.
            left: Bytes of data that were not yet written.

        Raises:
            LocalIOError: There is no next volume, or this one cannot be ended.
        """
        ...

    def cancel(self) -> None:
        """Make a call that blocks, now or later, fail."""

    def commit(self) -> None:
        """Make what was written final."""

    def abort(self) -> None:
        """Leave nothing that looks complete, where that is possible."""


class InputMedium(Protocol):
    """Where a tar is read from."""

    @property
    def name(self) -> str:
        """What it is called, for people."""
        ...

    def readinto(self, buffer: memoryview) -> int:
        """Read at least one byte; return 0 at the end of the volume."""
        ...

    def skip_unreadable(self, length: int) -> int:
        """Go on after a place that could not be read.

        Args:
            length: About how many bytes to give up.

        Returns:
            How many bytes were given up; 0 if reading cannot go on.
        """
        ...

    def peek(self, offset: int, length: int) -> bytes | None:
        """The bytes that lie `offset` after where the volume began; None where that is not known.

        Where the medium stands does not change.
        """
        ...

    def check_position(self) -> None:
        """Make sure that all that was read came from where it should.

        Raises:
            PositionLostError: A tape was moved: what was read last may come from elsewhere.
        """
        ...

    def next_volume(self, volume: VolumeId) -> None:
        """Go to the beginning of the next volume.

        Args:
            volume: The one that is wanted.

        Raises:
            IncompleteStreamError: Nobody can provide it.
            TapestreamError: It was not found.
        """
        ...

    def rewind(self) -> None:
        """Go back to the beginning of the first volume, immediately or when it is read next.

        Raises:
            UsageError: It can be read only once.
        """
        ...

    def cancel(self) -> None:
        """Make a call that blocks, now or later, fail."""

    def close(self) -> None:
        """Close what this opened itself."""
