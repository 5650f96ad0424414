"""Reports how far a copy is to any object that has `update(n)`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Set
from inspect import signature
from typing import Protocol

from ..errors import UsageError


class Progress(Protocol):
    """A progress bar: `tqdm` and imageio's `ProgressBar` are such objects.

    The total, in bytes of data to transfer, is set as its attribute `total` (tqdm) or `size`
    (imageio), whichever it has.
    """

    def update(self, n: int, /) -> object:
        """Take note that another `n` bytes of data have been written.

        Called from the threads of the copy, but never twice at the same time. An error
        raised here ends the copy.
        """
        ...


def check_progress(progress: object) -> None:
    """Make sure that an object can take reports of a copy's progress; None is allowed.

    Raises:
        UsageError: It has no `update(n)`.
    """
    if progress is None:
        return
    update = getattr(progress, "update", None)
    # A dict and a set have an update(), too, but it takes no number.
    is_other = isinstance(progress, (type, Mapping, Set))
    if is_other or not callable(update) or not _takes_number(update):
        raise UsageError(
            f"progress must be an object with an update(n), as tqdm's bars have, not {progress!r}"
        )


def _takes_number(update: Callable[..., object]) -> bool:
    try:
        signature(update).bind(0)
    except TypeError:
        return False
    except ValueError:
        return True  # a function written in C may not say which arguments it takes
    return True


def reporter(progress: Progress | None, total: int) -> Callable[[int], None]:
    """Set the total of `progress`, and return a function with which all threads report.

    Raises:
        UsageError: The total cannot be set.
    """
    if progress is None:
        return lambda _: None
    for name in ("total", "size"):
        if hasattr(progress, name):
            try:
                setattr(progress, name, total)
            except (AttributeError, TypeError) as e:
                raise UsageError(f"progress has a {name} that cannot be set: {e}") from e
            break
    lock = threading.Lock()

    def report(n: int) -> None:
        with lock:
            progress.update(n)

    return report
