"""Every error that tapestream raises on purpose, as one tree.

The branches say where the fault lies::

    UsageError                      in the caller's arguments
    BackendError                    in the class of a source or a sink
    ClosedError, OperationCancelledError
                                    nowhere: another part of the program ended the operation
    LocalIOError                    on this machine
    TransferError                   in the imageio server, or in the network
    EngineError                     in the oVirt engine, or in what it was asked for
    FleetError                      in the scheduler or the workers of a fleet
    StreamError                     in the tar stream
    ExtentsError, TargetSizeError   in the disk
    ChainError                      in the list of backups

The message says what is wrong, and `hint` says what to do next.

Every error can be pickled and copied with all its attributes, notes and causes: process pools and
job queues do that. A cause that cannot be pickled becomes an `Exception` with the same text.
No error text ever contains a ticket or a transfer URL: whoever has one can read the disk.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any

from . import _readable

if TYPE_CHECKING:
    from datetime import datetime
else:
    datetime = Any  # for typing.get_type_hints; hardly any program needs it here


class TapestreamError(Exception):
    """The root of every error that tapestream raises on purpose.

    Args:
        message: What is wrong.
        hint: What to do next; the class's own hint when not given.
    """

    hint = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(printable(message))
        if hint is not None:
            self.hint = printable(hint)

    @property
    def message(self) -> str:
        """What is wrong, without the hint."""
        return str(self.args[0])

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}. {self.hint}" if self.hint else message

    def add_context(self, place: str, instead_of: str = "") -> None:
        """Put the place of the error before its message, unless the message names it already.

        Args:
            place: Where it happened.
            instead_of: A less precise place. If the message begins with it, `place` replaces it.
        """
        message, place = self.message, printable(place)
        if place in message:
            return
        instead_of = printable(instead_of)
        if instead_of and message.startswith(instead_of):
            message = place + message[len(instead_of) :]
        else:
            message = f"{place}: {message}"
        self.args = (printable(message), *self.args[1:])

    def __reduce__(self) -> tuple[Any, ...]:
        # By default, unpickling calls the class with the message. Most classes here take other
        # arguments, and so may the classes of others that inherit from them.
        return _restored, (type(self), self.args, tuple(_causes(self))), _attributes(self)


def _attributes(error: BaseException) -> dict[str, object]:
    """All attributes of an error. Those of `__slots__`, and of OSError, are not in its `__dict__`.

    A program may have subclasses of both, so that `except OSError` also catches our errors.
    """
    members = {
        name: getattr(error, name)
        for cls in type(error).__mro__
        for name, member in vars(cls).items()
        if isinstance(member, MemberDescriptorType) and hasattr(error, name)
        # None means that an OSError does not have the attribute. Setting it would change the text.
        if cls is not OSError or getattr(error, name) is not None
    }
    return {**members, **vars(error)}


def _restored(
    cls: type[TapestreamError], args: tuple[object, ...], causes: Iterable[BaseException] = ()
) -> TapestreamError:
    """Make an error from its message, without a call of its `__init__`."""
    error = cls.__new__(cls)
    error.args = args
    last: BaseException = error
    for cause in causes:
        last.__cause__ = cause
        last = cause
    return error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield what caused an error, what caused that, and so on; each can be pickled."""
    seen = {id(error)}
    while (cause := error.__cause__) is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield _pickling(cause)
        error = cause


def _pickling(cause: BaseException) -> BaseException:
    """A copy of an error, without its cause; an `Exception` if it cannot be pickled."""
    import pickle  # noqa: PLC0415 - hardly ever needed, and then it is loaded already

    if isinstance(cause, TapestreamError):
        alone: BaseException = _restored(type(cause), cause.args)
        alone.__setstate__(_attributes(cause))
    else:
        alone = cause  # Python does not pickle its cause
    try:
        # Objects of many classes can be pickled, but not unpickled.
        again = pickle.loads(pickle.dumps(alone))  # noqa: S301 - these are our own bytes
    except Exception:  # noqa: BLE001 - it may hold anything, such as a socket
        again = None
    if isinstance(again, BaseException):
        return again
    return Exception(printable(f"{type(cause).__qualname__}: {cause}"))


# An error may quote a stream, a server or a file, and the quote may be megabytes long.
_MAX_TEXT = 4000


def printable(text: str) -> str:
    """Make a text safe for a terminal or a log file.

    A file name may contain any bytes, and a server may send anything. Control characters, marks
    that change the direction of text, and invisible characters become escapes. The middle of a very
    long text is left out.
    """
    if len(text) > _MAX_TEXT:
        text = f"{text[: _MAX_TEXT // 2]} [...] {text[-_MAX_TEXT // 2 :]}"
    return _readable.printable(text)


