"""Finds out whether the target of a stream is a tape, and opens its drive."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..arguments import path
from ..drive.paths import is_tape

if TYPE_CHECKING:
    from ..tape.drive import TapeDrive


def drive_of(target: object) -> TapeDrive | None:
    """The drive, if the target is a drive or the path of one; None for other targets.

    A drive that is opened here by its path is closed whenever its stream does not use it, so that
    another stream can open the same path. The modules for tapes are imported here, because most
    programs do not need them.
    """
    name = path("target", target) if isinstance(target, (str, os.PathLike)) else None
    if name is not None and not is_tape(name):
        return None
    from ..tape.drive import TapeDrive  # noqa: PLC0415
    from ..tape.volumes import closed_when_unused  # noqa: PLC0415

    if name is not None:
        return closed_when_unused(TapeDrive(name))
    return target if isinstance(target, TapeDrive) else None
