"""Keeps what expires when it is not used: the ticket of a transfer, while the other side stalls."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..protocols import Sink, Source

log = logging.getLogger("tapestream.copy")

# A third of the time, in seconds, after which oVirt by default gives a transfer up that nobody
# uses (its TransferImageClientInactivityTimeoutInSeconds). A tape change takes longer.
INTERVAL = 20.0
# So many seconds a call may take after the end before it is left alone.
PATIENCE = 1.0


@contextmanager
def kept_alive(*parties: Source | Sink) -> Iterator[None]:
    """Let sources and sinks keep themselves alive, from a thread of its own, in this block.

    The thread may outlive the block by one call that a server does not answer.
    """
    ended = threading.Event()
    thread = threading.Thread(
        target=_keep_alive,
        args=(ended, [party.keep_alive for party in parties]),
        name="tapestream-keep-alive",
        daemon=True,
    )
    thread.start()
    try:
        yield
    finally:
        ended.set()
        # Such a call ends by its own timeouts, for which who interrupts a copy does not wait.
        thread.join(PATIENCE)


def _keep_alive(ended: threading.Event, calls: list[Callable[[], None]]) -> None:
    while not ended.wait(INTERVAL):
        for call in calls:
            if ended.is_set():
                return
            try:
                call()
            except Exception as e:  # noqa: BLE001 - the copy itself finds out whether it matters
                log.warning("cannot keep the transfer alive: %s", e)
