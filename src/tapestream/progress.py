"""Progress: tell how far a copy is to any object that has `update(n)`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from .errors import UsageError


class Progress(Protocol):
    """A progress bar: `tqdm` and imageio's `ProgressBar` are such objects.

    The total, in bytes of data to transfer, is set as its attribute `total` (tqdm) or `size`
    (imageio), whichever it has.
    """

    def update(self, n: int, /) -> object:
        """Hear that another `n` bytes of data have been written.

        Called from the threads of the copy, but never twice at the same time. An error
        raised here ends the copy.
        """
        ...


def reporter(progress: Progress | None, total: int) -> Callable[[int], None]:
    """Tell `progress` the total, and give a function for all threads to report with.

    Raises:
        UsageError: It has no `update`.
    """
    if progress is None:
        return lambda _: None
    if not callable(getattr(progress, "update", None)):
        raise UsageError(f"progress must have an update(n), as tqdm's bars have, not {progress!r}")
    for name in ("total", "size"):
        if hasattr(progress, name):
            setattr(progress, name, total)
            break
    lock = threading.Lock()

    def report(n: int) -> None:
        with lock:
            progress.update(n)

    return report
