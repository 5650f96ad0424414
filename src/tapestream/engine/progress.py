"""Reports how far a copy is, to any object that has `update(n)` or `report_status(status)`."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Set
from contextlib import AbstractContextManager
from inspect import signature
from typing import TYPE_CHECKING, Any, Protocol

from ..backend.running import Running
from ..errors import UsageError
from .samples import CopySample, Samples

if TYPE_CHECKING:
    from .status import CopyStatus, Phase
else:
    CopyStatus = Any  # for typing.get_type_hints; most copies report no status

# What a copy may wait for: see `waiting` in `backend.running`.
_WAITS: dict[str | None, Phase] = {"drive": "waiting for drive", "tape": "waiting for tape"}
# Seconds between two reports of the same phase.
REPORT_EVERY = 0.9
# The rate is measured over this many calls of `Watch.tick`, about ten seconds.
RECENT = 50


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


class ReportsStatus(Protocol):
    """Shows what a copy does. It may have an `update`, too: see `Progress`."""

    def report_status(self, status: CopyStatus, /) -> object:
        """Show the status.

        Called whenever a phase begins, and about once a second while data moves. It is called from
        the threads of the copy, but never twice at the same time, and never during `update`. An
        error raised here ends the copy.
        """
        ...


def check_progress(progress: object) -> None:
    """Make sure that an object can take reports of progress, or is None.

    Raises:
        UsageError: It has neither `update(n)` nor `report_status(status)`.
    """
    # A dict and a set have an update(), too, but it takes no number.
    is_other = isinstance(progress, (type, Mapping, Set))
    methods = [getattr(progress, name, None) for name in ("update", "report_status")]
    found = [each for each in methods if each is not None]
    if progress is not None and (is_other or not found or not all(map(_takes_one, found))):
        raise UsageError(
            "progress must be an object with an update(n), as tqdm's bars have, or a "
            f"report_status(status), not {progress!r}"
        )


def _takes_one(method: object) -> bool:
    if not callable(method):
        return False
    try:
        signature(method).bind(0)
    except TypeError:
        return False
    except ValueError:
        return True  # a function written in C may not say which arguments it takes
    return True


def reporter(
    progress: Progress | ReportsStatus | None, total: int, lock: AbstractContextManager[object]
) -> Callable[[int], None]:
    """Set the total of `progress`, and return a function with which all threads report.

    Raises:
        UsageError: The total cannot be set.
    """
    for name in ("total", "size"):
        if progress is not None and hasattr(progress, name):
            try:
                setattr(progress, name, total)
            except (AttributeError, TypeError) as e:
                raise UsageError(f"progress has a {name} that cannot be set: {e}") from e
            break
    update: Callable[[int], object] | None = getattr(progress, "update", None)
    if update is None:
        return lambda _: None

    def report(n: int) -> None:
        with lock:
            update(n)

    return report


class Watch:
    """How far a copy is, for its progress and for the samples of its result.

    The thread that called `copy` updates it a few times a second, so chunks do not pay for it.

    Args:
        progress: What the user passed.
        run: The copy.
    """

    def __init__(self, progress: Progress | ReportsStatus | None, run: Running) -> None:
        self._progress = progress
        self._report_status: Callable[[CopyStatus], object] | None
        self._report_status = getattr(progress, "report_status", None)
        # Reentrant: a callback may close the source. That ends a wait, which is reported.
        self._lock = threading.RLock()
        self._run = run
        self._waited_before = run.waited
        self._began = time.monotonic()
        self._phase: Phase = "extents"
        self._total = self._written = 0
        self._stalled = 0.0
        self._reported = 0.0
        # (seconds, bytes) of the last calls of `tick`.
        self._recent: deque[tuple[float, int]] = deque([(0.0, 0)], maxlen=RECENT)
        self._samples = Samples()
        if self._report_status is not None:
            run.on_wait = self._report
        self._report()

    def begin(self, total: int) -> Callable[[int], None]:
        """Note that the extents are known; return a function that takes the bytes of every chunk.

        Raises:
            UsageError: The total cannot be set.
        """
        self._total = total
        report = reporter(self._progress, total, self._lock)
        self.enter("data")
        return report

    def enter(self, phase: Phase) -> None:
        """Begin another phase."""
        self._phase = phase
        self._report()

    def tick(self, written: int, stalled: float) -> None:
        """Note how far the copy is."""
        self._written, self._stalled = written, stalled
        seconds = self._seconds
        self._recent.append((seconds, written))
        self._samples.add(CopySample(seconds, written, self._waited))
        if seconds - self._reported >= REPORT_EVERY:
            self._report()

    def end(self, written: int, stalled: float) -> tuple[CopySample, ...]:
        """Take the last sample, and return all samples."""
        self._stalled = stalled
        self._samples.end(CopySample(self._seconds, written, self._waited))
        return tuple(self._samples.kept)

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._began

    @property
    def _waited(self) -> float:
        return self._stalled + self._run.waited - self._waited_before

    def _report(self) -> None:
        if self._report_status is None:
            return
        from .status import CopyStatus  # noqa: PLC0415 - most copies report no status

        with self._lock:
            seconds = self._reported = self._seconds
            since, before = self._recent[0]
            self._report_status(
                CopyStatus(
                    phase=_WAITS.get(self._run.waits_for, self._phase),
                    data_bytes=self._written,
                    total=self._total,
                    seconds=seconds,
                    waited=self._waited,
                    rate=(self._written - before) / max(seconds - since, 1e-9),
                )
            )
