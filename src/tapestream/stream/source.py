"""TarStreamSource: a backup out of a tar, strictly forward."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ..arguments import flag, function, number
from ..backend.protocols import Reader, Source
from ..errors import LocalIOError, StreamError, TapestreamError, UsageError, WrongTapeError
from ..files.inputs import BinaryInput, Input, open_input
from ..model.damage import Findings
from ..model.expected import Expected, IndexEntry, expected_of
from ..model.extents import Extents
from ..model.info import BackupInfo
from ..tape.drive import TapeDrive
from ..tape.input import TapeInput
from ..tape.volumes import LoadVolume, drive_of
from ..tar.reader import TarReader
from ..tar.trouble import SalvageReader
from ..tar.volume import Volumes


class TarStreamSource(Source):
    """Read a backup from the tar that `TarStreamSink` wrote: from a file, a fifo, a pipe, a tape.

    The stream is read once, from front to back, and exactly to its end: a file object is then
    where the next stream may begin, and a tape stands after the backup's filemark. Names in the
    tar are compared, never used as paths.

    Without `file` and `expect`, a tape is read from where it stands, and this source keeps the
    drive until it is closed. With one of them, it goes to that tape file, and keeps the drive only
    while it is copied. If others use the same `TapeDrive`, it waits for its turn.

    Args:
        target: A path; "-" for standard input; a binary file object with `read`, which stays
            open; or a `TapeDrive`, which stays open.
        verify: Check all data against the digests in the manifest. Without, only the stream's
            structure is checked.
        allow_incomplete: True to salvage what there is of a damaged or incomplete stream, rather
            than to fail: damaged data is delivered as it is, zeros for what is missing, and
            `findings` lists which. Never restore so where a good copy exists.
        file: On tape, the number of the tape file to read, as `scan` or the catalog gives it; None
            for the one that `expect` names, or else the one at whose beginning the tape stands.
        expect: The backup that must be there: what `TapeDrive.find` or `Catalog.find` gave, the
            `receipt` of a `CopyResult`, or a `BackupInfo` with the ids that are known. It is
            compared with what is there before anything else is done. None to take whatever is
            there.
        on_next_volume: Loads the tape on which the backup goes on, when it is asked to; see
            `VolumeRequest`. Returns None when it is in the same drive, or else its drive.

    Raises:
        LocalIOError: The target cannot be opened or read.
        ForeignStreamError: It is not a tapestream tar.
        NewerFormatError: It is of a later version of the format.
        IncompleteStreamError: It ends too early.
        CorruptStreamError: It is damaged.
        WrongVolumeError: It is not the first volume of a backup.
        WrongBackupError: It is another backup than the one that is expected, or none.
        UsageError: An argument cannot work.

    Attributes:
        findings: What is wrong with the stream, while it is salvaged; None otherwise.
    """

    max_readers = 1
    sequential = True

    def __init__(
        self,
        target: str | os.PathLike[str] | BinaryInput | TapeDrive,
        *,
        verify: bool = True,
        allow_incomplete: bool = False,
        file: int | None = None,
        expect: BackupInfo | IndexEntry | None = None,
        on_next_volume: LoadVolume | None = None,
    ) -> None:
        flag("verify", verify)
        flag("allow_incomplete", allow_incomplete)
        function("on_next_volume", on_next_volume)
        if file is not None:
            number("file", file)
        expected = None if expect is None else expected_of(expect)
        self._input = _open(target, file, expected, on_next_volume)
        self._verify = verify
        self._file = file
        self._allow_incomplete = allow_incomplete
        self._extents: Extents | None = None
        self._attachments: dict[str, bytes] = {}
        self._at_data = False
        self._error: TapestreamError | None = None
        self._reader: TarReader | None = None
        self._paused = False
        self.findings: Findings | None = None
        try:
            with self._named():
                self._volumes = Volumes(self._input, expected)
            self._preamble = self._volumes.preamble
            if allow_incomplete:
                self.tolerate(Findings())
            if isinstance(self._input, TapeInput) and self._input.knows_file:
                with suppress(StreamError, LocalIOError):  # raised when they are asked for
                    self.extents()
                self._input.pause()
                self._paused = True
        except BaseException:
            self._input.close()
            raise

    @property
    def info(self) -> BackupInfo:
        """What the stream says of the backup."""
        return self._preamble.info

    @property
    def size(self) -> int:
        """Virtual size of the disk in bytes."""
        return self.info.size

    @property
    def digest_name(self) -> str | None:
        """Name of the digest that the data is checked against.

        None without `verify`. Of a stream that is salvaged, it is known at the end, and None where
        something is missing or damaged.
        """
        if self.findings is not None:
            return None if self.findings.damage else self.findings.digest_name
        return self._preamble.checksum if self._verify else None

    @property
    def attachments(self) -> dict[str, bytes]:
        """The files that were kept with the disk, by name."""
        self.extents()
        return dict(self._attachments)

    def extents(self) -> Extents:
        """See `Source.extents`: reads up to the first data member, once."""
        if self._error is not None:
            raise self._error
        try:
            with self._named():
                if self._extents is None:
                    self._extents = self._volumes.extents()
                if not self._at_data and not self._paused:
                    self._attachments = self._volumes.attachments(self._extents)
                    self._at_data = True
        except BaseException as e:
            self._keep(e)
            raise
        return self._extents

    @property
    def device(self) -> str | None:
        """Path of the tape drive; None for other streams."""
        return self._input.device if isinstance(self._input, TapeInput) else None

    @property
    def place(self) -> str:
        """The path; on tape that of the drive, and the tape file if known."""
        file = f", tape file {self._file}" if self._file is not None else ""
        return f"{self._input.name}{file}"

    @property
    def missing_until(self) -> int | None:
        """Offset before which no more data comes, of a stream that is salvaged; otherwise None."""
        if self.findings is None:
            return None
        return self._reader.missing_until if isinstance(self._reader, SalvageReader) else 0

    def check_complete(self) -> None:
        """Look for the manifest of a file, or at the end on tape.

        Raises:
            IncompleteStreamError: It is not there.
            WrongTapeError: Another tape is loaded.
        """
        extents = self.extents()
        self._require_unread()
        if self.findings is None:
            self._volumes.check_complete(extents)

    def tolerate(self, findings: Findings | None) -> None:
        """Go on after damage from now on, or no longer; `allow_incomplete` is for good."""
        before, self.findings = self.findings, findings
        if findings is None and self._allow_incomplete:
            self.findings = Findings()
        if self.findings is not None and before is not None:
            self.findings.problems += before.problems  # of what was read already
        if self.findings is None and self._volumes.has_bridged:
            self._error = UsageError("the stream was read past damage: open it again, or rewind it")
        elif self._extents is not None:
            self._forget_error()
        self._volumes.tolerate(self.findings)

    def rewind(self) -> None:
        """Make it readable once more: a regular file, what is seekable, a tape with `file=`.

        A tape is wound when it is read next: others may use the drive until then.

        Raises:
            UsageError: It can be read only once.
            CorruptStreamError: It is not the same backup any more.
        """
        extents = self._extents or self.extents()
        self._reader = self._error = self.findings = None
        self.tolerate(None)
        self._error = None
        if isinstance(self._input, TapeInput):
            self._input.leave()
            self._paused = True
        else:
            self._go_back(extents)

    def open_reader(self) -> Reader:
        """See `Source.open_reader`.

        Raises:
            WrongTapeError: Another tape is loaded by now, and there is no `on_next_volume`.
        """
        self._require_unread()
        extents = self.extents()
        if self._paused:
            self._resume(extents)
            self.extents()
        if self.findings is None:
            self._reader = TarReader(self._volumes, extents, verify=self._verify)
        else:
            self._reader = SalvageReader(self._volumes, extents, self.findings, verify=self._verify)
        return self._reader

    def finish(self) -> str | None:
        """Read to the end of the stream and check it against its manifest.

        Returns:
            The `digest_name`, with which all data was compared.

        Raises:
            DigestMismatchError: Data does not match its digest; says where on the disk it is.
            CorruptStreamError: Something else does not match.
            IncompleteStreamError: There is no manifest, or no end.
        """
        if self._reader is None:
            raise UsageError("not all data of the stream was read")
        with self._named():
            self._reader.finish()
        if isinstance(self._input, TapeInput):
            self._input.end_file()
        return self.digest_name

    def cancel(self) -> None:
        """End a wait for a drive, or for the writer of a pipe."""
        self._volumes.cancel()

    def close(self) -> None:
        """See `Source.close`."""
        stream = getattr(self, "_input", None)  # its constructor may have failed
        if stream is not None:
            stream.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Let an error say which stream it is of."""
        try:
            yield
        except StreamError as e:
            e.tell_where(self._input.name)
            raise

    def _keep(self, error: BaseException) -> None:
        """Keep an error: where the stream stands after it, nobody knows."""
        again = UsageError("reading the stream was interrupted: open it anew")
        self._error = error if isinstance(error, (StreamError, LocalIOError)) else again

    def _forget_error(self) -> None:
        """Go on where an attachment was damaged."""
        if isinstance(self._error, LocalIOError) and self._paused:
            assert isinstance(self._input, TapeInput)
            self._input.leave()
        if isinstance(self._error, StreamError) or self._paused:
            self._error = None

    def _require_unread(self) -> None:
        if self._reader is not None:
            raise UsageError("a tar stream is read once: open it anew, or rewind it")

    def _resume(self, extents: Extents) -> None:
        """Take the drive again: where it was left, or go back to the backup."""
        assert isinstance(self._input, TapeInput)
        if not self._input.resume():
            self._go_back(extents)
        self._paused = False

    def _go_back(self, extents: Extents) -> None:
        self._at_data = False
        try:
            self._volumes.rewind(extents)
        except UsageError:
            raise  # it cannot go back, and stands where it stood
        except BaseException as e:
            self._keep(e)
            raise


def _open(
    target: str | os.PathLike[str] | BinaryInput | TapeDrive,
    file: int | None,
    expected: Expected | None,
    on_next_volume: LoadVolume | None,
) -> Input:
    tape = drive_of(target)
    if not tape:
        assert not isinstance(target, TapeDrive)
        if file is not None:
            raise UsageError("only a tape has files: file= must be None for other targets")
        return open_input(target)
    if expected is None:
        return TapeInput(tape, file, on_next_volume)
    if file is None:
        file = expected.file
    try:
        return TapeInput(tape, file, on_next_volume)
    except WrongTapeError as e:
        raise expected.error(str(e.args[0]), "nothing") from e
