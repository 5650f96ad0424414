"""Ends an operation early when its `Cancel` is cancelled."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from queue import Empty, SimpleQueue

from ..backend.running import CANCEL_AGAIN, Running
from ..cancel import Cancel
from ..errors import NotDurableError, OperationCancelledError
from .threads import start


@contextmanager
def cancel_wins(run: Running) -> Iterator[None]:
    """If the operation was cancelled, raise that instead of the error that it caused in a call.

    Raises:
        OperationCancelledError: It was cancelled, and this block failed. The error of the block is
            the `__context__`.
    """
    try:
        yield
    except (NotDurableError, OperationCancelledError):
        raise  # a NotDurableError means that what was written is complete
    except Exception:
        run.check_cancel()
        raise


@contextmanager
def stopping(run: Running, cancel: Cancel | None) -> Iterator[None]:
    """Stop a running operation from a separate thread if it is cancelled before this block ends.

    The thread that cancels cannot do it: it may be in a signal handler that has interrupted that
    thread while it holds a lock of a source or a sink.

    Args:
        run: The operation.
        cancel: Ends it; None if nothing does.

    Raises:
        LocalIOError: The system allows no further thread.
    """
    if cancel is None:
        yield
        return
    asked: SimpleQueue[bool] = SimpleQueue()
    thread = threading.Thread(
        target=_stop_if_asked, args=(asked, run, cancel), name="tapestream-cancel", daemon=True
    )
    try:
        try:
            with cancel.calling(partial(asked.put, True)):
                start(thread)
                yield
        finally:
            asked.put(False)
    finally:
        asked.put(False)  # an interrupt may have come before the line above
        if thread.is_alive():
            thread.join()


def _stop_if_asked(asked: SimpleQueue[bool], run: Running, cancel: Cancel) -> None:
    """Wait for True, then stop the operation repeatedly; end at False."""
    is_asked = asked.get()
    error = OperationCancelledError(cancel.reason or "")
    while is_asked:
        run.stop(error)
        try:
            is_asked = asked.get(timeout=CANCEL_AGAIN)
        except Empty:  # a call may have begun to block just after it was cancelled
            continue