class UsageError(TapestreamError, ValueError):
    """An argument, or a combination of arguments, cannot work. Nothing was transferred."""


class BackendError(TapestreamError):
    """A source or a sink broke its contract: what it did, or reports, cannot be right.

    The sink was aborted.
    """

    hint = (
        "This is a fault of that class, not of the data: docs/own-backend.md says what it must do."
    )


class ClosedError(TapestreamError):
    """A source or sink was closed or aborted while its copy ran, by another thread or a callback.

    The copy ended first: nothing that it wrote looks complete.
    """

    hint = "Copy again with a new sink if that was not intended."


class OperationCancelledError(TapestreamError):
    """The operation was ended by its `Cancel`. Nothing that it wrote looks complete.

    Attributes:
        reason: What `Cancel.cancel` was given as the reason; may be empty.
    """

    hint = "If that was not intended, start it again, with a new Cancel."

    def __init__(self, reason: str = "") -> None:
        super().__init__(f"the operation was cancelled{': ' if reason else ''}{reason}")
        self.reason = reason


class LocalIOError(TapestreamError):
    """The operating system refused to open, read or write a local file, pipe or device.

    Attributes:
        errno: The operating system's error number, or None.
    """

    # The hint for an error number. It is used if the class has no hint of its own.
    _hints: Mapping[int, str] = {
        errno.ENOENT: "Check the path.",
        errno.ENOTDIR: "Check the path.",
        errno.EISDIR: "Check the path: this is a directory.",
        errno.ENAMETOOLONG: "Use a shorter name.",
        errno.EACCES: "Check who may use it, or run this as a user who may.",
        errno.EPERM: "Check who may use it, or run this as a user who may.",
        errno.EROFS: "The file system is read-only: use another place, or mount it writable.",
        errno.EBUSY: "Something else uses it (a mount, LVM, a virtual machine): stop that first.",
        errno.ENOSPC: "Make room there, or use another place, and start again.",
        errno.EDQUOT: "Make room there, or raise the quota, and start again.",
        errno.EFBIG: "The file system, or 'ulimit -f', allows no larger file: use another place.",
        errno.EIO: "The disk or drive failed: the kernel's log ('dmesg') says more.",
        errno.EMFILE: "Close files that this program has open, or raise its limit ('ulimit -n').",
        errno.ENFILE: "Too many files are open on this machine: end some programs.",
        errno.ENOMEM: "Free memory, raise this program's limit, or pass a smaller buffer_memory.",
        errno.ESTALE: "The file server may have been restarted: mount it again.",
        errno.ENXIO: "Is the device still there, or the other end of the pipe?",
        errno.ENODEV: "Is the device still there?",
        errno.EPIPE: "The program that reads the other end has ended: find out why.",
        errno.EBADF: "It is closed: leave it open until the end.",
    }

    def __init__(
        self, doing: str, error: Exception | None = None, *, hint: str | None = None
    ) -> None:
        reason = getattr(error, "strerror", None) or str(error or "")
        number: int | None = getattr(error, "errno", None)
        if hint is None and not self.hint and number is not None:
            hint = self._hints.get(number)
        super().__init__(f"{doing}: {reason}" if reason else doing, hint=hint)
        self.errno = number


class NotDurableError(LocalIOError):
    """What was written is complete and has its name, but may not survive a power failure yet."""

    hint = "Run 'sync', look for disk errors in the kernel's log, and then verify what was written."


class TapeError(LocalIOError):
    """The tape drive refused a command, or failed.

    Nothing more is written; a tape file without its manifest is incomplete.
    """

    _hints: Mapping[int, str] = {}  # an error number has another meaning if a drive reports it

    hint = (
        "The kernel's log (dmesg) says more. Clean the drive, and try again; then try another "
        "drive, and another tape."
    )


class NotATapeError(TapeError):
    """The path does not belong to a tape drive."""

    hint = "Pass a no-rewind tape device, such as /dev/nst0."


class NoMediumError(TapeError):
    """There is no cartridge in the drive, or it is not loaded yet."""

    hint = "Load a cartridge; TapeDrive.wait_ready() waits until the drive has taken it."


class WriteProtectedError(TapeError):
    """The cartridge is write-protected. Nothing was written."""

    hint = "Move the cartridge's switch, or load another one."


class DriveBusyError(TapeError):
    """Somebody else uses the drive."""

    hint = "Wait for the other program; within one program, share one TapeDrive."


class EndOfTapeError(TapeError):
    """The tape is full."""

    hint = "Pass on_volume_full=, which loads the next tape; the backup continues there."


class BlockSizeError(TapeError):
    """The drive is in fixed mode, and the tape has blocks of another size. Nothing is damaged."""

    hint = (
        "Set the drive to variable mode, with TapeDrive.set_block_size(0) or 'mt setblk 0': it "
        "reads blocks of any size."
    )


