"""The tape drives of a command: each is opened once, and released at its end."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType

import tapestream

from .._typing import Self


class Drives:
    """Finds out which paths are tape drives; a context manager.

    Args:
        known: Drives by the paths that stand for them.
    """

    def __init__(self, known: Mapping[str, tapestream.tape.TapeDrive]) -> None:
        self._drives = dict(known)
        self._used = ExitStack()
        for drive in known.values():
            self._used.enter_context(drive)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._used.__exit__(kind, error, traceback)

    def get(self, path: str) -> tapestream.tape.TapeDrive:
        """The drive with this path.

        Raises:
            NotATapeError: It is not the path of a drive.
        """
        if path not in self._drives:
            self._drives[path] = self._used.enter_context(tapestream.tape.TapeDrive(path))
        return self._drives[path]

    def find(self, path: str) -> tapestream.tape.TapeDrive | None:
        """The drive with this path; None if it is the path of something else."""
        if path not in self._drives and not _is_device(path):
            return None
        try:
            return self.get(path)
        except tapestream.errors.NotATapeError:
            return None


def _is_device(path: str) -> bool:
    """Whether it may be a tape drive. To ask `TapeDrive` takes longer."""
    try:
        return stat.S_ISCHR(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False
