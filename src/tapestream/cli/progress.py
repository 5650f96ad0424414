"""Shows people how far a copy is: with a bar on a terminal, otherwise by a line now and then."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

from .amounts import rate_text, size_text

if TYPE_CHECKING:
    import tapestream

# Seconds between two lines: a log of a long night stays short.
EVERY_ON_TERMINAL = 5.0
EVERY_IN_LOG = 60.0
# Seconds until the first line. Short copies have none.
FIRST_AFTER = 2.0


class Shown(Protocol):
    """The progress of a copy on standard error."""

    def report_status(self, status: tapestream.CopyStatus, /) -> object:
        """Show what the copy is doing."""

    def print_above(self, text: str) -> None:
        """Print text on the same terminal, without disturbing what is shown."""

    def paused(self) -> AbstractContextManager[None]:
        """Show nothing in this block."""


def new_progress(what: str) -> AbstractContextManager[Shown]:
    """Make what shows the progress of one copy on standard error.

    Args:
        what: What is copied.
    """
    if not sys.stderr.isatty():
        return nullcontext(Lines(what, EVERY_IN_LOG))
    try:
        from .bar import Bar  # noqa: PLC0415 - rich is an extra, and takes long to load
    except ModuleNotFoundError:
        return nullcontext(Lines(what, EVERY_ON_TERMINAL))
    return Bar(what)


class Lines:
    """Prints a line now and then, and whenever a wait begins.

    Args:
        what: What is copied.
        every: Seconds between two lines.
    """

    def __init__(self, what: str, every: float) -> None:
        self._what = what
        self._every = every
        self._next = time.monotonic() + FIRST_AFTER
        self._phase = ""

    def report_status(self, status: tapestream.CopyStatus) -> None:
        """Print a line, if it is time for one."""
        begins_to_wait = status.phase != self._phase and status.phase.startswith("waiting")
        self._phase = status.phase
        if begins_to_wait or time.monotonic() >= self._next:
            self._next = time.monotonic() + self._every
            self.print_above(f"{self._what}: {status_text(status)}")

    def print_above(self, text: str) -> None:
        """Print text: a line does not disturb other lines."""
        print(text, file=sys.stderr, flush=True)

    def paused(self) -> AbstractContextManager[None]:
        """Do nothing: lines come only when a copy reports something."""
        return nullcontext()


def status_text(status: tapestream.CopyStatus) -> str:
    """A status in a line."""
    if status.phase == "extents":
        return "asking what is used"
    done = f"{size_text(status.data_bytes)} of {size_text(status.total)}"
    percent = 100 * status.data_bytes // status.total if status.total else 100
    text = f"{done}, {percent} %, {rate_text(status.rate)}"
    return text if status.phase == "data" else f"{text}, {status.phase}"