class UnreadableLabelError(TapeError):
    """Nobody can say whether the tape has a label, or which one. Nothing was written."""

    hint = (
        "Clean the drive, and try another one. If nothing on the tape is needed any more, "
        "TapeDrive.write_label(label, overwrite=True) gives it a new label."
    )


class WrongTapeError(TapeError):
    """The loaded tape is not the one that was asked for. Nothing was written."""

    hint = "Load the tape that was asked for."


class PositionLostError(TapeError):
    """The tape is not where it was left.

    The drive was reset, the cartridge was changed, or another program or host moved the tape.
    Nothing more is written. If something was written since the position was last checked, the
    message says what: it may lie elsewhere on the tape, and the tape then ends there.
    """

    hint = (
        "Rewind the drive, and see with TapeDrive.scan() what is on its tape. A backup that was "
        "under way is incomplete; verify the others on this tape before you rely on them."
    )


class ExtentsError(TapestreamError):
    """A list of extents cannot describe a disk: it is unordered, has gaps, or is out of bounds."""

    hint = (
        "The list cannot be trusted, so nothing was transferred; start a new backup, a full one if "
        "this one is incremental."
    )


class TargetSizeError(TapestreamError):
    """The target is smaller than the disk in the backup. Nothing was written."""

    hint = "Create a target disk at least as large as the virtual size in the backup."


class ChainError(TapestreamError):
    """The backups are not one chain, from a full backup to the one to restore.

    Nothing was written.
    """

    hint = (
        "Pass one full backup of the disk, and every incremental one from there to the point in "
        "time to restore; their checkpoint ids show what belongs together."
    )


