"""Lack of threads and of memory, as errors that say what to do; and errors that come second."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import LocalIOError

log = logging.getLogger("tapestream.copy")


def start(thread: threading.Thread) -> None:
    """Start a thread.

    Raises:
        LocalIOError: The system has none left.
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
        LocalIOError: There is not enough.
    """
    try:
        yield
    except MemoryError as e:
        lack = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        raise LocalIOError("there is not enough memory", lack) from e


@contextmanager
def logged(text: str) -> Iterator[None]:
    """Log an error of this block. Another one will be raised; this one must not be lost either."""
    try:
        yield
    except Exception:
        log.exception(text)
