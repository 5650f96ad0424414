"""Checks the path of a tape device, and warns about one that rewinds when it is closed."""

from __future__ import annotations

import os
import re
import stat

from .._log import Log
from ..errors import NotATapeError

log = Log("tapestream.tape")

# Major number of SCSI tapes, and the no-rewind bit of their minor numbers, from the kernel's
# Documentation/admin-guide/devices.txt.
_ST_MAJOR = 9
_NO_REWIND = 0x80
_REWINDING = re.compile(r"/dev/st\d+[alm]?")


def is_tape(path: str) -> bool:
    """True if this is the path of a SCSI tape device."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError: the path has a NUL character
        return False
    return stat.S_ISCHR(found.st_mode) and os.major(found.st_rdev) == _ST_MAJOR


def check_path(path: str) -> None:
    """Make sure that a path is that of a tape device; log a warning if the device rewinds.

    Raises:
        NotATapeError: It is not the path of a tape device.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError) as e:
        raise NotATapeError(f"cannot open {path!r}", e) from e
    if not is_tape(path):
        raise NotATapeError(f"{path} is not a tape device")
    if not os.minor(found.st_rdev) & _NO_REWIND:
        log.warning(
            "%s rewinds whenever it is closed: the next backup would overwrite this one; use the "
            "no-rewind device, %s",
            path,
            _no_rewind_path(path),
        )


def _no_rewind_path(path: str) -> str:
    """The no-rewind device of the same drive, by the same kind of name if possible.

    In /dev/tape/by-id and by-path, udev gives both devices of a drive a name.
    """
    real = path if _REWINDING.fullmatch(path) else os.path.realpath(path)
    if real != path and os.path.exists(f"{path}-nst"):
        return f"{path}-nst"
    if _REWINDING.fullmatch(real):
        return real.replace("/st", "/nst")
    return "such as /dev/nst0"
