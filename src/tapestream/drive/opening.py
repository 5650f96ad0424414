"""Opens a tape device, and translates the driver's errors."""

from __future__ import annotations

import errno
from typing import Protocol

from ..errors import (
    DriveBusyError,
    EndOfTapeError,
    LocalIOError,
    NoMediumError,
    NotATapeError,
    TapeError,
    WriteProtectedError,
)
from .device import TapeDevice

# The driver refuses the first command after a cartridge was loaded, to report the change.
_OPEN_ATTEMPTS = 3
# What the driver's errors mean; another one is a TapeError.
_KINDS: dict[int, type[LocalIOError]] = {
    errno.ENOSPC: EndOfTapeError,
    errno.ENOMEDIUM: NoMediumError,
    errno.EROFS: WriteProtectedError,
    errno.EBUSY: DriveBusyError,
    errno.ENXIO: NotATapeError,
    errno.ENODEV: NotATapeError,
    errno.ENOTTY: NotATapeError,
}
_NOT_PERMITTED = "On most systems, users of a tape drive must be in the group 'tape'."


class OpenDevice(Protocol):
    """Opens the device of a drive: `StDevice`, or a replacement for it."""

    def __call__(self, path: str, *, read_only: bool) -> TapeDevice:
        """Open the device, or raise an OSError."""


def open_tape(open_device: OpenDevice, path: str, *, read_only: bool) -> tuple[TapeDevice, bool]:
    """Open a device.

    Returns:
        The device, and whether it can only be read because its cartridge is write-protected.

    Raises:
        TapeError: It cannot be opened.
    """
    left = _OPEN_ATTEMPTS
    while True:
        try:
            return open_device(path, read_only=read_only), read_only
        except OSError as e:
            left -= 1
            if e.errno == errno.EROFS and not read_only:
                read_only = True  # and try again, even if that was the last attempt
            elif e.errno != errno.EIO or left <= 0:
                hint = _NOT_PERMITTED if e.errno in (errno.EACCES, errno.EPERM) else None
                raise translated(e, f"cannot open {path}", hint) from e


def translated(error: OSError, doing: str, hint: str | None = None) -> LocalIOError:
    """Our error for an error of the driver. `doing` says what failed."""
    return _KINDS.get(error.errno or 0, TapeError)(doing, error, hint=hint)
