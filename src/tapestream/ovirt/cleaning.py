"""Cleans up in every outcome: a Ctrl-C does not end it early, and no error hides another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence


def clean_up(error: BaseException | None, *steps: Callable[[], object]) -> None:
    """Do the last steps of some work, each even if one before it failed.

    They run in a thread of their own. Python calls signal handlers in the main thread only, so a
    Ctrl-C, or any exception that a handler raises, interrupts the waiting for that thread, but not
    the steps. It is raised after the last step.

    Args:
        error: The exception that ended the work, which the caller raises again afterwards; None if
            the work was good. The errors of the steps become notes of it.
        steps: The steps.

    Raises:
        BaseException: Only if the work was good: an interrupt that came meanwhile, or else the
            first error of a step.
    """
    worker = _Steps(steps)
    interrupt = worker.run()
    first = error or interrupt or next(iter(worker.failures), None)
    if first is None:
        return
    for failure in worker.failures:
        if failure is not first:  # it is of a step: an interrupt must not hide it, either
            note(first, f"While cleaning up: {failure}")
    if error is None:
        raise first


def uninterrupted(step: Callable[[], object]) -> None:
    """Do a step to its end; a Ctrl-C that comes meanwhile is raised afterwards.

    For a request that starts something: if it were given up, nobody would know whether the engine
    has started it, or still will.
    """
    clean_up(None, step)


class _Steps:
    """Steps that run once, in a thread that no signal interrupts."""

    def __init__(self, steps: Sequence[Callable[[], object]]) -> None:
        self.failures: list[BaseException] = []
        self._steps = steps
        self._begun = threading.Lock()
        self._done = threading.Event()

    def run(self) -> BaseException | None:
        """Do all steps; return the first exception of a signal handler meanwhile."""
        interrupt: BaseException | None = None
        started = False
        while not self._done.is_set():
            try:
                if not started:
                    self._start()
                    started = True
                self._done.wait()
            except BaseException as e:  # noqa: BLE001 - raised by the caller
                interrupt = interrupt or e
        return interrupt

    def _start(self) -> None:
        try:
            # If a signal interrupts this, the thread may run: the next one then does nothing.
            threading.Thread(target=self._do, name="clean-up").start()
        except RuntimeError:  # this process may not start another thread
            self._do()

    def _do(self) -> None:
        if not self._begun.acquire(blocking=False):
            return
        for step in self._steps:
            try:
                step()
            except BaseException as e:  # noqa: BLE001 - `clean_up` raises or notes it
                self.failures.append(e)
        self._done.set()


def note(error: BaseException, text: str) -> None:
    """Add a note to an exception, as `BaseException.add_note` of Python 3.11 does."""
    error.__dict__.setdefault("__notes__", []).append(text)
