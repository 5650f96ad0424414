"""Keeps sources and sinks alive during a copy: a ticket expires while the other side stalls."""

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

# Seconds. By default, oVirt gives up a transfer if nobody uses it for three times as long (see its
# TransferImageClientInactivityTimeoutInSeconds), and a tape change takes longer than that.
INTERVAL = 20.0
# Seconds to wait at the end for calls that are still running.
PATIENCE = 0.5


@contextmanager
def keep_alive_during(
    *backends: SourceLike | SinkLike,
    run: Running,
    interval: float = INTERVAL,
    patience: float = PATIENCE,
) -> Iterator[None]:
    """Keep sources and sinks alive during this block, each from a thread of its own.

    So a server that hangs delays no other one. A thread may outlive the block if a server does not
    answer its last call.

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
            if thread.is_alive():  # a thread whose start() was interrupted never began
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
