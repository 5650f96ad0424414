"""TarStreamSink: writes a backup as a tar, without ever going back in it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, cast

from .._process import OfThisProcess
from .._shown import short_repr
from .._version import __version__
from ..arguments import function
from ..backend.abilities import Hash
from ..backend.protocols import Sink, Writer
from ..cancel import Cancel, check_cancel
from ..errors import LocalIOError, TapestreamError, UsageError
from ..files.outputs import BinaryOutput, open_output
from ..model.extents import Extents
from ..model.info import BackupInfo, describe
from ..tar import format as fmt
from ..tar.digests import ALGORITHMS, check_algorithm, hex_digest
from ..tar.manifest import ManifestBuilder
from ..tar.medium import OutputMedium
from ..tar.preamble import Preamble, attachment_member, check_new_name
from ..tar.writer import TarWriter
from .drives import drive_of

if TYPE_CHECKING:
    from ..tape.drive import TapeDrive
    from ..tape.output import TapeOutput
    from ..tape.report import TapeReport
    from ..tape.volumes import LoadVolume
else:
    TapeDrive = TapeReport = LoadVolume = Any  # for typing.get_type_hints; see `_open_tape`

# Smaller than for files: a part that does not fit on a tape is written again from memory.
TAPE_PART_SIZE = 64 * fmt.MIB


class TarStreamSink(OfThisProcess, Sink):
    """Write a backup as a plain tar: to a file, a fifo, a pipe, a tape or any file object.

    A regular file is written under a temporary name in the same directory, with mode 0600. It gets
    its final name, and replaces an older file, only when it is complete and on stable storage. An
    image in a known format, such as qcow2, is not replaced: that raises a `UsageError`. Any other
    target gets the stream directly. After an abort the stream has no manifest, so every reader
    reports it as incomplete.

    On tape, the backup becomes one tape file after everything that is on the tape, wherever the
    tape stands. When `copy` returns, the filemark is written and the drive's own buffer is empty.
    If others use the same `TapeDrive`, the sink waits for its turn. When a tape is full, the backup
    continues on another one, after everything that is on that one.

    A file object may also have both `commit()` and `abort()`, for example to upload parts to an
    object store. `commit` is called once, after the last `write`, and after `flush` if it has that.
    When it returns, the object must be complete and stored. If it raises, the copy fails. `abort`
    is called once in all other cases: after an error, including one of `commit`, or when the sink
    is closed without a commit. It should leave nothing, except what `commit` has completed. If
    `abort` raises after another error, its own error is only logged. The sink never closes the file
    object.

    Args:
        target: A path; "-" for standard output; a binary file object with `write`, which stays
            open; or a `TapeDrive`, which stays open.
        record_size: Bytes, a multiple of 512. The length of the stream is a multiple of this. None
            means 10240, as in GNU tar. On tape, it is the size of one record, from 64 KiB to just
            under 16 MiB; None means 1 MiB.
        part_size: Largest size of a data member in bytes, below 8 GiB: a multiple of 1 MiB, or
            below 1 MiB a multiple of 512. None means 1 GiB, and 64 MiB on tape, where a part is
            kept in memory until it is written.
        checksum: Digest of the data: "sha256", "blake2b" (256 bits), "crc32", or None.
        attachments: Files to keep with the disk, such as the VM's OVF: contents by name.
        on_volume_full: Called when a tape is full, to load the next one; see `VolumeRequest`. It
            returns None if the tape is in the same drive, otherwise the tape's drive. None to fail
            at the end of the tape.
        cancel: Ends the wait for the reader of a fifo, or for a turn at a drive.

    Raises:
        UsageError: An argument cannot work.
        LocalIOError: The target cannot be opened.
        OperationCancelledError: A wait was cancelled.
    """

    max_writers = 1
    sequential = True
    _ended = True  # so that `close` works after the constructor failed

    def __init__(
        self,
        target: str | os.PathLike[str] | BinaryOutput | TapeDrive,
        *,
        record_size: int | None = None,
        part_size: int | None = None,
        checksum: str | None = "sha256",
        attachments: Mapping[str, bytes] | None = None,
        on_volume_full: LoadVolume | None = None,
        cancel: Cancel | None = None,
    ) -> None:
        function("on_volume_full", on_volume_full)
        check_cancel(cancel)
        check_algorithm(checksum)
        self._attachments = _attachments(attachments)
        if record_size is not None:
            _check_size("record_size", record_size, fmt.GIB)
        if part_size is not None:
            _check_size("part_size", part_size, fmt.MAX_MEMBER)
            if part_size > fmt.MIB:
                # Otherwise the segments would be so small that the manifest would be huge.
                _check_size("part_size", part_size, fmt.MAX_MEMBER, unit=fmt.MIB)
        self._checksum = checksum
        self._tape = _open_tape(target, record_size, on_volume_full, cancel)
        self._medium: OutputMedium
        if self._tape is not None:
            self._medium = self._tape
            self._record_size = self._tape.record_size
            self._part_size = part_size or TAPE_PART_SIZE
        else:
            place = cast("str | os.PathLike[str] | BinaryOutput", target)
            self._medium = open_output(place, cancel)
            self._record_size = record_size or fmt.RECORD_SIZE
            self._part_size = part_size or fmt.PART_SIZE
        self._info: BackupInfo | None = None  # what the preamble says about the backup
        self._writer: TarWriter | None = None
        self._ended = False

    @property
    def digest_name(self) -> str | None:
        """Name of the digest in the manifest; None if there are no digests."""
        return self._checksum

    @property
    def checksum(self) -> str | None:
        """Another name of `digest_name`."""
        return self.digest_name

    @property
    def segment_size(self) -> int:
        """How many bytes of an extent each digest covers."""
        return fmt.segment_size(self._part_size)

    @property
    def streaming(self) -> bool:
        """True for a tape: stops and starts cost time and wear it."""
        return self._tape is not None

    @property
    def tape(self) -> TapeReport | None:
        """What was written to tape so far, and where; None for other targets."""
        if self._tape is None or self._info is None:
            return None
        return self._tape.report(self._info)

    def begin(self, info: BackupInfo, extents: Extents) -> None:
        """See `Sink.begin`: writes the members before the data.

        Raises:
            UsageError: The metadata, or the list of all digests, does not fit into a tar.
            LocalIOError: The stream cannot be written.
        """
        if self._writer is not None or self._ended:
            raise UsageError("a TarStreamSink takes one backup: make a new one")
        created = info.created or _now()
        preamble = self._preamble(replace(info, created=created), extents)
        if len(preamble.encode()) > fmt.MAX_INFO:  # a hundred thousand attachments may be
            preamble = preamble._replace(members=None)
        if len(preamble.encode()) > fmt.MAX_INFO:
            raise UsageError(f"the metadata makes {fmt.INFO} larger than {fmt.MAX_INFO} bytes")
        _check_manifest(preamble, extents, self._attachments)
        self._info = preamble.info
        if self._tape is not None:
            self._tape.backup = describe(preamble.info)
        self._writer = TarWriter(self._medium, preamble, extents, self._attachments)
        self._writer.begin()

    def new_hash(self) -> Hash:
        """A new hash for a segment."""
        assert self._checksum is not None
        return ALGORITHMS[self._checksum]()

    def open_writer(self) -> Writer:
        """See `Sink.open_writer`."""
        return self._begun()

    def cancel(self) -> None:
        """Make a call fail that waits for a drive, or for the reader of a pipe."""
        self._medium.cancel()

    def commit(self) -> TapeReport | None:
        """Write the manifest and the end of the archive, and put everything on stable storage.

        Returns:
            What was written to tape, and where; None for other targets.

        Raises:
            LocalIOError: The stream is not on stable storage.
            UsageError: Not all data was written.
        """
        self._begun().end()
        self._medium.commit()
        self._ended = True
        return self.tape

    def abort(self) -> None:
        """See `Sink.abort`."""
        if not self._ended:
            try:
                self._medium.abort()
            except TapestreamError:
                self._ended = True
                raise
            self._ended = True

    def close(self) -> None:
        """See `Sink.close`."""
        self.abort()

    def _begun(self) -> TarWriter:
        if self._writer is None or self._ended:
            raise UsageError("the sink has not begun, or has already ended")
        return self._writer

    def _preamble(self, info: BackupInfo, extents: Extents) -> Preamble:
        texts = {fmt.EXTENTS: extents.json, **self._attachments}
        return Preamble(
            info=info,
            checksum=self._checksum,
            part_size=self._part_size,
            record_size=self._record_size,
            set_id=self._tape.set_id if self._tape else None,
            software=f"tapestream {__version__}",
            members=tuple(fmt.Header(name, len(text)) for name, text in texts.items()),
        )

    def __repr__(self) -> str:
        medium = getattr(self, "_medium", None)  # its constructor may have failed
        return short_repr(self, medium.name if medium else "without a target")


def _open_tape(
    target: object,
    record_size: int | None,
    on_volume_full: LoadVolume | None,
    cancel: Cancel | None,
) -> TapeOutput | None:
    """Open the target if it is a tape; return None for other targets."""
    drive = drive_of(target)
    if drive is None:
        return None
    from ..tape.output import TapeOutput  # noqa: PLC0415 - see `drive_of`

    return TapeOutput(drive, record_size, on_volume_full, cancel)


def _now() -> datetime:
    """The current time, in whole seconds, within the limits of a tar header."""
    seconds = int(time.time())
    if not 0 <= seconds <= fmt.MAX_MEMBER:
        raise LocalIOError(
            f"the clock of this machine is wrong: it is {seconds} seconds after 1970",
            hint="Set the clock, or pass created in the info of the source.",
        )
    return datetime.fromtimestamp(seconds, timezone.utc)


def _attachments(given: object) -> dict[str, bytes]:
    """The members that hold attachments: contents by name."""
    if given is not None and not isinstance(given, Mapping):
        raise UsageError(
            f"attachments must be a dict of names and contents, not a {type(given).__name__}"
        )
    members = {
        attachment_member(name): _contents(name, data) for name, data in (given or {}).items()
    }
    for name in given or {}:
        check_new_name(name)
    if len(members) > fmt.MAX_FILES:
        raise UsageError(f"there must be no more than {fmt.MAX_FILES} attachments")
    if sum(map(len, members.values())) > fmt.MAX_ATTACHMENTS:
        raise UsageError(f"attachments must not exceed {fmt.MAX_ATTACHMENTS} bytes together")
    return members


def _contents(name: str, data: object) -> bytes:
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise UsageError(f"the contents of attachment {name!r} must be bytes, not {type(data)}")
    return bytes(data)


def _check_manifest(preamble: Preamble, extents: Extents, attachments: Mapping[str, bytes]) -> None:
    """Refuse now what would fail at the end, after hours: a manifest too large for a tar."""
    names = (fmt.INFO, fmt.EXTENTS, *attachments)
    digests = {name: hex_digest(preamble.checksum, b"") for name in names}
    manifest = ManifestBuilder(start=extents.size).manifest(preamble, digests, continues=False)
    segments = fmt.count_segments(extents, preamble.part_size) if preamble.checksum else 0
    # One block leaves room for the digits of the numbers that are not known yet.
    if manifest.length_with(segments) + fmt.BLOCK > fmt.MAX_MEMBER:
        raise UsageError(
            f"the digests of {segments} segments make {fmt.MANIFEST} too large for a tar",
            hint="Pass a larger part_size, or a shorter checksum.",
        )


def _check_size(name: str, size: int, limit: int, unit: int = fmt.BLOCK) -> None:
    if type(size) is not int or size < unit or size % unit or size > limit:
        raise UsageError(f"{name} must be a multiple of {unit} up to {limit}, not {size!r}")
