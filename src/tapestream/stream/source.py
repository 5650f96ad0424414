"""TarStreamSource: reads a backup from a tar, from front to back."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from .._log import Log
from .._process import OfThisProcess
from .._shown import short_repr
from ..arguments import flag, function, number
from ..backend.protocols import Reader, Source
from ..backend.running import joins
from ..cancel import Cancel, check_cancel, ended_by
from ..errors import LocalIOError, StreamError, UsageError, WrongTapeError
from ..files.inputs import BinaryInput, open_input
from ..model.damage import Findings
from ..model.expected import Expected, IndexEntry, expected_of
from ..model.extents import Extents
from ..model.info import BackupInfo, describe
from ..tar.trouble import STRICT, Lenient, Trouble
from .drives import drive_of
from .sessions import StreamSessions

if TYPE_CHECKING:
    from ..tape.drive import TapeDrive
    from ..tape.input import TapeInput
    from ..tape.volumes import LoadVolume
else:
    TapeDrive = LoadVolume = Any  # for typing.get_type_hints; most programs read no tape

log = Log("tapestream.tar")


class TarStreamSource(OfThisProcess, Source):
    """Read a backup from the tar that `TarStreamSink` wrote: from a file, a fifo, a pipe, a tape.

    The stream is read once, from front to back, and exactly to its end. A file object then stands
    where another stream may begin, and a tape stands after the backup's filemark. Names in the tar
    are compared, never used as paths.

    Without `file` and `expect`, a tape is read from where it stands, and this source keeps the
    drive until it is closed. With one of them, the source goes to that tape file, and keeps the
    drive only during the copy. If others use the same `TapeDrive`, it waits for its turn.

    Args:
        target: A path; "-" for standard input; a binary file object with `read`, which stays
            open; or a `TapeDrive`, which stays open.
        verify: True to compare all data with the digests in the manifest. False to check only the
            structure of the stream.
        allow_incomplete: True to salvage what is left of a damaged or incomplete stream, instead
            of failing. Damaged data is delivered as it is, with zeros for missing data, and
            `findings` lists both. Do not restore this way if there is a good copy.
        file: On tape, the number of the tape file to read, as `scan` or the catalog gives it. None
            for the file that `expect` names; without one, the file at whose beginning the tape
            stands.
        expect: The backup that must be there: a result of `TapeDrive.find` or `Catalog.find`, the
            `receipt` of a `CopyResult`, or a `BackupInfo` with the ids that are known. It is
            compared with the backup that is there before anything else is done. None to accept any
            backup.
        on_next_volume: Called when the backup continues on another tape, to load it; see
            `VolumeRequest`. It returns None if the tape is in the same drive, otherwise the tape's
            drive.
        cancel: Ends this constructor, which reads the beginning of the stream, and later any wait
            for a turn at a drive. To end a copy, pass a `Cancel` to `copy`.

    Raises:
        LocalIOError: The target cannot be opened or read.
        ForeignStreamError: It is not a tapestream tar.
        NewerFormatError: It has a later version of the format.
        IncompleteStreamError: It ends too early.
        CorruptStreamError: It is damaged.
        WrongVolumeError: It is not the first volume of a backup.
        WrongBackupError: There is another backup than the expected one, or none.
        OperationCancelledError: It was cancelled.
        UsageError: An argument cannot work.

    Attributes:
        findings: What is wrong with the stream, if it is salvaged; otherwise None.
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
        cancel: Cancel | None = None,
    ) -> None:
        flag("verify", verify)
        flag("allow_incomplete", allow_incomplete)
        function("on_next_volume", on_next_volume)
        check_cancel(cancel)
        if file is not None:
            number("file", file)
        expected = None if expect is None else expected_of(expect)
        tape = _open_tape(target, file, expected, on_next_volume, cancel)
        medium = tape or open_input(cast("str | os.PathLike[str] | BinaryInput", target))
        self._verify = verify
        self._file = file
        self._allow_incomplete = allow_incomplete
        # That of a view. Never this one: a cycle would keep the drive after it was forgotten.
        self._original: TarStreamSource | None = None
        try:
            with ended_by(cancel, medium.cancel):
                self._stream = StreamSessions(medium, tape, expected)
                self.findings = Findings() if allow_incomplete else None
                if self._stream.is_shared:
                    with suppress(StreamError, LocalIOError):  # raised by a later `extents`
                        self.extents()
        except BaseException:
            medium.close()
            raise

    @property
    def info(self) -> BackupInfo:
        """What the stream says about the backup."""
        return self._stream.first.info

    @property
    def size(self) -> int:
        """Virtual size of the disk in bytes."""
        return self.info.size

    @property
    def digest_name(self) -> str | None:
        """Name of the digest that the data is compared with.

        None without `verify`. If the stream is salvaged, this is known only at the end, and is None
        if something is missing or damaged.
        """
        if self.findings is not None:
            return None if self.findings.damage else self.findings.digest_name
        return self._stream.first.checksum if self._verify else None

    @property
    def checksum(self) -> str | None:
        """Another name of `digest_name`."""
        return self.digest_name

    @property
    def attachments(self) -> dict[str, bytes]:
        """The files that were kept with the disk, by name."""
        self.extents()
        return dict(self._stream.attachments)

    def extents(self) -> Extents:
        """See `Source.extents`: reads up to the first data member, once."""
        return self._stream.list(self._trouble)

    @property
    def device(self) -> str | None:
        """Path of the tape drive; None for other streams."""
        return self._stream.tape.device if self._stream.tape else None

    @property
    def place(self) -> str:
        """The path; for a tape, the drive's path, and the number of the tape file if known."""
        file = f", tape file {self._file}" if self._file is not None else ""
        return f"{self._stream.medium.name}{file}"

    @property
    def missing_until(self) -> int | None:
        """Disk offset before which no more data comes; None if the stream is not salvaged."""
        if self.findings is None:
            return None
        return self._stream.reader.missing_until if self._stream.reader else 0

    def check_complete(self) -> None:
        """Make sure that a file has its manifest, or a tape file its end, without reading it all.

        Raises:
            IncompleteStreamError: It is not there.
            WrongTapeError: Another tape is loaded.
        """
        self.extents()
        self._stream.require_unread()
        if self.findings is None:
            self._stream.check_complete()

    def salvaging(self, findings: Findings) -> TarStreamSource:
        """A source of the same stream that reads past damage; see `Salvages.salvaging`."""
        view = object.__new__(type(self))
        view.__dict__.update(vars(self))
        view._original = self._original or self
        view.findings = findings
        if self.findings is not None:
            findings.problems += self.findings.problems  # from the part that was read already
        return view

    def rewind(self) -> None:
        """Go back, so that the stream can be read once more.

        This works for a regular file, another seekable object, and a tape with `file=`. A tape is
        wound when it is read next; others may use the drive until then.

        Raises:
            UsageError: The stream can be read only once.
            CorruptStreamError: It is no longer the same backup.
        """
        self._stream.rewind(self._trouble)
        if self._allow_incomplete:
            self.findings = Findings()

    def open_reader(self) -> Reader:
        """See `Source.open_reader`.

        Raises:
            WrongTapeError: Another tape was loaded since, and there is no `on_next_volume`.
        """
        joins(self._original or self)
        return self._stream.open_reader(self._trouble, verify=self._verify)

    def finish(self) -> str | None:
        """Read to the end of the stream and compare it with its manifest.

        Returns:
            The `digest_name` of the digest with which all data was compared.

        Raises:
            DigestMismatchError: Data does not match its digest; the error has its disk offset.
            CorruptStreamError: Something else does not match.
            IncompleteStreamError: There is no manifest, or no end.
        """
        self._stream.finish()
        return self.digest_name

    def cancel(self) -> None:
        """Make a call fail that waits for a drive, or for the writer of a pipe."""
        self._stream.cancel()

    def close(self) -> None:
        """See `Source.close`."""
        stream = getattr(self, "_stream", None)  # its constructor may have failed
        if stream is None:
            return
        if stream.reader is not None and stream.reader.is_unchecked:
            log.warning(
                "%s was read, but not checked for damage: a source that wraps another must have "
                "its finish(), or an attribute wrapped",
                stream.medium.name,
            )
        stream.medium.close()

    def __repr__(self) -> str:
        if not hasattr(self, "_stream"):  # its constructor failed
            return short_repr(self, "without a stream")
        is_named = self._stream.tape is not None  # the place of a tape says which backup it is
        return short_repr(self, self.place if is_named else f"{describe(self.info)}, {self.place}")

    @property
    def _trouble(self) -> Trouble:
        return STRICT if self.findings is None else Lenient(self.findings)


def _open_tape(
    target: object,
    file: int | None,
    expected: Expected | None,
    on_next_volume: LoadVolume | None,
    cancel: Cancel | None,
) -> TapeInput | None:
    """Open the target if it is a tape; return None for other targets."""
    drive = drive_of(target)
    if drive is None:
        if file is not None:
            raise UsageError("only a tape has files: file= must be None for other targets")
        return None
    from ..tape.input import TapeInput  # noqa: PLC0415 - see `drive_of`

    if expected is None:
        return TapeInput(drive, file, on_next_volume, cancel)
    try:
        return TapeInput(drive, expected.file if file is None else file, on_next_volume, cancel)
    except WrongTapeError as e:
        raise expected.error(e.message, "nothing") from e
