"""Use what expires when nobody uses it: the ticket of a transfer, while the other side stalls."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..backend.abilities import KeepsAlive, ability
from ..backend.protocols import SinkLike, SourceLike
from ..backend.running import Running
from .threads import start

log = logging.getLogger("tapestream.copy")

# Seconds. By default, oVirt gives up a transfer that nobody uses for three times as long (its
# TransferImageClientInactivityTimeoutInSeconds). A tape change takes longer.
INTERVAL = 20.0
# Seconds to wait at the end for calls that are still running.
PATIENCE = 1.0


@contextmanager
def keep_alive_during(
    *backends: SourceLike | SinkLike,
    run: Running,
    interval: float = INTERVAL,
    patience: float = PATIENCE,
) -> Iterator[None]:
    """Keep what expires in sources and sinks alive in this block, each from a thread of its own.

    One whose server hangs delays no other. A thread may outlive the block by one call that a server
    does not answer.

    Args:
        backends: The sources and sinks.
        run: The copy that uses them.
        interval: Seconds between two calls.
        patience: Seconds to wait at the end for calls that are still running.
    """
    ended = threading.Event()
    threads = [
        threading.Thread(
            target=_keep_alive,
            args=(ended, alive.keep_alive, run, interval),
            name="tapestream-keep-alive",
            daemon=True,
        )
        for backend in backends
        if (alive := ability(backend, KeepsAlive)) is not None
    ]
    try:
        try:
            for thread in threads:
                start(thread)
            yield
        finally:
            ended.set()
    finally:
        ended.set()  # an interrupt may have come before the line above
        # Such a call ends by its own timeout; an interrupted copy does not wait for it.
        until = time.monotonic() + patience
        for thread in threads:
            if thread.is_alive():  # it never began, where start() was interrupted
                thread.join(max(0.0, until - time.monotonic()))


def _keep_alive(
    ended: threading.Event, call: Callable[[], None], run: Running, interval: float
) -> None:
    with run.here():
        while not ended.wait(interval):
            try:
                call()
            except Exception as e:  # noqa: BLE001 - the copy itself finds out whether it matters
                log.warning("cannot keep the transfer alive: %s", e)
