"""Calls the user's function that loads a tape.

tapestream cannot end that function: it may be waiting for an operator, or for a tape library. So if
there is a `Cancel`, the function runs in its own thread, and after a cancel nobody waits for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from itertools import count
from queue import Empty, SimpleQueue
from typing import TypeVar

from .._log import Log
from ..backend.running import current
from ..drive.lease import WAKE_UP, Lease
from ..errors import TapeError
from .drive import TapeDrive

log = Log("tapestream.tape")

_D = TypeVar("_D")
# Seconds. After a cancel, a function that checks `VolumeRequest.cancelled` has this much time to
# return.
GRACE = 0.3


def call(load: Callable[[], _D], lease: Lease[TapeDrive]) -> _D:
    """Call a function, which may use the drive, and return what it returns.

    Without a `Cancel`, it is called in this thread, because it may use an object that belongs to a
    thread, such as a connection to a database.

    Args:
        load: The function.
        lease: The lease of the drive. After a cancel, it holds nothing.

    Raises:
        TapeError: It was cancelled.
        OperationCancelledError: It was cancelled by the lease's own `Cancel`.
        BaseException: What the function raised.
    """
    copy = current()
    if lease.has_cancel or (copy is not None and copy.has_cancel):
        return _call_in_thread(load, lease)
    lease.acquire()
    return load()


def _call_in_thread(load: Callable[[], _D], lease: Lease[TapeDrive]) -> _D:
    """Call a function in its own thread.

    If the wait is cancelled or interrupted, this does not wait for the function any longer. The
    function keeps the drive until it returns, because it may still be using it.
    """
    results: SimpleQueue[tuple[_D, None] | tuple[None, BaseException]] = SimpleQueue()
    # The lease is left to the function. It is released by this thread when it gives up, or by the
    # other one at its end: by whichever comes second.
    order = count()
    left: list[Lease[TapeDrive]] = []
    copy = current()

    def run() -> None:
        try:
            with copy.here() if copy else nullcontext():
                results.put((load(), None))
        except BaseException as e:  # noqa: BLE001 - raised in the thread that waits
            results.put((None, e))
        if next(order):
            _give_back(left[0])

    thread = threading.Thread(target=run, name="tapestream-load", daemon=True)
    lease.acquire()
    lease.let_use(thread)
    try:
        try:
            thread.start()
        except RuntimeError:  # the machine has no thread left
            lease.acquire()
            return load()
        result, error = _result(results, lease)
    except BaseException:  # KeyboardInterrupt, too
        left.append(lease.hand_over())
        if next(order) or thread.ident is None:
            left[0].release()
        raise
    lease.acquire()  # this thread uses the drive again
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def _give_back(lease: Lease[TapeDrive]) -> None:
    """Release the drive after a function for which the copy has not waited.

    The function may have opened the device again after the caller of the copy had closed it.
    """
    try:
        lease.drive.release()
    except TapeError as e:  # nobody waits for the function any more
        log.warning("%s could not be closed cleanly: %s", lease.drive.path, e)
    finally:
        lease.release()


def _result(results: SimpleQueue[_D], lease: Lease[TapeDrive]) -> _D:
    """Wait for the result; after a cancel, only for a moment."""
    cancelled_at: float | None = None
    while True:
        with suppress(Empty):
            return results.get(timeout=WAKE_UP)
        if lease.must_end:
            cancelled_at = cancelled_at or time.monotonic()
            if time.monotonic() - cancelled_at >= GRACE:
                lease.check_cancelled()
