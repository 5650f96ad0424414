"""Keeps the ticket of a transfer alive, and every connection to it that is idle."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable

from ..errors import TransferError
from .connection import Connection
from .transfer import Transfer


class KeptConnection(ABC):
    """A connection of a reader or a writer; a second thread keeps it alive while it is idle."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._was_used = False  # since the last call of `keep_alive`
        self._is_closing = False
        # The thread of the reader or writer and the one that keeps connections alive share it.
        self._lock = threading.Lock()

    def keep_alive(self) -> bool:
        """Use the connection if it was idle since the last call; False if it is not open."""
        if not self._lock.acquire(blocking=False):
            return True  # its reader or writer is using it
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
        """Make a call that is blocked in another thread fail soon."""
        self._connection.cancel()

    def close(self) -> None:
        """Close the connection for good."""
        self._is_closing = True
        if not self._lock.acquire(blocking=False):
            self._connection.cancel()  # a keep-alive call is running: do not wait for the server
            self._lock.acquire()
        try:
            self._connection.close()
        finally:
            self._lock.release()


def keep_alive(transfer: Transfer, connections: Iterable[KeptConnection]) -> None:
    """Use the ticket, so that it does not expire, and every connection that is idle.

    A new connection is made only if none of these is open.

    Raises:
        TransferError: A connection failed. The others were used before this is raised; if several
            failed, it is the error of the last.
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
