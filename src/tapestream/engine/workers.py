"""Threads that work until all of them are done. If one fails, all others are ended, too."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from ..backend.abilities import cancel
from ..backend.protocols import Reader, Writer
from ..backend.running import CANCEL_AGAIN, Running
from .queue import Cancelled, ChunkQueue
from .threads import logged, start

# Seconds. The calling thread looks for a KeyboardInterrupt this often: one that another thread
# received, or that `_thread.interrupt_main` simulates, would not end its wait.
WAKE_UP = 0.2


class Workers:
    """The threads of one pipeline.

    Args:
        queue: The queue that they share. It keeps the first error.
        backends: Readers and writers to cancel after an error: one of their calls may block.
    """

    def __init__(self, queue: ChunkQueue, backends: Sequence[Reader | Writer]) -> None:
        self._queue = queue
        self._backends = backends
        self._lock = threading.Lock()
        self._at_work = 0
        self._left = 0
        self._finished = threading.Event()  # all have ended, or one has failed
        self._have_ended = False  # after an error: no thread runs any more, and none will

    def run(
        self,
        work: Iterable[tuple[str, Callable[[], None]]],
        run: Running,
        watch: Callable[[], None] = lambda: None,
    ) -> None:
        """Do all of this work, each in a thread of its own, with this name.

        Args:
            work: Names, and what to do.
            run: The copy that this is part of.
            watch: Called a few times a second, in the calling thread.

        Raises:
            BaseException: The first error of any of them, or KeyboardInterrupt. All have ended.
        """
        threads = [
            # Daemon threads: one whose start() was interrupted may never begin.
            threading.Thread(
                target=partial(self._guarded, do, run), name=f"tapestream-{name}", daemon=True
            )
            for name, do in work
        ]
        self._left = len(threads)
        try:
            try:
                with run.failing(self._fail):
                    for thread in threads:
                        start(thread)
                    while not self._finished.wait(WAKE_UP):
                        watch()
            except BaseException as e:  # noqa: BLE001 - KeyboardInterrupt, too, ends the threads first
                self._fail(e)
            self._end()
        finally:
            self._end()  # an interrupt may have come before the line above
        if self._queue.error is not None:
            raise self._queue.error
        for thread in threads:
            thread.join()

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._queue.fail(error)
        self._finished.set()

    def _end(self) -> None:
        """Cancel all workers if they are not done, and wait until they have ended.

        No further KeyboardInterrupt cuts this short: what the workers use is closed next, and a
        late write would go into whatever file has got the descriptor's number by then.
        """
        while not self._have_ended and (self._left or self._queue.error is not None):
            try:
                self._fail(Cancelled())
                self._cancel_backends()
                again = time.monotonic() + CANCEL_AGAIN
                while self._at_work:  # an interrupted Thread.join() takes a live thread for dead
                    time.sleep(0.01)
                    if time.monotonic() > again:
                        self._cancel_backends()
                        again = time.monotonic() + CANCEL_AGAIN
                self._have_ended = True
            except KeyboardInterrupt:
                continue

    def _cancel_backends(self) -> None:
        for backend in self._backends:
            with logged("a reader or writer could not be cancelled"):
                cancel(backend)

    def _guarded(self, work: Callable[[], None], run: Running) -> None:
        """Run a worker; whatever it raises ends all the others."""
        with self._lock:
            if self._queue.error is not None:
                return  # too late: what it would use may be closed by now
            self._at_work += 1
        try:
            with run.here():
                work()
        except Cancelled:
            pass
        except BaseException as e:  # noqa: BLE001 - raised again by run()
            self._fail(e)
        finally:
            with self._lock:
                self._at_work -= 1
                self._left -= 1
                if not self._left:
                    self._finished.set()
