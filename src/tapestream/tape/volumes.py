"""Asks the user's callback to load a tape, until the right one is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import InitVar, dataclass, replace
from functools import partial

from .._log import Log
from ..backend.running import waiting
from ..drive.lease import Lease
from ..errors import (
    BlockSizeError,
    EndOfTapeError,
    NoMediumError,
    TapeError,
    UnreadableLabelError,
    UsageError,
    WriteProtectedError,
    WrongTapeError,
)
from .drive import TapeDrive
from .loading import call

log = Log("tapestream.tape")

# How often to ask for a tape before giving up.
MAX_REQUESTS = 10
# Errors that another tape, or another setting of the drive, can solve.
_UNUSABLE_TAPE = (
    BlockSizeError,
    EndOfTapeError,
    NoMediumError,
    UnreadableLabelError,
    WriteProtectedError,
    WrongTapeError,
)


@dataclass(frozen=True)
class VolumeRequest:
    """Asks for a tape: the next one to write, or the one on which a backup continues.

    Attributes:
        drive: The drive that was used last. It is released, so other programs may use it.
        set_id: Identifies the volumes of the backup.
        volume: Number of the volume that is needed.
        backup: What the backup is, for people: VM, disk and date.
        left: About how many bytes are still to be written; None when reading.
        problem: Why the tape that was loaded last cannot be used; None the first time.
    """

    drive: TapeDrive
    set_id: str
    volume: int
    backup: str
    left: int | None = None
    problem: str | None = None
    lease: InitVar[Lease[TapeDrive] | None] = None  # for `cancelled`

    def __post_init__(self, lease: Lease[TapeDrive] | None) -> None:
        object.__setattr__(self, "_lease", lease)

    @property
    def cancelled(self) -> bool:
        """True when the copy was cancelled or interrupted: return or raise soon.

        If a `Cancel` was passed, the copy ends within a second, even if the function has not
        returned; the drive stays in use until it has. Otherwise, the copy waits for the function.
        """
        lease: Lease[TapeDrive] | None = vars(self)["_lease"]
        return lease is not None and lease.must_end


# Loads the tape; returns the drive that it is in, or None for `VolumeRequest.drive`.
LoadVolume = Callable[[VolumeRequest], TapeDrive | None]


@waiting("tape")
def request_volume(
    lease: Lease[TapeDrive],
    request: VolumeRequest,
    load: LoadVolume,
    accept: Callable[[TapeDrive], None],
) -> None:
    """Ask for a tape until one is accepted.

    Args:
        lease: The lease of the current drive. It moves to the drive that has the tape.
        request: The volume that is needed.
        load: Loads the tape.
        accept: Raises an error if the tape that was loaded cannot be used.

    Raises:
        TapeError: The wait was cancelled, the drive failed, or no tape could be used.
    """
    request = replace(request, lease=lease)
    for _ in range(MAX_REQUESTS):
        lease.drive.release()
        lease.move(_drive(call(partial(load, request), lease)) or lease.drive)
        lease.check_cancelled()  # do not begin on a tape that came after a cancel
        try:
            _wait_for_cartridge(lease)
            return accept(lease.drive)
        except _UNUSABLE_TAPE as e:
            log.warning("volume %d: %s", request.volume, e)
            problem = e
            request = replace(request, drive=lease.drive, problem=e.message, lease=lease)
    raise problem


def _drive(returned: object) -> TapeDrive | None:
    if returned is not None and not isinstance(returned, TapeDrive):
        raise UsageError(
            f"the function that loads the next tape returned a {type(returned).__name__}",
            hint="Return the TapeDrive that has the tape, or None if it is the same drive.",
        )
    return returned


def _wait_for_cartridge(lease: Lease[TapeDrive]) -> None:
    """Wait a limited time for a cartridge to appear, and without limit while it is being loaded."""
    drive = lease.drive
    try:
        drive.raw.wait_ready(drive.raw.load_seconds, check=lease.check_cancelled)
    except NoMediumError:
        if drive.status().is_empty:
            raise
        drive.raw.wait_ready(check=lease.check_cancelled)


def closed_when_unused(drive: TapeDrive) -> TapeDrive:
    """Let a drive be closed at the end of every turn from now on; return it."""
    drive.lock.on_release = _close
    return drive


def _close(drive: TapeDrive) -> None:
    """Close a drive; only log an error, because finished tape files have their filemarks."""
    try:
        drive.close()
    except TapeError as e:
        log.warning("%s could not be closed cleanly: %s", drive.path, e)


def place_in_words(path: str, label: str | None, file: int | None, backup: str | None) -> str:
    """Describe a place for people: drive, tape, tape file and backup, as far as they are known."""
    tape = f", tape {label}" if label else ""
    number = f", file {file}" if file is not None else ""
    return f"{path}{tape}{number}{f' ({backup})' if backup else ''}"
