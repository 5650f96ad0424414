"""TarStreamSource: a backup out of a tar, strictly forward."""

from __future__ import annotations

import os

from ..errors import UsageError
from ..extents import Extents
from ..info import BackupInfo
from ..protocols import Reader, Source
from ..tape.drive import TapeDrive
from ..tape.volumes import OnNextVolume, TapeInput, drive_of
from .reader import TarReader
from .streams import BinaryInput, Input, open_input
from .volume import Volumes


class TarStreamSource(Source):
    """Read a backup from the tar that `TarStreamSink` wrote: from a file, a fifo, a pipe, a tape.

    The stream is read once, from front to back, and exactly to its end: a file object is then
    where the next stream may begin, and a tape stands behind the backup's filemark. Names in the
    tar are compared, never used as paths.

    A tape is read from where it stands, or from the tape file that is asked for. The drive is
    this source's until it is closed; where others use the same `TapeDrive`, it waits for its turn.

    Args:
        target: A path; "-" for standard input; a binary file object with `read`, which stays
            open; or a `TapeDrive`, which stays open.
        verify: Check all data against the digests in the manifest. Without, only the stream's
            structure is checked.
        file: On tape, the number of the tape file to read, as `scan` or the catalog tells it; None
            for the one at whose beginning the tape stands.
        on_next_volume: Loads the tape on which the backup goes on, when it is asked to; see
            `VolumeRequest`. Returns None when it is in the same drive, or else its drive.

    Raises:
        LocalIOError: The target cannot be opened or read.
        ForeignStreamError: It is not a tapestream tar.
        NewerFormatError: It is of a later version of the format.
        IncompleteStreamError: It ends too early.
        CorruptStreamError: It is damaged.
        UsageError: It is not the first volume of a backup.
    """

    max_readers = 1
    sequential = True

    def __init__(
        self,
        target: str | os.PathLike[str] | BinaryInput | TapeDrive,
        *,
        verify: bool = True,
        file: int | None = None,
        on_next_volume: OnNextVolume | None = None,
    ) -> None:
        self._input = _open(target, file, on_next_volume)
        self._verify = verify
        self._extents: Extents | None = None
        self._attachments: dict[str, bytes] = {}
        self._broken = False
        self._reader: TarReader | None = None
        try:
            self._volumes = Volumes(self._input)
        except BaseException:
            self._input.close()
            raise
        self._preamble = self._volumes.preamble

    @property
    def info(self) -> BackupInfo:
        """What the stream says of the backup."""
        return self._preamble.info

    @property
    def checksum(self) -> str | None:
        """Name of the digest that the data is checked against; None without `verify`."""
        return self._preamble.checksum if self._verify else None

    @property
    def attachments(self) -> dict[str, bytes]:
        """The files that were kept with the disk, by name."""
        self.extents()
        return dict(self._attachments)

    def extents(self) -> Extents:
        """See `Source.extents`: reads up to the first data member, once."""
        if self._extents is None:
            if self._broken:
                raise UsageError("the stream could not be read: open it anew")
            self._broken = True
            extents = self._volumes.extents()
            self._attachments = self._volumes.attachments()
            self._extents, self._broken = extents, False
        return self._extents

    def open_reader(self) -> Reader:
        """See `Source.open_reader`."""
        if self._reader is not None:
            raise UsageError("a tar stream is read once: open it anew")
        self._reader = TarReader(self._volumes, self.extents(), verify=self._verify)
        return self._reader

    def finish(self) -> None:
        """See `Source.finish`: reads to the end of the stream and checks it against its manifest.

        Raises:
            DigestMismatchError: Data does not match its digest; says where on the disk it is.
            CorruptStreamError: Something else does not match.
            IncompleteStreamError: There is no manifest, or no end.
        """
        if self._reader is None:
            raise UsageError("not all data of the stream was read")
        self._reader.finish()
        if isinstance(self._input, TapeInput):
            self._input.end_file()

    def close(self) -> None:
        """See `Source.close`."""
        self._input.close()


def _open(
    target: str | os.PathLike[str] | BinaryInput | TapeDrive,
    file: int | None,
    on_next_volume: OnNextVolume | None,
) -> Input:
    tape = drive_of(target)
    if tape:
        drive, ours = tape
        return TapeInput(drive, file, on_next_volume, ours=ours)
    assert not isinstance(target, TapeDrive)
    if file is not None:
        raise UsageError("only a tape has files: file= must be None for other targets")
    return open_input(target)
