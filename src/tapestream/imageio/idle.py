"""Keeps one idle connection to a transfer for its next user: a TLS handshake takes time."""

from __future__ import annotations

import os
import time
import weakref

from .connection import Connection

# Seconds. imageio's server closes a connection that was idle for 60 seconds, and a firewall may
# forget it without notice: then the next user would wait for a reply until its timeout.
LONGEST_IDLE = 30.0


class IdleConnection:
    """A place for one connection that nobody uses.

    Any thread may use it. It has no lock, because a signal handler may call `close`.

    Args:
        longest: Seconds after which the connection is not used any more.
    """

    def __init__(self, longest: float = LONGEST_IDLE) -> None:
        self._longest = longest
        self._kept: list[tuple[Connection, float, int]] = []  # since when, and in which process
        self._is_closed = False
        # A source that nobody closes is no reason for a ResourceWarning.
        weakref.finalize(self, _close, self._kept)

    def keep(self, connection: Connection) -> None:
        """Keep the connection if its next user can use it; close it otherwise."""
        if self._kept or not connection.is_idle or connection.is_cancelled:
            connection.close()
            return
        connection.begin_anew()
        self._kept.append((connection, time.monotonic(), os.getpid()))
        if self._is_closed:  # maybe by another thread, right now
            self.close()

    def take(self) -> Connection | None:
        """Return the connection, which is not kept any more; None if there is none to use.

        A process that was forked since must not use it: its parent may do that, too.
        """
        kept = self._pop()
        if kept is None:
            return None
        connection, since, process = kept
        is_old = time.monotonic() - since > self._longest
        if is_old or connection.is_cancelled or process != os.getpid():
            connection.close()
            return None
        return connection

    def close(self) -> None:
        """Close the connection, and keep none from now on."""
        self._is_closed = True
        while (kept := self._pop()) is not None:
            kept[0].close()

    def _pop(self) -> tuple[Connection, float, int] | None:
        try:
            return self._kept.pop()
        except IndexError:
            return None


def _close(kept: list[tuple[Connection, float, int]]) -> None:
    for connection, *_ in kept:
        connection.close()
