"""Keeps sources and sinks alive during a copy: a ticket expires while the other side stalls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from .._log import Log
from ..backend.abilities import KeepsAlive, ability, cancel
from ..backend.protocols import SinkLike, SourceLike
from ..backend.running import Running
from .threads import logged, start

log = Log("tapestream.copy")

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
    """Keep sources and sinks alive during this block, each from its own thread.

    So a server that hangs does not delay the others. A call that is still running at the end is
    cancelled. Its thread outlives the block only if the backend cannot do that.

    Args:
        backends: The sources and sinks.
        run: The copy that uses them.
        interval: Seconds between two calls.
        patience: Seconds to wait at the end for calls that are still running.
    """
    ended = threading.Event()
    threads = {
        threading.Thread(
            target=_keep_alive,
            args=(ended, alive.keep_alive, run, interval),
            name="tapestream-keep-alive",
            daemon=True,
        ): backend
        for backend in backends
        if (alive := ability(backend, KeepsAlive)) is not None
    }
    try:
        try:
            for thread in threads:
                start(thread)
            yield
        finally:
            ended.set()
    finally:
        ended.set()  # an interrupt may have come before the line above
        _join(threads, patience / 2)
        for thread, backend in threads.items():
            if thread.is_alive():
                with logged("a call that keeps a transfer alive could not be cancelled"):
                    cancel(backend)
        _join(threads, patience / 2)


def _join(threads: Iterable[threading.Thread], patience: float) -> None:
    """Wait up to `patience` seconds for all threads together."""
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