class NoRestorePointError(ChainError):
    """The backups that are here do not lead to the point in time that was asked for.

    Attributes:
        checkpoint: The checkpoint of which no complete backup is here; None if it is not known.
        places: Where the backups are that are damaged or were aborted.
        newest: The newest point at or before that time that can be restored; None if there is none.
    """

    hint = (
        "Look for another copy of the backup that is missing or not complete, or restore an "
        "earlier point in time: Archive.restore_points lists all of them."
    )

    def __init__(
        self,
        message: str,
        *,
        checkpoint: str | None = None,
        places: tuple[str, ...] = (),
        newest: datetime | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.checkpoint = checkpoint
        self.places = places
        self.newest = newest


class TransferError(TapestreamError):
    """The imageio server failed, or the connection to it."""

    @property
    def is_transient(self) -> bool:
        """True if the same request may succeed a little later."""
        return False


class ServerUnreachableError(TransferError):
    """No connection to the server could be made."""

    hint = (
        "Check that the host's imageio port (54322, or 54323 for the proxy on the engine) is "
        "reachable, or pass proxy_url."
    )

    @property
    def is_transient(self) -> bool:
        """True: the server may be restarting."""
        return True


class CertificateError(TransferError):
    """The server's certificate could not be verified."""

    hint = (
        "Pass cafile= with the engine's internal CA, even if the web interface has a "
        "third-party certificate: "
        "https://ENGINE/ovirt-engine/services/pki-resource?resource=ca-certificate&format=X509-PEM-CA"
    )


class TicketError(TransferError):
    """The server refuses the transfer's ticket (403).

    It is unknown, has expired, was cancelled, or is for the other direction.
    """

    hint = (
        "Check that the transfer is in phase 'transferring' and of the right direction, and that "
        "it was not finalized or left idle beyond its inactivity timeout; then start a new one."
    )


class UnsupportedError(TransferError):
    """The server, or this disk, cannot do what was asked."""


class ServerError(TransferError):
    """The server answered with an error, or the connection kept breaking.

    Attributes:
        status: The HTTP status; None if there was no answer.
    """

    def __init__(self, message: str, *, status: int | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status

    @property
    def is_transient(self) -> bool:
        """True if the connection broke, or if the server failed (5xx, but not 501).

        501 means that the server will never be able to do this.
        """
        return self.status is None or (self.status >= 500 and self.status != 501)


class LostWritesError(TransferError):
    """The server lost what it had acknowledged, and the source cannot be read again.

    A connection broke, or the server restarted, before everything was flushed. The disk lacks some
    of what was written to the ranges. Nobody knows which part.

    Attributes:
        ranges: (start, end) of every range of the disk that may be lost, in bytes.
    """

    hint = (
        "Do not use the disk; cancel the transfer, and restore again from a source that can be "
        "read twice (a file, a tape or a server, but not a pipe): lost data is then sent again."
    )

    def __init__(self, message: str, ranges: Sequence[tuple[int, int]]) -> None:
        super().__init__(message)
        self.ranges = ranges

    @classmethod
    def of(cls, ranges: Sequence[tuple[int, int]], why: str) -> LostWritesError:
        """Make the error for these ranges; there must be at least one."""
        start, end = ranges[0]
        more = f" and {len(ranges) - 1} more ranges" if len(ranges) > 1 else ""
        return cls(
            f"the server lost what was written to bytes {start} to {end}{more} of the disk: {why}",
            ranges,
        )


class ServerProtocolError(TransferError):
    """The server's answer breaks the imageio API: it cannot be trusted with data."""

    hint = "Check that the URL is that of an imageio transfer and that nothing in between edits it."


class EngineError(TapestreamError):
    """The oVirt engine refused a request, failed, or cannot be reached.

    Attributes:
        status: The HTTP status; None if there was no answer.
    """

    def __init__(self, message: str, *, status: int | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status

    @property
    def is_transient(self) -> bool:
        """True if there was no answer, or if the engine failed (5xx): it may be restarting."""
        return self.status is None or self.status >= 500


class EngineLoginError(EngineError):
    """The oVirt engine does not know the user, or does not permit what was asked for."""

    hint = (
        "Check the user's name, with its profile as in admin@internal, the password, and the "
        "user's permissions."
    )


class EnginePhaseError(EngineError):
    """A backup, a transfer or another object of the oVirt engine failed, or is in an unknown phase.

    Attributes:
        phase: The phase that it is in; None if it is one that oVirt's SDK does not know.
        event: What the engine said last about it; "" if it said nothing.
    """

    hint = "The engine's events, and engine.log and vdsm.log on the host, say more."

    def __init__(self, what: str, phase: str | None, *, event: str = "", when: str = "") -> None:
        state = f"in phase {phase}" if phase else "in a phase that oVirt's SDK does not know"
        said = f"; the engine's last event about it: {event.rstrip('.')}" if event else ""
        super().__init__(f"{what} is {state}{when}{said}")
        self.phase = phase
        self.event = event


class EngineTimeoutError(EnginePhaseError):
    """A backup, a transfer or another object of the oVirt engine did not get ready in time.

    Attributes:
        seconds: How long was waited for it.
    """

    hint = "Look at the tasks and events of the engine; EngineTimeouts has the time limits."

    def __init__(self, what: str, phase: str | None, seconds: float, *, event: str = "") -> None:
        super().__init__(what, phase, event=event, when=f" after {seconds:g} seconds")
        self.seconds = seconds


class FleetError(TapestreamError):
    """The scheduler or the workers of a fleet are lost, or lack what they should have."""


class StreamError(TapestreamError):
    """Something is wrong with the tar stream."""


class ForeignStreamError(StreamError):
    """The stream is not a tapestream tar."""

    hint = "Check the path, and on a tape the position; 'tar -tf' shows what this is."


class NewerFormatError(StreamError):
    """The stream has a format version that this software does not know."""

    hint = "Update tapestream; plain tar can still extract the data."


class WrongVolumeError(StreamError):
    """The first volume of a backup is needed, and this is a later one."""

    hint = "Begin with volume 1; the later volumes are requested one after another."


class WrongBackupError(StreamError):
    """The backup that was found is not the expected one. Nothing was written.

    The tape was rewritten or labelled again after the index was made, or another tape is loaded.
    """

    hint = (
        "Check the path. On tape, load the tape that holds it: TapeDrive.scan shows what is on a "
        "tape, and Catalog.scan(drive) brings the catalog up to date."
    )


class IncompleteStreamError(StreamError):
    """The stream ends too early: the backup was aborted, or the copy of it was cut."""

    hint = "This is not a complete backup; look for another copy or an earlier backup."


class CorruptStreamError(StreamError):
    """The stream was damaged after it was written."""

    hint = "Read it again to rule out a transport error; then use another copy."


class DigestMismatchError(CorruptStreamError):
    """Data does not match its digest in the manifest.

    Attributes:
        member: Member of the tar that holds the data.
        start: Offset in the disk of the first byte that the digest covers.
        length: Its length in bytes.
    """

    def __init__(self, member: str, start: int, length: int) -> None:
        super().__init__(
            f"{member}: the {length} bytes at disk offset {start} do not match their digest"
        )
        self.member = member
        self.start = start
        self.length = length


class BlockHashMismatchError(TapestreamError):
    """The disk does not match its block hash.

    Attributes:
        expected: The block hash that the disk should have, in hexadecimal.
        found: The block hash that it has.
    """

    hint = (
        "Do not use what was copied. Copy again, to rule out a transport error; if they differ "
        "again, the backup is not what the server had: use another one."
    )

    def __init__(self, what: str, expected: str, found: str) -> None:
        super().__init__(f"{what} has the block hash {found}, not {expected}")
        self.expected = expected
        self.found = found
