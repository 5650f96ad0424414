"""A lock that is given in the order in which it was asked for."""

from __future__ import annotations

import threading
from collections import deque

from ..errors import TapeError, UsageError

# A thread that waits looks this often, in seconds, whether it still should.
WAKE_UP = 0.2


class Turns:
    """Lets one thread after another use something, first come, first served."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._owner: int | None = None

    def begin(self, what: str, cancelled: threading.Event | None = None) -> None:
        """Wait for a turn.

        Args:
            what: Name of what is used, for the error.
            cancelled: Ends the wait when it is set.

        Raises:
            UsageError: This thread has the turn: it would wait for itself.
            TapeError: The wait was cancelled.
        """
        me = threading.get_ident()
        with self._lock:
            if self._owner == me:
                raise UsageError(f"this thread uses {what} already: close that first")
            mine = threading.Event()
            self._waiting.append(mine)
            if self._owner is None and len(self._waiting) == 1:
                mine.set()
        try:
            while not mine.wait(WAKE_UP):
                if cancelled is not None and cancelled.is_set():
                    raise TapeError(f"the wait for {what} was cancelled")
        except BaseException:  # KeyboardInterrupt, too
            with self._lock:
                self._waiting.remove(mine)
                if mine.is_set():
                    self._wake_next()
            raise
        with self._lock:
            self._waiting.remove(mine)
            self._owner = me

    def adopt(self) -> None:
        """Make the turn that another thread has begun this thread's."""
        with self._lock:
            self._owner = threading.get_ident()

    @property
    def is_mine(self) -> bool:
        """True when this thread has the turn."""
        return self._owner == threading.get_ident()

    def end(self) -> None:
        """Give the turn to who has waited longest."""
        with self._lock:
            if self._owner is not None:
                self._owner = None
                self._wake_next()

    def _wake_next(self) -> None:
        if self._waiting:
            self._waiting[0].set()
