"""How long to wait for the engine, what ends that early, and what is said of a long wait."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty, SimpleQueue

from .._log import Log
from ..cancel import Cancel, check_cancel
from .timeouts import EngineTimeouts

log = Log("tapestream.ovirt")


@dataclass(frozen=True)
class Patience:
    """How long to wait for the engine, and what ends that early.

    Attributes:
        limits: How long, and how often to look.
        cancel: Ends every wait; None if nothing does.
    """

    limits: EngineTimeouts
    cancel: Cancel | None = None

    def to_the_end(self) -> Patience:
        """The same for a clean-up, which nothing may end early."""
        return replace(self, cancel=None)

    def pause(self, seconds: float) -> None:
        """Do nothing for some seconds.

        Raises:
            OperationCancelledError: It was cancelled before or meanwhile.
        """
        if self.cancel is None:
            time.sleep(seconds)
            return
        woken: SimpleQueue[None] = SimpleQueue()
        with self.cancel.calling(partial(woken.put, None)), suppress(Empty):
            woken.get(timeout=seconds)
        self.cancel.check()


def patience_of(timeouts: EngineTimeouts | None, cancel: Cancel | None = None) -> Patience:
    """What a caller wants.

    Raises:
        UsageError: `cancel` is neither a `Cancel` nor None.
        OperationCancelledError: It is cancelled already.
    """
    check_cancel(cancel)
    if cancel is not None:
        cancel.check()
    return Patience(timeouts or EngineTimeouts(), cancel)


class Wait:
    """A wait for the engine: it is asked, and asked again after a pause, until a time limit.

    A wait that takes long is logged as a warning, so that whoever runs the program knows what it
    does: after twice the time of the longest pause, which is 20 seconds by default, and again each
    time when twice as much time has passed.

    Args:
        patience: How often to ask, and what ends it early.
        seconds: The time limit.
    """

    def __init__(self, patience: Patience, seconds: float) -> None:
        self._patience = patience
        self._seconds = seconds
        self._why = ""

    def __iter__(self) -> Iterator[float]:
        """Yield the seconds that are left, without an end: whoever gets 0 asks for the last time.

        Raises:
            OperationCancelledError: It was cancelled.
        """
        limits = self._patience.limits
        begin = time.monotonic()
        silent_until = 2 * limits.longest_poll
        for pause in limits.pauses():
            waited = time.monotonic() - begin
            left = max(self._seconds - waited, 0)
            yield left
            if waited >= silent_until:
                log.warning("%s: waiting for up to %d more seconds", self._why, left)
                silent_until = 2 * waited
            self._patience.pause(min(pause, left))

    def goes_on(self, why: str) -> None:
        """Say why it is not over yet."""
        if why != self._why:
            log.info("%s", why)
        self._why = why
