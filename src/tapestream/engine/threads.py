"""Turns a lack of threads or memory into a `LocalIOError`, and logs errors that come second."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .._log import Log
from ..errors import LocalIOError

log = Log("tapestream.copy")


def start(thread: threading.Thread) -> None:
    """Start a thread.

    Raises:
        LocalIOError: The system allows no further thread.
    """
    try:
        thread.start()
    except RuntimeError as e:
        raise LocalIOError(
            f"cannot start the thread {thread.name}",
            e,
            hint="Raise the limit of threads ('ulimit -u', or TasksMax of the systemd unit) or of "
            "memory ('ulimit -v'), or pass a smaller max_workers.",
        ) from e


@contextmanager
def enough_memory() -> Iterator[None]:
    """Raise a lack of memory as a `LocalIOError`.

    Raises:
        LocalIOError: There is not enough memory.
    """
    try:
        yield
    except MemoryError as e:
        lack = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        raise LocalIOError("there is not enough memory", lack) from e


@contextmanager
def logged(text: str) -> Iterator[None]:
    """Log an error in this block instead of raising it: an earlier error is raised."""
    try:
        yield
    except Exception:
        log.exception(text)
