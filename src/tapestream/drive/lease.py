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
        # Of the owner: what woke it, and its name for the turn.
        self._begun: threading.Event | None = None
        self._token: object = None

    def begin(
        self, what: str, cancelled: threading.Event | None = None, *, token: object = None
    ) -> None:
        """Wait for a turn.

        Args:
            what: Name of what is used, for the error.
            cancelled: Ends the wait when it is set.
            token: A name for this turn, to ask for it and to end it; None for no name.

        Raises:
            UsageError: This thread has the turn: it would wait for itself.
            TapeError: The wait was cancelled.
        """
        me = threading.get_ident()
        mine = threading.Event()
        try:
            with self._lock:
                if self._owner == me:
                    raise UsageError(f"this thread uses {what} already: close that first")
                self._waiting.append(mine)
                if self._owner is None and len(self._waiting) == 1:
                    mine.set()
            while not mine.wait(WAKE_UP):
                if cancelled is not None and cancelled.is_set():
                    raise TapeError(f"the wait for {what} was cancelled")
            with self._lock:
                self._begun = mine
                self._owner, self._token = me, token
                self._waiting.remove(mine)
        except BaseException:  # KeyboardInterrupt, too, which may come once more
            try:
                self._give_up(mine)
            finally:
                self._give_up(mine)
            raise

    def has_begun(self, token: object) -> bool:
        """True while the turn of this name lasts."""
        return self._owner is not None and self._token is token

    def adopt(self) -> None:
        """Make the turn that another thread has begun this thread's."""
        with self._lock:
            self._owner = threading.get_ident()

    @property
    def is_mine(self) -> bool:
        """True when this thread has the turn."""
        return self._owner == threading.get_ident()

    def end(self, token: object = None) -> None:
        """Give the turn to whoever has waited longest.

        Args:
            token: Do nothing if it is not the turn of this name; None for any.
        """
        with self._lock:
            if self._owner is not None and token in (None, self._token):
                self._end()

    def _end(self) -> None:
        self._wake_next()
        self._owner = self._begun = self._token = None

    def _give_up(self, mine: threading.Event) -> None:
        with self._lock:
            waits = mine in self._waiting
            if waits:
                self._waiting.remove(mine)
            if self._begun is mine:
                self._end()
            elif waits and mine.is_set():
                self._wake_next()

    def _wake_next(self) -> None:
        if self._waiting:
            self._waiting[0].set()
