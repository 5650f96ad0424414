"""Asking for tapes: whose turn it is, what is wanted, and whether what was loaded will do."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from ..arguments import path
from ..drive.position import is_tape
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
# A drive takes 15 to 60 s to take a cartridge; the kernel, too, waits for two minutes.
LOAD_SECONDS = 120.0
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


class DriveTurn:
    """The drive in use; taken when first needed, and changed from one volume to the next.

    Attributes:
        drive: The drive.
        cancelled: Another thread sets it, to end a wait for the drive, or for its cartridge.
    """

    def __init__(self, drive: TapeDrive, *, ours: bool) -> None:
        self._token = object()
        self.drive = drive
        self._given = drive
        self._ours = ours
        self.cancelled = threading.Event()

    def __del__(self) -> None:
        with suppress(AttributeError):  # its constructor was interrupted
            if self._has_turn:
                warnings.warn(f"{self.drive.path} is still in use", ResourceWarning, 1, self)
                self.close()

    @property
    def _has_turn(self) -> bool:
        return self.drive.has_turn(self._token)

    def begin(self) -> None:
        """Wait for the turn, unless it was begun."""
        if not self._has_turn:
            self.drive.begin_turn(self.cancelled, token=self._token)

    def adopt(self) -> None:
        """Go on with it in this thread."""
        if self._has_turn:
            self.drive.adopt_turn()

    def change(self, drive: TapeDrive) -> None:
        """Go over to another drive, and wait for a turn there."""
        if drive is not self.drive:
            self.end()
            self.drive = drive
            self.begin()

    def check_cancelled(self, waited: float = 0.0) -> None:
        """Make sure that a wait was not cancelled; `on_wait` of `wait_ready`.

        Raises:
            TapeError: It was.
        """
        if self.cancelled.is_set():
            raise TapeError(f"the wait for a tape in {self.drive.path} was cancelled")

    def pause(self) -> None:
        """End the turn; a drive that was opened for this stream can be opened for another."""
        if self._has_turn and self._ours:
            self.drive.release()
        self.end()

    def end(self) -> None:
        """Let others use the drive."""
        self.drive.end_turn(self._token)

    def close(self) -> None:
        """End the turn, and close the drive if it was opened for this stream.

        An error of that is only logged: what was to be kept has its filemark.
        """
        self.end()
        if self._ours:
            try:
                self._given.close()
            except TapeError as e:
                log.warning("%s could not be closed cleanly: %s", self._given.path, e)


def ask(
    turn: DriveTurn,
    request: VolumeRequest,
    load: LoadVolume,
    accept: Callable[[TapeDrive], None],
) -> None:
    """Ask for a tape until one is accepted.

    Args:
        turn: Ends up with the drive in which it is.
        request: What is asked for.
        load: Loads it.
        accept: Raises what is wrong with the tape that was loaded.

    Raises:
        TapeError: The wait was cancelled, the drive failed, or no tape would do.
    """
    for _ in range(MAX_REQUESTS):
        turn.drive.release()
        turn.drive.adopt_turn()
        turn.change(load(request) or turn.drive)
        turn.check_cancelled()  # nothing is begun on a tape that came too late
        try:
            _wait_for_cartridge(turn)
            return accept(turn.drive)
        except _WILL_NOT_DO as e:
            log.warning("volume %d: %s", request.volume, e)
            problem = e
            request = replace(request, drive=turn.drive, problem=str(e.args[0]))
    raise problem


def _wait_for_cartridge(turn: DriveTurn) -> None:
    """Wait for a drive without a cartridge not for long, for one that is at work on it for ever."""
    try:
        turn.drive.wait_ready(LOAD_SECONDS, on_wait=turn.check_cancelled)
    except NoMediumError:
        if turn.drive.status().is_empty:
            raise
        turn.drive.wait_ready(on_wait=turn.check_cancelled)


def drive_of(target: object) -> tuple[TapeDrive, bool] | None:
    """The drive that a target is or names, and True if it was opened here; None for others."""
    if isinstance(target, TapeDrive):
        return target, False
    if isinstance(target, (str, os.PathLike)):
        name = path("target", target)
        if is_tape(name):
            return TapeDrive(name), True
    return None


def place_in_words(path: str, label: str | None, file: int | None, backup: str | None) -> str:
    """Where something is, for people: drive, tape, tape file, backup, as far as they are known."""
    tape = f", tape {label}" if label else ""
    number = f", file {file}" if file is not None else ""
    return f"{path}{tape}{number}{f' ({backup})' if backup else ''}"
