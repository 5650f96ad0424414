"""Asking for a tape: what is wanted, in which drive it is, and whether it will do."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..arguments import path
from ..drive.lease import Lease
from ..drive.paths import is_tape
from ..errors import (
    BlockSizeError,
    EndOfTapeError,
    NoMediumError,
    TapeError,
    UnreadableLabelError,
    WriteProtectedError,
    WrongTapeError,
)
from .drive import TapeDrive

log = logging.getLogger("tapestream.tape")

# How often to ask for a tape when the one that was loaded will not do.
MAX_REQUESTS = 10
# Errors that go away with another tape, or another setting of the drive.
_WILL_NOT_DO = (
    BlockSizeError,
    EndOfTapeError,
    NoMediumError,
    UnreadableLabelError,
    WriteProtectedError,
    WrongTapeError,
)


@dataclass(frozen=True)
class VolumeRequest:
    """Asks for a tape: the next one to write, or the one on which a backup goes on.

    Attributes:
        drive: Where the last volume was. It is released: other programs may use it.
        set_id: Identifies the volumes of the backup.
        volume: Number of the volume that is wanted.
        backup: What the backup is, for people: VM, disk and date.
        left: Bytes that are still to be written, more or less; None when reading.
        problem: Why the tape that was loaded last will not do; None the first time.
    """

    drive: TapeDrive
    set_id: str
    volume: int
    backup: str
    left: int | None = None
    problem: str | None = None


# Loads the tape; returns the drive it is in: None for the same one.
LoadVolume = Callable[[VolumeRequest], TapeDrive | None]


def request_volume(
    lease: Lease[TapeDrive],
    request: VolumeRequest,
    load: LoadVolume,
    accept: Callable[[TapeDrive], None],
) -> None:
    """Ask for a tape until one is accepted.

    Args:
        lease: Of the drive in use. It moves to the drive in which the tape is.
        request: What is asked for.
        load: Loads it.
        accept: Raises what is wrong with the tape that was loaded.

    Raises:
        TapeError: The wait was cancelled, the drive failed, or no tape would do.
    """
    for _ in range(MAX_REQUESTS):
        lease.drive.release()
        lease.acquire()  # so that `load` may scan the drive in this thread
        lease.move(load(request) or lease.drive)
        lease.check_cancelled()  # nothing is begun on a tape that came too late
        try:
            _wait_for_cartridge(lease)
            return accept(lease.drive)
        except _WILL_NOT_DO as e:
            log.warning("volume %d: %s", request.volume, e)
            problem = e
            request = replace(request, drive=lease.drive, problem=e.message)
    raise problem


def _wait_for_cartridge(lease: Lease[TapeDrive]) -> None:
    """Wait a limited time for a cartridge to appear, and without limit while it is being loaded."""
    drive = lease.drive
    try:
        drive.wait_ready(drive.raw.load_seconds, on_wait=lease.check_cancelled)
    except NoMediumError:
        if drive.status().is_empty:
            raise
        drive.wait_ready(on_wait=lease.check_cancelled)


def drive_of(target: object) -> TapeDrive | None:
    """The drive that a target is, or whose path it is; None for other targets.

    A drive that is opened here, by its path, is closed whenever the stream does not use it: another
    stream may open it by its path, too.
    """
    if isinstance(target, TapeDrive):
        return target
    if isinstance(target, (str, os.PathLike)):
        name = path("target", target)
        if is_tape(name):
            return closed_when_unused(TapeDrive(name))
    return None


def closed_when_unused(drive: TapeDrive) -> TapeDrive:
    """The drive, which from now on is closed at the end of every turn."""
    drive.lock.on_release = _close
    return drive


def _close(drive: TapeDrive) -> None:
    """Close a drive; an error is only logged, for what was to be kept has its filemark."""
    try:
        drive.close()
    except TapeError as e:
        log.warning("%s could not be closed cleanly: %s", drive.path, e)


def place_in_words(path: str, label: str | None, file: int | None, backup: str | None) -> str:
    """Where something is, for people: drive, tape, tape file, backup, as far as they are known."""
    tape = f", tape {label}" if label else ""
    number = f", file {file}" if file is not None else ""
    return f"{path}{tape}{number}{f' ({backup})' if backup else ''}"
