"""Cancel: ends copies and other long operations, from any thread or signal handler."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ._process import OfThisProcess
from .errors import OperationCancelledError, TapestreamError, UsageError

log = logging.getLogger("tapestream.cancel")


class Cancel(OfThisProcess):
    """Ends the operations to which it was given as `cancel=`.

    Any thread may use it, and so may a signal handler. Several operations may share one: all of
    them end. It cannot be used again after it was cancelled. It cannot be pickled: a copy of it in
    another process would end nothing.
    """

    # There is no lock: a signal handler may interrupt the thread that would hold it, in any of
    # these methods. Each step is one operation on a list or a dict, which no other thread and no
    # signal handler can interrupt.

    def __init__(self) -> None:
        """Make one that is not cancelled."""
        self._reasons: list[str] = []
        self._calls: dict[object, Callable[[], object]] = {}

    def cancel(self, reason: str = "") -> None:
        """End all operations that use this, and those that are started with it later.

        This returns immediately: the operations end in their own threads, within about a second. If
        this is called again, the first reason stays. An operation that has ended stays as it is.

        Args:
            reason: Why, for whoever reads the error.
        """
        self._reasons.append(str(reason))
        for key in list(self._calls):
            self._call(key)

    @property
    def cancelled(self) -> bool:
        """True after `cancel` was called."""
        return bool(self._reasons)

    @property
    def reason(self) -> str | None:
        """The reason that the first `cancel` gave; None if there was no cancel yet."""
        return self._reasons[0] if self._reasons else None

    def check(self) -> None:
        """Go on if this was not cancelled.

        Raises:
            OperationCancelledError: It was.
        """
        if self._reasons:
            raise OperationCancelledError(self._reasons[0])

    @contextmanager
    def calling(self, call: Callable[[], object]) -> Iterator[None]:
        """Call a function if this is cancelled during the block, so that what blocks there ends.

        It is called once, in the thread that cancels, or immediately if this was cancelled before.
        It may still be running in that thread when the block ends. An error that it raises is
        logged. The block goes on: call `check` at its end.

        That thread may be in a signal handler, which has interrupted any line of the program. So
        the function must not wait for a lock: `socket.shutdown` and the `put` of a
        `queue.SimpleQueue` are safe; a `threading.Event.set` can wait for ever.

        Args:
            call: The function; what it returns is ignored.
        """
        key = object()
        try:
            self._calls[key] = call
            if self._reasons:
                self._call(key)
            yield
        finally:
            self._calls.pop(key, None)

    def _call(self, key: object) -> None:
        """Call a function, unless another thread or a signal handler has taken it."""
        call = self._calls.pop(key, None)
        if call is None:
            return
        try:
            call()
        except Exception:
            log.exception("a function that should be called at a cancel failed")


@contextmanager
def ended_by(cancel: Cancel | None, call: Callable[[], object]) -> Iterator[None]:
    """Let a cancel end this block, if there is a `Cancel`.

    Args:
        cancel: It, or None.
        call: Makes what blocks in the block fail. A signal handler may call it.

    Raises:
        UsageError: `cancel` is neither a `Cancel` nor None.
        OperationCancelledError: It was cancelled before or during the block.
    """
    check_cancel(cancel)
    if cancel is None:
        yield
        return
    cancel.check()
    with cancel.calling(call):
        try:
            yield
        except TapestreamError:
            cancel.check()
            raise
    cancel.check()  # only now: until here, a cancel may have spoiled what the block made


def check_cancel(cancel: object) -> None:
    """Make sure that a value can be a `cancel` argument; None is allowed.

    Raises:
        UsageError: It is neither a `Cancel` nor None.
    """
    if cancel is not None and not isinstance(cancel, Cancel):
        raise UsageError(f"cancel must be a Cancel or None, not {cancel!r}")
