"""Asks the person at the terminal to load a tape, during a backup or a restore."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

import tapestream

from .tables import printable

if TYPE_CHECKING:
    from .context import Context

_TERMINAL = "/dev/tty"
# Seconds between two checks whether the copy was cancelled.
_WAKE_UP = 0.2
# Seconds to wait for a tape that somebody says is in the drive.
_LOADING = 120


def asks_for_tapes(
    context: Context, catalog: str | None = None
) -> Callable[[tapestream.tape.VolumeRequest], None] | None:
    """A function that asks for a tape, for `on_volume_full` and `on_next_volume`.

    Args:
        context: Of the command.
        catalog: Path of the catalog that may know on which tape a volume is.

    Returns:
        None if there is no terminal, so that nobody can be asked.
    """
    if not _has_terminal():
        return None

    def ask(request: tapestream.tape.VolumeRequest) -> None:
        # Why the last tape could not be used was logged.
        with context.out.paused(), _terminal() as terminal:
            while not request.cancelled:
                _unload(request.drive, terminal)
                _say(terminal, *_wanted(request, catalog), end=", and press Enter: ")
                _wait_for_enter(terminal, lambda: request.cancelled)
                if request.left is None or catalog is None or _has_label(request.drive, context):
                    return
                _say(terminal, "That tape has no label, so no catalog could find the backup.")

    return ask


def _has_label(drive: tapestream.tape.TapeDrive, context: Context) -> bool:
    """Whether the tape has a label. If it cannot be used, the copy finds that out, and asks again.

    Raises:
        OperationCancelledError: The command was cancelled meanwhile.
    """
    try:
        drive.wait_ready(_LOADING, cancel=context.cancel)
        return drive.read_label() is not None
    except tapestream.errors.TapeError:
        return True


def load_tape(drive: tapestream.tape.TapeDrive, label: str, context: Context) -> None:
    """Ask for the tape with this label until it is in the drive.

    Raises:
        WrongTapeError: Another tape is in the drive, and nobody can be asked.
    """
    while (problem := _not_loaded(drive, label)) is not None:
        if not _has_terminal():
            raise tapestream.errors.WrongTapeError(problem)
        context.out.note(problem)
        with context.out.paused(), _terminal() as terminal:
            _unload(drive, terminal)
            _say(terminal, f"Load tape {label} into {drive.path}", end=", and press Enter: ")
            _wait_for_enter(terminal, lambda: context.cancel.cancelled)
        context.cancel.check()
        drive.wait_ready(cancel=context.cancel)


def _not_loaded(drive: tapestream.tape.TapeDrive, label: str) -> str | None:
    """What is in the drive instead of the tape with this label; None if it is there."""
    if not drive.status().online:
        return f"{drive.path}: no tape is loaded"
    found = drive.read_label()
    if found == label:
        return None
    return f"{drive.path}: {f'tape {found}' if found else 'a tape without a label'} is loaded"


def _wanted(request: tapestream.tape.VolumeRequest, catalog: str | None) -> list[str]:
    """What to do, in lines, without the end of the last sentence."""
    volume = f"Volume {request.volume} of {request.backup}"
    path = request.drive.path
    if request.left is not None:
        return [f"The tape is full. {volume} needs another one.", f"Load it into {path}"]
    label = None if catalog is None else _label_of(request, catalog)
    where = f"is on tape {label}" if label else "is on another tape"
    return [f"{volume} {where}.", f"Load it into {path}"]


def _label_of(request: tapestream.tape.VolumeRequest, path: str) -> str | None:
    """The label of the tape that is wanted; None if the catalog does not know it."""
    with tapestream.tape.Catalog(path) as catalog:
        for backup in catalog.find(incomplete=True):
            for volume in backup.volumes:
                if (backup.set_id, volume.volume) == (request.set_id, request.volume):
                    return volume.label
    return None


def _has_terminal() -> bool:
    """Whether somebody can be asked. Standard input may be the stream of a backup all the same."""
    if not sys.stderr.isatty():
        return False
    try:
        os.close(os.open(_TERMINAL, os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


@contextmanager
def _terminal() -> Iterator[BinaryIO]:
    with open(_TERMINAL, "r+b", buffering=0) as terminal:
        yield terminal


def _unload(drive: tapestream.tape.TapeDrive, terminal: BinaryIO) -> None:
    if drive.status().online:
        _say(terminal, f"Unloading the tape in {drive.path} ...")
        drive.eject()


def _wait_for_enter(terminal: BinaryIO, is_cancelled: Callable[[], bool]) -> None:
    """Return when Enter was pressed; also when the command was cancelled, which then ends.

    Raises:
        LocalIOError: Nobody is at the terminal any more.
    """
    while not select.select([terminal], [], [], _WAKE_UP)[0]:
        if is_cancelled():
            return
    if not terminal.readline():
        raise tapestream.errors.LocalIOError("nobody loads a tape: the terminal was closed")


def _say(terminal: BinaryIO, *lines: str, end: str = "\n") -> None:
    terminal.write(("\n".join(map(printable, lines)) + end).encode())
