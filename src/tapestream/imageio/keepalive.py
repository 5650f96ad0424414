"""Keeps the ticket of a transfer alive, and connections that are idle while others are not."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable

from ..errors import TransferError
from .transfer import Transfer


class KeptConnection(ABC):
    """A connection of a reader or a writer, which another thread uses when it is idle."""

    def __init__(self, transfer: Transfer) -> None:
        self._connection = transfer.connect()
        self._was_used = False  # since the last call of `keep_alive`
        self._is_closing = False
        # Between the thread of the reader or writer, and the one that keeps connections alive.
        self._lock = threading.Lock()

    def keep_alive(self) -> bool:
        """Use the connection if it was idle for a while; False when there is none."""
        if not self._lock.acquire(blocking=False):
            return True  # at work
        try:
            if not self._connection.is_open:
                return False
            if self._was_used:
                self._was_used = False
            else:
                self._use()
            return self._connection.is_open or self._is_closing
        finally:
            self._lock.release()

    @abstractmethod
    def _use(self) -> None:
        """Send something over the connection, which is open."""

    def cancel(self) -> None:
        """Make a call that is blocked now, in another thread, fail soon."""
        self._connection.cancel()

    def close(self) -> None:
        """Close the connection for good."""
        self._is_closing = True
        if not self._lock.acquire(blocking=False):
            self._connection.cancel()  # it is being kept alive, and nobody waits for that
            self._lock.acquire()
        try:
            self._connection.close()
        finally:
            self._lock.release()


def keep_alive(transfer: Transfer, connections: Iterable[KeptConnection]) -> None:
    """Use the ticket, which would expire, and every connection that is idle.

    No other connection is made while one of these is open.

    Raises:
        TransferError: What the last of those that failed raised, after all of them were used.
    """
    error: TransferError | None = None
    is_kept = False
    for connection in connections:
        try:
            is_kept |= connection.keep_alive()
        except TransferError as e:
            error = e
    if error is not None:
        raise error
    if not is_kept:
        transfer.keep_alive()
