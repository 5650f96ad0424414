"""Repeats failed requests, with growing pauses, if they may be repeated."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from .._log import Log
from ..errors import ServerError, TicketError, TransferError
from .connection import DAEMON_LOG, Connection
from .queries import CANNOT_OPEN, get_capabilities

log = Log("tapestream.imageio")

T = TypeVar("T")

_CANNOT_READ = (
    "The server can open the disk, but this failed: look for an error of the storage, with dmesg "
    f"or journalctl -k on the host. {DAEMON_LOG}"
)
_CANNOT_TRANSFER = (
    "The server answers other requests: its storage may be too slow for the timeouts, or something "
    f"on the network may cut connections. {DAEMON_LOG}"
)


def retry(
    connection: Connection, work: Callable[[], T], retries: int, patience: float = math.inf
) -> T:
    """Call `work` until it succeeds; raise its error when `Tries` allows no other try."""
    tries = Tries(connection, retries, patience)
    while True:
        try:
            return work()
        except TransferError as e:
            tries.failed(e)


class Tries:
    """Counts failures in a row, and decides whether to try again.

    Args:
        connection: Its `cancel` ends the tries.
        retries: How many failures in a row are followed by another try.
        patience: Seconds after which there is no other try.
    """

    # Seconds; each pause is twice as long as the one before.
    first_pause = 0.1
    longest_pause = 10.0
    # Seconds of failures after which somebody may wonder what is going on.
    short = 2.0

    def __init__(self, connection: Connection, retries: int, patience: float = math.inf) -> None:
        self._connection = connection
        self._retries = retries
        self._patience = patience
        self._failures = 0
        self._first = datetime.now()
        self._began = time.monotonic()
        self._has_warned = False

    def worked(self) -> None:
        """Something was received: start to count the failures anew."""
        self._failures = 0

    def failed(self, error: TransferError) -> None:
        """Wait before the next try, or raise the error if there should be none."""
        if self._failures == 0:
            self._first = datetime.now()
            self._has_warned = False
        self._failures += 1
        if not error.is_transient or self._connection.is_cancelled:
            raise error
        if self._failures > self._retries or time.monotonic() - self._began >= self._patience:
            if self._failures == 1:
                raise error
            span = f"from {self._first:%H:%M:%S} to {datetime.now():%H:%M:%S}"
            tried = f"tried {self._failures} times {span}"
            error.args = (f"{error.message} ({tried})", *error.args[1:])
            raise _explained(self._connection, error)
        pause = min(self.first_pause * 2 ** (self._failures - 1), self.longest_pause)
        log.info("Try %d of %d failed: %s", self._failures, self._retries + 1, error)
        self._warn_once(error, pause)
        self._connection.pause(pause)

    def _warn_once(self, error: TransferError, pause: float) -> None:
        """Say what fails, if it does not soon work again."""
        seconds = (datetime.now() - self._first).total_seconds() + pause
        took_long = isinstance(error.__cause__, TimeoutError) or seconds >= self.short
        if took_long and not self._has_warned:
            self._has_warned = True
            log.warning(
                "%s; trying again, up to %d times",
                error.message,
                self._retries + 1 - self._failures,
            )


def _explained(connection: Connection, error: TransferError) -> TransferError:
    """The error to raise after the last try; its hint depends on what the server can still do."""
    if not isinstance(error, ServerError) or error.hint == CANNOT_OPEN:
        return error
    connection.close()  # imageio opens the disk again for a new connection
    try:
        get_capabilities(connection)
    except TicketError as e:
        return e
    except TransferError as e:
        error.hint = e.hint
    else:
        error.hint = _CANNOT_READ if error.status else _CANNOT_TRANSFER
    finally:
        connection.close()
    return error
